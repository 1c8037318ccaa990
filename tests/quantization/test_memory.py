"""Quantizing a tensor holds no copy of it in 64 bits."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from qcompiler.quantization import qmath
from qcompiler.types import DType, QuantParams


def peak(function: Callable[[], object]) -> int:
    function()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [DType.I8, DType.U8, DType.I16])
def test_codes_of_at_most_16_bits_need_no_wider_integers_than_32(dtype: DType) -> None:
    x = np.linspace(-1, 1, 1 << 18, dtype=np.float32)
    quant = QuantParams.per_tensor(0.01, 3, dtype)
    codes = qmath.quantize(x, quant, dtype)
    # three f32 or i32 at once, and the bools or the codes; a fourth one in 64 bits would be 8 bytes more
    assert peak(lambda: qmath.quantize(x, quant, dtype)) < 15 * x.size
    assert peak(lambda: qmath.dequantize(codes, quant)) < 9 * x.size
