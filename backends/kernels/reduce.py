"""Reductions over up to two axes, with up to two outer axes and one inner axis that stay, at any strides.

There are two modes. "across": lanes lie across the inner axis, which is adjacent. "along": there is no inner axis, and
16 logical lanes lie along the second reduced axis; lane i takes elements i, i + 16, ..., and the lanes are combined
8-4-2-1 at the end (maxima and minima of reals use 64 lanes). Sums and products of reals are computed in f64 and rounded
once. Those of codes are exact in any order, so they use whole registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, Literal

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, F64, I8, I16, I32, I64, Type, vector
from qcompiler.backends.kernels.code_range import CodeRange

LOGICAL_LANES = 16
WORD_TERMS = 257
"""How many bytes an unsigned 16-bit sum can hold."""
LONG_LINE = 16
"""A search uses lanes if the line has at least this many elements."""
SEARCHED = {"f32": F32, "i32": I32, "i64": I64, "i16": I16, "u8": I8, "i8": I8, "bool": I8}
"""The element types that `search` reads."""
Combine = Callable[[Value, Value], Value]
Mode = Literal["across", "along"]


class KeptAxis(Group, Generic[E]):
    """An outer axis of the result: its size, and bytes from one element to the next in x and in y."""

    size: E
    x_stride: E
    y_stride: E


class ReducedAxis(Group, Generic[E]):
    """A reduced axis: its size, and bytes from one element to the next in x."""

    size: E
    x_stride: E


class Reduce(Arguments["Reduce"], Generic[P, E]):
    """The arguments that all reductions share. inner: the size of the inner axis, adjacent in x and in y."""

    x: P
    y: Written[P]
    kept: tuple[KeptAxis[E], KeptAxis[E]]
    reduced: tuple[ReducedAxis[E], ReducedAxis[E]]
    inner: E


class ReduceReal(Arguments["ReduceReal"], Generic[P, E, S]):
    """The arguments of `reduce_real`. divisor: the number that a sum is divided by."""

    tensors: Reduce[P, E]
    divisor: S


class ReduceCodes(Arguments["ReduceCodes"], Generic[P, E, S]):
    """The arguments of `reduce_codes`. in_zero_sum: the number that is subtracted from the reduced codes; scale: the
    factor of the difference."""

    tensors: Reduce[P, E]
    in_zero_sum: E
    scale: S
    codes: CodeRange[E, S]


class Search(Arguments["Search"], Generic[P, E]):
    """The arguments of `search`: outer * inner lines of `size` elements, and an i64 for each. The strides are in
    bytes."""

    x: P
    y: Written[P]
    outer: E
    size: E
    inner: E
    x_outer: E
    x_stride: E
    x_inner: E


@dataclass
class Reduction:
    """How elements are widened, combined and stored.

    Attributes:
        element: the type of an element in memory.
        accumulator: the type of what is combined.
        identity: the identity of `combine`, as a number of the accumulator's type.
        widen: converts an element to an operand of `combine`.
        finish: converts the combined elements to what is stored.
        result: the type of an element of the result in memory.
        lanes: how many logical lanes lie along a line.
        accumulator_lanes: how many lanes combine(accumulator, widened) gives, if not as many.
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


def reduce_nd(b: KernelBuilder, a: Reduce, mode: Mode, reduction: Reduction) -> None:
    """Emit a reduction. Threads share results."""
    across = mode == "across"
    lanes = (b.target.f32_lanes if reduction.element.bits > 8 else b.target.i32_lanes) if across else LOGICAL_LANES
    size, out_size = reduction.element.bits // 8, reduction.result.bits // 8
    blocks = (a.inner + (lanes - 1)) // lanes if across else b.i64(1)
    lo, hi = b.share(a.kept[0].size * a.kept[1].size * blocks)
    with b.loop(lo, hi) as unit:
        outer = unit.index // blocks if across else unit.index
        first = unit.index % blocks * lanes if across else b.i64(0)
        x, y = _at(a, outer, first, size, out_size)
        if across:
            left = a.inner - first

            def load(pointer: Value, left: Value = left) -> Value:
                return b.load_prefix(vector(reduction.element, lanes), pointer, 0, left)

            b.store_prefix(reduction.finish(_across(b, a, reduction, x, lanes, load)), y, 0, left)
        else:
            total = _along(b, a, reduction, x)
            b.store(b.extract(reduction.finish(b.splat(total, b.target.f32_lanes)), 0), y)


def _at(a: Reduce, outer: Value, inner: Value, size: int, out_size: int) -> tuple[Value, Value]:
    """Pointers into x and y to the outer element `outer` and its inner element `inner`. size, out_size: bytes of an
    element."""
    i, j = a.kept
    x = a.x + (outer // j.size * i.x_stride + outer % j.size * j.x_stride + inner * size)
    return x, a.y + (outer // j.size * i.y_stride + outer % j.size * j.y_stride + inner * out_size)


def _across(
    b: KernelBuilder, a: Reduce, reduction: Reduction, x: Value, lanes: int, load: Callable[[Value], Value]
) -> Value:
    """Combine elements across lanes: a register of results, each combined in order."""
    rows, columns = a.reduced
    start = b.const(vector(reduction.accumulator, lanes), reduction.identity)
    with b.loop(0, rows.size, carried=[start]) as outer:
        row = x + outer.index * rows.x_stride
        with b.loop(0, columns.size, carried=outer.carried) as along:
            value = reduction.widen(load(row + along.index * columns.x_stride))
            along.yield_([reduction.combine(along.carried[0], value)])
        outer.yield_(along.results)
    return outer.results[0]


def _along(b: KernelBuilder, a: Reduce, reduction: Reduction, x: Value, fold: Combine | None = None) -> Value:
    """Combine all elements of rows of adjacent elements into one. fold: combines two accumulators; None for
    `combine`."""
    rows, count = a.reduced[0], a.reduced[1].size
    lanes, size = reduction.lanes, reduction.element.bits // 8
    element = vector(reduction.element, lanes)
    start = b.const(vector(reduction.accumulator, reduction.accumulator_lanes or lanes), reduction.identity)
    whole = count // lanes * lanes
    with b.loop(0, rows.size, carried=[start]) as outer:
        row = x + outer.index * rows.x_stride
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
    """The maximum; NaN if one of the two is NaN."""
    return lambda x, y: b.select((x >= y) | (x != x), x, y)


def smallest(b: KernelBuilder) -> Combine:
    """The minimum; NaN if one of the two is NaN."""
    return lambda x, y: b.select((x <= y) | (x != x), x, y)


@kernel
def reduce_real(b: KernelBuilder, a: ReduceReal, *, op: str, mode: Mode) -> None:
    """sum (divided by the divisor, in f64), prod, max and min of f32."""
    if op in ("max", "min"):
        combine, identity = (largest(b), -math.inf) if op == "max" else (smallest(b), math.inf)
        reduction = Reduction(F32, F32, identity, lambda v: v, combine, lambda v: v, F32, 4 * LOGICAL_LANES)
        reduce_nd(b, a.tensors, mode, reduction)
        return
    combine, identity = (lambda x, y: x * y, 1.0) if op == "prod" else (lambda x, y: x + y, 0.0)

    def finish(v: Value) -> Value:
        if op == "sum":
            v = v / b.splat(b.convert("fpext", a.divisor, F64), v.type.lanes)
        return b.convert("fptrunc", v, F32)

    reduction = Reduction(F32, F64, identity, lambda v: b.convert("fpext", v, F64), combine, finish, F32)
    reduce_nd(b, a.tensors, mode, reduction)


@kernel
def reduce_integer(b: KernelBuilder, a: Reduce, *, op: str, mode: Mode, bits: int) -> None:
    """sum and prod (which wrap), max and min of plain i32 or i64."""
    element = {32: I32, 64: I64}[bits]
    combine, identity = {
        "sum": (lambda x, y: x + y, 0),
        "prod": (lambda x, y: x * y, 1),
        "max": (b.smax, -(1 << (bits - 1))),
        "min": (b.smin, (1 << (bits - 1)) - 1),
    }[op]
    reduce_nd(b, a, mode, Reduction(element, element, identity, lambda v: v, combine, lambda v: v, element))


@kernel
def reduce_codes(b: KernelBuilder, a: ReduceCodes, *, op: str, mode: Mode) -> None:
    """sum, max and min of u8 codes in i32, minus in_zero_sum, times the scale, requantized."""
    tensors = a.tensors
    combine, identity = {"sum": (lambda x, y: x + y, 0), "max": (b.smax, 0), "min": (b.smin, 255)}[op]

    def finish(v: Value) -> Value:
        lanes = v.type.lanes
        centered = v - b.splat(b.trunc(a.in_zero_sum, I32), lanes)
        low, high, scale = (b.splat(value, lanes) for value in (a.codes.low, a.codes.high, a.scale))
        real = b.clamp(b.sitofp(centered) * scale, low, high)
        return b.target.round_to_i32(b, real) + b.splat(b.trunc(a.codes.zero, I32), lanes)

    def narrowed(v: Value) -> Value:
        return b.trunc(finish(v), I8)

    few = Reduction(I8, I32, identity, lambda v: b.zext(v, I32), combine, narrowed, I8)
    if mode == "along":
        _codes_along(b, tensors, op, few)
        return
    with b.if_(tensors.inner >= b.target.vector_bytes):
        _codes_across(b, tensors, op, finish)
    with b.if_(tensors.inner < b.target.vector_bytes):
        reduce_nd(b, tensors, mode, few)


def _codes_across(b: KernelBuilder, a: Reduce, op: str, finish: Callable[[Value], Value]) -> None:
    """Reduce a register of bytes at a time; the last one along the inner axis overlaps the one before. Sums are
    computed in 16-bit words while they fit."""
    lanes, width = b.target.vector_bytes, b.target.i32_lanes
    bytes_ = vector(I8, lanes)
    blocks = (a.inner + (lanes - 1)) // lanes
    lo, hi = b.share(a.kept[0].size * a.kept[1].size * blocks)
    with b.loop(lo, hi) as unit:
        outer, first = unit.index // blocks, b.smin(unit.index % blocks * lanes, a.inner - lanes)
        x, y = _at(a, outer, first, 1, 1)
        total = _sum_of_rows(b, a, x, bytes_) if op == "sum" else _extreme_of_rows(b, a, op, x, bytes_)
        parts = [finish(b.slice(total, start, width)) for start in range(0, lanes, width)]
        b.store(b.target.narrow(b, parts, "u8"), y)


def _sum_of_rows(b: KernelBuilder, a: Reduce, x: Value, bytes_: Type) -> Value:
    """i32 sums of the codes of one register of results."""
    outer, along = a.reduced
    with b.loop(0, outer.size, carried=[b.zero(bytes_.of(I32))]) as rows:
        row = x + rows.index * outer.x_stride
        with b.loop(0, along.size, WORD_TERMS, carried=rows.carried) as chunks:
            end = b.smin(chunks.index + WORD_TERMS, along.size)
            with b.loop(chunks.index, end, carried=[b.zero(bytes_.of(I16))]) as terms:
                codes = b.load(bytes_, row, terms.index * along.x_stride)
                terms.yield_([terms.carried[0] + b.zext(codes, I16)])
            chunks.yield_([chunks.carried[0] + b.zext(terms.results[0], I32)])
        rows.yield_(chunks.results)
    return rows.results[0]


def _extreme_of_rows(b: KernelBuilder, a: Reduce, op: str, x: Value, bytes_: Type) -> Value:
    """The maxima or minima of the codes of one register of results, as i32."""
    combine, identity = (b.umax, 0) if op == "max" else (b.umin, 255)
    outer, along = a.reduced
    with b.loop(0, outer.size, carried=[b.const(bytes_, identity)]) as rows:
        row = x + rows.index * outer.x_stride
        with b.loop(0, along.size, carried=rows.carried) as terms:
            terms.yield_([combine(terms.carried[0], b.load(bytes_, row, terms.index * along.x_stride))])
        rows.yield_(terms.results)
    return b.zext(rows.results[0], I32)


def _codes_along(b: KernelBuilder, a: Reduce, op: str, reduction: Reduction) -> None:
    """Reduce whole registers of bytes along the reduced axis. These are integers, so their order does not matter."""
    target, lanes = b.target, b.target.vector_bytes
    if op == "sum":
        fold = reduction.combine
        by_registers = replace(
            reduction,
            combine=lambda acc, codes: target.sum4(b, acc, codes),
            widen=lambda v: v,
            lanes=lanes,
            accumulator_lanes=target.i32_lanes,
        )
    else:
        fold = b.umax if op == "max" else b.umin
        by_registers = replace(reduction, accumulator=I8, combine=fold, widen=lambda v: v, lanes=lanes)
    first, second = a.kept
    lo, hi = b.share(first.size * second.size)
    with b.loop(lo, hi) as unit:
        i, j = unit.index // second.size, unit.index % second.size
        x = a.x + (i * first.x_stride + j * second.x_stride)
        y = a.y + (i * first.y_stride + j * second.y_stride)
        total = _along(b, a, by_registers, x, fold)
        total = total if op == "sum" else b.zext(total, I32)
        b.store(b.extract(reduction.finish(b.splat(total, target.i32_lanes)), 0), y)


@kernel
def search(b: KernelBuilder, a: Search, *, op: Literal["argmax", "argmin"], dtype: str) -> None:
    """The index of the first maximum (argmax) or minimum of each line, or of its first NaN. Threads share lines."""
    element = SEARCHED[dtype]
    search = _Search(b, a, element, dtype in ("u8", "bool"), op == "argmin")
    lo, hi = b.share(a.outer * a.inner)
    with b.loop(lo, hi) as line:
        i, j = line.index // a.inner, line.index % a.inner
        x = a.x + (i * a.x_outer + j * a.x_inner)
        adjacent = a.x_stride == element.bytes
        with b.if_(adjacent & (a.size >= LONG_LINE)) as long:
            long.yield_(search.by_lanes(x))
        with long.else_():
            long.yield_(search.one_by_one(x))
        b.store(long.results, a.y, line.index * 8)


def ordered_key(b: KernelBuilder, x: Value, unsigned: bool, inverted: bool = False) -> Value:
    """Integers that are ordered as elements are; `inverted` reverses their order, but NaN stays the largest. An integer
    is its own key. The key of a float is its bits, all but the sign flipped if the float is negative; both zeros have
    key 0."""
    if not x.type.is_float:
        if x.type.bits < 32:
            x = b.convert("zext" if unsigned else "sext", x, I32)
        return x ^ -1 if inverted else x
    bits = b.bitcast(x + 0.0, x.type.of(I32))  # -0 + 0 is 0
    key = bits ^ b.lshr(bits >> 31, 1)
    key = key ^ -1 if inverted else key
    return b.select(x != x, b.const(key.type, 2**31 - 1), key)


class _Search:
    """The search for the maximum of a line. It compares the elements' ordered keys; for the minimum it inverts them."""

    def __init__(self, b: KernelBuilder, a: Search, element: Type, unsigned: bool, minimum: bool) -> None:
        self.b, self.element, self.unsigned, self.minimum = b, element, unsigned, minimum
        self.size, self.stride = a.size, a.x_stride

    def _key(self, x: Value, offset: Value, lanes: int = 0) -> Value:
        """The keys of some elements."""
        found = self.b.load(vector(self.element, lanes) if lanes else self.element, x, offset)
        return ordered_key(self.b, found, self.unsigned, self.minimum)

    def one_by_one(self, x: Value) -> Value:
        """The index of the maximum of a line."""
        b = self.b
        with b.loop(1, self.size, carried=[self._key(x, b.i64(0)), b.i64(0)]) as place:
            best, index = place.carried
            found = self._key(x, place.index * self.stride)
            better = found > best
            place.yield_([b.select(better, found, best), b.select(better, place.index, index)])
        return place.results[1]

    def by_lanes(self, x: Value) -> Value:
        """The index of the maximum of a line of adjacent elements. Each of 16 lanes finds its first maximum; the last
        elements are read twice."""
        b, lanes = self.b, LOGICAL_LANES
        places = vector(I64, lanes)
        count = b.const(places, range(lanes))

        def look(at: Value, carried: list[Value]) -> list[Value]:
            best, index = carried
            found = self._key(x, at * self.element.bytes, lanes)
            better = found > best
            return [b.select(better, found, best), b.select(better, count + b.splat(at, lanes), index)]

        with b.loop(lanes, self.size - (lanes - 1), lanes, carried=[self._key(x, b.i64(0), lanes), count]) as loop:
            loop.yield_(look(loop.index, loop.carried))
        best, index = look(self.size - lanes, loop.results)
        while lanes > 1:
            lanes //= 2
            (best, other), (index, place) = ([b.slice(v, k, lanes) for k in (0, lanes)] for v in (best, index))
            better = (other > best) | ((other == best) & (place < index))
            best, index = b.select(better, other, best), b.select(better, place, index)
        return b.extract(index, 0)
