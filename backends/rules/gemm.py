"""What conv and linear share: the choice of a tile, the cut into rows, and the call of the kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.kernels import conv as kernels
from qcompiler.backends.placement import Placed
from qcompiler.backends.rules.convert import bounds, zero_point
from qcompiler.backends.steps import Steps
from qcompiler.dims import DimLike
from qcompiler.quantization import qmath

_BLOCK_BYTES = 256 << 10
"""Pixels of x that a block of rows may take: they stay in L2 while all panels pass."""
_LEAST_UNITS = 16
"""Units of work that a call is cut into where rows allow it, so that threads finish together."""
_RUN_TILES = 4
"""Tiles in a row where the pixels of an image may be cut freely."""


@dataclass(frozen=True)
class Tile:
    """mr pixels by nv registers of channels; nr: channels."""

    mr: int
    nv: int
    nr: int


def choose_tile(tiles: Sequence[tuple[int, int]], lanes: int, columns: DimLike, channels: int) -> Tile:
    """The cheapest tile for rows of `columns` pixels, in dot products issued (loads and latency counted); the first for a symbolic size."""
    if not isinstance(columns, int):
        mr, nv = tiles[0]
        return Tile(mr, nv, nv * lanes)

    def cost(tile: tuple[int, int]) -> float:
        mr, nv = tile
        panels = -(-channels // (nv * lanes))
        if columns < mr:
            mr = 1
        step = max(mr * nv, mr + nv, 10)
        return -(-columns // mr) * panels * step

    mr, nv = min(tiles, key=cost)
    return Tile(mr, nv, nv * lanes)


@dataclass(frozen=True)
class Window:
    """Where a product reads and writes.

    rows: for each row of an image the byte offsets in x, y, other. taps: byte offsets. columns: pixels of a row. kc: elements a tap.
    steps: bytes from pixel to pixel in x, y, other. images: how many; strides: bytes from image to image in x, y, other.
    """

    rows: np.ndarray
    taps: Sequence[int]
    columns: int
    kc: int
    steps: tuple[int, int, int]
    images: int
    strides: tuple[int, int, int]
    x_row_bytes: int


def runs(total: int, mr: int) -> tuple[np.ndarray, int]:
    """`total` pixels at equal distances cut into rows: (first pixel of each, pixels of each). The last row overlaps the one before."""
    if total <= mr:
        return np.zeros(1, np.int64), total
    tiles = -(-total // mr)
    rows = -(-tiles // _RUN_TILES)
    columns = min(total, -(-tiles // rows) * mr)
    rows = -(-total // columns)
    return np.minimum(np.arange(rows, dtype=np.int64) * columns, total - columns), columns


def row_block(rows: int, panels: int, x_row_bytes: int) -> int:
    """Rows in a block of work."""
    block = max(1, min(rows, _BLOCK_BYTES // max(1, x_row_bytes)))
    while block > 1 and -(-rows // block) * panels < _LEAST_UNITS:
        block = -(-block // 2)
    return block


def product(s: Steps, window: Window, tile: Tile, weight: np.ndarray, bias: np.ndarray | None, x: object, y: object, other: object | None,
            role: str = "") -> None:
    """Append one product. weight: [channels, taps * kc] in the order of the taps, bias: [channels] or None, as the graph has them; the
    multipliers come from the node's types. role: unique within the node where a node makes several products."""
    channels = weight.shape[0]
    panels = -(-channels // tile.nr)
    rows = window.images * len(window.rows)
    common = dict(
        x=x, y=y, other=other, rows=s.table(window.rows), taps=s.table(np.array(window.taps, np.int64)),
        row_total=rows, row_count=len(window.rows), row_block=row_block(rows, panels, window.x_row_bytes), columns=window.columns,
        x_image=window.strides[0], y_image=window.strides[1], other_image=window.strides[2], x_pixel=window.steps[0],
        y_pixel=window.steps[1], other_pixel=window.steps[2], tap_count=len(window.taps), kc=window.kc, panels=panels, channels=channels,
        writes=("y",), macs=rows * window.columns * channels * len(window.taps) * window.kc, bytes=weight.nbytes,
    )
    static = {"mr": tile.mr, "nv": tile.nv, "residual": other is not None}
    if s.out.is_quantized:
        _product_u8(s, static, tile, weight, bias, role, common)
    else:
        start = np.zeros(channels, np.float32) if bias is None else bias
        s.call(kernels.conv_f32, static, w=s.packed(f"weight{role}{tile}", lambda: kernels.pack_floats(weight, tile.nr)),
               bias=s.packed(f"bias{role}{tile}", lambda: kernels.pack_channels(start, np.arange(tile.nr))), scale=None,
               **activation_bounds(s), **common)


def activation_bounds(s: Steps) -> dict[str, float]:
    """`low` and `high` of a float result's fused activation."""
    low, high = {"none": (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}[s.attrs["activation"]]
    return {"low": low, "high": high}


@dataclass(frozen=True)
class RequantizeTerms:
    """What the epilogue of a weighted node needs.

    start: i32 [channels], the bias less the zero point of x times the sum of the weights; multiplier: f32 [channels], M of rule (4);
    proven: no product leaves i32 on its way through f32; arguments: what is the same for all channels.
    """

    start: np.ndarray
    multiplier: np.ndarray
    proven: bool
    arguments: dict[str, float]


def requantize_terms(s: Steps, weight: np.ndarray, bias: np.ndarray | None, role: str = "") -> RequantizeTerms:
    """For `weight` i8 [channels, K] (a group's share, if `role` is the group's number) and its bias."""
    x, w = s.type(0).quant, s.type(1).quant
    channels = weight.shape[0]
    sums, magnitudes = s.once(f"sums{role}", lambda: np.stack([weight.sum(axis=1, dtype=np.int64),
                                                               np.abs(weight.astype(np.int16)).sum(axis=1, dtype=np.int64)]))
    start = (np.zeros(channels, np.int64) if bias is None else bias.astype(np.int64)) - np.int64(x.zero_point[0]) * sums
    multiplier = qmath.multiplier(x.scales, w.scales, over=s.out.quant.scales)
    if s.node.op == "conv_transpose" and w.axis is not None:  # the scales of one group serve all
        multiplier = np.tile(multiplier, channels // len(multiplier))
    elif w.axis is not None and len(multiplier) != channels:
        multiplier = multiplier[int(role) * channels:(int(role) + 1) * channels]
    multiplier = np.broadcast_to(multiplier, (channels,)).astype(np.float32)
    reach = (255 * magnitudes + np.abs(start)) * multiplier.astype(np.float64)
    other_zero, other_scale = 0, 0.0
    if s.has(3):
        other = s.type(3).quant
        other_zero = other.zero_point[0]
        other_scale = float(qmath.multiplier(other.scales, over=s.out.quant.scales)[0])
        reach = reach + 255 * other_scale
    limits = bounds(s.out, s.attrs["activation"])
    arguments = {"zero": zero_point(s.out), "low_code": int(limits["low"]), "high_code": int(limits["high"]),
                 "other_zero": float(other_zero), "other_scale": other_scale, **limits}
    return RequantizeTerms(start.astype(np.int32), multiplier, bool(reach.max(initial=0) < 2**30), arguments)


def _product_u8(s: Steps, static: dict[str, object], tile: Tile, weight: np.ndarray, bias: np.ndarray | None, role: str,
                common: dict[str, object]) -> None:
    terms = requantize_terms(s, weight, bias, role)
    order = kernels.channel_order(s.target, tile.nv)
    s.call(kernels.conv_u8, {**static, "proven": terms.proven},
           w=s.packed(f"weight{role}{tile}", lambda: kernels.pack_bytes(weight, order)),
           bias=s.packed(f"bias{role}{tile}", lambda: kernels.pack_channels(terms.start, order)),
           scale=s.packed(f"scale{role}{tile}", lambda: kernels.pack_channels(terms.multiplier, order)), **terms.arguments, **common)


def tiles_of(s: Steps) -> Sequence[tuple[int, int]]:
    """The target's tiles for this node's arithmetic."""
    return s.target.gemm_tiles if s.out.is_quantized else s.target.gemm_tiles_f32


def lanes_of(s: Steps) -> int:
    return s.target.i32_lanes if s.out.is_quantized else s.target.f32_lanes


def shifted(place: Placed, nbytes: int) -> tuple[object, int]:
    """The place's pointer, some bytes further."""
    buffer, offset = place.pointer
    return buffer, offset + nbytes
