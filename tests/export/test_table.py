"""Every op of the registry is exported in every form, or stands in the table of docs/export.md with the reason.

`pytest --update-golden tests/export/test_table.py` writes the table.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable

import pytest

import qcompiler as qc
from qcompiler.errors import LoweringError
from qcompiler.export.onnx.model import onnx_model
from qcompiler.export.python.script import Script
from qcompiler.ir import Graph
from tests.sample_graphs import CASES, sample_graph

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "export.md"
BEGIN, END = "<!-- begin: ops that a form does not hold -->\n", "<!-- end -->\n"
FORMS: dict[str, Callable[[Graph], object]] = {"script": Script, "ONNX": onnx_model, "torch": qc.to_torch}


def reason(error: LoweringError) -> str:
    """Why the only node of a graph was refused."""
    if "stage" in error.message:
        return "stands in graphs that are calibrated, which are not exported"
    return str(error.where).rpartition(": ")[2] if error.where else error.message


def table() -> str:
    rows: dict[tuple[str, str], tuple[set[str], int, int]] = {}
    for op, index in CASES:
        for form, export in FORMS.items():
            reasons, refused, samples = rows.setdefault((op.name, form), (set(), 0, 0))
            try:
                export(sample_graph(op, index))
            except LoweringError as error:
                reasons.add(reason(error))
                refused += 1
            rows[op.name, form] = (reasons, refused, samples + 1)
    lines = ["| op | form | which samples | why not |", "|---|---|---|---|"]
    for (op_name, form), (reasons, refused, samples) in rows.items():
        if refused:
            which = "all" if refused == samples else f"{refused} of {samples}"
            lines.append(f"| `{op_name}` | {form} | {which} | {'; '.join(sorted(reasons))} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_what_is_not_exported(request: pytest.FixtureRequest) -> None:
    text, made = PAGE.read_text(), table()
    pattern = re.compile(re.escape(BEGIN) + "(.*?)" + re.escape(END), re.DOTALL)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(pattern.sub(lambda match: BEGIN + made + END, text))
        return
    (found,) = pattern.findall(text)
    assert found == made, "run pytest --update-golden tests/export/test_table.py"
