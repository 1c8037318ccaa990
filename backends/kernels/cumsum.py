"""Cumulative sums along one axis of a row-major tensor.

Lanes lie across the elements behind the axis; each line is summed in order, so the bits are those of a serial sum. f32
is summed in f64, and each sum is rounded once. Integers wrap.
"""

from __future__ import annotations

from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, P, Written
from qcompiler.backends.kernel_ir.types import F32, F64, I32, I64, vector

TYPES = {"f32": F32, "i32": I32, "i64": I64}


class Cumsum(Arguments["Cumsum"], Generic[P, E]):
    """The arguments of `cumsum`: x and y are [outer, size, inner], summed along `size`."""

    x: P
    y: Written[P]
    outer: E
    size: E
    inner: E


@kernel
def cumsum(b: KernelBuilder, a: Cumsum, *, dtype: str, across: bool, exclusive: bool, reverse: bool) -> None:
    """Sum each line. across: whether there are elements behind the axis; otherwise a line is summed one element at a
    time. Threads share lines."""
    element, lanes = TYPES[dtype], b.target.f32_lanes if across else 1
    size, wide = element.bits // 8, F64 if element is F32 else element
    blocks = (a.inner + (lanes - 1)) // lanes
    lo, hi = b.share(a.outer * blocks)
    with b.loop(lo, hi) as unit:
        first = unit.index % blocks * lanes
        start, left = (unit.index // blocks * a.size * a.inner + first) * size, a.inner - first
        # -0 + x has the sign of x; exclusive sums start with 0 itself
        total = b.const(vector(wide, lanes) if across else wide, -0.0 if wide is F64 and not exclusive else 0)
        with b.loop(0, a.size, carried=total) as along:
            place = start + (a.size - 1 - along.index if reverse else along.index) * a.inner * size
            x = b.load_prefix(vector(element, lanes), a.x, place, left) if across else b.load(element, a.x, place)
            after = along.carried + (b.convert("fpext", x, F64) if wide is F64 else x)
            given = along.carried if exclusive else after
            y = b.convert("fptrunc", given, F32) if wide is F64 else given
            if across:
                b.store_prefix(y, a.y, place, left)
            else:
                b.store(y, a.y, place)
            along.yield_(after)
