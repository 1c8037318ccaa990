"""The samples of every op, in f32 and on codes, on every level: kernels equal the interpreter."""

from __future__ import annotations

import pytest

from qcompiler.opdef import OpDef, all_ops
from qcompiler.types import DType, TensorType
from tests.backends.rules.harness import check_op, is_quantizable


def _is_image(op: OpDef, index: int) -> bool:
    """Whether the first operand is an f32 tensor that a pooling could have made."""
    first = op.samples()[index].operands[0]
    return isinstance(first, TensorType) and first.dtype is DType.F32 and 3 <= first.rank <= 5


OPS = [op for op in all_ops() if op.family != "quantized"]
FLOAT = [(op, i) for op in OPS for i in range(len(op.samples()))]
QUANTIZED = [(op, i) for op, i in FLOAT if is_quantizable(op) and not op.always_codes]


BEHIND_A_POOL = [(op, i) for op, i in FLOAT if _is_image(op, i)]


def _ids(cases: list[tuple[OpDef, int]]) -> list[str]:
    return [f"{op.name}-{i}" for op, i in cases]


@pytest.mark.sampled(24)
@pytest.mark.parametrize("case", FLOAT, ids=_ids(FLOAT))
def test_float(case: tuple[OpDef, int]) -> None:
    op, index = case
    sample = op.samples()[index]
    check_op(op.name, sample.operands, sample.attrs, low=sample.low, high=sample.high)


@pytest.mark.sampled(24)
@pytest.mark.parametrize("case", QUANTIZED, ids=_ids(QUANTIZED))
def test_quantized(case: tuple[OpDef, int]) -> None:
    op, index = case
    sample = op.samples()[index]
    check_op(op.name, sample.operands, sample.attrs, quantized=True, low=sample.low, high=sample.high)


@pytest.mark.sampled(24)
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("case", BEHIND_A_POOL, ids=_ids(BEHIND_A_POOL))
def test_channels_last(case: tuple[OpDef, int], quantized: bool) -> None:
    """Each sample behind a max_pool of one pixel, whose result lies channels last."""
    op, index = case
    if quantized and not is_quantizable(op):
        return
    sample = op.samples()[index]
    check_op(
        op.name,
        sample.operands,
        sample.attrs,
        quantized=quantized,
        low=sample.low,
        high=sample.high,
        behind_a_pool=True,
        threads=(1, 2),
    )
