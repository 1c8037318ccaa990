"""Kernels that quantize by the range that numbers turn out to have: rules (7) and (2) of qmath.

A row is read twice, first for its range and then for its codes; the second time it comes from the cache. Maxima and
minima are exact in any order, so lanes and threads do not show in the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I32, I64, vector
from qcompiler.quantization.qmath import LEAST_DYNAMIC_SCALE

PART_BYTES = 12
"""Bytes that a part writes: its minimum, its maximum, and the bits of its largest magnitude."""
RECORD_BYTES = 8
"""Bytes of the record that `row_records` writes for each row."""
_UNROLL = 4
"""Registers that one iteration takes. Their codes fill one register of bytes."""
_MAGNITUDE, _INF, _NAN = 0x7FFFFFFF, 0x7F800000, 0x7FC00000


class CodeBounds(Group, Generic[S]):
    """qmin and qmax as f32, and qmax - qmin."""

    low: S
    high: S
    steps: S


class QuantizeRows(Arguments["QuantizeRows"], Generic[P, E, S]):
    """The arguments of `quantize_rows`: f32 [rows, size] to u8 [rows, size], f32 [rows] and u8 [rows]."""

    x: P
    y: Written[P]
    scale: Written[P]
    zero: Written[P]
    rows: E
    size: E
    codes: CodeBounds[S]


class RangeParts(Arguments["RangeParts"], Generic[P, E]):
    """The arguments of `range_parts`: the range of f32 [count], which is cut into parts. y: PART_BYTES each."""

    x: P
    y: Written[P]
    count: E
    parts: E


class QuantizeByParts(Arguments["QuantizeByParts"], Generic[P, E, S]):
    """The arguments of `quantize_by_parts`: f32 [count] to u8 [count], one f32 and one u8."""

    x: P
    ranges: P
    y: Written[P]
    scale: Written[P]
    zero: Written[P]
    count: E
    parts: E
    codes: CodeBounds[S]


class RowRecords(Arguments["RowRecords"], Generic[P, E]):
    """The arguments of `row_records`: f32 [rows] and u8 [rows] to records of RECORD_BYTES."""

    scale: P
    zero: P
    y: Written[P]
    rows: E


class _Range:
    """The range of numbers, lane by lane: their minimum and maximum with 0 among them, and the bits of the largest
    magnitude, which tell whether one is NaN or inf."""

    def __init__(self, b: KernelBuilder, low: Value, high: Value, top: Value) -> None:
        self.b, self.low, self.high, self.top = b, low, high, top

    @staticmethod
    def start(b: KernelBuilder, lanes: int) -> _Range:
        return _Range(b, b.zero(vector(F32, lanes)), b.zero(vector(F32, lanes)), b.zero(vector(I32, lanes)))

    @staticmethod
    def of(b: KernelBuilder, x: Value) -> _Range:
        """That of a register of numbers."""
        return _Range(b, x, x, b.bitcast(x, x.type.of(I32)) & _MAGNITUDE)

    @property
    def values(self) -> list[Value]:
        return [self.low, self.high, self.top]

    def widened(self, other: _Range) -> _Range:
        b = self.b
        low, high = b.fmin(other.low, self.low), b.fmax(other.high, self.high)
        return _Range(b, low, high, b.smax(self.top, other.top))

    def reduced(self) -> _Range:
        """The range of all lanes, as scalars."""
        b = self.b
        low, high = b.reduce(lambda x, y: b.fmin(x, y), self.low), b.reduce(lambda x, y: b.fmax(x, y), self.high)
        return _Range(b, low, high, b.reduce(b.smax, self.top))


def range_of_row(b: KernelBuilder, x: Value, begin: Value, end: Value) -> _Range:
    """The range of the elements [begin, end) of x, as scalars. Lanes past the end are 0, which is in every range."""
    lanes = b.target.f32_lanes
    step = lanes * _UNROLL
    whole = begin + (end - begin) // step * step
    with b.loop(begin, whole, step, carried=[_Range.start(b, lanes).values] * _UNROLL) as loop:
        found = []
        for part, carried in enumerate(loop.carried):
            loaded = b.load(vector(F32, lanes), x, loop.index * 4, disp=part * lanes * 4)
            found.append(_Range(b, *carried).widened(_Range.of(b, loaded)).values)
        loop.yield_(found)
    first, *others = (_Range(b, *values) for values in loop.results)
    for other in others:
        first = first.widened(other)
    with b.loop(whole, end, lanes, carried=first.values) as tail:
        loaded = b.load_prefix(vector(F32, lanes), x, tail.index * 4, end - tail.index)
        tail.yield_(_Range(b, *tail.carried).widened(_Range.of(b, loaded)).values)
    return _Range(b, *tail.results).reduced()


class Parameters:
    """The parameters of a range by rule (7), in all lanes.

    Attributes:
        scale: f32.
        zero: i32.
    """

    def __init__(self, b: KernelBuilder, range: _Range, codes: CodeBounds) -> None:
        lanes = b.target.f32_lanes
        self.b, self.lanes = b, lanes
        low, high, top = (b.splat(value, lanes) for value in range.values)
        qmin, qmax, steps = (b.splat(value, lanes) for value in (codes.low, codes.high, codes.steps))
        scale = (high - low) / steps
        finite = (top < _INF) & (b.bitcast(scale, low.type.of(I32)) < _INF)
        scale = b.select(scale < LEAST_DYNAMIC_SCALE, b.const(scale.type, 1.0), scale)
        self.scale = b.select(finite, scale, b.bitcast(b.const(low.type.of(I32), _NAN), scale.type))
        self.zero = b.target.round_to_i32(b, b.clamp(qmin - low / self.scale, qmin, qmax))
        zero = b.sitofp(self.zero)
        self.low, self.high = qmin - zero, qmax - zero

    def codes(self, x: Value) -> Value:
        """The codes of a register of numbers by rule (2), as i32."""
        b = self.b
        return b.target.round_to_i32(b, b.clamp(x / self.scale, self.low, self.high)) + self.zero

    def store(self, scale: Value, zero: Value, row: Value) -> None:
        """Write the scale and the zero point of a row."""
        b = self.b
        b.store(b.extract(self.scale, 0), scale, row * 4)
        b.store(b.trunc(b.extract(self.zero, 0), I8), zero, row)

    def quantize(self, x: Value, y: Value, begin: Value, end: Value) -> None:
        """Write the codes of the elements [begin, end) of x."""
        b, lanes = self.b, self.lanes
        step = lanes * _UNROLL
        whole = begin + (end - begin) // step * step

        def load(at: Value, part: int) -> Value:
            return b.load(vector(F32, lanes), x, at * 4, disp=part * lanes * 4)

        with b.loop(begin, whole, step) as loop:
            parts: Sequence[Value] = [self.codes(load(loop.index, part)) for part in range(_UNROLL)]
            b.store(b.target.narrow(b, parts, "u8"), y, loop.index)
        with b.loop(whole, end, lanes) as tail:
            left = end - tail.index
            codes = self.codes(b.load_prefix(vector(F32, lanes), x, tail.index * 4, left))
            b.store_prefix(b.trunc(codes, I8), y, tail.index, left)


@kernel
def quantize_rows(b: KernelBuilder, a: QuantizeRows) -> None:
    """Quantize each row by its own range. Threads share rows."""
    lo, hi = b.share(a.rows)
    with b.loop(lo, hi) as row:
        x = a.x + row.index * a.size * 4
        parameters = Parameters(b, range_of_row(b, x, b.i64(0), a.size), a.codes)
        parameters.store(a.scale, a.zero, row.index)
        parameters.quantize(x, a.y + row.index * a.size, b.i64(0), a.size)


@kernel
def range_parts(b: KernelBuilder, a: RangeParts) -> None:
    """The range of each part. Threads share parts."""
    lo, hi = b.share(a.parts)
    with b.loop(lo, hi) as part:
        begin, end = a.count * part.index // a.parts, a.count * (part.index + 1) // a.parts
        found = range_of_row(b, a.x, begin, end)
        for index, value in enumerate(found.values):
            b.store(value, a.y, part.index * PART_BYTES, disp=4 * index)


@kernel
def quantize_by_parts(b: KernelBuilder, a: QuantizeByParts) -> None:
    """Quantize numbers by the range of all parts, which each thread combines for itself. Threads share numbers."""
    scalars = [b.zero(F32), b.zero(F32), b.zero(I32)]
    with b.loop(0, a.parts, carried=scalars) as part:
        loaded = [b.load(v.type, a.ranges, part.index * PART_BYTES, disp=4 * i) for i, v in enumerate(scalars)]
        part.yield_(_Range(b, *part.carried).widened(_Range(b, *loaded)).values)
    parameters = Parameters(b, _Range(b, *part.results), a.codes)
    with b.if_(b.thread == 0) as first:
        parameters.store(a.scale, a.zero, b.i64(0))
        first.yield_([])
    lo, hi = b.share(a.count, b.target.f32_lanes * _UNROLL)
    parameters.quantize(a.x, a.y, lo, hi)


@kernel
def row_records(b: KernelBuilder, a: RowRecords) -> None:
    """Join the scale and the zero point of each row to the record that `epilogue.DynamicDequantize` describes."""
    lo, hi = b.share(a.rows)
    with b.loop(lo, hi) as row:
        zero = b.zext(b.load(I8, a.zero, row.index), I64) << 32
        scale = b.zext(b.bitcast(b.load(F32, a.scale, row.index * 4), I32), I64)
        b.store(zero | scale, a.y, row.index * RECORD_BYTES)
