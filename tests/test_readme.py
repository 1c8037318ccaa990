"""The README's Python examples run, one after the other, and the files that it names exist."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_examples_run_when_pasted_one_by_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) >= 5
    namespace: dict[str, object] = {"__name__": "readme"}
    for number, block in enumerate(blocks):
        path = tmp_path / f"example{number}.py"
        path.write_text(block)
        exec(compile(block, str(path), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "stage=integer" in printed and "int8 nodes" in printed and "head" in printed


def test_files_and_commands_exist() -> None:
    for path in re.findall(r"\]\(([\w./-]+)\)", TEXT) + re.findall(
        r"`(?:python )?((?:qcompiler|examples|benchmarks|passes|backends)/[\w./]+)", TEXT
    ):
        assert (ROOT / path).exists(), path
    from qcompiler.cli.arguments import make_parser

    commands = set(re.findall(r"^    qcompiler (\w+)", TEXT, re.MULTILINE))
    known = next(action.choices for action in make_parser()._actions if action.choices and "check" in action.choices)
    assert commands and commands <= set(known)
