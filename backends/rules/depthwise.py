"""Depthwise convolution: every filter sees one channel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.kernels import depthwise as kernels
from qcompiler.backends.kernels.conv import pack_channels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import SLACK, TensorView, layout_strides, storage_bytes
from qcompiler.backends.rules.conv import is_depthwise, not_conv
from qcompiler.backends.rules.convert import zero_point
from qcompiler.backends.rules.gemm import activation_bounds
from qcompiler.backends.rules.movement import geometry, part_of, split_axis
from qcompiler.backends.rules.requantize import requantize_terms
from qcompiler.backends.rules.weights import Weight, byte_parts
from qcompiler.backends.target import Target
from qcompiler.dims import DimLike
from qcompiler.ir import Node


def _not_depthwise(node: Node, target: Target) -> str | None:
    return not_conv(node, target) if is_depthwise(node) else "not one channel a filter"


def _fills_pixels(node: Node) -> bool:
    """Whether the result's channels leave no gap behind them: kernels of bytes write it too."""
    return node.result.type.layout.channel_stride == node.result.type.shape[1]


@dataclass(frozen=True)
class Lines:
    """Rows of output pixels, and where the windows of their first pixels lie.

    rows: for each row of an image the pixels in y that it starts at, as (byte offset in y, in the residual), then the
    byte offset in x of each row of taps, -1 outside. columns: pixels of a row; static_columns: the same where no
    symbolic size has a say in it. stride, dilation: along the row; before: pixels of the first window before the
    operand; spread: pixels of y from one to the next.
    """

    rows: Sequence[Sequence[int]]
    columns: int
    static_columns: DimLike
    stride: int
    dilation: int
    before: int
    spread: int = 1


def repeated_channels(s: NodeLowering, times: int) -> TensorView:
    """The operand, channels last in the stride of the result, each channel `times` times; a register may be read past
    its end."""
    layout = s.out.layout
    if times == 1:
        return s.channels_last_in_arena(0, layout.channel_stride)
    x = s.operand(0)
    shape = (x.shape[0], x.shape[1] * times, *x.shape[2:])
    size = x.dtype.itemsize
    y = TensorView(
        s.scratch(storage_bytes(shape, size, layout) + SLACK, "repeated"),
        x.dtype,
        shape,
        layout_strides(shape, size, layout),
    )
    target = split_axis(geometry(y), 1, x.shape[1], times)
    s.copy(part_of(x, np.broadcast_to(np.expand_dims(geometry(x), 2), target.shape)), part_of(y, target))
    return y


def filter_channels(s: NodeLowering, x: TensorView, other: TensorView | None, weight: Weight, lines: Lines) -> None:
    """Append the call that makes some rows of pixels of the result. weight: [C, *rows of taps, columns of taps]."""
    y, stride = s.result(), s.out.layout.channel_stride
    channels, *taps_along, kw = weight.shape
    taps, quantized = math.prod(taps_along), s.out.is_quantized
    block = s.target.vector_bytes if quantized else s.target.f32_lanes
    parts = 1
    if quantized:
        matrix = weight.array.reshape(channels, taps, kw)
        parts = s.memo(f"{weight.role}.parts", lambda: np.array([len(byte_parts(matrix))])).item()
    table = np.array([[*row[:2], *list(row[2:]) * parts] for row in lines.rows], np.int64)
    static = {
        "taps": taps * parts,
        "kw": kw,
        "stride": lines.stride,
        "dilation": lines.dilation,
        "mr": _tile(s, lines),
        "residual": other is not None,
    }
    fill = zero_point(s.type(0)) if quantized else 0
    common = dict(
        x=x,
        rows=s.table(table),
        border=s.table(np.full(x.shape[-1] * stride + SLACK, fill, y.dtype)),
        other=other,
        y=y,
        row_total=y.shape[0] * len(table),
        row_count=len(table),
        columns=lines.columns,
        width=x.shape[-1],
        before=lines.before,
        x_image=x.strides[0],
        y_image=y.strides[0],
        other_image=other.strides[0] if other else 0,
        x_pixel=x.strides[-1],
        y_pixel=y.strides[-1] * lines.spread,
        other_pixel=other.strides[-1] if other else 0,
        blocks=-(-channels // block),
        channels=stride if quantized else channels,
        writes=("y",),
        disjoint=True,
        macs=y.shape[0] * len(table) * lines.columns * channels * taps * kw,
        bytes=(x.elements + y.elements) * y.dtype.itemsize,
    )
    bias = Weight.of(s, 2)
    if not quantized:
        if bias is None:
            bias = Weight(np.zeros(channels, np.float32), None, "no bias")
        columns_first = weight.taken("columns", lambda array: np.moveaxis(array, -1, 1))
        s.call(
            kernels.depthwise_f32,
            static,
            w=columns_first.packed(s, block),
            bias=bias.packed(s, block),
            scale=None,
            **activation_bounds(s),
            **common,
        )
        return
    order = kernels.quad_order(s.target)
    terms = requantize_terms(s, matrix, None if bias is None else bias.array, slice(0, channels), weight.role)
    s.call(
        kernels.depthwise_u8,
        {**static, "proven": terms.proven},
        w=s.packed(
            f"{weight.role}.weight",
            lambda: kernels.pack_depthwise_bytes(np.concatenate(byte_parts(matrix), axis=1), order),
        ),
        bias=s.packed(f"{weight.role}.start", lambda: pack_channels(terms.start, order)),
        scale=s.packed(f"{weight.role}.scale", lambda: pack_channels(terms.multiplier, order)),
        **terms.arguments,
        **common,
    )


def _tile(s: NodeLowering, lines: Lines) -> int:
    """Pixels of a tile: as many as registers allow, and no more than a row has."""
    most = 4 if s.target.register_count >= 32 or not s.out.is_quantized else 2
    columns = lines.static_columns
    return max(1, min(most, columns)) if isinstance(columns, int) else most


@lowers("conv", unless=_not_depthwise, strided=_fills_pixels)
def depthwise(s: NodeLowering) -> None:
    weight, y = Weight.of(s, 1), s.result()
    x = repeated_channels(s, weight.shape[0] // s.attrs["groups"])
    other = s.channels_last(3, s.out.layout.channel_stride) if s.has(3) else None
    kernel, stride, dilation, padding = weight.shape[2:-1], s.attrs["stride"], s.attrs["dilation"], s.attrs["padding"]
    rows = []
    for place in itertools.product(*(range(n) for n in y.shape[2:-1])):
        row = [sum(p * step for p, step in zip(place, each.strides[2:])) for each in (y, other or y)]
        for tap in itertools.product(*(range(k) for k in kernel)):
            at = [p * st + t * d - pad[0] for p, st, t, d, pad in zip(place, stride, tap, dilation, padding)]
            row.append(row_offset(x, at))
        rows.append(row)
    lines = Lines(rows, y.shape[-1], s.out.shape[-1], stride[-1], dilation[-1], padding[-1][0])
    filter_channels(s, x, other, weight.taken("channels", lambda array: array[:, 0]), lines)


def row_offset(x: TensorView, at: Sequence[int]) -> int:
    """Byte offset of a row of pixels in an image, by its place along all spatial axes but the last; -1 outside."""
    inside = all(0 <= a < n for a, n in zip(at, x.shape[2:-1]))
    return sum(a * step for a, step in zip(at, x.strides[2:])) if inside else -1
