"""Elementary functions over the kernel builder, with the same bits on every target.

They are built from IEEE operations in a fixed order. All but `sigmoid_f32` take and give f64 vectors; the argument is a
f32 that was extended, and the caller rounds the result to f32 once. If the f64 value has the relative error e, the f32
result is within 0.5 + 2^24 e units in the last place. tests/backends/kernels/test_math.py measures these bounds on
every level:

    exp      2^-46   x = n ln 2 + r, |r| <= ln 2 / 2 (Cody and Waite: n times the first part of ln 2 is exact, the
                     second leaves 2^-70). Taylor's polynomial of degree 11 has a remainder r^12 / 12! e^|r| < 2^-46.6.
                     It vanishes at 0, where expm1 and tanh subtract 1; that of a minimax polynomial would not
    log      2^-50   x = 2^k m, m in [sqrt 1/2, sqrt 2): log m = 2 artanh s, s = (m - 1) / (m + 1), s^2 < 0.0295: the
                     series to s^21, remainder s^22 / 23 < 2^-60; the rest is rounding
    log1p    2^-49   from log, with a correction
    expm1    2^-43   |x| < 2^-9: its series, remainder x^5 / 720 < 2^-54; otherwise exp(x) - 1, where |e^x - 1| is above
                     2^-9.01, so the rounding of exp near 1 (1.5 * 2^-53) is relatively below 2^-43
    tanh     2^-42   |x| < 2^-10: its series, remainder 62 x^8 / 2835 < 2^-85; otherwise 1 - 2 / (e^2x + 1), with the
                     errors of four roundings near 1 (2^-52) over 2^-10
    sigmoid  2^-45   from exp, and two roundings
    erf      2^-43   |x| < 1/2: Taylor's series to x^25, remainder x^26 / (13! * 27) < 2^-63; otherwise 1 - erfc, which
                     is at most 0.48 there
    erfc     2^-44   x >= 0: exp(-x^2) F(u) / (1 + 2x), u = (x - 3.75) / (x + 3.75), F interpolated at the 20 Chebyshev
                     nodes, error 4e-14 (the form is Shepherd and Laframboise, Math. Comp. 36 (1981); test_math.py
                     computes the coefficients anew). x^2 is exact, since x has 24 bits
    sigmoid_f32      f32 in and out, 2^-21.4 where the result is normal, 2^-126 absolutely below: e^-x by Taylor's
                     polynomial of degree 7, remainder r^8 / 8! e^|r| < 2^-27; the roundings of r, of the polynomial's
                     last two terms, of 1 + e and of the division are at most 5 units of 2^-24 in all. It is four times
                     as fast as `sigmoid`
    atan     2^-48   t = |x|, or 1 / |x| above 1; then u = (t - 1) / (t + 1) above tan(pi/8), so |u| <= tan(pi/8).
                     Taylor's series to u^33 has a remainder u^35 / 35, relatively below 2^-48.28; the roundings of
                     1 / |x|, u, the polynomial and the two sums stay below 2^-51,
                     since the results of sums are above pi/8
    power    2^-41   exp(y log x), for results in f32's range: the error of log, 2^-50, times at most 104
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from qcompiler.backends.kernel_ir.builder import KernelBuilder
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import I32, I64

_MAGIC = 1.5 * 2.0**52  # a sum with it holds the other term, rounded to an integer, in the low bits of its mantissa
_MAGIC_BITS = 0x4338000000000000
_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10  # the first has 33 bits, so n times it is exact
_MAGIC_F32 = 1.5 * 2.0**23
_LN2_HIGH_F32, _LN2_LOW_F32 = 0.693145751953125, 1.428606765330187e-06  # n has 8 bits, the first 16
_ERFCX = (
    1.2375126308377915,
    -0.14024059858554283,
    0.0035854154926866794,
    0.08227673848931104,
    -0.10880393038105107,
    0.09230432118803242,
    -0.0586933955029517,
    0.028362277062466166,
    -0.009746599867453102,
    0.0017556281950203902,
    0.0002937908947438146,
    -0.000290162963565538,
    5.146862546160263e-05,
    2.2404904161843304e-05,
    -1.1178933930496505e-05,
    -1.0036810708023523e-06,
    1.508764525004148e-06,
    -3.0076196603233585e-08,
    -1.2638209701187094e-07,
    9.015143789207673e-09,
)


def polynomial(b: KernelBuilder, x: Value, coefficients: Sequence[float]) -> Value:
    """c[0] + x (c[1] + x (...)), by fma."""
    total = b.const(x.type, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = b.fma(total, x, b.const(x.type, coefficient))
    return total


def exp(b: KernelBuilder, x: Value) -> Value:
    """e^x; 0 below -708.8 and inf above 709.4 (both far outside f32's range): there n is -1023 or 1024, whose powers of
    two have the bits of 0 and inf. NaN for NaN."""
    inside = b.fmin(b.fmax(x, -709.0), 710.0)
    shifted = b.fma(inside, b.const(x.type, 1 / math.log(2)), b.const(x.type, _MAGIC))
    n = shifted - _MAGIC
    r = b.fma(n, b.const(x.type, -_LN2_HIGH), inside)
    r = b.fma(n, b.const(x.type, -_LN2_LOW), r)
    p = polynomial(b, r, [1 / math.factorial(k) for k in range(12)])
    integers = x.type.of(I64)
    power = b.bitcast((b.bitcast(shifted, integers) + 1023) << 52, x.type)
    return b.select(x != x, x, p * power)


def log(b: KernelBuilder, x: Value) -> Value:
    """Natural logarithm of a normal f64; -inf at 0, NaN below 0, inf at inf."""
    integers = x.type.of(I64)
    bits = b.bitcast(x, integers)
    base = b.const(integers, 0x3FE6A09E667F3BCD)  # sqrt(1/2)
    exponent = (bits - base) & b.const(integers, -(1 << 52))
    m = b.bitcast(bits - exponent, x.type)
    k_bits = b.lshr(exponent, 52)  # k modulo 2^12
    k_bits = (k_bits ^ 0x800) - 0x800
    k = b.bitcast(k_bits + _MAGIC_BITS, x.type) - _MAGIC
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = polynomial(b, z, [1 / (2 * i + 1) for i in range(1, 11)])
    artanh = b.fma(z * s, series, s)
    result = b.fma(k, b.const(x.type, _LN2_HIGH), b.fma(k, b.const(x.type, _LN2_LOW), artanh * 2.0))
    result = b.select(x < math.inf, result, x)
    result = b.select(x > 0.0, result, b.const(x.type, math.nan))
    return b.select(x == 0.0, b.const(x.type, -math.inf), result)


def log1p(b: KernelBuilder, x: Value) -> Value:
    """log(1 + x): log(w) x / (w - 1), where w is 1 + x rounded (the correction of Kahan and Higham); x if w
    is 1."""
    w = x + 1.0
    rounded = w - 1.0
    safe = b.select(rounded == 0.0, b.const(x.type, 1.0), rounded)
    return b.select(rounded == 0.0, x, b.select(w < math.inf, log(b, w) * x / safe, w))


def expm1(b: KernelBuilder, x: Value) -> Value:
    """e^x - 1; by its series near 0."""
    series = x * polynomial(b, x, [1 / math.factorial(k) for k in range(1, 6)])
    return b.select(b.fabs(x) < 2.0**-9, series, exp(b, x) - 1.0)


def sigmoid(b: KernelBuilder, x: Value) -> Value:
    """1 / (1 + e^-x)."""
    return b.const(x.type, 1.0) / (exp(b, -x) + 1.0)


def sigmoid_f32(b: KernelBuilder, x: Value) -> Value:
    """1 / (1 + e^-x) in f32. Beyond e^89 and e^-88 the power of two has the bits of inf and of 0."""
    inside = b.fmin(b.fmax(-x, -88.0), 89.0)
    shifted = b.fma(inside, b.const(x.type, 1 / math.log(2)), b.const(x.type, _MAGIC_F32))
    n = shifted - _MAGIC_F32
    r = b.fma(n, b.const(x.type, -_LN2_HIGH_F32), inside)
    r = b.fma(n, b.const(x.type, -_LN2_LOW_F32), r)
    p = polynomial(b, r, [1 / math.factorial(k) for k in range(8)])
    power = b.bitcast((b.bitcast(shifted, x.type.of(I32)) + 127) << 23, x.type)
    one = b.const(x.type, 1.0)
    return b.select(x != x, x, one / (p * power + one))


def tanh(b: KernelBuilder, x: Value) -> Value:
    """1 - 2 / (e^2x + 1); by its series near 0."""
    z = x * x
    series = x * polynomial(b, z, [1.0, -1 / 3, 2 / 15, -17 / 315])
    whole = b.const(x.type, 1.0) - b.const(x.type, 2.0) / (exp(b, x * 2.0) + 1.0)
    return b.select(b.fabs(x) < 2.0**-10, series, whole)


def tanhshrink(b: KernelBuilder, x: Value) -> Value:
    """x - tanh(x), with a relative error below 2^-36. Below 1/4 by its series, whose terms shrink by a factor of 40."""
    z = x * x
    series = x * z * polynomial(b, z, [-c for c in _tanh_series(11)[1:]])
    return b.select(b.fabs(x) < 0.25, series, x - tanh(b, x))


def _tanh_series(terms: int) -> list[float]:
    """The coefficients c of tanh x = x (c[0] + c[1] x^2 + ...), from tanh' = 1 - tanh^2."""
    exact = [Fraction(1)]
    for n in range(1, terms):
        square = sum((exact[i] * exact[n - 1 - i] for i in range(n)), Fraction(0))
        exact.append(-square / (2 * n + 1))
    return [float(c) for c in exact]


def _erfc_positive(b: KernelBuilder, x: Value) -> Value:
    """erfc for x >= 0."""
    x = b.fmin(x, 40.0)
    one = b.const(x.type, 1.0)
    u = (x - 3.75) / (x + 3.75)
    return exp(b, -(x * x)) * polynomial(b, u, _ERFCX) / b.fma(x, b.const(x.type, 2.0), one)


def erfc(b: KernelBuilder, x: Value) -> Value:
    """1 - erf(x), accurate in its tail."""
    tail = _erfc_positive(b, b.fabs(x))
    result = b.select(x < 0.0, b.const(x.type, 2.0) - tail, tail)
    return b.select(x != x, x, result)


def erf(b: KernelBuilder, x: Value) -> Value:
    """The error function."""
    z = x * x
    terms = [2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(13)]
    small = x * polynomial(b, z, terms)
    large = b.const(x.type, 1.0) - _erfc_positive(b, b.fabs(x))
    large = b.select(x < 0.0, -large, large)
    return b.select(b.fabs(x) < 0.5, small, b.select(x != x, x, large))


def atan(b: KernelBuilder, x: Value) -> Value:
    """The angle in [-pi/2, pi/2] whose tangent is x."""
    one, size = b.const(x.type, 1.0), b.fabs(x)
    t = b.select(size > 1.0, one / size, size)
    upper = t > math.tan(math.pi / 8)
    u = b.select(upper, (t - 1.0) / (t + 1.0), t)
    z = u * u
    angle = b.fma(u * z, polynomial(b, z, [(-1) ** n / (2 * n + 1) for n in range(1, 17)]), u)
    angle = b.select(upper, angle + math.pi / 4, angle)
    angle = b.select(size > 1.0, b.const(x.type, math.pi / 2) - angle, angle)
    integers = x.type.of(I64)
    sign = b.bitcast(x, integers) & b.const(integers, -(1 << 63))
    return b.select(x != x, x, b.bitcast(b.bitcast(angle, integers) | sign, x.type))


_QUOTIENT_BITS = 28  # of a quotient in `fmod`: below 2^29, so that a wrong last bit is the only error


def fmod(b: KernelBuilder, x: Value, y: Value) -> Value:
    """x - y * trunc(x / y) of two f32 in f64, exactly, with the sign of x.

    Long division: r starts as |x|, and for d = |y| 2^28k, k = 9, 8, ..., 0, it becomes r - q d with q = floor(r / d).
    Since |x| < 2^128 and |y| >= 2^-149, q is at most 2^28. With u the smaller of the last bits of x and of d, both r
    and q d are multiples of u, and r - q d has at most 25 bits above u (or no more than r had), so the fma is exact.
    The quotient r / d may round up to a whole number; then q is too large by 1, and the rest is negative.
    """
    size, rest = b.fabs(y), b.fabs(x)
    endless = (size == math.inf) & (rest < math.inf)  # then x is what is left
    divisor = b.select(endless, b.const(y.type, math.nan), size)
    for k in reversed(range(10)):
        d = divisor * 2.0 ** (_QUOTIENT_BITS * k)
        rest = b.fma(-b.floor(rest / d), d, rest)
        rest = b.select(rest < 0.0, rest + d, rest)
    integers = x.type.of(I64)
    sign = b.bitcast(x, integers) & b.const(integers, -(1 << 63))
    return b.select(endless, x, b.bitcast(b.bitcast(rest, integers) | sign, x.type))


def remainder(b: KernelBuilder, x: Value, y: Value) -> Value:
    """x - y * floor(x / y) of two f32 in f64, with the sign of y. Rounded to f32 it is the f32 sum of fmod and y, since
    f64 has more than twice the bits of f32."""
    rest = fmod(b, x, y)
    integers = x.type.of(I64)
    zero = b.bitcast(b.bitcast(y, integers) & b.const(integers, -(1 << 63)), x.type)
    moved = b.select((rest < 0.0) ^ (y < 0.0), rest + y, rest)
    return b.select(rest == 0.0, zero, moved)


def power(b: KernelBuilder, x: Value, y: Value) -> Value:
    """x^y, with the special cases of C's pow, which numpy follows."""
    one, infinity = b.const(x.type, 1.0), math.inf
    size = b.fabs(x)
    result = exp(b, y * log(b, size))
    whole = b.floor(y) == y
    half = y * 0.5
    odd = whole & (b.floor(half) != half) & (b.fabs(y) < 2.0**53)
    negative = b.bitcast(x, x.type.of(I64)) < 0
    result = b.select(odd & negative, -result, result)
    imaginary = (x < 0.0) & (size < infinity) & (b.fabs(y) < infinity) & (b.floor(y) != y)
    result = b.select(imaginary, b.const(x.type, math.nan), result)
    result = b.select((size == 1.0) & (b.fabs(y) == infinity), one, result)
    return b.select((y == 0.0) | (x == 1.0), one, result)
