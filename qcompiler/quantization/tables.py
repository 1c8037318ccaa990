"""Tables for unary functions, built once, in float64, when a graph becomes integer.

Functions of 8 bits have an entry for each code. Functions of 16 bits have *knots*, at every 2^s-th code, and straight
lines between them. With u = q + 2^15, i = u >> s, f = u mod 2^s, and knots t in units of 2^-4 codes of the result,

    y = clamp((t[i] * 2^s + (t[i + 1] - t[i]) * f + 2^(s + 3)) >> (s + 4), qmin, qmax)

in i32, which wraps. It does not wrap for the knots that `build_knots` makes: they lie within 2^21, and s <= 8, so the
first product is below 2^29 and the second below 2^30. Against the real function g, in codes of the result, the error is

    1/2 (the last rounding) + 1/32 (of the knots) + max |g''| * 2^(2s) / 8 (of the line, g'' by code of the operand)

where g is smooth. `build_knots` does not trust this: it computes the error of all 65536 codes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcompiler.errors import QuantizationError
from qcompiler.types import DType, TensorType

INTERVALS = (256, 512, 1024)
"""How many intervals the knots of a table may bound, the fewest first."""
_FRACTION = 4
"""Bits of a knot below one code of the result."""
_FARTHEST_KNOT = 2**17
"""Knots are clamped to this many codes around 0, which is beyond every code."""
_GOOD_ERROR = 0.75
"""The error, in codes of the result, at which fewer knots are enough. The roundings alone may take 0.53."""


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


def interpolate(q: np.ndarray, knots: np.ndarray, out: TensorType) -> np.ndarray:
    """The codes of `out` for codes q (i16), by the formula in the module's docstring. knots: i32 [2^k + 1]."""
    shift = interpolation_shift(len(knots))
    place = q.astype(np.int32) + 2**15
    index, fraction = place >> shift, place & (2**shift - 1)
    first = knots[index]
    total = (first << shift) + (knots[index + 1] - first) * fraction + 2 ** (shift + _FRACTION - 1)
    return np.clip(total >> (shift + _FRACTION), out.params.qmin, out.params.qmax).astype(out.dtype.numpy)


def interpolation_shift(knots: int) -> int:
    """s, the binary logarithm of the distance between two knots."""
    return 16 - (knots - 1).bit_length() + 1


def interpolation_bits(shift: int) -> int:
    """How many bits a sum of products has below one code of the result."""
    return shift + _FRACTION


def build_knots(
    function: Callable[[np.ndarray], np.ndarray], source: TensorType, out: TensorType
) -> tuple[np.ndarray, float]:
    """(the knots of a function from i16 codes to quantized ones, the largest error in codes of the result).

    The table has as few knots as make the error small, and 1025 if none does. A NaN takes the lowest knot.

    Raises:
        QuantizationError: parameters per channel, or a source that is not i16.
    """
    if source.quant is None or source.quant.axis is not None or source.dtype is not DType.I16:
        raise QuantizationError("knots need an i16 per-tensor source", got=str(source))
    quant, zero, scale = out.params, source.quant.zero_point[0], np.float64(source.quant.scale[0])

    def in_codes(places: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            value = np.asarray(function((places - 2**15 - zero) * scale), np.float64) / np.float64(quant.scale[0])
        value = value + quant.zero_point[0]
        return np.where(
            value > -_FARTHEST_KNOT, np.where(value < _FARTHEST_KNOT, value, _FARTHEST_KNOT), -_FARTHEST_KNOT
        )

    exact = np.clip(in_codes(np.arange(2**16, dtype=np.float64)), quant.qmin, quant.qmax)
    every = np.arange(-(2**15), 2**15).astype(np.int16)
    knots, error = np.zeros(0, np.int32), np.inf
    for intervals in INTERVALS:
        places = np.arange(intervals + 1, dtype=np.float64) * (2**16 // intervals)
        knots = np.rint(in_codes(places) * 2**_FRACTION).astype(np.int32)
        error = float(np.abs(interpolate(every, knots, out) - exact).max())
        if error <= _GOOD_ERROR:
            break
    return knots, error
