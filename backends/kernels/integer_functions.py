"""Functions of plain integers, lane by lane, for elementwise kernels.

A function takes registers of one integer type. `SIGNED` holds all functions of signed integers, and `UNSIGNED` the same
functions of unsigned ones. Sums and products wrap. `qcompiler.ops.division` says what division by 0 gives, and
`qcompiler.ops.logic` what a shift by more than the width does.
"""

from __future__ import annotations

from qcompiler.backends.kernel_ir.builder import KernelBuilder
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import I32
from qcompiler.backends.kernels.real_functions import Lanes


def _const(b: KernelBuilder, x: Value, value: int) -> Value:
    return b.const(x.type, value)


def _widened(b: KernelBuilder, x: Value, signed: bool) -> Value:
    """x extended to 32 bits if it has fewer, because every target can divide these."""
    return x if x.type.element.bits >= 32 else b.sext(x, I32) if signed else b.zext(x, I32)


def _divided(b: KernelBuilder, x: Value, y: Value) -> tuple[Value, Value, Value]:
    """Quotient (towards zero), remainder (sign of x) and divisor of signed integers. Without a quotient the divisor is
    1 and the remainder 0; the quotient is 0 for a divisor of 0, and -x for one of -1."""
    special = (y == 0) | (y == -1)
    divisor = b.select(special, _const(b, y, 1), y)
    quotient = b.sdiv(x, divisor)
    remainder = x - quotient * divisor
    quotient = b.select(y == 0, _const(b, x, 0), b.select(y == -1, -x, quotient))
    return quotient, remainder, divisor


def _signed_division(floor: bool, remainder: bool) -> Lanes:
    """The quotient or the remainder of signed integers, by the quotient rounded down or towards zero."""

    def function(b: KernelBuilder, x: Value, y: Value) -> Value:
        quotient, rest, divisor = _divided(b, _widened(b, x, True), _widened(b, y, True))
        below = (rest != 0) & ((rest ^ divisor) < 0)
        if remainder:
            found = b.select(below, rest + divisor, rest) if floor else rest
        else:
            found = b.select(below, quotient - 1, quotient) if floor else quotient
        return b.trunc(found, x.type.element)

    return function


def _unsigned_division(remainder: bool) -> Lanes:
    def function(b: KernelBuilder, x: Value, y: Value) -> Value:
        dividend, given = _widened(b, x, False), _widened(b, y, False)
        divisor = b.select(given == 0, _const(b, given, 1), given)
        found = b.binary("urem" if remainder else "udiv", dividend, divisor)
        return b.trunc(b.select(given == 0, _const(b, given, 0), found), x.type.element)

    return function


def _power(b: KernelBuilder, x: Value, y: Value) -> Value:
    """x to the power y by squaring; y counts as unsigned."""
    with b.loop(0, x.type.element.bits, carried=[_const(b, x, 1), x, y]) as loop:
        power, square, rest = loop.carried
        power = b.select((rest & 1) != 0, power * square, power)
        loop.yield_([power, square * square, b.lshr(rest, 1)])
    return loop.results[0]


def _signed_power(b: KernelBuilder, x: Value, y: Value) -> Value:
    """A negative power of 1 or -1 is the same as the positive one; of any other number it is 0."""
    unit = (x == 1) | (x == -1)
    return b.select((y < 0) & (x != 1) & (x != -1), _const(b, x, 0), _power(b, x, b.select(unit, y & 1, y)))


def _shift(name: str, empty: int | None) -> Lanes:
    """A shift whose result is `empty` if the count is not below the width. If empty is None, the result then has the
    sign in every bit."""

    def function(b: KernelBuilder, x: Value, y: Value) -> Value:
        bits = x.type.element.bits
        inside = b.icmp("ult", y, bits)
        shifted = b.binary(name, x, b.select(inside, y, _const(b, y, bits - 1)))
        return shifted if empty is None else b.select(inside, shifted, _const(b, x, empty))

    return function


SIGNED: dict[str, Lanes] = {
    "add": lambda b, x, y: x + y,
    "sub": lambda b, x, y: x - y,
    "mul": lambda b, x, y: x * y,
    "minimum": lambda b, x, y: b.smin(x, y),
    "maximum": lambda b, x, y: b.smax(x, y),
    "neg": lambda b, x: -x,
    "abs": lambda b, x: b.smax(x, -x),
    "square": lambda b, x: x * x,
    "relu": lambda b, x: b.smax(x, 0),
    "relu6": lambda b, x: b.smin(b.smax(x, 0), 6),
    "sign": lambda b, x: b.smin(b.smax(x, -1), 1),
    "pow": _signed_power,
    "floor_divide": _signed_division(floor=True, remainder=False),
    "trunc_divide": _signed_division(floor=False, remainder=False),
    "remainder": _signed_division(floor=True, remainder=True),
    "fmod": _signed_division(floor=False, remainder=True),
    "bitwise_and": lambda b, x, y: x & y,
    "bitwise_or": lambda b, x, y: x | y,
    "bitwise_xor": lambda b, x, y: x ^ y,
    "bitwise_not": lambda b, x: x ^ -1,
    "shift_left": _shift("shl", 0),
    "shift_right": _shift("ashr", None),
}
"""Functions of signed integers of one type."""

UNSIGNED: dict[str, Lanes] = {
    **SIGNED,
    "minimum": lambda b, x, y: b.umin(x, y),
    "maximum": lambda b, x, y: b.umax(x, y),
    "abs": lambda b, x: x,
    "relu": lambda b, x: x,
    "relu6": lambda b, x: b.umin(x, 6),
    "sign": lambda b, x: b.umin(x, 1),
    "pow": _power,
    "floor_divide": _unsigned_division(remainder=False),
    "trunc_divide": _unsigned_division(remainder=False),
    "remainder": _unsigned_division(remainder=True),
    "fmod": _unsigned_division(remainder=True),
    "shift_right": _shift("lshr", 0),
}
"""The same functions of unsigned integers."""

COSTLY = frozenset({"pow", "floor_divide", "trunc_divide", "remainder", "fmod"})
"""Functions whose code is long where a target has no vector instruction for them. They are computed one small register
at a time."""
