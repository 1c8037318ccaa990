"""Reductions and argmax on every level: lengths around the registers, axes and layouts, extremes, NaN, ties."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from qcompiler.types import DType, tensor
from tests.backends.rules.harness import check_op, random_array, u8_params

SIZES = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 130, 600]
CASES = [(op, quantized) for op in ("sum", "mean", "max", "min", "prod") for quantized in (False, True)]
CASES.remove(("prod", True))


def _range(op: str) -> dict[str, Any]:
    return {"low": 0.5, "high": 1.5} if op == "prod" else {}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("op,quantized", CASES)
def test_lengths(op: str, quantized: bool, size: int) -> None:
    """Reductions along adjacent elements, and across them."""
    check_op(op, (tensor("f32", 5, size),), {"axes": (1,)}, quantized=quantized, **_range(op))
    check_op(op, (tensor("f32", 7, size),), {"axes": (0,)}, quantized=quantized, **_range(op))
    check_op(op, (tensor("f32", 2, 3, size),), {"axes": (1,)}, quantized=quantized, **_range(op))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("behind_a_pool", [False, True])
@pytest.mark.parametrize("op,quantized", CASES)
def test_axes(op: str, quantized: bool, behind_a_pool: bool) -> None:
    """Every set of axes, kept and dropped, row major and channels last. 6 channels leave gaps between pixels."""
    for shape in ((2, 6, 3, 5), (3, 1, 2, 4), (2, 70, 3)):
        for count in range(1, len(shape) + 1):
            for axes in itertools.combinations(range(len(shape)), count):
                attrs = {"axes": axes, "keepdims": count % 2 == 0}
                operand = tensor("f32", *shape)
                check_op(
                    op,
                    (operand,),
                    attrs,
                    quantized=quantized,
                    behind_a_pool=behind_a_pool,
                    threads=(1, 2),
                    **_range(op),
                )


@pytest.mark.sampled(3)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("zero_point", [0, 100, 255])
def test_extremes_of_codes(zero_point: int, value: int, axis: int) -> None:
    """Hundreds of equal extreme codes, at the lengths at which 16-bit sums are full."""
    params = u8_params(zero_point)
    for length in (256, 257, 258, 515, 3000):
        shape = (length, 66) if axis == 0 else (3, length)
        real = np.full(shape, (value - zero_point) * 0.05, np.float32)
        for op in ("sum", "mean", "max", "min"):
            for out in (params, u8_params(31, 0.4), u8_params(255 - zero_point, 40.0)):
                check_op(op, (real,), {"axes": (axis,)}, quantized=True, params={0: params}, out=out, threads=(1, 3))


@pytest.mark.parametrize("op", ["max", "min", "sum", "mean", "prod"])
def test_special_values(op: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.choice([1.0, -2.0, 0.0, -0.0, 0.5], (12, 70)).astype(np.float32)
    x[0, 5], x[1, 69], x[2, 0] = np.nan, -np.nan, np.nan
    x[3, 7], x[4, 8], x[5, 9], x[5, 40] = np.inf, -np.inf, np.inf, -np.inf
    x[6], x[7], x[8, 33] = -np.inf, np.inf, 3e38
    with np.errstate(all="ignore"):
        check_op(op, (x,), {"axes": (1,)})
        check_op(op, (np.ascontiguousarray(x.T),), {"axes": (0,)})
        check_op(op, (x.reshape(12, 7, 10),), {"axes": (1,)})


@pytest.mark.parametrize("dtype", ["i32", "i64"])
@pytest.mark.parametrize("op", ["sum", "prod", "max", "min"])
def test_integers(op: str, dtype: str) -> None:
    """Sums and products wrap. Products of odd numbers keep their lowest bits, so they are not 0."""
    for shape, axes in (((5, 33), (1,)), ((33, 5), (0,)), ((2, 3, 17), (0, 2)), ((4, 1, 65), (1,))):
        check_op(op, (tensor(dtype, *shape),), {"axes": axes})
        odd = random_array(tensor(dtype, *shape), np.random.default_rng(0)) | 1
        check_op(op, (odd,), {"axes": axes})


@pytest.mark.parametrize("op,quantized", CASES)
def test_symbolic_batch_and_empty(op: str, quantized: bool) -> None:
    for batch in (1, 3, 0):
        for axes in ((1,), (2,), (1, 2)):
            operand = tensor("f32", batch, 5, 20)
            check_op(op, (operand,), {"axes": axes}, quantized=quantized, dynamic=True, **_range(op))
    if op in ("sum", "prod"):
        for shape, axes in (((4, 0, 3), (1,)), ((4, 3, 0), (2,)), ((4, 0, 70), (1,)), ((2, 0, 3), (0, 2))):
            check_op(op, (tensor("f32", *shape),), {"axes": axes}, quantized=quantized)


CUMULATIVE = [{"exclusive": exclusive, "reverse": reverse} for exclusive in (False, True) for reverse in (False, True)]


@pytest.mark.parametrize("attrs", CUMULATIVE, ids=str)
@pytest.mark.parametrize("dtype", ["f32", "i32", "i64"])
def test_cumulative_sums(dtype: str, attrs: dict[str, bool]) -> None:
    for shape, axis in (((33,), 0), ((5, 33), 1), ((33, 5), 0), ((2, 3, 70), 1), ((4, 7, 1), 1), ((1, 1, 1), 1)):
        check_op("cumsum", (tensor(dtype, *shape),), {"axis": axis, **attrs})


@pytest.mark.parametrize("attrs", CUMULATIVE, ids=str)
def test_cumulative_sums_of_special_values(attrs: dict[str, bool]) -> None:
    """Infinities, NaN, sums beyond the range of f32, and integers that wrap."""
    x = np.resize(np.float32([-0.0, -0.0, 3e38, 3e38, -3e38, 1e-45, np.inf, 1.0, -np.inf, np.nan, 2.0]), (3, 11))
    large = np.full((3, 11), 2**30, np.int32)
    for axis in (0, 1):
        with np.errstate(all="ignore"):
            check_op("cumsum", (x,), {"axis": axis, **attrs})
            check_op("cumsum", (large,), {"axis": axis, **attrs})


@pytest.mark.parametrize("attrs", CUMULATIVE, ids=str)
def test_cumulative_sums_of_symbolic_batches_and_of_nothing(attrs: dict[str, bool]) -> None:
    for batch in (1, 3, 0):
        for axis in (0, 1, 2):
            check_op("cumsum", (tensor("f32", batch, 5, 20),), {"axis": axis, **attrs}, dynamic=True)
    for shape in ((4, 0, 3), (4, 3, 0)):
        check_op("cumsum", (tensor("f32", *shape),), {"axis": 1, **attrs})


def test_cumulative_sums_of_small_integers_run_in_python() -> None:
    check_op("cumsum", (np.full((3, 9), 100, np.int8),), {"axis": 1}, allow_python=True)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("op,quantized", CASES)
def test_guard_pages(op: str, quantized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QC_GUARD", "1")
    monkeypatch.setenv("QC_POISON", "1")
    for channels in (3, 20, 33, 65, 130):
        for axes in ((1,), (2, 3), (1, 2, 3)):
            operand = tensor("f32", 1, channels, 3, 3)
            check_op(op, (operand,), {"axes": axes}, quantized=quantized, behind_a_pool=True, **_range(op))


# argmax and argmin

SEARCHES = ("argmax", "argmin")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", ["f32", "i32", "i64", "i16", "u8", "i8"])
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 31, 32, 33, 34, 65, 1000])
@pytest.mark.parametrize("op", SEARCHES)
def test_a_search_finds_the_first(op: str, size: int, dtype: str) -> None:
    rng = np.random.default_rng(size)
    for distinct in (1, 2, 5, 127):
        x = rng.integers(0, distinct, (6, size))
        x = (2 * x if dtype == "u8" else x - distinct // 2).astype(DType(dtype).numpy)
        check_op(op, (x,), {"axis": 1})
        check_op(op, (np.ascontiguousarray(x.T),), {"axis": 0, "keepdims": True})


@pytest.mark.parametrize("op", SEARCHES)
@pytest.mark.parametrize("dtype", [d for d in DType if d.is_integer and d.bits >= 8], ids=str)
def test_searches_of_extremes(dtype: DType, op: str) -> None:
    """The ends of a type's range, whose negatives are not in it."""
    ends = np.array([dtype.max, dtype.min, 0, 1, dtype.min, dtype.max], dtype.numpy)
    for size in (2, 5, 6, 40):
        check_op(op, (np.stack([np.resize(np.roll(ends, k), size) for k in range(6)]),), {"axis": 1})


@pytest.mark.parametrize("op", SEARCHES)
def test_searches_of_special_values(op: str) -> None:
    x = np.zeros((10, 40), np.float32)
    x[0, 7::5] = np.nan
    x[1, 39] = np.nan
    x[2, ::2] = -0.0
    x[3] = -np.inf
    x[4, 20:] = np.inf
    x[5, 3], x[5, 30] = np.inf, -np.nan
    x[6] = -1e-45
    x[6, 21] = -0.0
    x[7], x[7, 35] = -1e-45, 1e-45
    x[8] = np.nan
    x[9] = np.inf
    for size in (40, 39, 12):
        want = check_op(op, (x[:, :size].copy(),), {"axis": 1})
        assert np.array_equal(want[0], getattr(np, op)(x[:, :size], 1))
        check_op(op, (np.ascontiguousarray(x[:, :size].T),), {"axis": 0})


@pytest.mark.parametrize("op", SEARCHES)
def test_searches_of_channels_last(op: str) -> None:
    for channels in (1, 3, 21, 64):
        for axis in range(4):
            operand = tensor("f32", 2, channels, 5, 3)
            check_op(op, (operand,), {"axis": axis}, behind_a_pool=True)
            check_op(op, (operand,), {"axis": axis, "keepdims": True}, behind_a_pool=True)
    check_op(op, (tensor("f32", 4, 6, 9),), {"axis": 2}, dynamic=True)
    check_op(op, (tensor("f32", 0, 6, 9),), {"axis": 2}, dynamic=True)
