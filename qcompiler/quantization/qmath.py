"""Every rounding of a real number to a code. Every backend computes what these functions say, to the bit.

Softmax, norms and float functions document theirs in ops/reduce.py, ops/norm.py and backends/kernels/math.py.

    (1) real = scale * (q - zero_point)
    (2) quantize:   q = clamp(rne(x / scale), qmin - zp, qmax - zp) + zp         x, scale f32; one IEEE division
    (3) requantize: q = clamp(rne(f32(acc) * M), qmin - zp, qmax - zp) + zp      acc i32
    (4)             M = f32(f64(sx) * f64(sw) / f64(sy))                         rounded once
    (5) residual:   q = clamp(rne(f32(acc) * M + f32(qr - zr) * Mr), ...) + zp   two products, one sum, no fma
    (6) real:       y = act(f32(acc) * M + r),  M = f32(f64(sx) * f64(sw))       one product, one sum, no fma

(6) gives an f32 result for a reader that wants real numbers. By (1), acc counts units of sx * sw exactly: the sum over
k of sx * (qx - zx) * sw * (qw - zw) is sx * sw * acc, and M is that scale with sy = 1 in (4). r is an f32 residual, or
codes by (1); without one nothing is added. act is the float meaning of the fused activation. The error is that of three
roundings, of acc beyond 2^24, of M and of the product: at most 3 * 2^-24 of the value, and one more for the sum. Scales
lie in [2^-60, 2^60], so M is normal; the product may become infinite, as in f32.

All six hold for codes of 8 and of 16 bits. Codes and zero points of 16 bits lie within 2^16 of each other, so q - zp,
qmin - zp and qmax - zp have at most 17 bits: f32 holds them exactly, and what a rule rounds is what it says. The
product of two centered codes has at most 34 bits; f32(q1 - z1) * f32(q2 - z2) is the f32 nearest to it, as one IEEE
multiplication of exact factors rounds once.

rne rounds half to even. Clamping happens in float, before the conversion: the bounds are integers, so clamp and rne
commute, and the conversion never sees a value outside i32. NaN compares false and takes the low bound. (2) is the
rounding rule of ONNX QuantizeLinear; fake_quantize, the observers and the kernels share it. Every float operation is a
single IEEE operation on f32, so code in which no product and sum are contracted to fma gives the same bits as numpy.

Dynamic quantization finds the parameters at run time, from the numbers that they are for (a row, or a whole tensor):

    (7) range:      low = min(0, min x), high = max(0, max x), scale = (high - low) / f32(qmax - qmin),
                    zp = rne(clamp(qmin - low / scale, qmin, qmax)), then (2)
    (8) product:    y = act(f32(acc) * (scale * sw) + bias),  acc = sum q * (qw - zw) - zp * sum (qw - zw)

(7) is ONNX DynamicQuantizeLinear: two subtractions and two divisions of f32, each rounded. Two cases have a meaning of
their own, the same everywhere. A scale below 2^-126, the least normal number, is 1: the range is 0 or so small that all
codes are the zero point, which moves no number by more than 255 * 2^-126. A scale that is not finite is NaN, and all
codes are qmin: a number is NaN or inf, or high - low overflows. So what a product makes of that row is NaN, as the
float product would be NaN or inf there, and other rows don't change.

Recurrent layers whose ranges are calibrated multiply by (8) too, with constant parameters of x and of the states. What
follows the products is f32, each operation rounded once and none contracted:

    (9) gates:      tanh x = 2 P Q / (P P + Q Q),  sigmoid x = 0.5 + 0.5 tanh(0.5 x),  v = 0.5 clamp(x, -9, 9), u = v v,
                    P = v (135135 + u (17325 + u (378 + u))),  Q = 135135 + u (62370 + u (3150 + 28 u))

P / Q is the seventh convergent of Lambert's continued fraction of tanh v, v / (1 + u / (3 + u / (5 + ...))), and the
first formula is tanh 2v. All its constants are integers below 2^24. The result is within 2.5e-7 of tanh x, where x is
f32, and magnitudes are at most 1 + 2^-23.

(8) is ONNX MatMulInteger, Cast, Mul by scale * sw, and Add: each product and sum of f32 is rounded. acc is exact: each
of its terms is below 255 * 255, so up to MOST_DYNAMIC_TERMS of them stay within i32, and so does either sum alone.
"""

from __future__ import annotations

import numpy as np

from qcompiler.errors import QuantizationError
from qcompiler.types import DType, QuantParams, TensorType

F32 = np.float32
MOST_DYNAMIC_TERMS = (2**31 - 1) // (255 * 255)
"""The most products that one accumulator of rule (8) sums."""
LEAST_DYNAMIC_SCALE = 2.0**-126
"""Rule (7) gives 1 in place of a smaller scale."""
GATE_BOUND = 9.0
GATE_P = (1.0, 378.0, 17325.0, 135135.0)
GATE_Q = (28.0, 3150.0, 62370.0, 135135.0)
"""The polynomials of rule (9), the highest coefficient first."""


def clamp(x: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Clamp f32 values; NaN gives `low`. The order of the two selections is what backends emit."""
    least, most = np.asarray(low, F32), np.asarray(high, F32)
    x = np.where(x > least, x, least)
    return np.where(x < most, x, most)


def _round_clamped(x: np.ndarray, zero_point: np.ndarray | int, qmin: int, qmax: int, dtype: DType) -> np.ndarray:
    zero_point = np.asarray(zero_point, np.int32)
    low, high = (qmin - zero_point).astype(F32), (qmax - zero_point).astype(F32)
    rounded = np.rint(np.where(x > low, np.where(x < high, x, high), low).astype(F32, copy=False))
    exact = _exact_integers(dtype.numpy)
    return (rounded.astype(exact) + zero_point.astype(exact)).astype(dtype.numpy)


def _exact_integers(codes: np.dtype) -> type[np.signedinteger]:
    """The integers in which a code and its zero point are added exactly: 32 bits for codes of at most 16."""
    return np.int32 if codes.itemsize <= 2 else np.int64


def quantize(x: np.ndarray, quant: QuantParams, dtype: DType) -> np.ndarray:
    """Rounding rule (2): floats to integers of `dtype`, in the same shape. inf saturates, NaN gives qmin."""
    scale, zero_point = quant.along(x.ndim)
    with np.errstate(all="ignore"):
        scaled = (np.asarray(x, F32) / scale).astype(F32)
    return _round_clamped(scaled, zero_point, quant.qmin, quant.qmax, dtype)


def dynamic_params(low: np.ndarray, high: np.ndarray, qmin: int, qmax: int) -> tuple[np.ndarray, np.ndarray]:
    """Rule (7): (f32 scales, i32 zero points) of ranges that include 0. low, high: f32, NaN where a number is NaN."""
    with np.errstate(all="ignore"):
        scale = ((high - low).astype(F32) / F32(qmax - qmin)).astype(F32)
        scale = np.where(np.isfinite(scale), np.where(scale < F32(LEAST_DYNAMIC_SCALE), F32(1), scale), F32(np.nan))
        zero = clamp(F32(qmin) - (low / scale).astype(F32), qmin, qmax)
    return scale.astype(F32), np.rint(zero).astype(np.int32)


def dynamic_quantize(x: np.ndarray, *, by_row: bool, qmin: int, qmax: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rules (7) and (2): (u8 codes, f32 scales, u8 zero points) of f32 numbers. With `by_row` each row of the last axis
    has its own parameters, [..., 1]; otherwise all numbers share one, []."""
    axis = -1 if by_row else None
    low, high = (f(x, axis=axis, keepdims=by_row, initial=F32(0)).astype(F32) for f in (np.min, np.max))
    scale, zero = dynamic_params(np.asarray(low), np.asarray(high), qmin, qmax)
    with np.errstate(all="ignore"):
        codes = _round_clamped((x / scale).astype(F32), zero, qmin, qmax, DType.U8)
    return codes, scale, zero.astype(np.uint8)


def dynamic_product(
    q: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, weight: np.ndarray, weight_scale: np.ndarray
) -> np.ndarray:
    """Rule (8) without the bias and the activation: f32 [..., outputs].

    q: u8 [..., inputs]. scale, zero_point: f32 and u8, [..., 1] or []. weight: i32 [outputs, inputs], codes minus their
    zero points. weight_scale: f32 [outputs] or [1].
    """
    centered = q.astype(np.int32) - zero_point.astype(np.int32)
    with np.errstate(all="ignore"):
        return exact_dot(centered, weight.T).astype(F32) * (scale * weight_scale)


def gate_tanh(x: np.ndarray) -> np.ndarray:
    """Rule (9): tanh of f32 numbers. NaN gives tanh -9."""
    v = F32(0.5) * clamp(x, -GATE_BOUND, GATE_BOUND)
    u = v * v
    p = v * _horner(u, GATE_P)
    q = _horner(u, GATE_Q)
    return np.asarray((p + p) * q / (p * p + q * q), F32)


def gate_sigmoid(x: np.ndarray) -> np.ndarray:
    """Rule (9): the sigmoid of f32 numbers."""
    return np.asarray(F32(0.5) + F32(0.5) * gate_tanh(F32(0.5) * x), F32)


def _horner(u: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    """The polynomial in u with these coefficients, the highest first."""
    total = np.full_like(u, F32(coefficients[0]))
    for coefficient in coefficients[1:]:
        total = total * u + F32(coefficient)
    return total


def dequantize(q: np.ndarray, quant: QuantParams) -> np.ndarray:
    """Rule (1): f32(q - zero_point) * scale, with one IEEE multiplication. i32 values beyond 2^24 round once in the
    conversion to f32."""
    scale, zero_point = quant.along(q.ndim)
    exact = _exact_integers(q.dtype)
    return (q.astype(exact) - np.asarray(zero_point, exact)).astype(F32) * scale


def fake_quantize(x: np.ndarray, quant: QuantParams, dtype: DType) -> np.ndarray:
    """dequantize(quantize(x)), with the rounding of deployment."""
    return dequantize(quantize(x, quant, dtype), quant)


def multiplier(*numerators: np.ndarray | float, over: np.ndarray | float = 1.0) -> np.ndarray:
    """Rule (4): the float64 product of scales over a scale, rounded once to f32. Arrays broadcast."""
    product: np.ndarray = np.asarray(1.0, np.float64)
    for factor in numerators:
        product = product * np.asarray(factor, np.float64)
    return np.asarray(product / np.asarray(over, np.float64), F32)


def activation_range(activation: str, quant: QuantParams) -> tuple[int, int]:
    """[low, high] of quantized results after a fused activation ("none", "relu", "relu6"), within [qmin, qmax]."""
    zero = quant.zero_point[0]
    low, high = quant.qmin, quant.qmax
    if activation in ("relu", "relu6"):
        low = max(low, zero)
    if activation == "relu6":
        high = min(high, int(np.rint(F32(6) / F32(quant.scale[0]))) + zero)
    return low, max(low, high)


def requantize(real: np.ndarray, out: TensorType, activation: str = "none") -> np.ndarray:
    """Clamp, round and shift f32 values that are in units of the output scale already: the end of rules (3) and (5)."""
    quant = out.params
    if quant.axis is not None:
        raise QuantizationError("activations are quantized per tensor", got=str(quant.axis))
    low, high = activation_range(activation, quant)
    return _round_clamped(real, quant.zero_point[0], low, high, out.dtype)


def centered(q: np.ndarray, quant: QuantParams) -> np.ndarray:
    """q - zero_point as int32, exact for 8- and 16-bit q."""
    return q.astype(np.int32) - quant.along(q.ndim)[1]


def exact_dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integer matmul through float64 BLAS.

    It is exact, since every partial sum stays below 2^53, and the result fits i32, as verify-integer-safety proves.
    """
    return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64).astype(np.int32)
