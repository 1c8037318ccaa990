"""What conv and linear share: the choice of a tile, the cut into rows, and the call of the kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.artifact.mapped_file import forget_pages
from qcompiler.backends.kernels import conv as kernels
from qcompiler.backends.kernels.tile_math import widens
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.program.builder import BufferHandle, BufferRef
from qcompiler.backends.rules.requantize import requantize_terms
from qcompiler.backends.rules.weights import Weight, byte_parts
from qcompiler.dims import DimLike

_BLOCK_BYTES = 256 << 10
"""Pixels of x that a block of rows may take: they stay in L2 while all panels pass."""
_STREAMED_BYTES = 12 << 20
"""Bytes of a float result from which it is written past the caches: it would not stay there until it is read, and each
line would be read before it is written."""
_PACK_BYTES = 128 << 10
"""Weights that are packed at a time: they stay in L2 on their way."""
LINE = 64
"""Bytes of a line of the caches."""
_WAYS, _WAY_BYTES = 8, 4096
"""Of the smallest L1 cache that is common; more rows than ways in one set drive each other out at each step along K."""
_MISS = 2
"""Dot products that could be issued while a line comes from L2."""
_LEAST_UNITS = 16
"""Units of work that a call is cut into where rows allow it, so that threads finish together."""
_MOST_RUN_TILES = 4
"""Tiles in a row where the pixels of an image may be cut freely."""


@dataclass(frozen=True)
class Tile:
    """mr pixels by nv registers of channels; nr: channels."""

    mr: int
    nv: int
    nr: int


def choose_tile(
    tiles: Sequence[tuple[int, int]], lanes: int, columns: DimLike, channels: DimLike, x_pixel: int
) -> Tile:
    """The cheapest tile for rows of `columns` pixels, x_pixel bytes apart in x, in dot products issued (loads and
    latency counted); the first for a symbolic size."""
    if not isinstance(columns, int) or not isinstance(channels, int):
        mr, nv = tiles[0]
        return Tile(mr, nv, nv * lanes)

    def cost(tile: tuple[int, int]) -> float:
        mr, nv = tile
        panels = -(-channels // (nv * lanes))
        if columns < mr:
            mr = 1
        step = max(mr * nv, mr + nv, 10) + _MISS * max(0, lines_of_a_set(mr, x_pixel) - _WAYS)
        return -(-columns // mr) * panels * step

    mr, nv = min(tiles, key=cost)
    return Tile(mr, nv, nv * lanes)


def lines_of_a_set(rows: int, x_pixel: int) -> int:
    """How many of so many rows, read side by side, lie in one set of the L1 cache: all where they are pages apart."""
    sets = _WAY_BYTES // math.gcd(x_pixel, _WAY_BYTES)
    return -(-rows // sets)


@dataclass(frozen=True)
class Window:
    """Where a product reads and writes.

    rows: for each row of an image the byte offsets in x, y, other. taps: byte offsets. columns: pixels of a row. kc:
    elements a tap. steps: bytes from pixel to pixel in x, y, other. images: how many; strides: bytes from image to
    image in x, y, other. products: multiply-adds of one channel of the result, without those of padding and overlap.
    """

    rows: np.ndarray
    taps: Sequence[int]
    columns: int
    kc: int
    steps: tuple[int, int, int]
    images: int
    strides: tuple[int, int, int]
    x_row_bytes: int
    products: int


def runs(total: int, mr: int) -> tuple[np.ndarray, int]:
    """`total` pixels at equal distances cut into rows: (first pixel of each, pixels of each). The last row overlaps the
    one before: as many tiles a row as make the fewest tiles, a row costing as much as a tenth of one."""
    if total <= mr:
        return np.zeros(1, np.int64), total
    tiles = -(-total // mr)
    tiles_a_row = min(range(1, _MOST_RUN_TILES + 1), key=lambda each: -(-tiles // each) * (each + 0.1))
    columns = min(total, tiles_a_row * mr)
    rows = -(-total // columns)
    return np.minimum(np.arange(rows, dtype=np.int64) * columns, total - columns), columns


def row_block(rows: int, panels: int, x_row_bytes: int) -> int:
    """Rows in a block of work; blocks are as equal as can be, since threads share them."""
    block = max(1, min(rows, _BLOCK_BYTES // max(1, x_row_bytes)))
    while block > 1 and -(-rows // block) * panels < _LEAST_UNITS:
        block = -(-block // 2)
    return -(-rows // max(1, -(-rows // block)))


def product(
    s: NodeLowering,
    window: Window,
    tile: Tile,
    weight: Weight,
    bias: Weight | None,
    x: object,
    y: tuple[BufferHandle | BufferRef, int],
    other: object | None,
    channels: slice,
) -> None:
    """Append one product: `channels` of the result.

    weight: [channels, *rest], the rest in the order of the taps and, innermost, their kc elements (bytes: fewer, zeros
    are added). bias: [channels]. The multipliers come from the node's types.
    """
    outputs = weight.shape[0]
    panels = -(-outputs // tile.nr)
    rows, depth = window.images * len(window.rows), len(window.taps) * window.kc
    block = row_block(rows, panels, window.x_row_bytes)
    tiles = block * -(-window.columns // (tile.mr if window.columns >= tile.mr else 1))
    common = dict(
        x=x,
        y=y,
        other=other,
        rows=s.table(window.rows),
        row_total=rows,
        row_count=len(window.rows),
        row_block=block,
        columns=window.columns,
        x_image=window.strides[0],
        y_image=window.strides[1],
        other_image=window.strides[2],
        x_pixel=window.steps[0],
        y_pixel=window.steps[1],
        other_pixel=window.steps[2],
        kc=window.kc,
        panels=panels,
        channels=outputs,
        ahead=-(-tile.nr * 4 // max(1, tiles)),
        x_ahead=min(LINE, tile.mr * window.steps[0] * (4 if s.out.is_quantized else 1) // window.kc)
        if len(window.taps) == 1
        else 0,
        writes=("y",),
        disjoint=True,
        macs=window.products * outputs,
        bytes=(outputs * depth + s.operand(0).elements + s.result().elements) * s.result().dtype.itemsize,
    )
    static = {"mr": tile.mr, "nv": tile.nv, "residual": other is not None}
    if s.out.is_quantized:
        _product_u8(s, static, tile, weight, bias, window, channels, common)
        return
    if bias is None:
        bias = Weight(np.zeros(outputs, np.float32), None, f"no bias of {outputs}")
    s.call(
        kernels.conv_f32,
        static,
        w=weight.packed(s, tile.nr),
        bias=bias.packed(s, tile.nr),
        scale=None,
        taps=s.table(np.array(window.taps, np.int64)),
        tap_count=len(window.taps),
        stream=int(_is_streamed(s, window, y)),
        **activation_bounds(s),
        **common,
    )


def _is_streamed(s: NodeLowering, window: Window, y: tuple[BufferHandle | BufferRef, int]) -> bool:
    """Whether a float result goes past the caches: a large one of the arena, whose registers lie at multiples of their
    size."""
    buffer, offset = y
    if (
        not s.target.streams
        or s.result().elements * 4 < _STREAMED_BYTES
        or not isinstance(buffer, BufferHandle)
        or buffer.kind != "arena"
    ):
        return False
    return not (
        np.array([offset, window.steps[1], window.strides[1], *window.rows[:, 1]]) % s.target.vector_bytes
    ).any()


def activation_bounds(s: NodeLowering) -> dict[str, float]:
    """`low` and `high` of a float result's fused activation."""
    low, high = {"none": (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}[s.attrs["activation"]]
    return {"low": low, "high": high}


def _product_u8(
    s: NodeLowering,
    static: dict[str, object],
    tile: Tile,
    weight: Weight,
    bias: Weight | None,
    window: Window,
    channels: slice,
    common: dict[str, object],
) -> None:
    array, taps, depth = weight.array, len(window.taps), s.target.dot_depth
    kc = -(-window.kc // depth) * depth
    terms = requantize_terms(s, array, None if bias is None else bias.array, channels, weight.role)
    times = (
        1
        if array.dtype == np.int8
        else s.memo(f"{weight.role}.parts", lambda: np.array([len(byte_parts(array))])).item()
    )
    pairs = s.memo(f"{weight.role}.pairs {kc}", lambda: np.array(_pairs_safe(s, array, taps, kc, times))).item()
    order = kernels.channel_order(s.target, tile.nv)
    nr, panels, groups = len(order), -(-len(array) // len(order)), taps * kc * times // depth
    wide = widens(s.target, pairs)
    shape = (panels, groups, tile.nv, 2, nr // tile.nv, 2) if wide else (panels, groups, nr, depth)
    if wide:
        common["ahead"] *= 2

    def pack(into: np.ndarray) -> None:
        at_once = max(1, _PACK_BYTES // max(1, nr * taps * kc))
        for panel in range(0, panels if taps else 0, at_once):
            summands = byte_parts(_by_taps(array[panel * nr : (panel + at_once) * nr], taps, kc), times)
            part, codes = into[panel : panel + at_once], np.concatenate(summands, axis=1) if times > 1 else summands[0]
            if not wide:
                kernels.pack_bytes(part, codes, order)
                continue
            packed = np.empty((len(part), groups, nr, depth), np.int8)
            kernels.pack_bytes(packed, codes, order)
            kernels.widen(part, packed)

    def pack_start(into: np.ndarray) -> None:
        into[:] = kernels.pack_channels(terms.start, order)
        forget_pages(s.constant(1))

    chosen = {"pairs": pairs, "saturates": s.target.pack_saturates and terms.is_plain}
    s.call(
        kernels.conv_u8,
        {**static, "proven": terms.proven, **{name: True for name, holds in chosen.items() if holds}},
        w=s.filled(f"{weight.role} {tile} {taps} {kc} {wide}", shape, np.int16 if wide else np.int8, pack),
        bias=s.filled(f"{s.node.name}, {weight.role}.start {tile}", (panels * nr,), np.int32, pack_start),
        scale=s.packed(f"{weight.role}.scale {tile}", lambda: kernels.pack_channels(terms.multiplier, order)),
        taps=s.table(np.array(list(window.taps) * times, np.int64)),
        tap_count=taps * times,
        **terms.arguments,
        **common,
    )


def _by_taps(codes: np.ndarray, taps: int, kc: int) -> np.ndarray:
    """[O, *rest] -> [O, taps * kc], zeros behind each tap's elements."""
    codes = codes.reshape(len(codes), taps, -1)
    codes = np.pad(codes, ((0, 0), (0, 0), (0, kc - codes.shape[2]))) if kc != codes.shape[2] else codes
    return codes.reshape(len(codes), taps * kc)


def _pairs_safe(s: NodeLowering, codes: np.ndarray, taps: int, kc: int, times: int) -> bool:
    """Whether products may be added in pairs, see `Target.pairwise_dot_is_exact`."""
    if not s.target.has_pairwise_dot or not codes.size:
        return False
    given = any(value.type.is_quantized for value in s.node.graph.inputs)  # a caller's codes may lie beyond qmax
    highest = 255 if given else s.type(0).quant.qmax
    return all(s.target.pairwise_dot_is_exact(part, highest) for part in byte_parts(_by_taps(codes, taps, kc), times))


def tiles_of(s: NodeLowering) -> Sequence[tuple[int, int]]:
    """The target's tiles for this node's arithmetic."""
    return s.target.gemm_tiles if s.out.is_quantized else s.target.gemm_tiles_f32


def lanes_of(s: NodeLowering) -> int:
    return s.target.i32_lanes if s.out.is_quantized else s.target.f32_lanes


def shifted(place: TensorView, nbytes: int) -> tuple[BufferHandle | BufferRef, int]:
    """The place's pointer, some bytes further."""
    buffer, offset = place.pointer
    return buffer, offset + nbytes
