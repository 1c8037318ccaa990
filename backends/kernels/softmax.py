"""softmax and log_softmax of f32 lines, and softmax of u8 lines by a table of exp.

A line is `size` elements `step` bytes apart, for each of outer * inner lines. Real ones: "across" puts lanes across the
inner axis, "along" puts 16 logical lanes along the line (step is one element); exp and the sum are f64, the result is
rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, F64, I8, I32, I64, vector
from qcompiler.backends.kernels import math as functions
from qcompiler.backends.kernels.reduce import LOGICAL_LANES, largest

_LINES = ("outer", "size", "inner", "x_outer", "x_step", "y_outer", "y_step")


@kernel(pointers=("x", "y"), extents=_LINES)
def softmax_real(b: KernelBuilder, *, mode: str, log: bool) -> None:
    """e^(x - max) / sum, or x - max - log(sum)."""
    if mode == "across":
        _across(b, log)
    else:
        _along(b, log)


def _finish(b: KernelBuilder, log: bool, shifted: Value, total: Value) -> Value:
    found = shifted - total if log else functions.exp(b, shifted) / total
    return b.convert("fptrunc", found, F32)


def _across(b: KernelBuilder, log: bool) -> None:
    lanes = b.target.f32_lanes
    inner, size = b.extent("inner"), b.extent("size")
    blocks = (inner + (lanes - 1)) // lanes
    floats = vector(F32, lanes)
    lo, hi = b.share(b.extent("outer") * blocks)
    with b.loop(lo, hi) as unit:
        outer, first = unit.index // blocks, unit.index % blocks * lanes
        left = inner - first
        x = b.pointer("x") + (outer * b.extent("x_outer") + first * 4)
        y = b.pointer("y") + (outer * b.extent("y_outer") + first * 4)

        def load(place: Value, x: Value = x, left: Value = left) -> Value:
            return b.load_prefix(floats, x, place * b.extent("x_step"), left)

        with b.loop(0, size, carried=[b.const(floats, -math.inf)]) as tops:
            tops.yield_([largest(b)(tops.carried[0], load(tops.index))])
        top = b.convert("fpext", tops.results[0], F64)
        with b.loop(0, size, carried=[b.zero(top.type)]) as sums:
            sums.yield_([sums.carried[0] + functions.exp(b, b.convert("fpext", load(sums.index), F64) - top)])
        total = functions.log(b, sums.results[0]) if log else sums.results[0]
        with b.loop(0, size) as places:
            shifted = b.convert("fpext", load(places.index), F64) - top
            b.store_prefix(_finish(b, log, shifted, total), y, places.index * b.extent("y_step"), left)


def _along(b: KernelBuilder, log: bool) -> None:
    lanes, size = LOGICAL_LANES, b.extent("size")
    floats = vector(F32, lanes)
    whole = size // lanes * lanes

    def over(
        x: Value, start: Value, combine: Callable[[Value, Value], Value], compute: Callable[[Value], Value]
    ) -> Value:
        with b.loop(0, whole, lanes, carried=[start]) as loop:
            loop.yield_([combine(loop.carried[0], compute(b.load(floats, x, loop.index * 4)))])
        with b.if_(whole < size) as tail:
            value = compute(b.load_prefix(floats, x, whole * 4, size - whole))
            value = b.select(b.mask_below(size - whole, lanes), value, start)
            tail.yield_([combine(loop.results[0], value)])
        with tail.else_():
            tail.yield_(loop.results)
        return b.reduce(combine, tail.results[0])

    lo, hi = b.share(b.extent("outer"))
    with b.loop(lo, hi) as line:
        x, y = b.pointer("x") + line.index * b.extent("x_outer"), b.pointer("y") + line.index * b.extent("y_outer")
        top = over(x, b.const(floats, -math.inf), largest(b), lambda v: v)
        top = b.splat(b.convert("fpext", top, F64), lanes)
        total = over(
            x,
            b.zero(vector(F64, lanes)),
            lambda p, q: p + q,
            lambda v: functions.exp(b, b.convert("fpext", v, F64) - top),
        )
        total = b.splat(total, lanes)
        total = functions.log(b, total) if log else total
        with b.loop(0, size, lanes) as places:
            left = size - places.index
            shifted = b.convert("fpext", b.load_prefix(floats, x, places.index * 4, left), F64) - top
            b.store_prefix(_finish(b, log, shifted, total), y, places.index * 4, left)


TABLE_FROM = 96
"""Lines of so many codes are worth a table of the results of all 256 differences."""
_PLANES = 3  # bytes of an entry of the table that are not 0
_CHUNK = 1 << 16  # registers whose bytes i32 can add up: 16 lanes of 4 bytes each


@kernel(
    pointers=("x", "table", "planes", "y"),
    extents=("lines", "size", "x_line", "y_line", "zero"),
    scalars=("scale", "low", "high"),
)
def softmax_codes(b: KernelBuilder) -> None:
    """y = f32(e) / f32(sum of e) * scale, requantized, with e = table[max - q], i32; the sum is exact.

    Lines of `size` adjacent codes. planes: the three low bytes of all 256 entries of the table, plane by plane.
    """
    lines = _CodeLines(b)
    lo, hi = b.share(b.extent("lines"))
    with b.loop(lo, hi) as line:
        x = b.pointer("x") + line.index * b.extent("x_line")
        y = b.pointer("y") + line.index * b.extent("y_line")
        top = lines.top(x)
        total = b.sitofp(lines.total_by_planes(x, top) if b.target.fast_lookup else lines.total_by_loads(x, top))
        with b.if_(b.extent("size") >= TABLE_FROM):
            lines.write_by_table(x, y, top, total)
        with b.if_(b.extent("size") < TABLE_FROM):
            lines.write_by_loads(x, y, top, total)


class _CodeLines:
    """The steps of a line."""

    def __init__(self, b: KernelBuilder) -> None:
        self.b, self.size, self.table = b, b.extent("size"), b.pointer("table")
        self.bytes = vector(I8, b.target.vector_bytes)
        self.planes = []
        if b.target.fast_lookup:
            self.planes = [b.target.load_table(b, b.pointer("planes") + 256 * plane) for plane in range(_PLANES)]

    def _registers(
        self,
        lo: Value,
        hi: Value,
        carried: list[Value],
        body: Callable[[Value, Value | None, list[Value]], list[Value]],
    ) -> list[Value]:
        """body(place, left, carried) for each register of the line; left: codes in the last one, None in whole ones."""
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
        """The sum of the entries, from sums of their bytes."""
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
        return self.table + self.b.zext(top, I64) * 4

    def total_by_loads(self, x: Value, top: Value) -> Value:
        """The sum of the entries, one by one."""
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
        """i32 codes of the result."""
        b, lanes = self.b, entries.type.lanes
        low, high, scale = (b.splat(b.scalar(name), lanes) for name in ("low", "high", "scale"))
        real = b.clamp(b.sitofp(entries) / b.splat(total, lanes) * scale, low, high)
        return b.target.round_to_i32(b, real) + b.splat(b.trunc(b.extent("zero"), I32), lanes)

    def write_by_table(self, x: Value, y: Value, top: Value, total: Value) -> None:
        """The results of all differences first, then one lookup a code."""
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
        b, lanes, row = self.b, self.b.target.i32_lanes, self._row(top)
        with b.loop(0, self.size, lanes) as loop:
            left = self.size - loop.index
            codes = b.load_prefix(vector(I8, lanes), x, loop.index, left)
            entries = b.zero(vector(I32, lanes))
            for lane in range(lanes):  # behind the line codes are 0, a place of the table as well
                entries = b.insert(entries, self._entry(row, b.extract(codes, lane)), lane)
            b.store_prefix(b.trunc(self._finish(entries, total), I8), y, loop.index, left)


@kernel(pointers=("x", "table", "y"), extents=(*_LINES, "zero", "x_inner", "y_inner"), scalars=("scale", "low", "high"))
def softmax_codes_strided(b: KernelBuilder) -> None:
    """The same for lines with `step` bytes from code to code."""
    size, table = b.extent("size"), b.pointer("table")

    def code(x: Value, place: Value) -> Value:
        return b.zext(b.load(I8, x, place * b.extent("x_step")), I64)

    lo, hi = b.share(b.extent("outer") * b.extent("inner"))
    with b.loop(lo, hi) as line:
        outer, inner = line.index // b.extent("inner"), line.index % b.extent("inner")
        x = b.pointer("x") + (outer * b.extent("x_outer") + inner * b.extent("x_inner"))
        y = b.pointer("y") + (outer * b.extent("y_outer") + inner * b.extent("y_inner"))
        with b.loop(0, size, carried=[b.i64(0)]) as tops:
            tops.yield_([b.smax(tops.carried[0], code(x, tops.index))])
        top = tops.results[0]
        with b.loop(0, size, carried=[b.i64(0)]) as sums:
            sums.yield_([sums.carried[0] + b.sext(b.load(I32, table, (top - code(x, sums.index)) * 4), I64)])
        total = b.sitofp(sums.results[0])
        with b.loop(0, size) as places:
            e = b.sitofp(b.load(I32, table, (top - code(x, places.index)) * 4))
            real = b.clamp(e / total * b.scalar("scale"), b.scalar("low"), b.scalar("high"))
            rounded = b.convert("lrint", real, I32) + b.trunc(b.extent("zero"), I32)
            b.store(b.trunc(rounded, I8), y, places.index * b.extent("y_step"))
