"""Batched products of two activations, row major: x [m, k] times w [k, n].

Lanes lie across n; tiles are mr rows by nv registers. Threads share tiles. The loop over rows is the inner one, so that
a tile's columns of w stay in the cache. Bytes are centered and widened to i16 first, two elements of k in an i32 lane
(`center_pairs`, `pack_pairs`), so that their products are exact for all zero points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, Rows, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I32, I64, vector
from qcompiler.backends.kernels.code_range import CodeRange
from qcompiler.backends.kernels.lane_order import in_order
from qcompiler.backends.kernels.tile_epilogue import rounded_code


class Matmul(Arguments["Matmul"], Generic[P, E]):
    """The arguments that all products share: x times w, for each batch.

    Attributes:
        batches: i64 [batch_count, 3]: the byte offsets of each batch's x, w and y.
    """

    x: P
    w: P
    y: Written[P]
    batches: P
    batch_count: E
    m: E
    n: E
    k: E


class MatmulU8(Arguments["MatmulU8"], Generic[P, E, S]):
    """The arguments of `matmul_u8` and `matmul_u8_to_i16`. scale: the product of the scales of x and w over that
    of y."""

    matmul: Matmul[P, E]
    scale: S
    codes: CodeRange[E, S]


class MatmulU8ToF32(Arguments["MatmulU8ToF32"], Generic[P, E, S]):
    """The arguments of `matmul_u8_to_f32`. scale: the product of the scales of x and w."""

    matmul: Matmul[P, E]
    scale: S


class CenterPairs(Arguments["CenterPairs"], Generic[P, E]):
    """The arguments of `center_pairs`. zero: the zero point of x."""

    x: P
    y: Written[P]
    rows: E
    k: E
    zero: E


class PackPairs(Arguments["PackPairs"], Generic[P, E]):
    """The arguments of `pack_pairs`. zero: the zero point of w."""

    w: P
    y: Written[P]
    batch_count: E
    k: E
    n: E
    zero: E


Tile = Callable[[Value, Value, Value, Value, int], None]
"""Computes one tile from (x at its first row, w of the batch, y at its first row, its index along n, its rows)."""


def _tiles(b: KernelBuilder, a: Matmul, mr: int, nr: int, x_row: Value, y_row: Value, tile: Tile) -> None:
    """Emit all tiles of this thread. x_row, y_row: bytes from row to row.

    The last tile of a column overlaps the one before it.
    """
    m, panels = a.m, (a.n + (nr - 1)) // nr
    groups = (m + (mr - 1)) // mr
    lo, hi = b.share(a.batch_count * panels * groups)
    with b.loop(lo, hi) as unit:
        group, outer = unit.index % groups, unit.index // groups
        panel, entry = outer % panels, outer // panels * 24
        x, w, y = (pointer + b.load(I64, a.batches, entry, disp=8 * i) for i, pointer in enumerate((a.x, a.w, a.y)))
        with b.if_(m >= mr) as wide:
            first = b.smin(group * mr, m - mr)
            tile(x + first * x_row, w, y + first * y_row, panel, mr)
            wide.yield_([])
        with wide.else_():
            with b.loop(0, m if mr > 1 else 0) as rows:
                tile(x + rows.index * x_row, w, y + rows.index * y_row, panel, 1)
            wide.yield_([])


@kernel
def matmul_f32(b: KernelBuilder, a: Matmul, *, mr: int, nv: int) -> None:
    """f32 products, summed by fma in the order of k."""
    lanes, n, k = b.target.f32_lanes, a.n, a.k
    floats, nr = vector(F32, lanes), nv * lanes

    def tile(x: Value, w: Value, y: Value, panel: Value, count: int) -> None:
        column = panel * nr
        left = n - column
        with b.if_(left >= nr) as whole:
            found = sums(x, w + column * 4, count, lambda pointer, j: b.load(floats, pointer, disp=j * lanes * 4))
            for r, row in enumerate(found):
                for j, value in enumerate(row):
                    b.store(value, y, column * 4 + n * (4 * r), disp=j * lanes * 4)
            whole.yield_([])
        with whole.else_():
            counts = [b.smax(left - j * lanes, 0) for j in range(nv)]
            found = sums(
                x, w + column * 4, count, lambda pointer, j: b.load_prefix(floats, pointer, j * lanes * 4, counts[j])
            )
            for r, row in enumerate(found):
                for j, value in enumerate(row):
                    b.store_prefix(value, y, column * 4 + n * (4 * r) + j * lanes * 4, counts[j])
            whole.yield_([])

    def sums(x: Value, w: Value, count: int, load: Callable[[Value, int], Value]) -> list[list[Value]]:
        rows = b.rows(x, k * 4, count)
        start = [[b.zero(floats)] * nv for _ in range(count)]
        with b.loop(0, k, carried=[start, rows.pointers, w]) as loop:
            acc, pointers, here = loop.carried
            at = rows.at(pointers)
            columns = [load(here, j) for j in range(nv)]
            acc = [_row(acc[r], b.splat(b.load(F32, *at[r]), lanes), columns) for r in range(count)]
            loop.yield_([acc, at.moved(4), here + n * 4])
        found: list[list[Value]] = loop.results[0]
        return found

    def _row(acc: Sequence[Value], x: Value, columns: Sequence[Value]) -> list[Value]:
        return [b.fma(x, column, total) for column, total in zip(columns, acc)]

    _tiles(b, a, mr, nr, k * 4, n * 4, tile)


@kernel
def center_pairs(b: KernelBuilder, a: CenterPairs) -> None:
    """u8 [rows, k] minus the zero point as i16 [rows, 2 * ceil(k / 2)]; the element after an odd k may be anything."""
    words, k = b.target.i32_lanes * 2, a.k
    even = (k + 1) // 2 * 2
    zero = b.splat(b.trunc(a.zero, I16), words)
    lo, hi = b.share(a.rows)
    with b.loop(lo, hi) as row:
        x, y = a.x + row.index * k, a.y + row.index * even * 2
        with b.loop(0, k, words) as at:
            codes = b.load_prefix(vector(I8, words), x, at.index, k - at.index)
            b.store_prefix(b.zext(codes, I16) - zero, y, at.index * 2, even - at.index)


@kernel
def pack_pairs(b: KernelBuilder, a: PackPairs, *, nv: int) -> None:
    """u8 [batch, k, n] minus the zero point as i16 [batch][n / nr][k / 2][nv][pairs of k].

    The element after an odd k is 0. Columns lie in the target's `pair_order`; columns after n may be anything.
    """
    lanes, k, n = b.target.i32_lanes, a.k, a.n
    words, nr = vector(I16, 2 * lanes), nv * lanes
    zero = b.splat(b.trunc(a.zero, I16), 2 * lanes)
    panels, pairs = (n + (nr - 1)) // nr, (k + 1) // 2
    lo, hi = b.share(a.batch_count * panels)
    with b.loop(lo, hi) as unit:
        column = unit.index % panels * nr
        source = a.w + unit.index // panels * (k * n) + column
        target = a.y + unit.index * (pairs * (nr * 4))

        def centered(row: Value, j: int, column: Value = column, source: Value = source) -> Value:
            left = b.smax(n - column - 2 * j * lanes, 0)
            return b.zext(b.load_prefix(vector(I8, 2 * lanes), source, row * n + 2 * j * lanes, left), I16) - zero

        with b.loop(0, pairs) as pair:
            first = pair.index * 2
            has_second = first + 1 < k
            for j in range(nv // 2):
                with b.if_(has_second) as both:
                    both.yield_([centered(first + 1, j)])
                with both.else_():
                    both.yield_([b.zero(words)])
                for half, value in enumerate(b.target.interleaved(b, centered(first, j), both.results[0])):
                    b.store(value, target, pair.index * (nr * 4), disp=(2 * j + half) * lanes * 4)


@kernel
def matmul_u8(b: KernelBuilder, a: MatmulU8, *, mr: int, nv: int) -> None:
    """Multiply what `center_pairs` makes of x with what `pack_pairs` makes of w, and requantize the i32 sums. nv is
    even."""
    lanes = b.target.i32_lanes
    scale, low, high = (b.splat(value, lanes) for value in (a.scale, a.codes.low, a.codes.high))
    zero = b.splat(b.trunc(a.codes.zero, I16), 2 * lanes)

    def requantized(pair: Sequence[Value]) -> list[Value]:
        rounded = [b.target.round_to_i32(b, b.clamp(b.sitofp(acc) * scale, low, high)) for acc in pair]
        return [b.trunc(b.target.pack_words(b, *rounded) + zero, I8)]

    _pair_tiles(b, a.matmul, mr, nv, 1, requantized)


@kernel
def matmul_u8_to_i16(b: KernelBuilder, a: MatmulU8, *, mr: int, nv: int) -> None:
    """Like `matmul_u8`, requantizing the sums to i16. nv is even."""
    scale = b.splat(a.scale, b.target.i32_lanes)

    def requantized(pair: Sequence[Value]) -> list[Value]:
        words = [rounded_code(b, b.sitofp(acc) * scale, a.codes, I16) for acc in pair]
        return in_order(b, words, b.target.pair_order())

    _pair_tiles(b, a.matmul, mr, nv, 2, requantized)


@kernel
def matmul_u8_to_f32(b: KernelBuilder, a: MatmulU8ToF32, *, mr: int, nv: int) -> None:
    """The sums of `matmul_u8` times a scale, in f32. nv is even."""
    scale = b.splat(a.scale, b.target.i32_lanes)

    def dequantized(pair: Sequence[Value]) -> list[Value]:
        return in_order(b, [b.sitofp(acc) * scale for acc in pair], b.target.pair_order())

    _pair_tiles(b, a.matmul, mr, nv, 4, dequantized)


def _pair_tiles(
    b: KernelBuilder, a: Matmul, mr: int, nv: int, item: int, finish: Callable[[Sequence[Value]], list[Value]]
) -> None:
    """Emit all tiles of products of pairs. finish: converts two registers of sums to registers of results, whose
    elements have `item` bytes."""
    lanes, n = b.target.i32_lanes, a.n
    words, sums, nr = vector(I16, 2 * lanes), vector(I32, lanes), nv * lanes
    pairs = (a.k + 1) // 2

    def tile(x: Value, w: Value, y: Value, panel: Value, count: int) -> None:
        rows = b.rows(x, pairs * 4, count)
        start = [[b.zero(sums)] * nv for _ in range(count)]
        with b.loop(0, pairs, carried=[start, rows.pointers, w + panel * (pairs * (nr * 4))]) as loop:
            acc, pointers, here = loop.carried
            columns = [b.load(words, here, disp=j * lanes * 4) for j in range(nv)]
            at = rows.at(pointers)
            loop.yield_([[_row(acc[r], at, r, columns) for r in range(count)], at.moved(4), here + nr * 4])
        column = panel * nr
        for r, row in enumerate(loop.results[0]):
            for j in range(0, nv, 2):
                found = finish(row[j : j + 2])
                for i, value in enumerate(found):
                    first = j * lanes + i * value.type.lanes
                    at_y = n * (r * item) + column * item + first * item
                    b.store_prefix(value, y, at_y, b.smax(n - column - first, 0))

    def _row(acc: Sequence[Value], rows: Rows, r: int, columns: Sequence[Value]) -> list[Value]:
        x = b.bitcast(b.splat(b.load(I32, *rows[r]), lanes), words)
        return [b.target.dot2(b, total, x, column) for column, total in zip(columns, acc)]

    _tiles(b, a, mr, nr, pairs * 4, n * item, tile)
