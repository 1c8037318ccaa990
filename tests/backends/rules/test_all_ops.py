"""Every op's samples, in f32 and on codes, on every level: kernels equal the interpreter."""

from __future__ import annotations

import pytest
from harness import check_op, is_quantizable

from qcompiler.opdef import OpDef, all_ops

OPS = [op for op in all_ops() if op.family != "quantized"]
FLOAT = [(op, i) for op in OPS for i in range(len(op.samples()))]
QUANTIZED = [(op, i) for op, i in FLOAT if is_quantizable(op)]


def _ids(cases: list[tuple[OpDef, int]]) -> list[str]:
    return [f"{op.name}-{i}" for op, i in cases]


@pytest.mark.parametrize("case", FLOAT, ids=_ids(FLOAT))
def test_float(case: tuple[OpDef, int]) -> None:
    op, index = case
    sample = op.samples()[index]
    check_op(op.name, sample.operands, sample.attrs, low=sample.low, high=sample.high)


@pytest.mark.parametrize("case", QUANTIZED, ids=_ids(QUANTIZED))
def test_quantized(case: tuple[OpDef, int]) -> None:
    op, index = case
    sample = op.samples()[index]
    check_op(op.name, sample.operands, sample.attrs, quantized=True, low=sample.low, high=sample.high)
