"""Kernels of calibration: the range of a value or of each of its channels, and how many elements lie in each bin of a
histogram.

A value consists of runs of adjacent elements. It is cut into parts, which threads share. Each part has its own memory,
and a second kernel combines the parts. The results are exact: keys of floats are compared as integers, and counts are
integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Literal

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I32, I64, vector
from qcompiler.quantization.value_counts import BINS, LEAST_EXPONENT

OUTER = 2
"""Axes around a run."""
BLOCK = 1024
"""The most elements of a run in a block, the piece that one iteration takes."""
TABLES = 4
"""How many tables of counts a part has. Neighbouring elements are counted in different tables: in one table, equal
elements, such as the zeros behind a ReLU, would wait for each other's increment."""
TABLE_BYTES = 2 * BINS * 4
PART_BYTES = TABLES * TABLE_BYTES + BLOCK * 4
"""Bytes of memory that a part needs: its tables, and for each element of a block the offset of its bin."""
_KEY_OF_INF, _KEY_OF_MINUS_INF = 0x7F800000, -0x7F800001
_NAN, _MAGNITUDE = 0x7FC00000, 0x7FFFFFFF


class OuterAxis(Group, Generic[E]):
    """An axis around the runs: its size, and bytes from one element to the next."""

    size: E
    stride: E


class Runs(Group, Generic[E]):
    """The elements of a value, outermost axis first. run: how many elements are adjacent; parts: into how many parts
    the value is cut."""

    outer: tuple[OuterAxis[E], OuterAxis[E]]
    run: E
    parts: E


class ChannelRanges(Arguments["ChannelRanges"], Generic[P, E]):
    """The arguments of `channel_ranges`. y: f32 [2, channels]; stride: bytes from one channel to the next; outer: the
    axes around a run; run: how many elements of a channel are adjacent."""

    x: P
    y: Written[P]
    channels: E
    stride: E
    outer: tuple[OuterAxis[E], OuterAxis[E], OuterAxis[E]]
    run: E


class RangeOfParts(Arguments["RangeOfParts"], Generic[P, E]):
    """The arguments of `range_of_parts`. keys: i32 [parts, 2], the smallest and the largest key of each part."""

    x: P
    keys: Written[P]
    runs: Runs[E]


class Range(Arguments["Range"], Generic[P, E]):
    """The arguments of `range_of_keys`. y: f32 [2], the range of all parts."""

    keys: P
    y: Written[P]
    parts: E


class CountsOfParts(Arguments["CountsOfParts"], Generic[P, E]):
    """The arguments of `counts_of_parts`. bounds: f32 [2], the range of the bins; memory: PART_BYTES for each part."""

    x: P
    bounds: P
    memory: Written[P]
    runs: Runs[E]


class Counts(Arguments["Counts"], Generic[P, E]):
    """The arguments of `sum_counts`. y: i32 [2 * BINS], the sums of the tables of all parts."""

    memory: P
    y: Written[P]
    parts: E


@contextmanager
def _blocks(b: KernelBuilder, x: Value, runs: Runs, part: Value, carried: list[Value]) -> Iterator[_Block]:
    """Emit a loop over the blocks of a part."""
    first, second = runs.outer
    blocks = (runs.run + (BLOCK - 1)) // BLOCK
    total = first.size * second.size * blocks
    with b.loop(total * part // runs.parts, total * (part + 1) // runs.parts, carried=carried) as loop:
        begin, outer = loop.index % blocks * BLOCK, loop.index // blocks
        offset = outer // second.size * first.stride + outer % second.size * second.stride + begin * 4
        block = _Block(x + offset, b.smin(b.i64(BLOCK), runs.run - begin), loop.carried)
        yield block
        if carried:
            loop.yield_(block.carried)
    block.results = loop.results if carried else []


class _Block:
    """A block of a part: adjacent elements.

    x, count: a pointer to the first one, and how many there are. carried: the values that the loop over blocks carries;
    results: those values after the loop.
    """

    def __init__(self, x: Value, count: Value, carried: list[Value]) -> None:
        self.x, self.count, self.carried = x, count, carried
        self.results: list[Value] = []


def _keys(b: KernelBuilder, x: Value) -> Value:
    """i32 keys that are ordered as the floats are. A key is the float's bits, all but the sign flipped if the float is
    negative. Both zeros have key 0; positive NaN lies above inf, and negative NaN below -inf."""
    return _flipped(b, b.bitcast(x + 0.0, x.type.of(I32)))  # -0 + 0 is 0


def _flipped(b: KernelBuilder, bits: Value) -> Value:
    """Convert bits to a key, or a key to bits: flip all but the sign of negative numbers."""
    return bits ^ b.lshr(bits >> 31, 1)


def _widened(b: KernelBuilder, found: Value, bounds: list[Value]) -> list[Value]:
    return [b.smin(bounds[0], found), b.smax(bounds[1], found)]


def _along(b: KernelBuilder, x: Value, count: Value, bounds: list[Value]) -> list[Value]:
    """Widen bounds, whose lanes lie along adjacent elements, by `count` elements from x on."""
    lanes = b.target.f32_lanes
    whole = count // lanes * lanes
    with b.loop(0, whole, lanes, carried=bounds) as loop:
        found = _keys(b, b.load(vector(F32, lanes), x, loop.index * 4))
        loop.yield_(_widened(b, found, loop.carried))
    left = count - whole
    with b.if_(left > 0) as tail:
        found = _keys(b, b.load_prefix(vector(F32, lanes), x, whole * 4, left))
        inside = b.mask_below(left, lanes)
        low, high = (b.select(inside, found, bound) for bound in loop.results)
        tail.yield_([b.smin(loop.results[0], low), b.smax(loop.results[1], high)])
    with tail.else_():
        tail.yield_(loop.results)
    return list(tail.results)


@kernel
def range_of_parts(b: KernelBuilder, a: RangeOfParts) -> None:
    """The smallest and the largest key of each part. Threads share parts."""
    keys = vector(I32, b.target.f32_lanes)
    start = [b.const(keys, _KEY_OF_INF), b.const(keys, _KEY_OF_MINUS_INF)]
    lo, hi = b.share(a.runs.parts)
    with b.loop(lo, hi) as part:
        with _blocks(b, a.x, a.runs, part.index, start) as block:
            block.carried = _along(b, block.x, block.count, block.carried)
        low, high = block.results
        b.store(b.reduce(b.smin, low), a.keys, part.index * 8)
        b.store(b.reduce(b.smax, high), a.keys, part.index * 8, disp=4)


@kernel
def range_of_keys(b: KernelBuilder, a: Range) -> None:
    """Combine the keys of all parts into the range. Only the first thread works."""
    lo, hi = b.share(b.i64(1))
    with b.loop(lo, hi):
        start = [b.const(I32, _KEY_OF_INF), b.const(I32, _KEY_OF_MINUS_INF)]
        with b.loop(0, a.parts, carried=start) as part:
            low, high = (b.load(I32, a.keys, part.index * 8, disp=disp) for disp in (0, 4))
            part.yield_([b.smin(part.carried[0], low), b.smax(part.carried[1], high)])
        low, high = part.results
        is_finite = (low > _KEY_OF_MINUS_INF) & (high < _KEY_OF_INF)
        for index, key in enumerate((low, high)):
            b.store(b.select(is_finite, _flipped(b, key), b.const(I32, _NAN)), a.y, disp=4 * index)


@kernel
def channel_ranges(b: KernelBuilder, a: ChannelRanges, *, mode: Literal["across", "along"]) -> None:
    """The range of each channel. across: neighbouring channels are adjacent, and lanes lie across them; along: lanes
    lie along the runs of one channel. Threads share channels."""
    lanes = b.target.f32_lanes
    keys, across = vector(I32, lanes), mode == "across"
    start = [b.const(keys, _KEY_OF_INF), b.const(keys, _KEY_OF_MINUS_INF)]
    grain = lanes if across else 1
    lo, hi = b.share(a.channels, grain)
    with b.loop(lo, hi, grain) as channel:
        x = a.x + channel.index * (4 if across else a.stride)
        left = a.channels - channel.index

        def row(x: Value, bounds: list[Value]) -> list[Value]:
            if across:
                return _widened(b, _keys(b, b.load_prefix(vector(F32, lanes), x, 0, left)), bounds)
            return _along(b, x, a.run, bounds)

        low, high = _over(b, list(a.outer), x, start, row)
        if not across:
            low, high = b.splat(b.reduce(b.smin, low), lanes), b.splat(b.reduce(b.smax, high), lanes)
        is_finite = (low > _KEY_OF_MINUS_INF) & (high < _KEY_OF_INF)
        is_finite = is_finite | (low > high)  # no elements
        for index, key in enumerate((low, high)):
            bits = b.select(is_finite, _flipped(b, key), b.const(keys, _NAN))
            at = a.channels * (4 * index) + channel.index * 4
            b.store_prefix(bits, a.y, at, left if across else b.i64(1))


def _over(
    b: KernelBuilder,
    axes: list[OuterAxis[Value]],
    x: Value,
    bounds: list[Value],
    row: Callable[[Value, list[Value]], list[Value]],
) -> list[Value]:
    """Emit loops over axes around `row`, which widens bounds by a row at a pointer."""
    if not axes:
        return row(x, bounds)
    first, *rest = axes
    with b.loop(0, first.size, carried=bounds) as loop:
        loop.yield_(_over(b, rest, x + loop.index * first.stride, loop.carried, row))
    return loop.results


def _scale(b: KernelBuilder, bounds: Value) -> Value:
    """1 / (width of a bin) for these bounds, a power of two; see `value_counts.bin_exponent`."""
    low, high = (b.load(I32, bounds, disp=disp) & _MAGNITUDE for disp in (0, 4))
    exponent = b.smax((b.smax(low, high) >> 23) - (126 + BINS.bit_length() - 2), LEAST_EXPONENT)
    return b.bitcast((b.const(I32, 127) - exponent) << 23, F32)


@kernel
def counts_of_parts(b: KernelBuilder, a: CountsOfParts) -> None:
    """Count the elements of each part that lie in each bin. Threads share parts."""
    lanes = b.target.f32_lanes
    scale = b.splat(_scale(b, a.bounds), lanes)
    lo, hi = b.share(a.runs.parts)
    with b.loop(lo, hi) as part:
        tables = a.memory + part.index * PART_BYTES
        places = tables + TABLES * TABLE_BYTES
        with b.loop(0, TABLES * TABLE_BYTES, b.target.vector_bytes) as clear:
            b.store(b.zero(vector(I32, b.target.i32_lanes)), tables, clear.index)
        with _blocks(b, a.x, a.runs, part.index, []) as block:

            def place(x: Value) -> Value:
                """The byte offset of an element's bin. The product with the scale may round a tiny negative element
                to -0."""
                bin = b.floor(x * scale)
                bin = b.select(x < 0.0, b.fmin(bin, -1.0), bin)
                bin = b.clamp(bin, float(-BINS), float(BINS - 1))
                return (b.convert("fptosi", bin, I32) + BINS) << 2

            whole = block.count // lanes * lanes
            with b.loop(0, whole, lanes) as loop:
                b.store(place(b.load(vector(F32, lanes), block.x, loop.index * 4)), places, loop.index * 4)
            left = block.count - whole
            with b.if_(left > 0) as tail:
                found = place(b.load_prefix(vector(F32, lanes), block.x, whole * 4, left))
                b.store_prefix(found, places, whole * 4, left)
                tail.yield_([])
            _count(b, tables, places, block.count)


def _count(b: KernelBuilder, tables: Value, places: Value, count: Value) -> None:
    """Add one to the bin of each element of a block. places: the byte offsets of the bins."""

    def one(offset: Value, table: int, disp: int = 0) -> None:
        place = b.zext(b.load(I32, places, offset, disp=disp), I64)
        b.store(b.load(I32, tables, place, disp=table * TABLE_BYTES) + 1, tables, place, disp=table * TABLE_BYTES)

    several = count // TABLES * TABLES
    with b.loop(0, several, TABLES) as loop:
        for table in range(TABLES):
            one(loop.index * 4, table, 4 * table)
    with b.loop(several, count) as loop:
        one(loop.index * 4, 0)


@kernel
def sum_counts(b: KernelBuilder, a: Counts) -> None:
    """Add the tables of all parts. Threads share bins."""
    lanes = b.target.i32_lanes
    counts = vector(I32, lanes)
    lo, hi = b.share(b.i64(2 * BINS), lanes)
    with b.loop(lo, hi, lanes) as bins:
        with b.loop(0, a.parts, carried=b.zero(counts)) as part:
            tables = a.memory + part.index * PART_BYTES
            total = part.carried
            for table in range(TABLES):
                total = total + b.load(counts, tables, bins.index * 4, disp=table * TABLE_BYTES)
            part.yield_(total)
        b.store(part.results, a.y, bins.index * 4)
