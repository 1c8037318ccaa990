"""Converts the constant bias of a layer to i32 codes of scale sx * sw, the scale of the layer's products.

A bias that was quantized with this scale keeps its codes, even if the scale in the graph is another rounding of the
same product. An exporter that multiplies in float64 before rounding gives f32(Sx * Sw), and the rule here is
f32(f32(Sx) * f32(Sw)). Each of the four roundings has an error of at most u = 2^-24, so the two differ by at most
4u = 2^-22 of the product.

Any other bias is taken as a real number b and becomes rne(b / (sx * sw)). If it has parameters of another scale, its
real value must stay the same (to the same 2^-22). A float bias may change by 1/128 of a code of the result: a smaller
change affects a code only if the result was nearly half way between two codes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qcompiler.ir import Const
from qcompiler.passes.insert_qdq import MAX_BIAS
from qcompiler.quantization import qmath
from qcompiler.types import DType, QuantParams, TensorType
from qcompiler.verify_quantization import bias_scales

SAME = 2.0**-22 * (1 + 2.0**-20)
"""The largest relative difference between two roundings of one product of scales; the second factor covers u^2."""
MOVED = 2.0**-7
"""The most that rounding a float bias may move a result, in codes of the result."""


class IntegerBias(NamedTuple):
    """The codes of a bias, and their type."""

    data: np.ndarray
    type: TensorType


def integer_bias(bias: Const, x: QuantParams, weight: QuantParams, out: TensorType | None) -> IntegerBias | str:
    """The bias for these parameters of x and weight, or why it has to stay float; `out`: the type of the result."""
    rule = bias_scales(x, weight, bias.type.sizes[0])
    scale = rule.astype(np.float64)
    axis, scales = (None, rule[:1]) if weight.axis is None else (0, rule)
    params = QuantParams(tuple(map(float, scales)), (0,) * scales.size, axis, DType.I32.min, DType.I32.max)
    type = bias.type.quantized(DType.I32, params)
    if _has_scales(bias.type, scale):
        return IntegerBias(bias.data, type)
    real = qmath.dequantize(bias.data, bias.type.params) if bias.type.is_quantized else bias.data
    real = real.astype(np.float64)
    codes = np.rint(real / scale)
    if not np.abs(codes).max(initial=0) <= MAX_BIAS:
        return f"a bias of {np.abs(real).max()} does not fit i32"
    error = np.abs(codes * scale - real)
    if bias.type.is_quantized and (error > SAME * np.abs(real)).any():
        return f"its bias, {bias.type}, is no multiple of scale(x) * scale(weight)"
    if (
        out is not None
        and out.is_quantized
        and not bias.type.is_quantized
        and error.max(initial=0) > MOVED * out.params.scales.min()
    ):
        return "its float bias is too coarse as a multiple of scale(x) * scale(weight)"
    return IntegerBias(codes.astype(np.int32), type)


def _has_scales(type: TensorType, scale: np.ndarray) -> bool:
    """Whether a bias already has i32 codes of these scales."""
    if type.dtype is not DType.I32 or type.quant is None or any(type.quant.zero_point):
        return False
    return bool((np.abs(type.quant.scales - scale) <= SAME * scale).all())
