"""conv over all channels or groups of them; depthwise convolution has a rule of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.kernels.copy import pad_rows
from qcompiler.backends.placement import Placed, layout_strides
from qcompiler.backends.rules.convert import zero_point
from qcompiler.backends.rules.gemm import Window, choose_tile, lanes_of, product, runs, shifted, tiles_of
from qcompiler.backends.steps import Steps, lowers
from qcompiler.backends.target import Target
from qcompiler.ir import Const, Node
from qcompiler.types import DType, Layout

Pairs = Sequence[tuple[int, int]]
MOST_TAPS = 32
"""Rows and columns of a depthwise window that are unrolled."""


def not_conv(node: Node, target: Target) -> str | None:
    """Fits u8 x i8 with symmetric weights, and f32, with constant weights and biases."""
    x, weight, out = node.operands[0].type, node.operands[1].type, node.result.type
    if any(not isinstance(v, Const) for v in node.operands[1:3] if v is not None):
        return "weights or bias are not constant"
    if not out.is_quantized:
        return None if x.dtype is DType.F32 and weight.dtype is DType.F32 else f"{x} and {weight} are not f32"
    if x.dtype is not DType.U8 or out.dtype is not DType.U8 or weight.dtype is not DType.I8:
        return f"{x}, {weight}, {out} are not u8, i8, u8"
    if any(weight.quant.zero_point):
        return "the weight's zero point is not 0"
    residual = node.operands[3] if len(node.operands) > 3 else None
    return None if residual is None or residual.type.dtype is DType.U8 else f"{residual.type} is not u8"


def is_depthwise(node: Node) -> bool:
    """One filter a channel, and a window that unrolls."""
    weight, groups = node.operands[1].type, node.attrs["groups"]
    small = math.prod(weight.shape[2:-1]) <= MOST_TAPS and weight.shape[-1] <= MOST_TAPS
    return groups > 1 and groups == weight.shape[0] and weight.shape[1] == 1 and small


def _not_dense(node: Node, target: Target) -> str | None:
    return "depthwise" if is_depthwise(node) else not_conv(node, target)


def padded(s: Steps, x: Placed, padding: Pairs, channel_stride: int) -> Placed:
    """x [N, C, *S], channels last, in a border of real zero."""
    if all(pair == (0, 0) for pair in padding):
        return x
    images, channels, *spatial = x.shape
    shape = (images, channels, *(n + before + after for n, (before, after) in zip(spatial, padding)))
    size = x.dtype.itemsize
    y = Placed(s.scratch(images * math.prod(shape[2:]) * channel_stride * size + 64, "padded"), x.dtype, shape,
               layout_strides(shape, size, Layout("channels_last", channel_stride)))
    rows = []
    for place in itertools.product(*(range(n) for n in shape[2:-1])):
        source = [p - before for p, (before, _) in zip(place, padding)]
        inside = all(0 <= p < n for p, n in zip(source, spatial))
        rows.append(sum(p * stride for p, stride in zip(source, x.strides[2:])) if inside else -1)
    fill = zero_point(s.type(0)) if s.type(0).is_quantized else 0
    before, after = padding[-1]
    s.call(pad_rows, {"itemsize": size}, x=x, rows=s.table(np.array(rows, np.int64)), y=y, row_total=images * len(rows),
           row_count=len(rows), x_image=x.strides[0], y_image=y.strides[0], y_row=shape[-1] * channel_stride * size,
           before=before * channel_stride, inside=spatial[-1] * channel_stride, after=after * channel_stride, fill=fill, writes=("y",),
           bytes=2 * images * y.strides[0])
    return y


@dataclass(frozen=True)
class Geometry:
    """stride, dilation and kernel a spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


def side_by_side(geometry: Geometry, channels: int, channel_stride: int) -> bool:
    """Whether the pixels of a window's row are one run in memory."""
    return geometry.dilation[-1] == 1 and channels == channel_stride


def tap_offsets(geometry: Geometry, x: Placed, merged: bool) -> list[int]:
    """Byte offsets of the window's pixels, or of its rows where those are one run."""
    axes = [range(k) for k in (geometry.kernel[:-1] if merged else geometry.kernel)]
    steps = [d * stride for d, stride in zip(geometry.dilation, x.strides[2:])]
    return [sum(p * step for p, step in zip(place, steps)) for place in itertools.product(*axes)]


def weight_matrix(weight: np.ndarray, channel_stride: int) -> np.ndarray:
    """[O, C, *K] -> [O, taps * channel_stride], channels innermost, missing ones zero."""
    outputs, channels, *kernel = weight.shape
    moved = np.moveaxis(weight, 1, -1)
    gaps = [(0, 0)] * (1 + len(kernel)) + [(0, channel_stride - channels)]
    return np.pad(moved, gaps).reshape(outputs, -1)


def dense_weight(weight: np.ndarray, groups: int) -> np.ndarray:
    """[O, C/groups, *K] -> [O, C, *K] with zeros between the groups: for groups too narrow to be dotted by fours."""
    outputs, per_group = weight.shape[:2]
    dense = np.zeros((outputs, per_group * groups, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        rows = slice(group * outputs // groups, (group + 1) * outputs // groups)
        dense[rows, group * per_group:(group + 1) * per_group] = weight[rows]
    return dense


@lowers("conv", unless=_not_dense)
def convolution(s: Steps) -> None:
    stride = channel_stride_of(s)
    x = padded(s, s.channels_last(0, stride), s.attrs["padding"], stride)
    other = s.channels_last(3, s.out.layout.channel_stride) if s.has(3) else None
    convolve(s, x, s.constant(1), other, Geometry(s.constant(1).shape[2:], s.attrs["stride"], s.attrs["dilation"]))


def channel_stride_of(s: Steps) -> int:
    """Elements from pixel to pixel that the product wants of its operand."""
    channels = s.type(0).shape[1]
    return -(-channels // 4) * 4 if s.out.is_quantized else channels


def convolve(s: Steps, x: Placed, weight: np.ndarray, other: Placed | None, geometry: Geometry) -> None:
    """Append the products of a convolution of x, which has its border already. weight: [O, C/groups, *K]."""
    groups, y, stride = s.attrs["groups"], s.result(), channel_stride_of(s)
    if groups > 1 and s.out.is_quantized and weight.shape[1] % 4:
        weight, groups = s.once("dense", lambda: dense_weight(weight, s.attrs["groups"])), 1
    bias = s.constant(2) if s.has(2) else None
    size = y.dtype.itemsize
    per_group = stride if groups == 1 else weight.shape[1]
    merged = side_by_side(geometry, per_group, stride)
    outputs = weight.shape[0] // groups
    dense = all(k == 1 for k in geometry.kernel) and all(step == 1 for step in geometry.stride)
    columns = math.prod(s.out.shape[2:]) if dense else s.out.shape[-1]
    tile = choose_tile(tiles_of(s), lanes_of(s), columns, outputs)
    rows, columns = _rows(geometry, dense, x, y, other, tile.mr)
    step = x.strides[-1] * geometry.stride[-1]
    row_bytes = columns * step if dense else x.strides[-2] * geometry.stride[-1] if len(x.shape) > 3 else x.strides[0]
    window = Window(rows, tap_offsets(geometry, x, merged), columns, per_group * (geometry.kernel[-1] if merged else 1),
                    (step, y.strides[-1], other.strides[-1] if other else 0), y.shape[0],
                    (x.strides[0], y.strides[0], other.strides[0] if other else 0), row_bytes)
    for group in range(groups):
        chosen = slice(group * outputs, (group + 1) * outputs)
        product(s, window, tile, s.once(f"matrix{group}", lambda c=chosen: weight_matrix(weight[c], per_group)),
                None if bias is None else bias[chosen], shifted(x, group * weight.shape[1] * size if groups > 1 else 0),
                shifted(y, group * outputs * size), None if other is None else shifted(other, group * outputs * size),
                "" if groups == 1 else str(group))


def _rows(geometry: Geometry, dense: bool, x: Placed, y: Placed, other: Placed | None, mr: int) -> tuple[np.ndarray, int]:
    """(byte offsets of each row's first pixel in x, y, other; pixels of a row)."""
    places = [x, y, other or y]
    if dense:
        starts, columns = runs(math.prod(y.shape[2:]), mr)
        return np.stack([starts * place.strides[-1] for place in places], axis=1), columns
    offsets = []
    for place in itertools.product(*(range(n) for n in y.shape[2:-1])):
        offsets.append([sum(p * step * stride for p, step, stride in zip(place, geometry.stride, x.strides[2:]))]
                       + [sum(p * stride for p, stride in zip(place, each.strides[2:])) for each in places[1:]])
    return np.array(offsets, np.int64).reshape(-1, 3), y.shape[-1]
