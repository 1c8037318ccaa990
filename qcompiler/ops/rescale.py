"""What the integer meanings of several ops share: from codes to f32 values in units of the result's scale."""

from __future__ import annotations

import numpy as np

from qcompiler.quantization import qmath
from qcompiler.quantization.typed_array import TypedArray
from qcompiler.types import TensorType


def rescaled(x: TypedArray, out: TensorType) -> np.ndarray:
    """f32(q - zero_point) * M with M = f32(f64(s_in) / f64(s_out))."""
    scale, _ = x.quant.along(x.array.ndim)
    return x.centered().astype(np.float32) * qmath.multiplier(scale, over=out.params.scale[0])


def share_or_requantize(codes: np.ndarray, source: TensorType, out: TensorType) -> np.ndarray:
    """Codes of `source` as codes of `out`: as they are if the parameters are equal, else requantized."""
    if source.quant == out.quant and source.dtype is out.dtype:
        return codes
    return qmath.requantize(rescaled(TypedArray(codes, source), out), out)


def mean_multiplier(source: TensorType, out: TensorType, count: np.ndarray | int) -> np.ndarray:
    """M = f32(f64(s_in) / (f64(s_out) * count)), by which the i32 sum of `count` centered codes is multiplied.

    f64(s_out) * count is exact for counts below 2^29, so M is the rounded quotient whatever the order of evaluation.
    """
    over = np.float64(out.params.scale[0]) * np.asarray(count, np.float64)
    return qmath.multiplier(source.params.scale[0], over=over)
