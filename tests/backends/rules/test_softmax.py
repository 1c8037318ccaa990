"""softmax and log_softmax on every level: line lengths around the registers, every axis and layout, extremes, NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcompiler.backends.kernels.softmax import _CHUNK, TABLE_FROM
from qcompiler.types import DType, QuantParams, tensor
from tests.backends.rules.harness import check_op

SIZES = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, TABLE_FROM - 1, TABLE_FROM, 127, 128, 129, 255, 1000]


def _params(scale: float, zero_point: int = 0) -> QuantParams:
    return QuantParams.per_tensor(scale, zero_point, DType.U8)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("op,quantized", [("softmax", True), ("softmax", False), ("log_softmax", False)])
@pytest.mark.parametrize("size", SIZES)
def test_lines(op: str, size: int, quantized: bool) -> None:
    check_op(op, (tensor("f32", 5, size),), {"axis": 1}, quantized=quantized, low=-6, high=6)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("op,quantized", [("softmax", True), ("softmax", False), ("log_softmax", False)])
@pytest.mark.parametrize("behind_a_pool", [False, True])
def test_axes_and_layouts(op: str, behind_a_pool: bool, quantized: bool) -> None:
    for shape in (
        (2, 5, 3, 4),
        (1, 33, 2, 7),
        (2, 16, 1, 5),
        (3, 130, 2, 1),
        (2, 1, 9, 2),
        (2, 7, 19),
        (1, 6, 2, 3, 4),
    ):
        for axis in range(len(shape)):
            operand = tensor("f32", *shape)
            check_op(op, (operand,), {"axis": axis}, quantized=quantized, low=-6, high=6, behind_a_pool=behind_a_pool)


@pytest.mark.parametrize("size", [5, 64, 65, TABLE_FROM, 200, 513])
@pytest.mark.parametrize("scale", [1e-4, 0.02, 0.1, 1.0, 50.0])
def test_scales_and_codes(scale: float, size: int) -> None:
    """All differences of codes, tables that fall slowly or at once, and results with other parameters."""
    rng = np.random.default_rng(size)
    codes = rng.integers(0, 256, (6, size))
    codes[0], codes[1], codes[2] = 0, 255, np.arange(size) % 256
    codes[3, :] = 0
    codes[3, size // 2] = 255
    zero_point = 77
    real = ((codes - zero_point) * np.float64(np.float32(scale))).astype(np.float32)
    for out in (None, _params(1 / 255, 0), _params(0.002, 5), _params(1e-4, 255), _params(3.0, 128)):
        check_op("softmax", (real,), {"axis": 1}, quantized=True, params={0: _params(scale, zero_point)}, out=out)


def test_long_lines() -> None:
    """Sums of entries exceed 32 bits."""
    real = np.zeros((2, 5000), np.float32)
    real[1, 4321] = 1.0
    check_op("softmax", (real,), {"axis": 1}, quantized=True, params={0: _params(0.01)}, out=_params(2e-6))
    check_op("softmax", (tensor("f32", 2, 5000),), {"axis": 1})


def test_lines_of_several_chunks() -> None:
    """The sum of a line is taken in chunks of registers: here two whole chunks of the widest register, and a tail. A
    lane adds 4 bytes of each register of a chunk, and the sum must stay in i32."""
    assert _CHUNK * 4 * 255 < 2**31
    size = 2 * _CHUNK * 64 + 77
    codes = np.zeros((1, size), np.uint8)
    codes[0, :: _CHUNK * 16] = np.arange(1, len(codes[0, :: _CHUNK * 16]) + 1)  # what each part holds differs
    real = codes.astype(np.float32)
    for scale in (2.0**-24, 0.02):
        options: dict[str, Any] = {"params": {0: _params(scale)}, "out": _params(1 / size / 100)}
        check_op("softmax", (real * np.float32(scale),), {"axis": 1}, quantized=True, threads=(1,), **options)


def test_special_values() -> None:
    rng = np.random.default_rng(0)
    for size in (3, 16, 37):
        x = rng.uniform(-5, 5, (12, size)).astype(np.float32)
        x[0, 1], x[1, 0], x[2, -1] = -np.inf, np.inf, np.nan
        x[3], x[4], x[5] = -np.inf, 3e38, -3e38
        x[6, 1], x[7, 2], x[8, 0] = 3e38, 200.0, -200.0
        for op, attrs in (("softmax", {}), ("softmax", {"masked_is_zero": True}), ("log_softmax", {})):
            with np.errstate(all="ignore"):
                [y] = check_op(op, (x,), {"axis": 1, **attrs})
                check_op(op, (np.ascontiguousarray(x.T),), {"axis": 0, **attrs})
            assert (y[3] == 0).all() if attrs else np.isnan(y[3]).all()


@pytest.mark.parametrize("op,quantized", [("softmax", True), ("softmax", False), ("log_softmax", False)])
def test_symbolic_batch_and_no_lines(op: str, quantized: bool) -> None:
    for batch in (1, 4, 0):
        check_op(op, (tensor("f32", batch, 6, 40),), {"axis": 2}, quantized=quantized, dynamic=True)
        check_op(op, (tensor("f32", batch, 6, 40),), {"axis": 1}, quantized=quantized, dynamic=True)


@pytest.mark.parametrize("op,quantized", [("softmax", True), ("softmax", False), ("log_softmax", False)])
def test_guard_pages(op: str, quantized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QC_GUARD", "1")
    monkeypatch.setenv("QC_POISON", "1")
    for channels in (3, 20, 33, 100, 129):
        for axis in (1, 2):
            operand = tensor("f32", 1, channels, 3, 3)
            check_op(op, (operand,), {"axis": axis}, quantized=quantized, behind_a_pool=True)
        check_op(op, (tensor("f32", 1, channels),), {"axis": 1}, quantized=quantized)
