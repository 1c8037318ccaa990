"""Steps that the integer meanings of several ops share: from codes to f32 values in units of the result's scale."""

from __future__ import annotations

import numpy as np

from qcompiler.quantization import qmath
from qcompiler.types import TensorType


def rescaled(q: np.ndarray, source: TensorType, out: TensorType) -> np.ndarray:
    """f32(q - zero_point) * M with M = f32(f64(s_in) / f64(s_out))."""
    scale, _ = source.quant.along(q.ndim)
    return qmath.centered(q, source.quant).astype(np.float32) * qmath.multiplier(scale, over=out.quant.scale[0])


def share_or_requantize(q: np.ndarray, source: TensorType, out: TensorType) -> np.ndarray:
    """Codes of `source` as codes of `out`: as they are if the parameters are equal, else requantized."""
    if source.quant == out.quant and source.dtype is out.dtype:
        return q
    return qmath.requantize(rescaled(q, source, out), out)


def mean_multiplier(source: TensorType, out: TensorType, count: np.ndarray | int) -> np.ndarray:
    """What the i32 sum of `count` centered codes is multiplied with: M = f32(f64(s_in) / (f64(s_out) * count)).

    f64(s_out) * count is exact for counts below 2^29, so M is the rounded quotient whatever the order of evaluation.
    """
    return qmath.multiplier(source.quant.scale[0], over=np.float64(out.quant.scale[0]) * np.asarray(count, np.float64))
