"""Chooses the tile of a product, and cuts its pixels into rows and its rows into row blocks.

`kernels.conv` explains these terms. The rules of conv, conv_transpose, linear and matmul use this module. Depthwise
convolutions, whose tiles are mr pixels of one register, choose mr in `rules.depthwise`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.target import Target
from qcompiler.dims import DimLike

LINE = 64
"""Bytes of a cache line."""
_WAYS, _WAY_BYTES = 8, 4096
"""Ways, and bytes per way, of a small L1 cache. If more pixels of a tile share a set than it has ways, they evict each
other at every K block."""
_MISS = 2
"""How many dot products could be issued while a line comes from L2."""
_LEAST_ISSUED = 10
"""Below this many dot products in a K block, their latency is not hidden."""
WORDS_TILE = 47
"""How many products of words could be issued in the time that a tile takes beside its loop over K."""
_BLOCK_BYTES = 256 << 10
"""The most bytes of x in a row block. They stay in L2 while the block is multiplied with one panel after the other."""
_LEAST_UNITS = 16
"""A call is cut into at least this many units of work, if there are enough rows, so that threads finish together."""
_MOST_RUN_TILES = 4
"""The most tiles in a row, where the pixels of an image can be cut into rows anywhere."""


@dataclass(frozen=True)
class Tile:
    """mr pixels by nv registers of channels, which are nr channels."""

    mr: int
    nv: int
    nr: int


def tiles_of(target: Target, quantized: bool) -> Sequence[tuple[int, int]]:
    """The tiles, as (mr, nv), that the target offers for products."""
    return target.gemm_tiles if quantized else target.gemm_tiles_f32


def lanes_of(target: Target, quantized: bool) -> int:
    """The number of channels in one register of sums."""
    return target.i32_lanes if quantized else target.f32_lanes


def _issued(mr: int, nv: int) -> float:
    """The dot products that could be issued in the time of a K block."""
    return max(mr * nv, mr + nv, _LEAST_ISSUED)


def product_tile(
    target: Target, quantized: bool, columns: DimLike, channels: DimLike, x_pixel: int, depth: int
) -> Tile:
    """`choose_tile` for a product of a target. depth: the elements of K; pixels that are widened lie twice as far
    apart."""
    tiles, lanes = tiles_of(target, quantized), lanes_of(target, quantized)
    if not quantized or not target.multiplies_words:
        return choose_tile(tiles, lanes, columns, channels, x_pixel)

    beside = WORDS_TILE * 2 / max(1, depth)
    return choose_tile(tiles, lanes, columns, channels, 2 * x_pixel, lambda mr, nv: words_issued(mr, nv) + beside)


def words_issued(mr: int, nv: int) -> float:
    """The products of words that could be issued in the time that a tile takes for a pair of elements of K: a fit to
    what the tiles of level avx2 took on Zen 3, which is bound by the number of instructions."""
    return (3 * mr * nv + mr + 5) / 4


def choose_tile(
    tiles: Sequence[tuple[int, int]],
    lanes: int,
    columns: DimLike,
    channels: DimLike,
    x_pixel: int,
    issued: Callable[[int, int], float] = _issued,
) -> Tile:
    """The cheapest tile for rows of `columns` pixels, which lie x_pixel bytes apart in x. issued: the cost of a K block
    of a tile.

    The cost is a number of dot products. Loads, latency and cache misses count as the dot products that could be issued
    in that time. If a size is symbolic, the first tile is taken.
    """
    if not isinstance(columns, int) or not isinstance(channels, int):
        mr, nv = tiles[0]
        return Tile(mr, nv, nv * lanes)

    def cost(tile: tuple[int, int]) -> float:
        mr, nv = tile
        panels = -(-channels // (nv * lanes))
        if columns < mr:
            mr = 1
        block = issued(mr, nv) + _MISS * max(0, lines_of_a_set(mr, x_pixel) - _WAYS)
        return -(-columns // mr) * panels * block

    mr, nv = min(tiles, key=cost)
    return Tile(mr, nv, nv * lanes)


def lines_of_a_set(pixels: int, x_pixel: int) -> int:
    """How many of `pixels` pixels, which lie x_pixel bytes apart, share a set of the L1 cache."""
    sets = _WAY_BYTES // math.gcd(x_pixel, _WAY_BYTES)
    return -(-pixels // sets)


def run_columns(total: int, mr: int) -> int:
    """The pixels of a row, where `total` pixels at equal distances are cut into rows.

    Rows have as many tiles as give the fewest tiles in all, where a row costs as much as a tenth of a tile.
    """
    if total <= mr:
        return total
    tiles = -(-total // mr)
    tiles_a_row = min(range(1, _MOST_RUN_TILES + 1), key=lambda each: -(-tiles // each) * (each + 0.1))
    return min(total, tiles_a_row * mr)


def run_count(total: int, columns: int) -> int:
    """The number of rows of `columns` pixels that `total` pixels are cut into: one at least."""
    return max(1, -(-total // max(1, columns)))


def run_rows(total: int, columns: int, *strides: int) -> np.ndarray:
    """i64 [rows, len(strides)]: the byte offset of each row's first pixel, for each distance from pixel to pixel. The
    last row overlaps the one before."""
    starts = np.minimum(np.arange(run_count(total, columns), dtype=np.int64) * columns, total - columns)
    return np.stack([starts * stride for stride in strides], axis=1)


def row_block(rows: int, panels: int, x_row_bytes: int) -> int:
    """The number of rows in a row block. Row blocks are as equal as possible, since threads share them."""
    block = max(1, min(rows, _BLOCK_BYTES // max(1, x_row_bytes)))
    while block > 1 and -(-rows // block) * panels < _LEAST_UNITS:
        block = -(-block // 2)
    return -(-rows // max(1, -(-rows // block)))
