"""256-entry tables for unary functions of 8-bit tensors, built once, in float64, when a graph becomes integer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcompiler.errors import QuantizationError
from qcompiler.types import TensorType


def codes(type: TensorType) -> np.ndarray:
    """All 256 codes of an 8-bit type in ascending order, as int64."""
    return np.arange(type.dtype.min, type.dtype.max + 1, dtype=np.int64)


def build_table(function: Callable[[np.ndarray], np.ndarray], source: TensorType, out: TensorType) -> np.ndarray:
    """The table of a function between two quantized types.

    table[q - dtype.min] = quantize(function(dequantize(q))) in float64, rounded half to even and clamped to out's
    [qmin, qmax]. Entry i belongs to code dtype.min + i. A NaN result takes qmin.

    Raises:
        QuantizationError: per-channel parameters, or a source that is not 8 bits wide.
    """
    if source.quant is None or source.quant.axis is not None or source.dtype.bits != 8:
        raise QuantizationError("a table needs an 8-bit per-tensor source", got=str(source))
    real = (codes(source) - source.quant.zero_point[0]).astype(np.float64) * np.float64(source.quant.scale[0])
    quant = out.params
    with np.errstate(all="ignore"):
        value = np.asarray(function(real), np.float64) / np.float64(quant.scale[0])
    low, high = quant.qmin - quant.zero_point[0], quant.qmax - quant.zero_point[0]
    clamped = np.where(value > low, np.where(value < high, value, high), low)
    return (np.rint(clamped).astype(np.int64) + quant.zero_point[0]).astype(out.dtype.numpy)
