"""layer_norm, group_norm and instance_norm of rows, f32 and u8.

A row is `parts` runs of `run` adjacent elements; run r of row i has the gain and shift number i % groups * parts + r, or, where `each`, element
e of a row has those numbered e (layer_norm: one run). Statistics take 16 logical lanes along the row.
"""

from __future__ import annotations

from collections.abc import Callable

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, F64, I8, I32, I64, Type, vector
from qcompiler.backends.kernels.reduce import LOGICAL_LANES

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


def _write(b: KernelBuilder, row: Value, x: Value, y: Value, element: Type, each: bool, compute: Callable[[Value, Value, Value], Value]) -> None:
    """y = compute(x, gain, shift) over a row."""
    lanes, size = LOGICAL_LANES, element.bits // 8
    gain, shift, run = b.pointer("gain"), b.pointer("shift"), b.extent("run")
    floats = vector(F32, lanes)
    base = row % b.extent("groups") * b.extent("parts")
    with b.loop(0, b.extent("parts")) as part:
        at = part.index * run * size
        fixed = None if each else [b.splat(b.load(F32, p, (base + part.index) * 4), lanes) for p in (gain, shift)]
        with b.loop(0, run, lanes) as loop:
            left, offset = run - loop.index, at + loop.index * size
            terms = fixed or [b.load_prefix(floats, p, loop.index * 4, left) for p in (gain, shift)]
            found = compute(b.load_prefix(vector(element, lanes), x, offset, left), *terms)
            b.store_prefix(found, y, offset, left)


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
        _write(b, row, x, y, F32, each,
               lambda v, gain, shift: b.convert("fptrunc", (wide(v) - mean) / deviation * wide(gain) + wide(shift), F32))

    _rows(b, 4, body)


@kernel(pointers=_POINTERS, extents=(*_EXTENTS, "in_zero", "zero"), scalars=("eps", "low", "high"))
def norm_codes(b: KernelBuilder, *, each: bool) -> None:
    """The integer meaning of qcompiler.ops.norm: exact sums, then f32 steps. eps: in squared units of x's scale; gain and shift: over the
    result's scale."""
    lanes = LOGICAL_LANES

    def splat(name: str) -> Value:
        return b.splat(b.scalar(name), lanes)

    in_zero = b.splat(b.trunc(b.extent("in_zero"), I32), lanes)
    zero = b.splat(b.trunc(b.extent("zero"), I32), lanes)

    def centered(q: Value) -> Value:
        return b.zext(q, I32) - in_zero

    def squared(q: Value) -> Value:
        c = centered(q)
        return b.sext(c * c, I64)

    def body(row: Value, x: Value, y: Value) -> None:
        count = b.extent("parts") * b.extent("run")
        s1, s2 = b.sext(_sum(b, x, I8, I32, centered), I64), _sum(b, x, I8, I64, squared)
        mean = b.splat(b.sitofp(s1) / b.sitofp(count), lanes)
        variance = b.sitofp(count * s2 - s1 * s1) / b.sitofp(count * count)
        inverse = b.splat(b.const(F32, 1.0) / b.sqrt(variance + b.scalar("eps")), lanes)

        def compute(q: Value, gain: Value, shift: Value) -> Value:
            real = (b.sitofp(centered(q)) - mean) * inverse * gain + shift
            return b.trunc(b.target.round_to_i32(b, b.clamp(real, splat("low"), splat("high"))) + zero, I8)

        _write(b, row, x, y, I8, each, compute)

    _rows(b, 1, body)
