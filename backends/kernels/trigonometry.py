"""sin and cos of f32, element by element, in f64.

The argument is reduced to |r| <= pi/4, r = x - n pi/2:
    |x| < 2^20   by three parts of pi/2 of 33 bits. n times each of the first two is exact; the error is below 2^-60
    otherwise    x = m 2^e with m below 2^24, so x mod 2 pi = m (2^e mod 2 pi) mod 2 pi; a table has 2^e mod 2 pi as two
                 parts of 29 bits and a rest. The error is below 2^-50
The results are Taylor's series to r^17 and r^18, whose remainders are below 2^-55. So the result is within half a unit
in the last place of f32 plus 2^-50.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Generic, Literal

import numpy as np

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, P, Written
from qcompiler.backends.kernel_ir.types import F32, F64, I32, I64
from qcompiler.backends.kernels.math import polynomial

_PI = Fraction(
    31415926535897932384626433832795028841971693993751058209749445923078164062862089986280348253421170679, 10**100
)
_LEAST, _MOST = -3, 104
"""The exponents e of the first and the last row of the table."""


def _parts(value: Fraction, bits: int, count: int) -> list[float]:
    """`value` as a sum of `count` floats. Each has `bits` bits below those of the one before; the last has the rest."""
    parts, unit = [], Fraction(2) ** (3 - bits)
    for _ in range(count - 1):
        head = (value / unit).__floor__() * unit
        parts.append(float(head))
        value -= head
        unit /= Fraction(2) ** bits
    return [*parts, float(value)]


def _extended_pi(bits: int) -> Fraction:
    """pi to this many bits, by Machin's formula."""
    scale = 1 << (bits + 16)

    def arctan_inverse(n: int) -> int:
        total, term, k = 0, scale // n, 1
        while term:
            total += term // k if k % 4 == 1 else -(term // k)
            term //= n * n
            k += 2
        return total

    return Fraction(4 * (4 * arctan_inverse(5) - arctan_inverse(239)), scale)


def reduction_table() -> np.ndarray:
    """f64 [rows, 4]: the three parts of 2^e mod 2 pi and a zero, for e from _LEAST to _MOST."""
    turn = 2 * _extended_pi(400)
    rows = []
    for e in range(_LEAST, _MOST + 1):
        power = Fraction(2) ** e
        rows.append([*_parts(power - (power / turn).__floor__() * turn, 29, 3), 0.0])
    return np.array(rows, np.float64)


_HALF_PI = _parts(_PI / 2, 33, 3)
_SIN = [(-1) ** i / math.factorial(2 * i + 1) for i in range(9)]
_COS = [(-1) ** i / math.factorial(2 * i) for i in range(10)]


class Trigonometric(Arguments["Trigonometric"], Generic[P, E]):
    """The arguments of `trigonometric`: f32 [count] to f32 [count]. table: `reduction_table`."""

    x: P
    table: P
    y: Written[P]
    count: E


@kernel
def trigonometric(b: KernelBuilder, a: Trigonometric, *, op: Literal["sin", "cos"]) -> None:
    """y = sin x or cos x; NaN for infinities."""
    lo, hi = b.share(a.count, 16)
    with b.loop(lo, hi) as each:
        single = b.load(F32, a.x, each.index * 4)
        x = b.convert("fpext", single, F64)
        size = b.fabs(x)
        with b.if_(size < 2.0**20) as small:
            n = b.rint(x * (2 / math.pi))
            r = b.fma(n, b.const(F64, -_HALF_PI[0]), x)
            r = b.fma(n, b.const(F64, -_HALF_PI[1]), r)
            small.yield_([b.fma(n, b.const(F64, -_HALF_PI[2]), r), n])
        with small.else_():
            bits = b.bitcast(single, I32) & 0x7FFFFFFF
            row = b.smin(b.smax(b.lshr(bits, 23) - (150 + _LEAST), 0), _MOST - _LEAST)
            m = b.sitofp((bits & 0x7FFFFF) | 0x800000, F64)
            m = b.select(x < 0.0, -m, m)
            parts = [b.load(F64, a.table, b.sext(row, I64) * 32, disp=8 * i) * m for i in range(3)]
            n = b.rint((parts[0] + parts[1]) * (2 / math.pi))
            pieces = _parts(_PI / 2, 26, 3)
            r = (parts[0] - n * pieces[0]) + (parts[1] - n * pieces[1]) + (parts[2] - n * pieces[2])
            small.yield_([r, n])
        r, n = small.results
        quadrant = n - b.floor(n * 0.25) * 4.0 + (1.0 if op == "cos" else 0.0)
        quadrant = b.select(quadrant >= 4.0, quadrant - 4.0, quadrant)
        z = r * r
        sine, cosine = r * polynomial(b, z, _SIN), polynomial(b, z, _COS)
        odd = (quadrant == 1.0) | (quadrant == 3.0)
        found = b.select(odd, cosine, sine)
        found = b.select(quadrant >= 2.0, -found, found)
        found = b.select(size < math.inf, found, b.const(F64, math.nan))
        if op == "sin":
            found = b.select(x == 0.0, x, found)  # the reduction loses the sign of -0
        b.store(b.convert("fptrunc", found, F32), a.y, each.index * 4)
