"""Lowers conv over all channels, or over groups of them. Depthwise convolution has its own rule, in `depthwise`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.kernels.copy import PadRows, pad_rows
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.tiles import Tile, lanes_of, product_tile, run_columns
from qcompiler.backends.lowering.views import SLACK, TensorView, layout_strides
from qcompiler.backends.lowering.why_not import CODES
from qcompiler.backends.rules.convert import zero_point
from qcompiler.backends.rules.gemm import (
    Distances,
    FixedRows,
    ProductCall,
    RunRows,
    Window,
    append_product,
    is_of_codes,
)
from qcompiler.backends.rules.planes import byte_planes
from qcompiler.backends.rules.weights import Weight
from qcompiler.backends.rules.winograd import Winograd, why_not_winograd
from qcompiler.backends.target import Target
from qcompiler.dims import DimLike
from qcompiler.ir import Const, Node
from qcompiler.ops.conv import Conv, ConvTranspose
from qcompiler.ops.interfaces import Weighted
from qcompiler.passes.assign_layout import AssignLayout
from qcompiler.traced_size import computed
from qcompiler.types import DType, Layout

Pairs = Sequence[tuple[int, int]]
MOST_PRODUCTS = 4096
"""The most groups of a convolution whose groups have steps of their own."""
MOST_TAPS = 32
"""Windows of at most this many tap rows and columns are unrolled by the depthwise kernels."""


def why_not_weighted(node: Node, target: Target) -> str | None:
    """Why no product kernel serves a weighted node, or None.

    Kernels take f32, or codes of u8 or i16 with an eight-bit constant weight and a constant bias; these give u8, i16
    or f32, and read a residual of u8 or i16, or where they give f32 of f32.
    """
    op = Weighted.of(node)
    if op is None:
        return f"{node.op} has no weights"
    x, weight, out = op.x.type, op.weight.type, node.result.type
    if not x.is_quantized:
        if x.dtype is not DType.F32 or weight.dtype is not DType.F32:
            return f"{x} and {weight} are not f32"
        return None if weight.is_static else f"{weight} has symbolic sizes"
    if not isinstance(op.weight, Const) or not isinstance(op.bias, Const | None):
        return "weights or bias are not constant"
    wanted = CODES if out.is_quantized else (DType.F32,)
    if x.dtype not in CODES or out.dtype not in wanted or weight.dtype not in (DType.I8, DType.U8):
        return f"{x}, {weight}, {out} are not u8 or i16, i8 or u8, {' or '.join(map(str, wanted))}"
    results = CODES if out.is_quantized else (*CODES, DType.F32)
    if op.added is None or op.added.type.dtype in results:
        return None
    return f"{op.added.type} is not {' or '.join(map(str, results))}"


def unrolls_as_depthwise(op: Conv | ConvTranspose) -> bool:
    """Whether the depthwise kernels fit: each filter sees one channel, the window is small enough to be unrolled, and
    the pixels are not words.

    `Conv.is_depthwise`, which decides whether the op wants a halo, has no limit of size.
    """
    weight, groups = op.weight.type, op.groups
    if groups == 1 or not weight.is_static or op.x.type.dtype is DType.I16:
        return False
    *others, columns = weight.sizes[2:]
    sees_one = weight.shape[0 if isinstance(op, ConvTranspose) else 1] == 1
    return sees_one and math.prod(others) <= MOST_TAPS and columns <= MOST_TAPS


def why_not_products(op: Conv | ConvTranspose, target: Target) -> str | None:
    """Why no products serve a convolution whose filters see several channels, or None."""
    if op.groups > MOST_PRODUCTS:
        return f"each of its {op.groups} groups is a product, and kernels run for at most {MOST_PRODUCTS}"
    return why_not_weighted(op.node, target)


def _why_not_dense(node: Node, target: Target) -> str | None:
    """Why a conv is not one of f32 or u8 whose filters see several channels, or None."""
    return "depthwise" if unrolls_as_depthwise(Conv(node)) else why_not_products(Conv(node), target)


def padded(s: NodeLowering, op: Conv | ConvTranspose, x: TensorView, padding: Pairs, channel_stride: int) -> TensorView:
    """x with a border of real zero: x itself if its halo suffices, otherwise a copy.

    x: the first operand [N, C, *S], channels last. channel_stride: the channel stride that the padded x shall have:
    that of x, or C if x has one of four bytes.
    """
    if all(pair == (0, 0) for pair in padding):
        return x
    layout, (images, channels, *spatial) = op.x.type.layout, x.shape
    shape = (images, channels, *(n + before + after for n, (before, after) in zip(spatial, padding)))
    check_rows(s, shape)
    if (
        x is s.view(op.x)
        and layout is not None
        and layout.halo
        and channel_stride == layout.channel_stride
        and all(have[0] >= want[0] and have[1] >= want[1] for have, want in zip(layout.halo, padding))
    ):
        return x.moved(-sum(before * stride for (before, _), stride in zip(padding, x.strides[2:])), shape, x.strides)
    size = x.dtype.itemsize
    y = TensorView(
        s.scratch(images * math.prod(shape[2:]) * channel_stride * size + SLACK, "padded"),
        x.dtype,
        shape,
        layout_strides(shape, size, Layout("channels_last", channel_stride)),
    )
    rows: np.ndarray = np.zeros((), np.int64)
    inside: np.ndarray = np.ones((), bool)
    for n, stride, count, (before, _) in zip(spatial[:-1], x.strides[2:], shape[2:], padding):
        source = np.arange(count) - before
        rows, inside = np.add.outer(rows, source * stride), np.logical_and.outer(inside, (source >= 0) & (source < n))
    rows = np.where(inside, rows, -1).reshape(-1)
    fill = zero_point(op.x.type) if op.x.type.is_quantized else 0
    before, after = padding[-1]
    s.call(
        pad_rows(itemsize=size, channels=0 if x.strides[-1] == channel_stride * size else channels),
        PadRows(
            x=x,
            rows=s.stored(rows),
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


_ROW_BYTES = 64
"""Bytes that lowering needs for one row of pixels: a few offsets as i64, and their copy among the constants."""
_TAP_BYTES = 128
"""Bytes that lowering needs for one tap: a tuple of ints and their sum."""


def list_bytes(count: int) -> int:
    """Bytes of a list of `count` ints, and of their copies as i64."""
    return 128 + 48 * count


def check_rows(s: NodeLowering, shape: Sequence[int], row_bytes: int = _ROW_BYTES) -> None:
    """LoweringError if a table of the rows of an image [N, C, *S] takes too much memory. row_bytes: of one row."""
    s.check_table(math.prod(shape[2:-1]), row_bytes)


def check_taps(s: NodeLowering, weight: Weight) -> None:
    """LoweringError if a table of the taps of a window takes too much memory. weight: [O, C, *K], which a caller may
    give."""
    s.check_table(math.prod(weight.shape[2:]), _TAP_BYTES)


def is_run(view: TensorView) -> bool:
    """Whether the pixels of an image lie at equal distances."""
    return all(stride == n * inner for stride, n, inner in zip(view.strides[2:], view.shape[3:], view.strides[3:]))


def offsets_of(sizes: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """The offset of each element of a grid, in row-major order, as i64."""
    offsets = np.zeros((), np.int64)
    for size, stride in zip(sizes, strides):
        offsets = np.add.outer(offsets, np.arange(size, dtype=np.int64) * stride)
    return offsets.reshape(-1)


def channels_of(op: Conv | ConvTranspose) -> int:
    """The number of channels of x, which is static."""
    channels = op.x.type.shape[1]
    assert isinstance(channels, int)
    return channels


def channel_stride_of(s: NodeLowering, op: Conv | ConvTranspose) -> int:
    """The channel stride, in elements, that a product wants of its operand."""
    return stored_channels(channels_of(op), op.x.type.dtype)


def stored_channels(channels: int, dtype: DType) -> int:
    """The distance in elements between two pixels of a channels-last value: bytes are padded to a multiple."""
    multiple = AssignLayout.channel_multiple if dtype.bits == 8 else 1
    return -(-channels // multiple) * multiple


def residual_of(s: NodeLowering, op: Conv) -> TensorView | None:
    """The residual, channels last, with the gap after its channels that values of its element type have."""
    if op.residual is None:
        return None
    channels = s.out.shape[1]
    assert isinstance(channels, int)  # that of the weight, which is constant
    return s.channels_last(op.residual, stored_channels(channels, op.residual.type.dtype))


def compacts_pixels(s: NodeLowering, op: Conv, weight: Weight) -> bool:
    """Whether to copy pixels of up to three bytes side by side, so that a window's row takes fewer products."""
    channels, stride, kw = channels_of(op), channel_stride_of(s, op), weight.shape[-1]
    return (
        op.dilation[-1] == 1
        and op.groups == 1
        and stride == 4
        and is_of_codes(s)
        and any(map(any, op.padding))
        and -(-channels * kw // 4) * 4 < stride * kw
    )


def merged_groups(s: NodeLowering, op: Conv | ConvTranspose, per_group: int, outputs: int) -> int:
    """How many groups of `per_group` channels and `outputs` results one product takes, with zero weights between them.

    Merging pays off for bytes, because a dot product takes four of them. Floats are not merged, because zero times
    infinity is not zero.
    """
    groups = op.groups
    if not is_of_codes(s):
        return 1
    lanes = lanes_of(s.target, quantized=True)

    def cost(merge: int) -> tuple[int, int]:
        return -(-merge * outputs // lanes) * -(-merge * per_group // 4) * (groups // merge), -merge

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
    """The pixels of a window.

    Attributes:
        offsets: byte offsets in x along each axis.
        pixel: bytes from pixel to pixel along the last axis of x.
    """

    offsets: tuple[tuple[int, ...], ...]
    pixel: int

    def of(self, kc: int, itemsize: int) -> tuple[list[int], int]:
        """(the byte offset of each tap, the elements of a tap) for kc channels of a pixel.

        The pixels of a window's row form one tap if they are adjacent in memory.
        """
        *rows, last = self.offsets
        if len(last) > 1 and kc * itemsize == self.pixel and all(b - a == self.pixel for a, b in zip(last, last[1:])):
            return [sum(place) + last[0] for place in itertools.product(*rows)], kc * len(last)
        return [sum(place) for place in itertools.product(*self.offsets)], kc


@dataclass(frozen=True)
class Pixels:
    """Pixels of the result, cut into rows of pixels at equal distances.

    Attributes:
        rows: for each row of an image the byte offsets of its first pixel in x, y and the residual.
        columns: pixels of a row.
        static_columns: `columns`, or the symbolic size that decides it.
        stride: the distances from pixel to pixel.
        is_flat: whether the pixels of an image are at equal distances, so that it can be cut into rows anywhere.
    """

    rows: np.ndarray
    columns: int
    static_columns: DimLike
    stride: Distances
    is_flat: bool = False

    def cut(self, s: NodeLowering, tile: Tile) -> tuple[FixedRows | RunRows, int]:
        """(rows, columns) after cutting for a tile."""
        if not self.is_flat:
            return FixedRows(self.rows), self.columns
        s.check_table(self.columns // tile.mr, _ROW_BYTES)
        columns = computed(run_columns, self.columns, tile.mr)
        return RunRows(self.columns, columns, self.stride), columns


def convolve(
    s: NodeLowering,
    op: Conv | ConvTranspose,
    x: TensorView,
    residual: TensorView | None,
    weight: Weight,
    taps: Taps,
    pixels: Pixels,
    low_plane: int = 0,
) -> None:
    """Append the products that compute some pixels of the result. weight: [O, C/groups, *K], K in the order of the
    taps. low_plane: see `ProductCall`."""
    y, size, quantized = s.result(), x.dtype.itemsize, is_of_codes(s)
    per_group = weight.shape[1]
    bias = None if op.bias is None else Weight.of(s, op.bias)
    merge = merged_groups(s, op, per_group, weight.shape[0] // op.groups)
    parts = op.groups // merge
    kc, outputs = per_group * merge if parts > 1 else taps.pixel // size, weight.shape[0] // parts
    tap_list, tap_elements = taps.of(kc, size)
    tile = product_tile(
        s.target, quantized, pixels.static_columns, outputs, pixels.stride.x, len(tap_list) * tap_elements
    )
    rows, columns = pixels.cut(s, tile)
    window = Window(
        rows=rows,
        columns=columns,
        taps=tap_list,
        kc=-(-tap_elements // 4) * 4 if quantized else tap_elements,
        images=y.shape[0],
        image=Distances(x.strides[0], y.strides[0], residual.strides[0] if residual else 0),
        pixel=pixels.stride,
        x_row_bytes=columns * pixels.stride.x if pixels.is_flat else x.strides[-2 if len(x.shape) > 3 else 0],
        products=y.shape[0] * len(pixels.rows) * pixels.columns * math.prod(weight.shape[1:]),
    )
    for part in range(parts):
        chosen = slice(part * outputs, (part + 1) * outputs)

        def take(array: np.ndarray, chosen: slice = chosen) -> np.ndarray:
            rows = array[chosen] if merge == 1 else block_diagonal(array[chosen], merge)
            if quantized and kc != rows.shape[1]:
                rows = np.pad(rows, ((0, 0), (0, kc - rows.shape[1]), *((0, 0),) * (rows.ndim - 2)))
            return np.moveaxis(rows, 1, -1)

        def take_bias(array: np.ndarray, chosen: slice = chosen) -> np.ndarray:
            return array[chosen]

        product = ProductCall(
            window=window,
            tile=tile,
            x=x,
            x_start=part * merge * per_group * size,
            residual=None if residual is None else residual.shifted(part * outputs * residual.dtype.itemsize),
            y=y.shifted(part * outputs * y.dtype.itemsize),
            weight=weight.taken(part if kc == per_group * merge else f"{part} in {kc}", take),
            bias=None if bias is None else bias.taken(part, take_bias),
            channels=chosen,
            low_plane=low_plane,
        )
        append_product(s, op, product)


@lowers("conv", unless=_why_not_dense, strided=lambda node: True)
def convolution(s: NodeLowering) -> None:
    conv = Conv(s.node)
    y, weight, channel_stride = s.result(), Weight.of(s, conv.weight), channel_stride_of(s, conv)
    check_taps(s, weight)
    check_rows(s, y.shape)
    x = s.channels_last(conv.x, channel_stride)
    x = padded(s, conv, x, conv.padding, channels_of(conv) if compacts_pixels(s, conv, weight) else channel_stride)
    residual = residual_of(s, conv)
    if is_of_codes(s) and why_not_winograd(s, conv, weight) is None:
        Winograd(s, conv, x, residual, weight).append()
        return
    x, low_plane = byte_planes(s, x)
    offsets = tuple(
        tuple(k * dilation * stride for k in range(n))
        for n, dilation, stride in zip(weight.shape[2:], conv.dilation, x.strides[2:])
    )
    views = (x, y, residual or y)
    is_pointwise = all(k == 1 for k in weight.shape[2:]) and all(stride == 1 for stride in conv.stride)
    is_flat = is_pointwise and all(map(is_run, views))
    if is_flat:
        rows, columns, static_columns = np.zeros((1, 3), np.int64), math.prod(y.shape[2:]), math.prod(s.out.shape[2:])
    else:
        sizes, ones = y.shape[2:-1], (1,) * len(y.shape[2:-1])
        starts = [
            offsets_of(sizes, [stride * times for stride, times in zip(view.strides[2:], strides)])
            for view, strides in zip(views, (conv.stride, ones, ones))
        ]
        rows, columns, static_columns = np.stack(starts, axis=1), y.shape[-1], s.out.shape[-1]
    stride = Distances(x.strides[-1] * conv.stride[-1], y.strides[-1], (residual or y).strides[-1])
    pixels = Pixels(rows, columns, static_columns, stride, is_flat)
    convolve(s, conv, x, residual, weight, Taps(offsets, x.strides[-1]), pixels, low_plane)
