"""Every Python file and every page that a person writes has at most 600 lines."""

from __future__ import annotations

import itertools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOP = ("backends", "benchmarks", "docs", "examples", "frontend", "passes", "qcompiler", "tests")
GENERATED = {"docs/ops.md"}
MOST_LINES = 600


def too_long(root: pathlib.Path) -> dict[str, int]:
    """File -> number of lines, for each file that is over the limit."""
    files = itertools.chain(root.glob("*.md"), *((root / top).rglob("*.*") for top in TOP))
    lines = {
        path.relative_to(root).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in files
        if path.suffix in (".py", ".md")
    }
    return {name: count for name, count in sorted(lines.items()) if count > MOST_LINES and name not in GENERATED}


def test_no_file_is_too_long() -> None:
    assert too_long(ROOT) == {}, "split it by concept"


@pytest.mark.parametrize("name", ["README.md", "docs/numerics.md", "tests/ops/test_x.py", "backends/x86/target.py"])
def test_one_line_too_many_is_found(name: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x\n" * MOST_LINES)
    assert too_long(tmp_path) == {}
    path.write_text("x\n" * (MOST_LINES + 1))
    assert too_long(tmp_path) == {name: MOST_LINES + 1}
