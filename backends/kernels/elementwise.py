"""Elementwise kernels: real arithmetic, activations, comparisons, casts, selection, and plain integers.

Each is a map (see map_loop) with one of the functions of `real_functions` or `integer_functions`. The kernels of codes
are in `elementwise_codes`. The static argument `inner` has a "1" for each operand that varies along the innermost axis
and a "0" for each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, KernelDef, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, S
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, F64, I8, I16, I32, I64, Type
from qcompiler.backends.kernels import integer_functions
from qcompiler.backends.kernels.copy import ELEMENTS
from qcompiler.backends.kernels.map_loop import Map, Plan, emit_map
from qcompiler.backends.kernels.real_functions import FLOAT, SIMPLE, WIDE, Lanes, in_f64

REALS: dict[str, Type] = {"f32": F32, "f64": F64}
INTEGERS: dict[str, Type] = {"i8": I8, "u8": I8, "bool": I8, "i16": I16, "i32": I32, "i64": I64}
DOUBLE = frozenset(
    {
        "relu",
        "relu6",
        "neg",
        "abs",
        "floor",
        "ceil",
        "round",
        "sign",
        "square",
        "sqrt",
        "rsqrt",
        "reciprocal",
        "add",
        "sub",
        "mul",
        "div",
        "minimum",
        "maximum",
    }
)
"""Functions of `FLOAT` that serve f64 too: they are IEEE operations alone and take no attribute."""
UNSIGNED = frozenset({"u8", "bool"})


def attr_names(attrs: Mapping[str, Any]) -> list[str]:
    """The names of an op's float attributes, in order."""
    return [name for name, value in attrs.items() if isinstance(value, float)]


def bytes_plan(b: KernelBuilder) -> Plan:
    """A plan for bytes: first whole registers of bytes, which are four registers of f32 each, then quarters of
    registers."""
    return (b.target.vector_bytes, 1), (b.target.f32_lanes, 1)


def _plan(b: KernelBuilder, element: Type, unroll: int) -> Plan:
    """A plan for an element type: first `unroll` registers at a time, then one. For bytes it is `bytes_plan`."""
    lanes = b.target.vector_bytes // element.bytes
    return bytes_plan(b) if element is I8 else ((lanes, unroll), (lanes, 1)) if unroll > 1 else ((lanes, 1),)


# -- real


class FloatAttr(Group, Generic[S]):
    """A float attribute as a sum of two f32. value: the nearest f32; rest: attribute - value."""

    value: S
    rest: S


class RealMap(Arguments["RealMap"], Generic[P, E, S]):
    """The arguments of maps of reals. attrs: the op's float attributes in order; those that it does not have are 0."""

    map: Map[P, E]
    attrs: tuple[FloatAttr[S], FloatAttr[S]]


def _real(operands: int) -> KernelDef[RealMap, Any]:
    def body(b: KernelBuilder, a: RealMap, *, op: str, inner: str, params: str, activation: str, dtype: str) -> None:
        """Emit a map of reals. params: the names of the attributes, joined by commas."""
        element = REALS[dtype]

        def attr(i: int) -> Value:
            value, rest = a.attrs[i].value, a.attrs[i].rest
            return b.convert("fpext", value, F64) + b.convert("fpext", rest, F64) if op in WIDE else value

        def prepare(lanes: int) -> Lanes:
            p = {name: b.splat(attr(i), lanes) for i, name in enumerate(params.split(",") if params else ())}

            def compute(*values: Value) -> Value:
                found = FLOAT[op](b, *values, **p)
                return found if activation == "none" else FLOAT[activation](b, found)

            return compute

        emit_map(b, a.map, [element] * operands, inner, element, _plan(b, element, 4 if op in SIMPLE else 1), prepare)

    body.__name__ = f"map_real_{operands}"
    return kernel(map_operands=operands)(body)


REAL = {operands: _real(operands) for operands in (1, 2)}
"""Maps of reals by their number of operands."""


@kernel(operands=3)
def map_affine(b: KernelBuilder, a: Map, *, inner: str) -> None:
    """x * factor + shift, computed in f64 and rounded once."""
    compute = in_f64(lambda b, x, factor, shift: x * factor + shift)
    emit_map(b, a, [F32] * 3, inner, F32, _plan(b, F32, 2), lambda lanes: lambda *values: compute(b, *values))


# -- comparison, selection, bools


_COMPARISONS: dict[str, Lanes] = {
    "equal": lambda b, x, y: x == y,
    "not_equal": lambda b, x, y: x != y,
    "less": lambda b, x, y: x < y,
    "less_equal": lambda b, x, y: x <= y,
    "greater": lambda b, x, y: x > y,
    "greater_equal": lambda b, x, y: x >= y,
}
_UNSIGNED_COMPARISONS = {"less": "ult", "less_equal": "ule", "greater": "ugt", "greater_equal": "uge"}


@kernel(operands=2)
def map_compare(b: KernelBuilder, a: Map, *, op: str, inner: str, dtype: str) -> None:
    """A comparison of two operands of one type."""
    element = REALS.get(dtype) or INTEGERS[dtype]

    def compute(x: Value, y: Value) -> Value:
        if dtype in UNSIGNED and op in _UNSIGNED_COMPARISONS:
            return b.zext(b.icmp(_UNSIGNED_COMPARISONS[op], x, y), I8)
        return b.zext(_COMPARISONS[op](b, x, y), I8)

    emit_map(b, a, [element] * 2, inner, I8, bytes_plan(b), lambda lanes: compute)


_LOGIC: dict[str, Lanes] = {
    "logical_and": lambda b, x, y: x & y,
    "logical_or": lambda b, x, y: x | y,
    "logical_not": lambda b, x: x ^ 1,
}


def _logic(operands: int) -> KernelDef[Map, Any]:
    def body(b: KernelBuilder, a: Map, *, op: str, inner: str) -> None:
        def compute(*values: Value) -> Value:
            return _LOGIC[op](b, *values)

        emit_map(b, a, [I8] * operands, inner, I8, bytes_plan(b), lambda lanes: compute)

    body.__name__ = f"map_bool_{operands}"
    return kernel(operands=operands)(body)


LOGIC = {operands: _logic(operands) for operands in (1, 2)}
"""Logic on bools by the number of operands."""


@kernel(operands=3)
def map_where(b: KernelBuilder, a: Map, *, inner: str, itemsize: int) -> None:
    """condition ? x : y."""
    element = ELEMENTS[itemsize]

    def compute(condition: Value, x: Value, y: Value) -> Value:
        return b.select(condition != 0, x, y)

    emit_map(b, a, [I8, element, element], inner, element, _plan(b, element, 4), lambda lanes: compute)


# -- plain integers


def _integers(operands: int) -> KernelDef[Map, Any]:
    def body(b: KernelBuilder, a: Map, *, op: str, inner: str, dtype: str) -> None:
        element = INTEGERS[dtype]
        function = (integer_functions.UNSIGNED if dtype in UNSIGNED else integer_functions.SIGNED)[op]
        plan = ((b.target.f32_lanes, 1),) if op in integer_functions.COSTLY else _plan(b, element, 2)

        def compute(*values: Value) -> Value:
            return function(b, *values)

        emit_map(b, a, [element] * operands, inner, element, plan, lambda lanes: compute)

    body.__name__ = f"map_integer_{operands}"
    return kernel(operands=operands)(body)


INTEGER = {operands: _integers(operands) for operands in (1, 2)}
"""Maps of plain integers by their number of operands."""


class ClampMap(Arguments["ClampMap"], Generic[P, E]):
    """The arguments of `map_clamp`. low, high: the bounds."""

    map: Map[P, E]
    low: E
    high: E


@kernel(map_operands=1)
def map_clamp(b: KernelBuilder, a: ClampMap, *, inner: str, dtype: str) -> None:
    """Integers clamped into [low, high]."""
    element = INTEGERS[dtype]
    smallest, largest = ("umin", "umax") if dtype in UNSIGNED else ("smin", "smax")

    def prepare(lanes: int) -> Lanes:
        low, high = (b.splat(v if element is I64 else b.trunc(v, element), lanes) for v in (a.low, a.high))
        return lambda x: b.binary(smallest, b.binary(largest, x, low), high)

    emit_map(b, a.map, [element], inner, element, _plan(b, element, 2), prepare)


# -- casts


_BOUNDS = {
    "i8": (-128, 127),
    "u8": (0, 255),
    "i16": (-(2**15), 2**15 - 1),
    "i32": (-(2**31), 2**31 - 1),
    "i64": (-(2**63), 2**63 - 1),
}


@kernel(operands=1)
def map_cast(b: KernelBuilder, a: Map, *, inner: str, source: str, to: str) -> None:
    """A cast from dtype `source` to dtype `to`."""
    read, write = (REALS.get(dtype) or INTEGERS[dtype] for dtype in (source, to))

    def compute(x: Value) -> Value:
        if to == "bool":
            return b.zext(x != 0, I8)
        if read.is_float and write.is_float:
            return x if read is write else b.convert("fpext" if write is F64 else "fptrunc", x, write)
        if read.is_float:
            return _saturated(b, x, to, write)
        if source in UNSIGNED and write.bits > 8:
            x = b.zext(x, I32)
        if write.is_float:
            return b.sitofp(x, write)
        bits = x.type.element.bits
        return x if bits == write.bits else b.trunc(x, write) if bits > write.bits else b.sext(x, write)

    lanes = max(b.target.f32_lanes, 4)
    emit_map(b, a, [read], inner, write, ((lanes, 2), (lanes, 1)), lambda lanes: compute)


def _saturated(b: KernelBuilder, x: Value, to: str, write: Type) -> Value:
    """A float truncated and saturated; NaN becomes 0. i32 goes through f64, which holds every i32 exactly; an i64 is
    converted only where |x| < 2^63."""
    low, high = _BOUNDS[to]
    x = b.select(x != x, b.const(x.type, 0.0), x)
    if to != "i64":
        if write is I32:
            x = b.convert("fpext", x, F64)
        whole = b.convert("fptosi", b.clamp(x, float(low), float(high)), I32)
        return whole if write is I32 else b.trunc(whole, write)
    above, below = x >= 2.0**63, x < -(2.0**63)
    whole = b.convert("fptosi", b.select(above | below, b.const(x.type, 0.0), x), I64)
    whole = b.select(above, b.const(whole.type, high), whole)
    return b.select(below, b.const(whole.type, low), whole)
