"""docs/ops.md is what the registry of ops generates."""

from __future__ import annotations

import pathlib
import re

import pytest

from qcompiler import opdocs
from qcompiler.backends.lowering import rule as lowering_rules
from qcompiler.frontend.onnx_ops import all_ops as onnx_ops
from qcompiler.frontend.onnx_ops import table
from qcompiler.frontend.torch_ops import core_ops
from qcompiler.opdef import opdef
from qcompiler.opdocs import ops_page

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "ops.md"


def test_the_page_is_current() -> None:
    assert ops_page() == PAGE.read_text(), "python -m qcompiler.opdocs > docs/ops.md"


def test_both_architectures_serve_what_is_quantizable() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| [")]
    assert len(rows) > 90
    for row in rows:
        for column in row[5:7]:
            assert "no" not in column.replace("not", ""), row[0]


@pytest.mark.parametrize(("level", "x86", "arm"), [("i8mm", "yes", "no"), ("avx512vnni", "no", "yes")])
def test_a_column_asks_the_rules_of_every_level(
    level: str, x86: str, arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = lowering_rules.find_rule
    monkeypatch.setattr(
        lowering_rules,
        "find_rule",
        lambda node, target: "nothing fits" if target.level == level else find(node, target),
    )
    assert opdocs._row(opdef("softmax")).endswith(f"| f32 {x86}, int8 {x86} | f32 {arm}, int8 {arm} |")
    assert opdocs._row(opdef("quantize")).endswith(f"| {x86} | {arm} |")


def test_every_reason_is_that_of_an_op_that_is_refused() -> None:
    ops = onnx_ops.all_ops()
    assert set(onnx_ops.REASONS) <= set(ops) and len(ops) > 190
    assert not set(onnx_ops.REASONS) & set(table())
    for op in table():
        if op in ops:
            assert f"| {op} | served" in PAGE.read_text()


def test_the_core_ops_of_torch_are_all_there() -> None:
    ops = core_ops.core_ops()
    assert len(ops) > 150 and core_ops.status("add.Tensor") == "served"
    assert core_ops.status("native_group_norm.default") == "decomposed by torch"
    for pattern in core_ops.REASONS:
        matching = [op for op in ops if re.fullmatch(pattern, op.rpartition(".")[0])]
        assert any(core_ops.status(op).startswith("refused") for op in matching), pattern
