"""Reductions over up to two axes, for up to two outer and one inner kept axis, at any strides.

"across": lanes lie across the inner axis, which is without gaps; "along": there is no inner axis, and 16 logical lanes lie along the
second reduced axis, lane i taking elements i, i + 16, ..., combined 8-4-2-1 at the end. Real sums and products are kept in f64 and
rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, F64, I8, I32, I64, Type, vector

LOGICAL_LANES = 16
EXTENTS = ("a0", "a1", "r0", "r1", "inner", "xa0", "xa1", "xr0", "xr1", "ya0", "ya1")
Combine = Callable[[Value, Value], Value]


@dataclass
class Reduction:
    """How elements are widened, combined and stored. identity: of `combine`, as a number of the accumulator's type."""

    element: Type
    accumulator: Type
    identity: float
    widen: Callable[[Value], Value]
    combine: Combine
    finish: Callable[[Value], Value]
    result: Type


def reduce_nd(b: KernelBuilder, mode: str, reduction: Reduction) -> None:
    """The loops. Threads share outputs."""
    across = mode == "across"
    lanes = (b.target.f32_lanes if reduction.element.bits > 8 else b.target.i32_lanes) if across else LOGICAL_LANES
    size, out_size = reduction.element.bits // 8, reduction.result.bits // 8
    inner, a1 = b.extent("inner"), b.extent("a1")
    blocks = (inner + (lanes - 1)) // lanes if across else b.i64(1)
    lo, hi = b.share(b.extent("a0") * a1 * blocks)
    with b.loop(lo, hi) as unit:
        outer = unit.index // blocks if across else unit.index
        first = unit.index % blocks * lanes if across else b.i64(0)
        x = b.pointer("x") + (outer // a1 * b.extent("xa0") + outer % a1 * b.extent("xa1") + first * size)
        y = b.pointer("y") + (outer // a1 * b.extent("ya0") + outer % a1 * b.extent("ya1") + first * out_size)
        if across:
            left = inner - first
            total = reduce_rows(b, reduction, x, lanes, lambda p: b.load_prefix(vector(reduction.element, lanes), p, 0, left))
            b.store_prefix(reduction.finish(total), y, 0, left)
        else:
            total = reduce_along(b, reduction, x, b.extent("r0"), b.extent("xr0"), b.extent("r1"))
            b.store(b.extract(reduction.finish(b.splat(total, b.target.f32_lanes)), 0), y)


def reduce_rows(b: KernelBuilder, reduction: Reduction, x: Value, lanes: int, load: Callable[[Value], Value]) -> Value:
    """All reduced elements of a register of outputs, in order."""
    start = b.const(vector(reduction.accumulator, lanes), reduction.identity)
    with b.loop(0, b.extent("r0"), carried=[start]) as outer:
        row = x + outer.index * b.extent("xr0")
        with b.loop(0, b.extent("r1"), carried=outer.carried) as along:
            value = reduction.widen(load(row + along.index * b.extent("xr1")))
            along.yield_([reduction.combine(along.carried[0], value)])
        outer.yield_(along.results)
    return outer.results[0]


def reduce_along(b: KernelBuilder, reduction: Reduction, x: Value, rows: Value, row_step: Value, count: Value) -> Value:
    """One number from `rows` rows of `count` adjacent elements."""
    lanes, size = LOGICAL_LANES, reduction.element.bits // 8
    element = vector(reduction.element, lanes)
    start = b.const(vector(reduction.accumulator, lanes), reduction.identity)
    whole = count // lanes * lanes
    with b.loop(0, rows, carried=[start]) as outer:
        row = x + outer.index * row_step
        with b.loop(0, whole, lanes, carried=outer.carried) as along:
            along.yield_([reduction.combine(along.carried[0], reduction.widen(b.load(element, row, along.index * size)))])
        with b.if_(whole < count) as tail:
            value = reduction.widen(b.load_prefix(element, row, whole * size, count - whole))
            value = b.select(b.mask_below(count - whole, lanes), value, start)
            tail.yield_([reduction.combine(along.results[0], value)])
        with tail.else_():
            tail.yield_(along.results)
        outer.yield_(tail.results)
    return b.reduce(reduction.combine, outer.results[0])


def largest(b: KernelBuilder) -> Combine:
    """NaN wins."""
    return lambda x, y: b.select((x >= y) | (x != x), x, y)


def smallest(b: KernelBuilder) -> Combine:
    return lambda x, y: b.select((x <= y) | (x != x), x, y)


@kernel(pointers=("x", "y"), extents=EXTENTS, scalars=("divisor",))
def reduce_real(b: KernelBuilder, *, op: str, mode: str) -> None:
    """f32 sum, prod, max, min; sum over `divisor` elements (1 for sum) is divided in f64, in two exact or correctly rounded steps."""
    if op in ("max", "min"):
        combine, identity = (largest(b), -math.inf) if op == "max" else (smallest(b), math.inf)
        reduce_nd(b, mode, Reduction(F32, F32, identity, lambda v: v, combine, lambda v: v, F32))
        return
    combine, identity = (lambda x, y: x * y, 1.0) if op == "prod" else (lambda x, y: x + y, 0.0)

    def finish(v: Value) -> Value:
        if op == "sum":
            v = v / b.splat(b.convert("fpext", b.scalar("divisor"), F64), v.type.lanes)
        return b.convert("fptrunc", v, F32)

    reduce_nd(b, mode, Reduction(F32, F64, identity, lambda v: b.convert("fpext", v, F64), combine, finish, F32))


@kernel(pointers=("x", "y"), extents=EXTENTS)
def reduce_integer(b: KernelBuilder, *, op: str, mode: str, bits: int) -> None:
    """Plain i32 and i64: sum (wraps), max, min."""
    element = {32: I32, 64: I64}[bits]
    combine, identity = {"sum": (lambda x, y: x + y, 0), "max": (b.smax, -(1 << (bits - 1))), "min": (b.smin, (1 << (bits - 1)) - 1)}[op]
    reduce_nd(b, mode, Reduction(element, element, identity, lambda v: v, combine, lambda v: v, element))


@kernel(pointers=("x", "y"), extents=(*EXTENTS, "in_zero_sum", "zero"), scalars=("scale", "low", "high"))
def reduce_codes(b: KernelBuilder, *, op: str, mode: str) -> None:
    """u8 sum, max, min in i32, less in_zero_sum, times scale, requantized."""
    combine, identity = {"sum": (lambda x, y: x + y, 0), "max": (b.smax, 0), "min": (b.smin, 255)}[op]

    def finish(v: Value) -> Value:
        lanes = v.type.lanes
        centered = v - b.splat(b.trunc(b.extent("in_zero_sum"), I32), lanes)
        real = b.clamp(b.sitofp(centered) * b.splat(b.scalar("scale"), lanes), b.splat(b.scalar("low"), lanes),
                       b.splat(b.scalar("high"), lanes))
        return b.trunc(b.target.round_to_i32(b, real) + b.splat(b.trunc(b.extent("zero"), I32), lanes), I8)

    reduce_nd(b, mode, Reduction(I8, I32, identity, lambda v: b.zext(v, I32), combine, finish, I8))


@kernel(pointers=("x", "y"), extents=("outer", "size", "inner", "x_outer", "x_step", "x_inner"))
def argmax(b: KernelBuilder, *, dtype: str) -> None:
    """i64 index of the first maximum, or the first NaN, of each of outer * inner lines. Strides in bytes."""
    element = {"f32": F32, "i32": I32, "i64": I64, "u8": I8, "i8": I8}[dtype]

    def value(x: Value) -> Value:
        loaded = b.load(element, x)
        return b.zext(loaded, I32) if dtype == "u8" else loaded

    lo, hi = b.share(b.extent("outer") * b.extent("inner"))
    with b.loop(lo, hi) as line:
        x = b.pointer("x") + (line.index // b.extent("inner") * b.extent("x_outer") + line.index % b.extent("inner") * b.extent("x_inner"))
        with b.loop(1, b.extent("size"), carried=[value(x), b.i64(0)]) as place:
            best, index = place.carried
            found = value(x + place.index * b.extent("x_step"))
            better = found > best
            if element is F32:
                better = (better | (found != found)) & (best == best)
            place.yield_([b.select(better, found, best), b.select(better, place.index, index)])
        b.store(place.results[1], b.pointer("y"), line.index * 8)
