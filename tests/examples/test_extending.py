"""The examples of docs/extending.md run, on every level of this machine, and the page shows them as they are."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from qcompiler.backends.target import known_targets, parse_target

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "extending"
PAGE = (ROOT / "docs" / "extending.md").read_text()
RUNNABLE = {
    "own_op": [
        "gated_add(%first, %second)",
        'activation="relu"',
        "written: net.h",
        "read again: quantize conv gated_add",
    ],
    "own_observer": ["scales of 0.weight.q: 2 to the"],
    "own_pass": ["float: conv hardswish"],
    "own_pattern": ["quantize conv conv gated_add mean", "no operand is a value times a constant"],
    "own_importer": ["onnx: quantize relu sub quantize gated_add", "torch: quantize linear gated_add"],
}


@pytest.mark.parametrize("name", RUNNABLE)
def test_an_example_runs(name: str, tmp_path: pathlib.Path) -> None:
    program = [sys.executable, str(FOLDER / f"{name}.py")]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in RUNNABLE[name]:
        assert text in done.stdout
    for level in known_targets():
        how = parse_target(level).execution()
        wanted = "not run here" if how == "none" else f"{how:9} bits equal to the reference"
        assert re.search(rf"{re.escape(level)} +{wanted}", done.stdout), level


def test_the_page_shows_the_examples() -> None:
    """Every block of the page is a part of the file that its section names."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    shown = set()
    for section in sections:
        blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        files = [ROOT / path for path in re.findall(r"`(examples/extending/\w+\.py)`", section)]
        for block in blocks:
            assert any(block.strip() in path.read_text() for path in files), block
        shown |= {path.stem for path in files if blocks}
    assert shown >= set(RUNNABLE) - {"own_op"} | {"gated_add"}
