"""Quantizing a tensor holds no copy of it in 64 bits, and a quantized model no copy of its float weights."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch

import qcompiler as qc
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


def test_a_quantized_model_holds_neither_float_weights_nor_its_source(caplog: pytest.LogCaptureFixture) -> None:
    """Packed weights lie outside of what tracemalloc sees. Arrays of numpy are the codes and what describes them."""
    size, count = 512, 4
    layers = [part for _ in range(count) for part in (torch.nn.Linear(size, size), torch.nn.ReLU())]
    module, x = torch.nn.Sequential(*layers).eval(), torch.randn(16, size)
    source = weakref.ref(module)
    del layers
    small = torch.nn.Linear(8, 8).eval()
    qc.compile(small, "int8", (x[:, :8],), calibration_data=[x[:, :8]])(x[:, :8].numpy())  # loads what it needs
    gc.collect()
    tracemalloc.start()
    try:
        compiled = qc.compile(module, "int8", (x,), calibration_data=[x])
        compiled(x.numpy())
        del module
        caplog.clear()  # torch logs its tensors
        gc.collect()
        arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
        traces = tracemalloc.take_snapshot().filter_traces([arrays]).traces
        held = sum(trace.size for trace in traces)
    finally:
        tracemalloc.stop()
    assert source() is None
    weights = count * size * size
    assert weights <= held < 2 * weights  # the f32 weights of one layer of the four are as large as all codes
