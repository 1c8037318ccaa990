"""The paths and the names that README.md and docs/ give in code spans exist."""

from __future__ import annotations

import importlib
import pathlib
import re
from functools import cache

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
TOP = ("backends", "benchmarks", "docs", "examples", "frontend", "passes", "qcompiler", "tests")
HOMES = (
    "ir",
    "opdef",
    "types",
    "passmanager",
    "quantization.qconfig",
    "backends.target",
    "backends.levels",
    "backends.lower",
    "backends.lowering.graph",
)
"""Modules of qcompiler whose classes the pages name as `Class.member`."""

_PATH = re.compile(r"(?:[A-Za-z_][\w.-]*/)+(?:[\w.-]+)?|[A-Za-z_]\w*\.(?:py|ll|lark)")
_DOTTED = re.compile(r"(?:qc|qcompiler|backends|passes|frontend)(?:\.\w+)+|[A-Z]\w*[a-z]\w*\.\w+")
_FILE_NAME = re.compile(r"\.(?:py|ll|lark|txt|[cho])$")


@cache
def tree() -> str:
    """The path of every file and folder, one a line; folders end in a slash."""
    found = [
        path.relative_to(ROOT).as_posix() + ("/" if path.is_dir() else "")
        for top in TOP
        for path in (ROOT / top).rglob("*")
        if "__pycache__" not in path.parts
    ]
    return "\n".join(["", *(f"/{top}/" for top in TOP), *(f"/{path}" for path in sorted(found)), ""])


def words(text: str) -> list[str]:
    """The words in a page's code spans, without its blocks of code."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    spans = re.findall(r"`([^`]+)`", text)
    return [word.removesuffix("()") for span in spans for word in re.sub(r"\([^()]*\)$", "()", span).split()]


def is_in_tree(path: str) -> bool:
    """Whether a path exists. A path that begins below a top folder may be the end of any file's or folder's path."""
    if path.split("/")[0] in TOP:
        return (ROOT / path).exists()
    return f"/{path}\n" in tree() or f"/{path}/\n" in tree()


def resolves(name: str) -> bool:
    """Whether a dotted name leads to a module, or to a member of one or of a class."""
    first, *rest = name.split(".")
    if first[0].isupper():
        modules = [importlib.import_module(f"qcompiler.{home}") for home in HOMES]
        classes = [getattr(module, first) for module in modules if hasattr(module, first)]
        return any(hasattr(owner, rest[0]) or rest[0] in owner.__annotations__ for owner in classes)
    owner: object = importlib.import_module("qcompiler")
    place = "qcompiler"
    for part in rest if first in ("qc", "qcompiler") else [first, *rest]:
        place = f"{place}.{part}"
        if not hasattr(owner, part):
            try:
                importlib.import_module(place)
            except ModuleNotFoundError:
                return False
        owner = getattr(owner, part)
    return True


def wrong(text: str) -> list[str]:
    """The paths and dotted names of a page that do not exist."""
    paths = [word for word in words(text) if _PATH.fullmatch(word) and not is_in_tree(word)]
    paths += [link for link in re.findall(r"\]\(([\w./-]+)\)", text) if not _is_link(link)]
    names = [word for word in words(text) if _DOTTED.fullmatch(word) and not _FILE_NAME.search(word)]
    return paths + [name for name in names if not resolves(name)]


def _is_link(link: str) -> bool:
    return (ROOT / link).exists() or (ROOT / "docs" / link).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_names_of_a_page_exist(page: pathlib.Path) -> None:
    assert not wrong(page.read_text())


@pytest.mark.parametrize(
    "planted",
    [
        "`backends/lowering/placement.py`",
        "`lowering/placement.py`",
        "`placement.py`",
        "`python benchmarks/nothing.py --x`",
        "`nothing/`",
        "`runtime/nothing.ll`",
        "`qcompiler.nothing`",
        "`backends.lower.Nothing`",
        "`qc.nothing(x, y)`",
        "`Target.nothing()`",
        "`Nothing.loader`",
        "[a page](nothing.md)",
    ],
)
def test_a_planted_mistake_is_found(planted: str) -> None:
    right = "`backends/target.py` `lowering/views.py` `dispatcher.ll` `qc.load` `Target.loader()` [speed](speed.md)"
    assert not wrong(right)
    assert len(wrong(f"{right} {planted}")) == 1
