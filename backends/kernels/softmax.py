"""softmax and log_softmax of f32 lines, and softmax of u8 lines by a table of exp.

A line is `size` elements `step` bytes apart, for each of outer * inner lines. Real ones: "across" puts lanes across the inner axis, "along"
puts 16 logical lanes along the line (step is one element); exp and the sum are f64, the result is rounded once.
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

    def over(x: Value, start: Value, combine: Callable[[Value, Value], Value], compute: Callable[[Value], Value]) -> Value:
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
        total = over(x, b.zero(vector(F64, lanes)), lambda p, q: p + q, lambda v: functions.exp(b, b.convert("fpext", v, F64) - top))
        total = b.splat(total, lanes)
        total = functions.log(b, total) if log else total
        with b.loop(0, size, lanes) as places:
            left = size - places.index
            shifted = b.convert("fpext", b.load_prefix(floats, x, places.index * 4, left), F64) - top
            b.store_prefix(_finish(b, log, shifted, total), y, places.index * 4, left)


@kernel(pointers=("x", "table", "y"), extents=(*_LINES, "zero", "x_inner", "y_inner"), scalars=("scale", "low", "high"))
def softmax_codes(b: KernelBuilder) -> None:
    """y = f32(e) / f32(sum of e) * scale, requantized, with e = table[max - q], i32; the sum is exact in i64."""
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


