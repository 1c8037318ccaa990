"""softmax and log_softmax of f32 lines, and softmax of u8 lines by a table of exp.

There are two modes for reals: in mode "across" lanes lie across the inner axis; in mode "along" 16 logical lanes lie
along the line, whose elements are adjacent. exp and the sum are computed in f64, and the result is rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, F64, I8, I32, I64, vector
from qcompiler.backends.kernels import math as functions
from qcompiler.backends.kernels.code_range import CODES, CodeRange
from qcompiler.backends.kernels.reduce import LOGICAL_LANES, Mode, largest

TABLE_FROM = 96
"""For lines of at least this many codes, a table of the results of all 256 differences pays off."""
_PLANES = 3
"""How many bytes of an entry of the table of exp are not 0."""
_CHUNK = 1 << 16
"""Registers whose bytes can be added in i32: each lane adds 4 bytes of a register."""


class Lines(Arguments["Lines"], Generic[P, E]):
    """The arguments of `softmax_real`: outer * inner lines of `size` elements. The strides are in bytes, along a line
    and from one outer line to the next. Inner lines are adjacent."""

    x: P
    y: Written[P]
    outer: E
    size: E
    inner: E
    x_outer: E
    x_stride: E
    y_outer: E
    y_stride: E


class SoftmaxCodes(Arguments["SoftmaxCodes"], Generic[P, E, S]):
    """The arguments of `softmax_codes`: lines of adjacent codes.

    Attributes:
        table: i32 [256]: exp of each difference between a code and the largest one.
        planes: u8 [3, 256]: the three low bytes of the table's entries.
        lines, size: how many lines there are, and codes in each.
        x_line, y_line: bytes from line to line.
        scale: 1 over the scale of y.
    """

    x: P
    table: P
    planes: P
    y: Written[P]
    lines: E
    size: E
    x_line: E
    y_line: E
    scale: S
    codes: CodeRange[E, S]


class SoftmaxCodesStrided(Arguments["SoftmaxCodesStrided"], Generic[P, E, S]):
    """The arguments of `softmax_codes_strided`: lines of codes at any strides. x_inner, y_inner: bytes between inner
    lines; table, scale: see `SoftmaxCodes`."""

    lines: Lines[P, E]
    x_inner: E
    y_inner: E
    table: P
    scale: S
    codes: CodeRange[E, S]


@kernel
def softmax_real(b: KernelBuilder, a: Lines, *, mode: Mode, log: bool, masked_is_zero: bool) -> None:
    """e^(x - max) / sum, or if `log`, x - max - log(sum). Lines of nothing but -inf give NaN, or 0 if
    `masked_is_zero`."""
    if mode == "across":
        _across(b, a, _Meaning(b, log, masked_is_zero))
    else:
        _along(b, a, _Meaning(b, log, masked_is_zero))


@dataclass
class _Meaning:
    """The steps that the kinds of softmax differ in."""

    b: KernelBuilder
    log: bool
    masked_is_zero: bool

    def top(self, top: Value) -> Value:
        """The number that is subtracted from x: the maximum in f64, or 0 if that is -inf and such lines give 0."""
        if not self.masked_is_zero:
            return top
        return self.b.select(top == self.b.const(top.type, -math.inf), self.b.zero(top.type), top)

    def total(self, total: Value) -> Value:
        """The total that `finish` takes. The sum is at least 1, or 0 if the whole line is masked; then another divisor
        replaces it."""
        if self.masked_is_zero:
            total = self.b.select(total == self.b.zero(total.type), self.b.const(total.type, 1.0), total)
        return functions.log(self.b, total) if self.log else total

    def finish(self, shifted: Value, total: Value) -> Value:
        """The results, from x - max and the total."""
        found = shifted - total if self.log else functions.exp(self.b, shifted) / total
        return self.b.convert("fptrunc", found, F32)


def _across(b: KernelBuilder, a: Lines, meaning: _Meaning) -> None:
    lanes, size = b.target.f32_lanes, a.size
    blocks = (a.inner + (lanes - 1)) // lanes
    floats = vector(F32, lanes)
    lo, hi = b.share(a.outer * blocks)
    with b.loop(lo, hi) as unit:
        outer, first = unit.index // blocks, unit.index % blocks * lanes
        left = a.inner - first
        x = a.x + (outer * a.x_outer + first * 4)
        y = a.y + (outer * a.y_outer + first * 4)

        def load(place: Value, x: Value = x, left: Value = left) -> Value:
            return b.load_prefix(floats, x, place * a.x_stride, left)

        with b.loop(0, size, carried=[b.const(floats, -math.inf)]) as tops:
            tops.yield_([largest(b)(tops.carried[0], load(tops.index))])
        top = meaning.top(b.convert("fpext", tops.results[0], F64))
        with b.loop(0, size, carried=[b.zero(top.type)]) as sums:
            sums.yield_([sums.carried[0] + functions.exp(b, b.convert("fpext", load(sums.index), F64) - top)])
        total = meaning.total(sums.results[0])
        with b.loop(0, size) as places:
            shifted = b.convert("fpext", load(places.index), F64) - top
            b.store_prefix(meaning.finish(shifted, total), y, places.index * a.y_stride, left)


def _along(b: KernelBuilder, a: Lines, meaning: _Meaning) -> None:
    lanes, size = LOGICAL_LANES, a.size
    floats = vector(F32, lanes)
    whole = size // lanes * lanes

    def over(
        x: Value, start: Value, combine: Callable[[Value, Value], Value], compute: Callable[[Value], Value]
    ) -> Value:
        """Combine compute(element) over a whole line."""
        with b.loop(0, whole, lanes, carried=[start]) as loop:
            loop.yield_([combine(loop.carried[0], compute(b.load(floats, x, loop.index * 4)))])
        with b.if_(whole < size) as tail:
            value = compute(b.load_prefix(floats, x, whole * 4, size - whole))
            value = b.select(b.mask_below(size - whole, lanes), value, start)
            tail.yield_([combine(loop.results[0], value)])
        with tail.else_():
            tail.yield_(loop.results)
        return b.reduce(combine, tail.results[0])

    lo, hi = b.share(a.outer)
    with b.loop(lo, hi) as line:
        x, y = a.x + line.index * a.x_outer, a.y + line.index * a.y_outer
        top = over(x, b.const(floats, -math.inf), largest(b), lambda v: v)
        top = b.splat(meaning.top(b.convert("fpext", top, F64)), lanes)
        total = over(
            x,
            b.zero(vector(F64, lanes)),
            lambda p, q: p + q,
            lambda v: functions.exp(b, b.convert("fpext", v, F64) - top),
        )
        total = meaning.total(b.splat(total, lanes))
        with b.loop(0, size, lanes) as places:
            left = size - places.index
            shifted = b.convert("fpext", b.load_prefix(floats, x, places.index * 4, left), F64) - top
            b.store_prefix(meaning.finish(shifted, total), y, places.index * 4, left)


@kernel
def softmax_codes(b: KernelBuilder, a: SoftmaxCodes) -> None:
    """y = f32(e) / f32(sum of e) * scale, requantized, with e = table[max - q] in i32; the sum is exact."""
    lines = _CodeLines(b, a)
    lo, hi = b.share(a.lines)
    with b.loop(lo, hi) as line:
        x = a.x + line.index * a.x_line
        y = a.y + line.index * a.y_line
        top = lines.top(x)
        total = b.sitofp(lines.total_by_planes(x, top) if b.target.fast_lookup else lines.total_by_loads(x, top))
        with b.if_(a.size >= TABLE_FROM):
            lines.write_by_table(x, y, top, total)
        with b.if_(a.size < TABLE_FROM):
            lines.write_by_loads(x, y, top, total)


class _CodeLines:
    """The steps of `softmax_codes` on a line: the largest code, the sum, and the results."""

    def __init__(self, b: KernelBuilder, a: SoftmaxCodes) -> None:
        self.b, self.size, self.table, self.scale, self.range = b, a.size, a.table, a.scale, a.codes
        self.bytes = vector(I8, b.target.vector_bytes)
        self.planes: list[list[Value]] = []
        if b.target.fast_lookup:
            self.planes = [b.target.load_table(b, a.planes + 256 * plane) for plane in range(_PLANES)]

    def _registers(
        self,
        lo: Value,
        hi: Value,
        carried: list[Value],
        body: Callable[[Value, Value | None, list[Value]], list[Value]],
    ) -> list[Value]:
        """Emit body(place, left, carried) for each register of the line. place: the index of its first code; left: how
        many codes the last register has, and None for whole registers."""
        b, lanes = self.b, self.bytes.lanes
        whole = lo + (hi - lo) // lanes * lanes
        with b.loop(lo, whole, lanes, carried=carried) as loop:
            loop.yield_(body(loop.index, None, loop.carried))
        with b.if_(whole < hi) as tail:
            tail.yield_(body(whole, hi - whole, loop.results))
        with tail.else_():
            tail.yield_(loop.results)
        return tail.results

    def _codes(self, x: Value, place: Value, left: Value | None) -> Value:
        """A register of codes; see `_registers`."""
        if left is None:
            return self.b.load(self.bytes, x, place)
        return self.b.load_prefix(self.bytes, x, place, left)

    def top(self, x: Value) -> Value:
        """The largest code, i8."""
        b = self.b

        def body(place: Value, left: Value | None, found: list[Value]) -> list[Value]:
            return [b.umax(found[0], self._codes(x, place, left))]

        return b.reduce(b.umax, self._registers(b.i64(0), self.size, [b.zero(self.bytes)], body)[0])

    def total_by_planes(self, x: Value, top: Value) -> Value:
        """The sum of the codes' entries, computed from the sums of their bytes."""
        b, lanes = self.b, self.bytes.lanes
        tops = b.splat(top, lanes)

        def body(place: Value, left: Value | None, sums: list[Value]) -> list[Value]:
            away = tops - self._codes(x, place, left)
            found = [b.target.lookup(b, plane, away) for plane in self.planes]
            if left is not None:
                there = b.mask_below(left, lanes)
                found = [b.select(there, part, b.zero(self.bytes)) for part in found]
            return [b.target.sum4(b, acc, part) for acc, part in zip(sums, found)]

        with b.loop(0, self.size, _CHUNK * lanes, carried=[b.i64(0)]) as chunk:
            end = b.smin(chunk.index + _CHUNK * lanes, self.size)
            start = [b.zero(vector(I32, b.target.i32_lanes)) for _ in self.planes]
            sums = self._registers(chunk.index, end, start, body)
            total = chunk.carried[0]
            for plane, acc in enumerate(sums):
                total = total + (b.sext(b.reduce(lambda p, q: p + q, acc), I64) << 8 * plane)
            chunk.yield_([total])
        return chunk.results[0]

    def _entry(self, row: Value, code: Value) -> Value:
        """table[top - code], where row is the address of table[top]."""
        return self.b.load(I32, row, self.b.i64(0) - self.b.zext(code, I64) * 4)

    def _row(self, top: Value) -> Value:
        """The address of table[top]."""
        return self.table + self.b.zext(top, I64) * 4

    def total_by_loads(self, x: Value, top: Value) -> Value:
        """The sum of the codes' entries, which are loaded one by one."""
        b, row = self.b, self._row(top)
        whole = self.size // 4 * 4
        with b.loop(0, whole, 4, carried=[b.i64(0)] * 4) as loop:
            codes = [b.load(I8, x, loop.index, disp=i) for i in range(4)]
            loop.yield_([acc + b.zext(self._entry(row, code), I64) for acc, code in zip(loop.carried, codes)])
        start = (loop.results[0] + loop.results[1]) + (loop.results[2] + loop.results[3])
        with b.loop(whole, self.size, carried=[start]) as tail:
            tail.yield_([tail.carried[0] + b.zext(self._entry(row, b.load(I8, x, tail.index)), I64)])
        return tail.results[0]

    def _finish(self, entries: Value, total: Value) -> Value:
        """The i32 codes of the result."""
        b, lanes = self.b, entries.type.lanes
        low, high, scale = (b.splat(value, lanes) for value in (self.range.low, self.range.high, self.scale))
        real = b.clamp(b.sitofp(entries) / b.splat(total, lanes) * scale, low, high)
        return b.target.round_to_i32(b, real) + b.splat(b.trunc(self.range.zero, I32), lanes)

    def write_by_table(self, x: Value, y: Value, top: Value, total: Value) -> None:
        """Compute the results of all 256 differences, then look each code up."""
        b, words = self.b, vector(I32, self.b.target.i32_lanes)
        parts = [self._finish(b.load(words, self.table, disp=4 * i), total) for i in range(0, 256, words.lanes)]
        table = b.target.make_table(b, [b.target.narrow(b, parts[i : i + 4], "u8") for i in range(0, len(parts), 4)])
        tops = b.splat(top, self.bytes.lanes)

        def body(place: Value, left: Value | None, nothing: list[Value]) -> list[Value]:
            found = b.target.lookup(b, table, tops - self._codes(x, place, left))
            if left is None:
                b.store(found, y, place)
            else:
                b.store_prefix(found, y, place, left)
            return []

        self._registers(b.i64(0), self.size, [], body)

    def write_by_loads(self, x: Value, y: Value, top: Value, total: Value) -> None:
        """Load the entry of each code and compute its result."""
        b, lanes, row = self.b, self.b.target.i32_lanes, self._row(top)
        with b.loop(0, self.size, lanes) as loop:
            left = self.size - loop.index
            codes = b.load_prefix(vector(I8, lanes), x, loop.index, left)
            entries = b.zero(vector(I32, lanes))
            for lane in range(lanes):  # codes after the end of the line are 0, which the table has too
                entries = b.insert(entries, self._entry(row, b.extract(codes, lane)), lane)
            b.store_prefix(b.trunc(self._finish(entries, total), I8), y, loop.index, left)


@kernel
def softmax_codes_strided(b: KernelBuilder, a: SoftmaxCodesStrided, *, source: str = "u8", to: str = "u8") -> None:
    """Like `softmax_codes`, for lines at any strides, code by code. source, to: the element types of x and y."""
    lines, table = a.lines, a.table
    size, element, written = lines.size, CODES[source], CODES[to]
    lowest = 0 if element is I8 else -(2**15)

    def code(x: Value, place: Value) -> Value:
        loaded = b.load(element, x, place * lines.x_stride)
        return b.zext(loaded, I64) if element is I8 else b.sext(loaded, I64)

    lo, hi = b.share(lines.outer * lines.inner)
    with b.loop(lo, hi) as line:
        outer, inner = line.index // lines.inner, line.index % lines.inner
        x = lines.x + (outer * lines.x_outer + inner * a.x_inner)
        y = lines.y + (outer * lines.y_outer + inner * a.y_inner)
        with b.loop(0, size, carried=[b.i64(lowest)]) as tops:
            tops.yield_([b.smax(tops.carried[0], code(x, tops.index))])
        top = tops.results[0]
        with b.loop(0, size, carried=[b.i64(0)]) as sums:
            sums.yield_([sums.carried[0] + b.sext(b.load(I32, table, (top - code(x, sums.index)) * 4), I64)])
        total = b.sitofp(sums.results[0])
        with b.loop(0, size) as places:
            e = b.sitofp(b.load(I32, table, (top - code(x, places.index)) * 4))
            real = b.clamp(e / total * a.scale, a.codes.low, a.codes.high)
            rounded = b.convert("lrint", real, I32) + b.trunc(a.codes.zero, I32)
            b.store(b.trunc(rounded, written), y, places.index * lines.y_stride)
