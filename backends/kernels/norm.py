"""layer_norm, group_norm and instance_norm of rows, f32 and u8.

A row is `parts` runs of `run` adjacent elements; run r of row i has the gain and shift number i % groups * parts + r,
or, where `each`, element e of a row has those numbered e (layer_norm: one run). Real statistics take 16 logical lanes
along the row. norm_channels.py has those of codes channels last.
"""

from __future__ import annotations

from collections.abc import Callable

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, F64, I8, I16, I32, I64, Type, vector
from qcompiler.backends.kernels.reduce import LOGICAL_LANES

_CHUNK = 1 << 13  # registers: a lane of i32 adds four squares of each, 260100 at most
_POINTERS = ("x", "gain", "shift", "y")
_EXTENTS = ("rows", "groups", "parts", "run")


def _sum(b: KernelBuilder, x: Value, element: Type, accumulator: Type, compute: Callable[[Value], Value]) -> Value:
    """Sum of compute(element) over a row, as a scalar."""
    lanes, size = LOGICAL_LANES, element.bits // 8
    count = b.extent("parts") * b.extent("run")
    whole = count // lanes * lanes
    start = b.zero(vector(accumulator, lanes))
    with b.loop(0, whole, lanes, carried=[start]) as loop:
        loop.yield_([loop.carried[0] + compute(b.load(vector(element, lanes), x, loop.index * size))])
    with b.if_(whole < count) as tail:
        value = compute(b.load_prefix(vector(element, lanes), x, whole * size, count - whole))
        tail.yield_([loop.results[0] + b.select(b.mask_below(count - whole, lanes), value, start)])
    with tail.else_():
        tail.yield_(loop.results)
    return b.reduce(lambda p, q: p + q, tail.results[0])


def _sums_of_codes(b: KernelBuilder, x: Value, count: Value) -> tuple[Value, Value]:
    """i64 sums of q and of q * q over `count` adjacent codes."""
    bytes_, words = vector(I8, b.target.vector_bytes), vector(I16, b.target.vector_bytes // 2)
    lanes, ones = bytes_.lanes, b.const(words, 1)
    start = [b.zero(vector(I32, b.target.i32_lanes))] * 2

    def add(codes: Value, sums: list[Value]) -> list[Value]:
        low, high = (b.bitcast(v, words) for v in b.target.interleaved(b, codes, b.zero(bytes_)))
        squares = b.target.dot2(b, b.target.dot2(b, sums[1], low, low), high, high)
        return [b.target.dot2(b, sums[0], low + high, ones), squares]

    with b.loop(0, count, _CHUNK * lanes, carried=[b.i64(0)] * 2) as chunk:
        end = b.smin(chunk.index + _CHUNK * lanes, count)
        whole = chunk.index + (end - chunk.index) // lanes * lanes
        with b.loop(chunk.index, whole, lanes, carried=start) as loop:
            loop.yield_(add(b.load(bytes_, x, loop.index), loop.carried))
        with b.if_(whole < end) as tail:
            tail.yield_(add(b.load_prefix(bytes_, x, whole, end - whole), loop.results))
        with tail.else_():
            tail.yield_(loop.results)
        wide = [b.reduce(lambda p, q: p + q, b.sext(v, I64)) for v in tail.results]
        chunk.yield_([total + more for total, more in zip(chunk.carried, wide)])
    return chunk.results[0], chunk.results[1]


def _write(
    b: KernelBuilder,
    row: Value,
    x: Value,
    y: Value,
    element: Type,
    each: bool,
    compute: Callable[[Value, Value, Value], Value],
) -> None:
    """y = compute(x, gain, shift) over a row; of codes compute gives i32."""
    size = element.bits // 8
    gain, shift, run = b.pointer("gain"), b.pointer("shift"), b.extent("run")
    codes = element is I8
    width = b.target.i32_lanes if codes else LOGICAL_LANES
    block = 4 * width if codes else width
    base = row % b.extent("groups") * b.extent("parts")
    whole = run // block * block
    with b.loop(0, b.extent("parts")) as part:
        at = part.index * run * size
        fixed = None if each else [b.splat(b.load(F32, p, (base + part.index) * 4), width) for p in (gain, shift)]

        def terms(
            place: Value, disp: int = 0, left: Value | None = None, fixed: list[Value] | None = fixed
        ) -> list[Value]:
            floats = vector(F32, width)
            if fixed:
                return fixed
            if left is None:
                return [b.load(floats, p, place * 4, disp=disp) for p in (gain, shift)]
            return [b.load_prefix(floats, p, place * 4, left) for p in (gain, shift)]

        with b.loop(0, whole, block) as loop:
            offset = at + loop.index * size
            values = b.load(vector(element, block), x, offset)
            parts = [
                compute(b.slice(values, first, width), *terms(loop.index, 4 * first))
                for first in range(0, block, width)
            ]
            b.store(b.target.narrow(b, parts, "u8") if codes else parts[0], y, offset)
        with b.loop(whole, run, width) as loop:
            left, offset = run - loop.index, at + loop.index * size
            value = b.load_prefix(vector(element, width), x, offset, left)
            found = compute(value, *terms(loop.index, left=left))
            b.store_prefix(b.trunc(found, I8) if codes else found, y, offset, left)


def _rows(b: KernelBuilder, size: int, body: Callable[[Value, Value, Value], None]) -> None:
    step = b.extent("parts") * b.extent("run") * size
    lo, hi = b.share(b.extent("rows"))
    with b.loop(lo, hi) as row:
        body(row.index, b.pointer("x") + row.index * step, b.pointer("y") + row.index * step)


@kernel(pointers=_POINTERS, extents=_EXTENTS, scalars=("eps",))
def norm_real(b: KernelBuilder, *, each: bool) -> None:
    """(x - mean) / sqrt(var + eps) * gain + shift in f64, rounded once."""

    def wide(v: Value) -> Value:
        return b.convert("fpext", v, F64)

    def body(row: Value, x: Value, y: Value) -> None:
        count = b.sitofp(b.extent("parts") * b.extent("run"), F64)
        mean = b.splat(_sum(b, x, F32, F64, wide) / count, LOGICAL_LANES)

        def squared(v: Value) -> Value:
            centered = wide(v) - mean
            return centered * centered

        deviation = b.splat(b.sqrt(_sum(b, x, F32, F64, squared) / count + wide(b.scalar("eps"))), LOGICAL_LANES)
        _write(
            b,
            row,
            x,
            y,
            F32,
            each,
            lambda v, gain, shift: b.convert("fptrunc", (wide(v) - mean) / deviation * wide(gain) + wide(shift), F32),
        )

    _rows(b, 4, body)


@kernel(pointers=_POINTERS, extents=(*_EXTENTS, "in_zero", "zero"), scalars=("eps", "low", "high"))
def norm_codes(b: KernelBuilder, *, each: bool) -> None:
    """The integer meaning of qcompiler.ops.norm: exact sums, then f32 steps.

    eps: in squared units of x's scale; gain and shift: over the result's scale.
    """
    lanes = b.target.i32_lanes

    def splat(name: str) -> Value:
        return b.splat(b.scalar(name), lanes)

    in_zero = b.splat(b.trunc(b.extent("in_zero"), I32), lanes)
    zero = b.splat(b.trunc(b.extent("zero"), I32), lanes)

    def centered(q: Value) -> Value:
        return b.zext(q, I32) - in_zero

    def body(row: Value, x: Value, y: Value) -> None:
        count = b.extent("parts") * b.extent("run")
        of_codes, of_squares = _sums_of_codes(b, x, count)
        s1 = of_codes - count * b.extent("in_zero")
        s2 = of_squares - b.extent("in_zero") * (of_codes + s1)
        mean = b.splat(b.sitofp(s1) / b.sitofp(count), lanes)
        variance = b.sitofp(count * s2 - s1 * s1) / b.sitofp(count * count)
        inverse = b.splat(b.const(F32, 1.0) / b.sqrt(variance + b.scalar("eps")), lanes)

        def compute(q: Value, gain: Value, shift: Value) -> Value:
            real = (b.sitofp(centered(q)) - mean) * inverse * gain + shift
            return b.target.round_to_i32(b, b.clamp(real, splat("low"), splat("high"))) + zero

        _write(b, row, x, y, I8, each, compute)

    _rows(b, 1, body)
