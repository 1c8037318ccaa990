"""Lowers max_pool, avg_pool and the adaptive pools, channels last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.kernel_ir.definition import Arguments, Memory
from qcompiler.backends.kernel_ir.kernel_key import A, KernelKey
from qcompiler.backends.kernels import pool as kernels
from qcompiler.backends.kernels import pool_indices as index_kernels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.lowering.why_not import why_not_f32, why_not_u8
from qcompiler.backends.rules.convert import code_range, requantize_run, zero_point
from qcompiler.backends.target import Target
from qcompiler.ir import Node, Value
from qcompiler.ops.pool import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    AvgPool,
    MaxPool,
    MaxPoolIndices,
    adaptive_bounds,
    window_counts,
)
from qcompiler.ops.rescale import mean_multiplier
from qcompiler.types import DType

Axis = list[tuple[int, int]]
"""For every position of the result along one axis: (position of the first tap in the operand, number of taps)."""


def _why_not_f32_or_u8(node: Node, target: Target) -> str | None:
    """Why a pool is not one of f32 or u8 with a known number of channels, or None."""
    if node.result.type.layout is None:
        return "the number of channels is symbolic"
    return why_not_u8(node, target) if node.result.type.is_quantized else why_not_f32(node, target)


def clipped_windows(size: int, out: int, kernel: int, stride: int, before: int, dilation: int = 1) -> Axis:
    """The windows along an axis, without the taps that lie in the border."""
    found = []
    for place in range(out):
        start = place * stride - before
        skipped = max(0, -(start // dilation)) if start < 0 else 0
        first = start + skipped * dilation
        found.append((first, max(0, min(kernel - skipped, -(-(size - first) // dilation)))))
    return found


def _merged(axes: Sequence[Axis], taps: Sequence[int]) -> tuple[list[Axis], list[int]]:
    """(axes, bytes between taps). The last two axes are merged if they have one window whose taps are evenly spaced
    over both, as in a global pool."""
    axes, taps = list(axes), list(taps)
    while len(axes) > 1 and len(axes[-2]) == len(axes[-1]) == 1:
        (first, count), (inner_first, inner_count) = axes[-2][0], axes[-1][0]
        if taps[-2] != inner_count * taps[-1] or first or inner_first:
            break
        axes[-2:], taps[-2:] = [[(0, count * inner_count)]], [taps[-1]]
    return axes, taps


def _block(channels: int, most_lanes: int) -> tuple[int, int]:
    """(lanes, vectors) of the kernels' channel blocks, which are as equal as possible."""
    lanes = min(most_lanes, 1 << (channels.bit_length() - 1))
    needed = -(-channels // lanes)
    blocks = -(-needed // kernels.MOST_VECTORS)
    return lanes, -(-needed // blocks)


def _written_out(kernel: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of windows whose taps kernels unroll: those of up to nine taps; otherwise (0, 0)."""
    rows, columns = (1, *kernel)[-2:]
    return (rows, columns) if len(kernel) <= 2 and rows * columns <= 9 else (0, 0)


@dataclass(frozen=True)
class _Pooling:
    """A pool of the node's operand.

    Attributes:
        x: the operand.
        axes: the windows along each spatial axis.
        dilation: pixels from tap to tap along each axis.
        divisors: [*spatial], see `kernels.Windows`.
        window: (rows, columns) of windows whose taps are unrolled, or (0, 0).
    """

    x: Value
    axes: Sequence[Axis]
    dilation: Sequence[int]
    divisors: np.ndarray
    window: tuple[int, int]

    def arguments(self, s: NodeLowering, y: TensorView) -> kernels.Pool[Memory, int]:
        """The arguments of a kernel that writes the result, or other memory of its shape and strides."""
        x = s.channels_last(self.x, s.channel_stride)
        spatial = x.strides[2:]
        offsets = [[(first * stride, count) for first, count in axis] for axis, stride in zip(self.axes, spatial)]
        offsets, taps = _merged(offsets, [stride * d for stride, d in zip(spatial, self.dilation)])
        missing = 3 - len(offsets)
        axes, taps = [[(0, 1)]] * missing + offsets, [0] * missing + taps
        depth_stride, row_stride, pixel_stride = [0] * missing + list(y.strides[len(y.strides) - len(offsets) :])
        depths, heights, widths = (s.stored(np.array(axis, np.int64)) for axis in axes)
        return kernels.Pool(
            x=x,
            x_image=x.strides[0],
            windows=kernels.Windows(
                depths=depths,
                heights=heights,
                widths=widths,
                tap_depth=taps[0],
                tap_height=taps[1],
                tap_width=taps[2],
                divisors=s.stored(self.divisors.astype(np.float32)),
            ),
            y=y,
            result=kernels.Pixels(
                images=y.shape[0],
                depth=len(axes[0]),
                height=len(axes[1]),
                width=len(axes[2]),
                channels=_channels(s),
                image_stride=y.strides[0],
                depth_stride=depth_stride,
                row_stride=row_stride,
                pixel_stride=pixel_stride,
            ),
        )


def _channels(s: NodeLowering) -> int:
    """The number of channels that kernels compute. For bytes this includes the gap after the channels."""
    return s.channel_stride if s.out.is_quantized else s.result().shape[1]


def _call(s: NodeLowering, x: Value, kernel: KernelKey[A], arguments: Arguments[A]) -> None:
    y = s.result()
    s.call(kernel, arguments, disjoint=True, bytes=(s.view(x).elements + y.elements) * y.dtype.itemsize)


@lowers("max_pool", unless=_why_not_f32_or_u8)
def max_pool(s: NodeLowering) -> None:
    op = MaxPool(s.node)
    _max(s, op.x, _window_axes(s, op), op.dilation, _written_out(op.kernel))


def _why_not_searched(node: Node, target: Target) -> str | None:
    """Why no kernel finds the maxima in the windows of a node's operand, or None."""
    type = MaxPoolIndices(node).x.type
    return None if type.dtype is DType.F32 and not type.is_quantized else f"{type} is not f32"


@lowers("max_pool_indices", unless=_why_not_searched)
def max_pool_indices(s: NodeLowering) -> None:
    op = MaxPoolIndices(s.node)
    x, y = s.row_major(op.x), s.result()
    missing = 3 - len(op.kernel)
    axes = [[(0, 1)]] * missing + _window_axes(s, op)
    sizes, taps = (1,) * missing + x.shape[2:], (0,) * missing + op.dilation
    depth, height, width = (
        index_kernels.PoolAxis[Memory, int](s.stored(np.array(axis, np.int64)), len(axis), size, tap)
        for axis, size, tap in zip(axes, sizes, taps)
    )
    s.call(
        index_kernels.max_pool_indices(),
        index_kernels.PoolIndices(x=x, y=y, axes=(depth, height, width), images=math.prod(x.shape[:2])),
        bytes=4 * x.elements + 8 * y.elements,
    )


@lowers("adaptive_max_pool", unless=_why_not_f32_or_u8)
def adaptive_max_pool(s: NodeLowering) -> None:
    op = AdaptiveMaxPool(s.node)
    axes = _adaptive_axes(s, op)
    _max(s, op.x, axes, (1,) * len(axes), (0, 0))


@lowers("avg_pool", unless=_why_not_f32_or_u8)
def avg_pool(s: NodeLowering) -> None:
    op = AvgPool(s.node)
    _check_tables(s)
    counts = window_counts(
        s.view(op.x).shape, op.kernel, op.stride, op.padding, op.ceil_mode, op.count_include_pad, op.divisor_override
    )
    is_small = math.prod(op.kernel) <= kernels.WORD_TAPS
    _average(s, op.x, _window_axes(s, op), counts, _written_out(op.kernel), is_small)


@lowers("adaptive_avg_pool", unless=_why_not_f32_or_u8)
def adaptive_avg_pool(s: NodeLowering) -> None:
    op = AdaptiveAvgPool(s.node)
    axes = _adaptive_axes(s, op)
    counts = np.ones([1] * len(axes), np.int64)
    for i, axis in enumerate(axes):
        counts = counts * np.array([n for _, n in axis]).reshape([-1 if j == i else 1 for j in range(len(axes))])
    _average(s, op.x, axes, counts, (0, 0), False)


def copy_pixels(s: NodeLowering, x: Value, pixels: Sequence[np.ndarray]) -> None:
    """Append a copy of pixels, as a maximum over one tap. pixels: the position in x of each pixel of the result, along
    each axis."""
    _max(s, x, [[(int(place), 1) for place in axis] for axis in pixels], (1,) * len(pixels), (1, 1))


_ENTRY_BYTES = 128
"""Bytes that lowering needs for one window along an axis, a tuple of ints."""


def _check_tables(s: NodeLowering) -> None:
    """LoweringError if the windows, or the divisors of all positions, take too much memory."""
    spatial = s.result().shape[2:]
    s.check_table(max(spatial), _ENTRY_BYTES)
    s.check_table(math.prod(spatial), 8)


def _window_axes(s: NodeLowering, op: MaxPool | MaxPoolIndices | AvgPool) -> list[Axis]:
    _check_tables(s)
    sizes, outputs, before = s.view(op.x).shape[2:], s.result().shape[2:], [first for first, _ in op.padding]
    return [clipped_windows(*axis) for axis in zip(sizes, outputs, op.kernel, op.stride, before, op.dilations)]


def _adaptive_axes(s: NodeLowering, op: AdaptiveMaxPool | AdaptiveAvgPool) -> list[Axis]:
    _check_tables(s)
    sizes = zip(s.view(op.x).shape[2:], op.output_size)
    return [[(start, stop - start) for start, stop in adaptive_bounds(size, out)] for size, out in sizes]


def _max(s: NodeLowering, x: Value, axes: Sequence[Axis], dilation: Sequence[int], window: tuple[int, int]) -> None:
    y = s.result()
    pooling = _Pooling(x, axes, dilation, np.ones(math.prod(y.shape[2:])), window)
    lanes, vectors = _block(_channels(s), s.target.vector_bytes // y.dtype.itemsize)
    if not s.out.is_quantized:
        _call(s, x, kernels.max_pool_f32(lanes=lanes, vectors=vectors, window=window), pooling.arguments(s, y))
        return
    has_same_codes = x.type.quant == s.out.quant
    largest = y if has_same_codes else s.new(s.out, f"{s.node.name}.largest", s.out.layout)
    _call(s, x, kernels.max_pool_u8(lanes=lanes, vectors=vectors, window=window), pooling.arguments(s, largest))
    if not has_same_codes:
        requantize_run(s, largest, x.type)


def _average(
    s: NodeLowering, x: Value, axes: Sequence[Axis], counts: np.ndarray, window: tuple[int, int], is_small: bool
) -> None:
    """Append an average pool. counts: the divisor at each position of the result; is_small: `small` of
    `kernels.avg_pool_u8`."""
    y, dilation = s.result(), (1,) * len(axes)
    counts = np.broadcast_to(counts, y.shape[2:])
    lanes, vectors = _block(_channels(s), s.target.vector_bytes // y.dtype.itemsize)
    if not s.out.is_quantized:
        pooling = _Pooling(x, axes, dilation, counts, window)
        _call(s, x, kernels.avg_pool_f32(lanes=lanes, vectors=vectors, window=window), pooling.arguments(s, y))
        return
    multipliers = np.broadcast_to(mean_multiplier(x.type, s.out, counts), counts.shape)
    pool = _Pooling(x, axes, dilation, multipliers, window).arguments(s, y)
    kernel = kernels.avg_pool_u8(lanes=lanes, vectors=vectors, window=window, small=is_small)
    _call(s, x, kernel, kernels.AveragePoolU8(pool=pool, in_zero=zero_point(x.type), codes=code_range(s.out)))
