"""Reductions over up to two axes, for up to two outer and one inner kept axis, at any strides.

"across": lanes lie across the inner axis, which is without gaps; "along": there is no inner axis, and 16 logical lanes
lie along the second reduced axis, lane i taking elements i, i + 16, ..., combined 8-4-2-1 at the end; real extremes
take 64. Real sums and products are kept in f64 and rounded once. Codes are exact in any order: registers of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, F64, I8, I16, I32, I64, Type, vector

LOGICAL_LANES = 16
WORD_TERMS = 257  # bytes that an unsigned sum of 16 bits holds
LONG_LINE = 16  # elements from which a search takes lanes
EXTENTS = ("a0", "a1", "r0", "r1", "inner", "xa0", "xa1", "xr0", "xr1", "ya0", "ya1")
Combine = Callable[[Value, Value], Value]


@dataclass
class Reduction:
    """How elements are widened, combined and stored.

    identity: of `combine`, as a number of the accumulator's type. lanes: logical ones along a line; accumulator_lanes:
    of what combine(accumulator, widened) gives, if these are others.
    """

    element: Type
    accumulator: Type
    identity: float
    widen: Callable[[Value], Value]
    combine: Combine
    finish: Callable[[Value], Value]
    result: Type
    lanes: int = LOGICAL_LANES
    accumulator_lanes: int = 0


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
            total = reduce_rows(
                b, reduction, x, lanes, lambda p: b.load_prefix(vector(reduction.element, lanes), p, 0, left)
            )
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


def reduce_along(
    b: KernelBuilder,
    reduction: Reduction,
    x: Value,
    rows: Value,
    row_step: Value,
    count: Value,
    fold: Combine | None = None,
) -> Value:
    """One number from `rows` rows of `count` adjacent elements. fold: of two accumulators, if not `combine`."""
    lanes, size = reduction.lanes, reduction.element.bits // 8
    element = vector(reduction.element, lanes)
    start = b.const(vector(reduction.accumulator, reduction.accumulator_lanes or lanes), reduction.identity)
    whole = count // lanes * lanes
    with b.loop(0, rows, carried=[start]) as outer:
        row = x + outer.index * row_step
        with b.loop(0, whole, lanes, carried=outer.carried) as along:
            along.yield_(
                [reduction.combine(along.carried[0], reduction.widen(b.load(element, row, along.index * size)))]
            )
        with b.if_(whole < count) as tail:
            value = reduction.widen(b.load_prefix(element, row, whole * size, count - whole))
            value = b.select(b.mask_below(count - whole, lanes), value, b.const(value.type, reduction.identity))
            tail.yield_([reduction.combine(along.results[0], value)])
        with tail.else_():
            tail.yield_(along.results)
        outer.yield_(tail.results)
    return b.reduce(fold or reduction.combine, outer.results[0])


def largest(b: KernelBuilder) -> Combine:
    """NaN wins."""
    return lambda x, y: b.select((x >= y) | (x != x), x, y)


def smallest(b: KernelBuilder) -> Combine:
    return lambda x, y: b.select((x <= y) | (x != x), x, y)


@kernel(pointers=("x", "y"), extents=EXTENTS, scalars=("divisor",))
def reduce_real(b: KernelBuilder, *, op: str, mode: str) -> None:
    """f32 sum, prod, max, min. divisor: of a mean, in f64."""
    if op in ("max", "min"):
        combine, identity = (largest(b), -math.inf) if op == "max" else (smallest(b), math.inf)
        reduce_nd(b, mode, Reduction(F32, F32, identity, lambda v: v, combine, lambda v: v, F32, 4 * LOGICAL_LANES))
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
    combine, identity = {
        "sum": (lambda x, y: x + y, 0),
        "max": (b.smax, -(1 << (bits - 1))),
        "min": (b.smin, (1 << (bits - 1)) - 1),
    }[op]
    reduce_nd(b, mode, Reduction(element, element, identity, lambda v: v, combine, lambda v: v, element))


@kernel(pointers=("x", "y"), extents=(*EXTENTS, "in_zero_sum", "zero"), scalars=("scale", "low", "high"))
def reduce_codes(b: KernelBuilder, *, op: str, mode: str) -> None:
    """u8 sum, max, min in i32, less in_zero_sum, times scale, requantized."""
    combine, identity = {"sum": (lambda x, y: x + y, 0), "max": (b.smax, 0), "min": (b.smin, 255)}[op]

    def finish(v: Value) -> Value:
        lanes = v.type.lanes
        centered = v - b.splat(b.trunc(b.extent("in_zero_sum"), I32), lanes)
        low, high, scale = (b.splat(b.scalar(name), lanes) for name in ("low", "high", "scale"))
        real = b.clamp(b.sitofp(centered) * scale, low, high)
        return b.target.round_to_i32(b, real) + b.splat(b.trunc(b.extent("zero"), I32), lanes)

    def narrowed(v: Value) -> Value:
        return b.trunc(finish(v), I8)

    few = Reduction(I8, I32, identity, lambda v: b.zext(v, I32), combine, narrowed, I8)
    if mode == "along":
        _codes_along(b, op, few)
        return
    with b.if_(b.extent("inner") >= b.target.vector_bytes):
        _codes_across(b, op, finish)
    with b.if_(b.extent("inner") < b.target.vector_bytes):
        reduce_nd(b, mode, few)


def _codes_across(b: KernelBuilder, op: str, finish: Callable[[Value], Value]) -> None:
    """A register of bytes at once; the last one of a row of outputs overlaps the one before. Sums are taken in words as
    long as these hold them."""
    lanes, width, inner, a1 = b.target.vector_bytes, b.target.i32_lanes, b.extent("inner"), b.extent("a1")
    bytes_ = vector(I8, lanes)
    blocks = (inner + (lanes - 1)) // lanes
    lo, hi = b.share(b.extent("a0") * a1 * blocks)
    with b.loop(lo, hi) as unit:
        outer, first = unit.index // blocks, b.smin(unit.index % blocks * lanes, inner - lanes)
        x = b.pointer("x") + (outer // a1 * b.extent("xa0") + outer % a1 * b.extent("xa1") + first)
        y = b.pointer("y") + (outer // a1 * b.extent("ya0") + outer % a1 * b.extent("ya1") + first)
        total = _sum_of_rows(b, x, bytes_) if op == "sum" else _extreme_of_rows(b, op, x, bytes_)
        parts = [finish(b.slice(total, start, width)) for start in range(0, lanes, width)]
        b.store(b.target.narrow(b, parts, "u8"), y)


def _sum_of_rows(b: KernelBuilder, x: Value, bytes_: Type) -> Value:
    with b.loop(0, b.extent("r0"), carried=[b.zero(bytes_.of(I32))]) as rows:
        row = x + rows.index * b.extent("xr0")
        with b.loop(0, b.extent("r1"), WORD_TERMS, carried=rows.carried) as chunks:
            end = b.smin(chunks.index + WORD_TERMS, b.extent("r1"))
            with b.loop(chunks.index, end, carried=[b.zero(bytes_.of(I16))]) as terms:
                codes = b.load(bytes_, row, terms.index * b.extent("xr1"))
                terms.yield_([terms.carried[0] + b.zext(codes, I16)])
            chunks.yield_([chunks.carried[0] + b.zext(terms.results[0], I32)])
        rows.yield_(chunks.results)
    return rows.results[0]


def _extreme_of_rows(b: KernelBuilder, op: str, x: Value, bytes_: Type) -> Value:
    combine, identity = (b.umax, 0) if op == "max" else (b.umin, 255)
    with b.loop(0, b.extent("r0"), carried=[b.const(bytes_, identity)]) as rows:
        row = x + rows.index * b.extent("xr0")
        with b.loop(0, b.extent("r1"), carried=rows.carried) as terms:
            terms.yield_([combine(terms.carried[0], b.load(bytes_, row, terms.index * b.extent("xr1")))])
        rows.yield_(terms.results)
    return b.zext(rows.results[0], I32)


def _codes_along(b: KernelBuilder, op: str, reduction: Reduction) -> None:
    """Registers of bytes along the reduced axis; integers, so their order does not matter."""
    target, lanes = b.target, b.target.vector_bytes
    if op == "sum":
        fold = reduction.combine
        steps = replace(
            reduction,
            combine=lambda acc, codes: target.sum4(b, acc, codes),
            widen=lambda v: v,
            lanes=lanes,
            accumulator_lanes=target.i32_lanes,
        )
    else:
        fold = b.umax if op == "max" else b.umin
        steps = replace(reduction, accumulator=I8, combine=fold, widen=lambda v: v, lanes=lanes)
    lo, hi = b.share(b.extent("a0") * b.extent("a1"))
    with b.loop(lo, hi) as unit:
        i, j = unit.index // b.extent("a1"), unit.index % b.extent("a1")
        x = b.pointer("x") + (i * b.extent("xa0") + j * b.extent("xa1"))
        y = b.pointer("y") + (i * b.extent("ya0") + j * b.extent("ya1"))
        total = reduce_along(b, steps, x, b.extent("r0"), b.extent("xr0"), b.extent("r1"), fold)
        total = total if op == "sum" else b.zext(total, I32)
        b.store(b.extract(reduction.finish(b.splat(total, target.i32_lanes)), 0), y)


@kernel(pointers=("x", "y"), extents=("outer", "size", "inner", "x_outer", "x_step", "x_inner"))
def argmax(b: KernelBuilder, *, dtype: str) -> None:
    """i64 index of the first maximum, or the first NaN, of each of outer * inner lines. Strides in bytes."""
    element = {"f32": F32, "i32": I32, "i64": I64, "u8": I8, "i8": I8}[dtype]
    search = _Search(b, element, dtype == "u8")
    lo, hi = b.share(b.extent("outer") * b.extent("inner"))
    with b.loop(lo, hi) as line:
        i, j = line.index // b.extent("inner"), line.index % b.extent("inner")
        x = b.pointer("x") + (i * b.extent("x_outer") + j * b.extent("x_inner"))
        adjacent = b.extent("x_step") == element.bytes
        with b.if_(adjacent & (b.extent("size") >= LONG_LINE)) as long:
            long.yield_(search.by_lanes(x))
        with long.else_():
            long.yield_(search.one_by_one(x))
        b.store(long.results, b.pointer("y"), line.index * 8)


class _Search:
    """The place of the maximum of a line, by integer keys in the order of the elements."""

    def __init__(self, b: KernelBuilder, element: Type, unsigned: bool) -> None:
        self.b, self.element, self.unsigned, self.size = b, element, unsigned, b.extent("size")

    def _key(self, x: Value, offset: Value, lanes: int = 0) -> Value:
        """Codes and integers as they are. Floats by their bits, those of negative ones flipped but for the sign; both
        zeros are 0, NaN is above all."""
        b = self.b
        found = b.load(vector(self.element, lanes) if lanes else self.element, x, offset)
        if self.element is I8:
            return b.convert("zext" if self.unsigned else "sext", found, I32)
        if not self.element.is_float:
            return found
        bits = b.bitcast(found + 0.0, found.type.of(I32))  # -0 + 0 is 0
        key = bits ^ b.lshr(bits >> 31, 1)
        return b.select(found != found, b.const(key.type, 2**31 - 1), key)

    def one_by_one(self, x: Value) -> Value:
        b = self.b
        with b.loop(1, self.size, carried=[self._key(x, b.i64(0)), b.i64(0)]) as place:
            best, index = place.carried
            found = self._key(x, place.index * b.extent("x_step"))
            better = found > best
            place.yield_([b.select(better, found, best), b.select(better, place.index, index)])
        return place.results[1]

    def by_lanes(self, x: Value) -> Value:
        """16 lanes of an adjacent line, each keeping its first maximum; the last elements are looked at twice."""
        b, lanes = self.b, LOGICAL_LANES
        places = vector(I64, lanes)
        count = b.const(places, range(lanes))

        def step(at: Value, carried: list[Value]) -> list[Value]:
            best, index = carried
            found = self._key(x, at * self.element.bytes, lanes)
            better = found > best
            return [b.select(better, found, best), b.select(better, count + b.splat(at, lanes), index)]

        with b.loop(lanes, self.size - (lanes - 1), lanes, carried=[self._key(x, b.i64(0), lanes), count]) as loop:
            loop.yield_(step(loop.index, loop.carried))
        best, index = step(self.size - lanes, loop.results)
        while lanes > 1:
            lanes //= 2
            (best, other), (index, place) = ([b.slice(v, k, lanes) for k in (0, lanes)] for v in (best, index))
            better = (other > best) | ((other == best) & (place < index))
            best, index = b.select(better, other, best), b.select(better, place, index)
        return b.extract(index, 0)
