"""Batched products of two activations, row major: x [m, k] times y [k, n]; lanes lie across n.

batches: a table of (x, y, result) byte offsets. Threads share tiles of MR rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I32, I64, vector

MR = 4
_POINTERS = ("x", "w", "batches", "y")
_EXTENTS = ("batch_count", "m", "n", "k")


def _tiles(b: KernelBuilder, size: int, out_size: int, lanes: int, tile: Callable[[list[Value], Value, Value, Value | None], list[Value]]) -> None:
    """tile(row pointers, pointer to y's column, y's row step, columns left or None for all) gives a register a row."""
    m, n, k = b.extent("m"), b.extent("n"), b.extent("k")
    groups = (m + (MR - 1)) // MR
    lo, hi = b.share(b.extent("batch_count") * groups)
    with b.loop(lo, hi) as unit:
        entry = unit.index // groups * 24
        x, w, y = (b.pointer(name) + b.load(I64, b.pointer("batches"), entry, disp=8 * i) for i, name in enumerate(("x", "w", "y")))
        first = unit.index % groups * MR
        rows = [b.smin(first + r, m - 1) for r in range(MR)]  # the last tile repeats its last row
        xs = [x + row * (k * size) for row in rows]
        ys = [y + row * (n * out_size) for row in rows]
        whole = n // lanes * lanes

        def column(at: Value, left: Value | None) -> None:
            found = tile(xs, w + at * size, n * size, left)
            for pointer, value in zip(ys, found):
                if left is None:
                    b.store(value, pointer, at * out_size)
                else:
                    b.store_prefix(value, pointer, at * out_size, left)

        with b.loop(0, whole, lanes) as columns:
            column(columns.index, None)
        with b.if_(whole < n) as tail:
            column(whole, n - whole)
            tail.yield_([])


@kernel(pointers=_POINTERS, extents=_EXTENTS)
def matmul_f32(b: KernelBuilder) -> None:
    """Sums by fma in the order of k."""
    lanes = b.target.f32_lanes
    floats = vector(F32, lanes)

    def tile(xs: list[Value], w: Value, step: Value, left: Value | None) -> list[Value]:
        with b.loop(0, b.extent("k"), carried=[[b.zero(floats)] * MR, w]) as loop:
            acc, here = loop.carried
            column = b.load(floats, here) if left is None else b.load_prefix(floats, here, 0, left)
            acc = [b.fma(b.splat(b.load(F32, x, loop.index * 4), lanes), column, total) for x, total in zip(xs, acc)]
            loop.yield_([acc, here + step])
        return loop.results[0]

    _tiles(b, 4, 4, lanes, tile)


@kernel(pointers=_POINTERS, extents=(*_EXTENTS, "x_zero", "w_zero", "zero"), scalars=("scale", "low", "high"))
def matmul_u8(b: KernelBuilder) -> None:
    """i32 sums of (qx - x_zero) (qw - w_zero), two of k at a time as i16 pairs, requantized."""
    lanes = b.target.i32_lanes
    bytes_, words = vector(I8, 2 * lanes), vector(I16, 2 * lanes)
    x_zero = b.trunc(b.extent("x_zero"), I32)
    w_zero = b.splat(b.trunc(b.extent("w_zero"), I16), 2 * lanes)
    k = b.extent("k")
    even = k // 2 * 2

    def tile(xs: list[Value], w: Value, step: Value, left: Value | None) -> list[Value]:
        def centered(pointer: Value) -> Value:
            loaded = b.load(bytes_, pointer) if left is None else b.load_prefix(bytes_, pointer, 0, left)
            return b.zext(loaded, I16) - w_zero

        def add(acc: Sequence[Sequence[Value]], at: Value, here: Value, pair: bool) -> list[list[Value]]:
            second = centered(here + step) if pair else b.zero(words)
            columns = b.target.interleaved(b, centered(here), second)
            found = []
            for x, row in zip(xs, acc):
                value = (b.zext(b.load(I8, x, at), I32) - x_zero) & 0xFFFF
                if pair:
                    value = value | (b.zext(b.load(I8, x, at, disp=1), I32) - x_zero) << 16
                terms = b.bitcast(b.splat(value, lanes), words)
                found.append([b.target.dot2(b, total, terms, column) for total, column in zip(row, columns)])
            return found

        start = [[b.zero(vector(I32, lanes))] * 2 for _ in range(MR)]
        with b.loop(0, even, 2, carried=[start, w]) as loop:
            acc, here = loop.carried
            loop.yield_([add(acc, loop.index, here, True), here + step + step])
        acc, here = loop.results
        with b.if_(even < k) as odd:
            odd.yield_([add(acc, even, here, False)])
        with odd.else_():
            odd.yield_([acc])
        return [_requantized(b, pair) for pair in odd.results[0]]

    _tiles(b, 1, 1, 2 * lanes, tile)


def _requantized(b: KernelBuilder, pair: Sequence[Value]) -> Value:
    lanes = b.target.i32_lanes
    scale, low, high = (b.splat(b.scalar(n), lanes) for n in ("scale", "low", "high"))
    rounded = [b.target.round_to_i32(b, b.clamp(b.sitofp(acc) * scale, low, high)) for acc in pair]
    zero = b.splat(b.trunc(b.extent("zero"), I16), 2 * lanes)
    return b.trunc(b.target.pack_words(b, *rounded) + zero, I8)
