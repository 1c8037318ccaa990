"""From a range of reals to QuantParams, by torch's formulae, for one range or one per channel.

range:      low = min(low, 0), high = max(high, 0)
affine:     scale = max((high - low) / (qmax - qmin), eps),  zero_point = clamp(qmin - rne(low / scale), qmin, qmax)
symmetric:  scale = max(max(-low, high) / ((qmax - qmin) / 2), eps),  zero_point = 0, or the middle of an unsigned range
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from qcompiler.errors import QuantizationError
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import MAX_SCALE, MIN_SCALE, QuantParams


def choose_qparams(low: ArrayLike, high: ArrayLike, spec: QuantSpec, axis: int | None = None) -> QuantParams:
    """The parameters for [low, high]; with `axis`, for arrays with one entry per channel.

    A range too wide for the largest scale, 2^60, is cut on both sides, in proportion.

    Raises:
        QuantizationError: a bound that is not finite.
    """
    low = np.minimum(np.asarray(low, np.float32).reshape(-1), np.float32(0))
    high = np.maximum(np.asarray(high, np.float32).reshape(-1), np.float32(0))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise QuantizationError("the range is not finite", got=f"[{low.min()}, {high.max()}]")
    eps = np.float32(max(spec.eps, MIN_SCALE))
    intervals = np.float32(spec.qmax - spec.qmin)
    if spec.symmetric:
        scale = np.maximum(np.maximum(-low, high) / (intervals / np.float32(2)), eps)
        points = np.full(scale.shape, symmetric_zero_point(spec))
    else:
        with np.errstate(over="ignore"):
            span = high - low
        overflows = (high / np.float32(2) - low / np.float32(2)) / (intervals / np.float32(2))
        scale = np.maximum(np.where(np.isfinite(span), span / intervals, overflows), eps)
        points = np.clip(spec.qmin - np.rint(low / scale), spec.qmin, spec.qmax).astype(np.int64)
    scale = np.minimum(scale, np.float32(MAX_SCALE))
    return QuantParams(tuple(float(s) for s in scale), tuple(int(z) for z in points), axis, spec.qmin, spec.qmax)


def symmetric_zero_point(spec: QuantSpec) -> int:
    """The zero point of a symmetric spec: 0, or the middle of an unsigned range."""
    return 0 if spec.qmin < 0 else (spec.qmin + spec.qmax + 1) // 2


def spanning(params: QuantParams, spec: QuantSpec) -> QuantParams:
    """Parameters of another spec for the range that `params` span, per tensor."""
    low, high = ((code - params.zero_point[0]) * params.scale[0] for code in (params.qmin, params.qmax))
    return choose_qparams(np.float32(low), np.float32(high), spec)
