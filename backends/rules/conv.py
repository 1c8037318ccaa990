"""conv over all channels or groups of them; depthwise convolution has a rule of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.kernels.copy import PadRows, pad_rows
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView, layout_strides
from qcompiler.backends.rules.convert import zero_point
from qcompiler.backends.rules.gemm import Tile, Window, choose_tile, lanes_of, product, runs, shifted, tiles_of
from qcompiler.backends.rules.weights import Weight
from qcompiler.backends.target import Target
from qcompiler.dims import DimLike
from qcompiler.ir import Const, Node
from qcompiler.types import DType, Layout

Pairs = Sequence[tuple[int, int]]
MOST_TAPS = 32
"""Rows and columns of a depthwise window that are unrolled."""


def not_conv(node: Node, target: Target) -> str | None:
    """Fits f32, and u8 with constant weights of eight bits and constant biases."""
    x, weight, out = node.operands[0].type, node.operands[1].type, node.result.type
    if not out.is_quantized:
        if x.dtype is not DType.F32 or weight.dtype is not DType.F32:
            return f"{x} and {weight} are not f32"
        return None if weight.is_static else f"{weight} has symbolic sizes"
    if any(not isinstance(v, Const) for v in node.operands[1:3] if v is not None):
        return "weights or bias are not constant"
    if x.dtype is not DType.U8 or out.dtype is not DType.U8 or weight.dtype not in (DType.I8, DType.U8):
        return f"{x}, {weight}, {out} are not u8, i8 or u8, u8"
    residual = node.operands[3] if len(node.operands) > 3 else None
    return None if residual is None or residual.type.dtype is DType.U8 else f"{residual.type} is not u8"


def is_depthwise(node: Node) -> bool:
    """One channel a filter, and a window that unrolls."""
    weight, groups = node.operands[1].type, node.attrs["groups"]
    if (
        groups == 1
        or not weight.is_static
        or (weight.shape[0] != groups if node.op == "conv_transpose" else weight.shape[1] != 1)
    ):
        return False
    return math.prod(weight.shape[2:-1]) <= MOST_TAPS and weight.shape[-1] <= MOST_TAPS


def _not_dense(node: Node, target: Target) -> str | None:
    return "depthwise" if is_depthwise(node) else not_conv(node, target)


def padded(s: NodeLowering, x: TensorView, padding: Pairs, channel_stride: int) -> TensorView:
    """x [N, C, *S], the first operand, channels last, in a border of real zero: its halo, or a copy. channel_stride: of
    the result, as that of x, or C where that of x is four bytes."""
    if all(pair == (0, 0) for pair in padding):
        return x
    layout, (images, channels, *spatial) = s.type(0).layout, x.shape
    shape = (images, channels, *(n + before + after for n, (before, after) in zip(spatial, padding)))
    in_halo = x is s.operand(0) and layout is not None and layout.halo and channel_stride == layout.channel_stride
    if in_halo and all(have[0] >= want[0] and have[1] >= want[1] for have, want in zip(layout.halo, padding)):
        return x.moved(-sum(before * step for (before, _), step in zip(padding, x.strides[2:])), shape, x.strides)
    size = x.dtype.itemsize
    y = TensorView(
        s.scratch(images * math.prod(shape[2:]) * channel_stride * size + 64, "padded"),
        x.dtype,
        shape,
        layout_strides(shape, size, Layout("channels_last", channel_stride)),
    )
    rows, inside = np.zeros((), np.int64), np.ones((), bool)
    for n, stride, count, (before, _) in zip(spatial[:-1], x.strides[2:], shape[2:], padding):
        source = np.arange(count) - before
        rows, inside = np.add.outer(rows, source * stride), np.logical_and.outer(inside, (source >= 0) & (source < n))
    rows = np.where(inside, rows, -1).reshape(-1)
    fill = zero_point(s.type(0)) if s.type(0).is_quantized else 0
    before, after = padding[-1]
    s.call(
        pad_rows(itemsize=size, channels=0 if x.strides[-1] == channel_stride * size else channels),
        PadRows(
            x=x,
            rows=s.table(rows),
            y=y,
            row_total=images * len(rows),
            row_count=len(rows),
            x_image=x.strides[0],
            y_image=y.strides[0],
            y_row=shape[-1] * channel_stride * size,
            before=before * channel_stride,
            inside=spatial[-1] * channel_stride,
            after=after * channel_stride,
            fill=fill,
        ),
        bytes=2 * images * y.strides[0],
    )
    return y


def is_run(place: TensorView) -> bool:
    """Whether the pixels of an image lie at equal distances."""
    return all(step == n * inner for step, n, inner in zip(place.strides[2:], place.shape[3:], place.strides[3:]))


def offsets_of(sizes: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """i64: the offset of each element of a grid, in order."""
    offsets = np.zeros((), np.int64)
    for size, stride in zip(sizes, strides):
        offsets = np.add.outer(offsets, np.arange(size, dtype=np.int64) * stride)
    return offsets.reshape(-1)


def channel_stride_of(s: NodeLowering) -> int:
    """Elements from pixel to pixel that a product wants of its operand."""
    channels = s.type(0).shape[1]
    return -(-channels // 4) * 4 if s.out.is_quantized else channels


def closes_pixels(s: NodeLowering, weight: Weight) -> bool:
    """Whether pixels of up to three bytes should lie side by side: then a window's row takes fewer products."""
    channels, stride, kw = s.type(0).shape[1], channel_stride_of(s), weight.shape[-1]
    side_by_side = s.attrs["dilation"][-1] == 1 and s.attrs["groups"] == 1 and stride == 4
    return (
        side_by_side
        and s.out.is_quantized
        and any(map(any, s.attrs["padding"]))
        and -(-channels * kw // 4) * 4 < stride * kw
    )


def merged_groups(s: NodeLowering, per_group: int, outputs: int) -> int:
    """How many groups one product takes, of so many channels and outputs each; what lies between them are zero weights.

    Bytes are dotted by fours. Floats are not merged: zero times infinity is not zero.
    """
    groups = s.attrs["groups"]
    if not s.out.is_quantized:
        return 1

    def cost(merge: int) -> tuple[int, int]:
        return -(-merge * outputs // lanes_of(s)) * -(-merge * per_group // 4) * (groups // merge), -merge

    return min(
        (m for m in range(1, groups + 1) if groups % m == 0 and (m * per_group % 4 == 0 or m == groups)), key=cost
    )


def block_diagonal(weight: np.ndarray, groups: int) -> np.ndarray:
    """[O, C, *K] of `groups` groups -> [O, C * groups, *K] with zeros between the groups."""
    outputs, per_group = weight.shape[:2]
    dense = np.zeros((outputs, per_group * groups, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        rows = slice(group * outputs // groups, (group + 1) * outputs // groups)
        dense[rows, group * per_group : (group + 1) * per_group] = weight[rows]
    return dense


@dataclass(frozen=True)
class Taps:
    """Byte offsets in x of a window's pixels, along each axis. pixel: bytes from pixel to pixel along the last axis of
    x."""

    offsets: tuple[tuple[int, ...], ...]
    pixel: int

    def of(self, kc: int, itemsize: int) -> tuple[list[int], int]:
        """(the taps, elements of each) for kc channels a pixel: the pixels of a window's row are one tap if they are
        one run in memory."""
        *rows, last = self.offsets
        if len(last) > 1 and kc * itemsize == self.pixel and all(b - a == self.pixel for a, b in zip(last, last[1:])):
            return [sum(place) + last[0] for place in itertools.product(*rows)], kc * len(last)
        return [sum(place) for place in itertools.product(*self.offsets)], kc


@dataclass(frozen=True)
class Pixels:
    """Output pixels at equal distances in rows.

    rows: for each row of an image the byte offsets of its first pixel in x, y, other; columns: pixels of a row;
    static_columns: the same where no symbolic size has a say in it; steps: bytes from pixel to pixel in x, y, other.
    flat: an image is one run of pixels, to be cut into rows freely.
    """

    rows: np.ndarray
    columns: int
    static_columns: DimLike
    steps: tuple[int, int, int]
    flat: bool = False


def convolve(
    s: NodeLowering, x: TensorView, other: TensorView | None, weight: Weight, taps: Taps, pixels: Pixels
) -> None:
    """Append the products that make some pixels of the result. weight: [O, C/groups, *K] as the taps go."""
    y, size, per_group = s.result(), s.result().dtype.itemsize, weight.shape[1]
    bias = Weight.of(s, 2)
    merge = merged_groups(s, per_group, weight.shape[0] // s.attrs["groups"])
    parts = s.attrs["groups"] // merge
    kc, outputs = per_group * merge if parts > 1 else taps.pixel // size, weight.shape[0] // parts
    tap_list, tap_elements = taps.of(kc, size)
    tile = choose_tile(tiles_of(s), lanes_of(s), pixels.static_columns, outputs, pixels.steps[0])
    rows, columns = _cut(pixels, tile)
    strides = tuple(place.strides[0] if place else 0 for place in (x, y, other))
    row_bytes = columns * pixels.steps[0] if pixels.flat else x.strides[-2] if len(x.shape) > 3 else x.strides[0]
    products = y.shape[0] * len(pixels.rows) * pixels.columns * math.prod(weight.shape[1:])
    if s.out.is_quantized:
        tap_elements = -(-tap_elements // 4) * 4
    window = Window(rows, tap_list, columns, tap_elements, pixels.steps, y.shape[0], strides, row_bytes, products)
    for part in range(parts):
        chosen = slice(part * outputs, (part + 1) * outputs)

        def take(array: np.ndarray, chosen: slice = chosen) -> np.ndarray:
            rows = array[chosen] if merge == 1 else block_diagonal(array[chosen], merge)
            if s.out.is_quantized and kc != rows.shape[1]:
                rows = np.pad(rows, ((0, 0), (0, kc - rows.shape[1]), *((0, 0),) * (rows.ndim - 2)))
            return np.moveaxis(rows, 1, -1)

        product(
            s,
            window,
            tile,
            weight.taken(part, take),
            None if bias is None else bias.taken(part, lambda a, c=chosen: a[c]),
            shifted(x, part * merge * per_group * size),
            shifted(y, part * outputs * size),
            None if other is None else shifted(other, part * outputs * size),
            chosen,
        )


def _cut(pixels: Pixels, tile: Tile) -> tuple[np.ndarray, int]:
    if not pixels.flat:
        return pixels.rows, pixels.columns
    starts, columns = runs(pixels.columns, tile.mr)
    return np.stack([starts * step for step in pixels.steps], axis=1), columns


@lowers("conv", unless=_not_dense, strided=lambda node: True)
def convolution(s: NodeLowering) -> None:
    stride, y, weight = channel_stride_of(s), s.result(), Weight.of(s, 1)
    x = padded(
        s, s.channels_last(0, stride), s.attrs["padding"], s.type(0).shape[1] if closes_pixels(s, weight) else stride
    )
    other = s.channels_last(3, s.out.layout.channel_stride) if s.has(3) else None
    offsets = tuple(
        tuple(k * d * step for k in range(n))
        for n, d, step in zip(weight.shape[2:], s.attrs["dilation"], x.strides[2:])
    )
    places = (x, y, other or y)
    steps = tuple(place.strides[-1] * times for place, times in zip(places, (s.attrs["stride"][-1], 1, 1)))
    if (
        all(k == 1 for k in weight.shape[2:])
        and all(step == 1 for step in s.attrs["stride"])
        and all(map(is_run, (x, y, other or y)))
    ):
        pixels = Pixels(
            np.zeros((1, 3), np.int64), math.prod(y.shape[2:]), math.prod(s.out.shape[2:]), steps, flat=True
        )
    else:
        sizes, stay = y.shape[2:-1], (1,) * len(y.shape[2:-1])
        starts = [
            offsets_of(sizes, [step * times for step, times in zip(each.strides[2:], strides)])
            for each, strides in zip(places, (s.attrs["stride"], stay, stay))
        ]
        pixels = Pixels(np.stack(starts, axis=1), y.shape[-1], s.out.shape[-1], steps)
    convolve(s, x, other, weight, Taps(offsets, x.strides[-1]), pixels)
