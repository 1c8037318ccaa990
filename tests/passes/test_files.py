"""Passes as text: the files NAME.qir in a folder for each pass.

A file holds a graph, a line of dashes with the pass and its options, and what the pass makes of the graph:

    # What the case shows.
    # numbers: same bits          (or `close`: but for a few dozen roundings of f32; or `one code`; else not compared)
    # data: one = 1.0             (constants are drawn from a fixed seed otherwise)
    qcompiler 1
    graph g(%x: f32[4]) stage=float { ... }
    ----- canonicalize
    qcompiler 1
    graph g(%x: f32[4]) stage=float { ... }

Where a pass leaves a graph as it is, the second part is the word "unchanged" and the pass's reasons. `--update-golden`
writes the second parts; read the diff before committing it.
"""

from __future__ import annotations

import json
import pathlib
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from qcompiler.ir import Graph
from qcompiler.passes.registry import parse_pass, passes_by_name
from qcompiler.passmanager import Pass
from qcompiler.text.compare import first_difference
from tests.passes.pass_texts import apply, close, draw_constants, same_bits, within_one_code

FOLDER = pathlib.Path(__file__).parent
FILES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/*.qir"))
NUMBERS = {"same bits": same_bits, "close": close, "one code": within_one_code}
_LINE = re.compile(r"^----- *(.+)\n", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """A file. text: everything up to the line of dashes, itself included; expected: the rest."""

    text: str
    pass_text: str
    expected: str
    numbers: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def parse(text: str) -> Case:
        line = _LINE.search(text)
        assert line is not None, "no line of dashes names the pass"
        head = dict(re.findall(r"^# (numbers|data): (.+)$", text[: line.start()], re.MULTILINE))
        data = (item.partition("=") for item in head.get("data", "").split(";") if item)
        return Case(
            text[: line.end()],
            line[1],
            text[line.end() :],
            head.get("numbers", ""),
            {name.strip(): json.loads(value) for name, _, value in data},
        )

    def before(self) -> Graph:
        return draw_constants(self.text[: _LINE.search(self.text).start()], data=self.data)  # type: ignore[union-attr]


def outcome(applied: Pass, before: Graph, after: Graph) -> str:
    """What the second part of a file must be."""
    clean = before.clone()
    clean.erase_unused_consts()
    if first_difference(clean, after) is not None:
        return str(after)
    explain = getattr(applied, "explain", None)
    return "\n".join(["unchanged", *(str(reason) for reason in (explain(after) if explain else ()))]) + "\n"


@pytest.mark.parametrize("name", FILES)
def test_file(name: str, request: pytest.FixtureRequest) -> None:
    path = FOLDER / name
    case = Case.parse(path.read_text(encoding="utf-8"))
    applied, before = parse_pass(case.pass_text), case.before()
    assert applied.name == path.parent.name
    after = apply(applied, before)
    if case.numbers:
        NUMBERS[case.numbers](before, after)
    got = outcome(applied, before, after)
    if request.config.getoption("--update-golden"):
        path.write_text(case.text + got, encoding="utf-8")
        return
    assert got == case.expected


def test_folders_are_passes() -> None:
    assert {name.partition("/")[0] for name in FILES} <= passes_by_name().keys()
