"""max_pool, avg_pool and the adaptive ones, channels last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.kernel_ir.definition import A, Arguments, KernelKey, Memory
from qcompiler.backends.kernels import pool as kernels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.lowering.why_not import why_not_f32, why_not_u8
from qcompiler.backends.rules.convert import code_range, requantize_run, zero_point
from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.ops.pool import adaptive_bounds, window_counts
from qcompiler.ops.rescale import mean_multiplier

Axis = list[tuple[int, int]]
"""(first input place, number of taps) of every output place along one axis."""


def _not_f32_or_u8(node: Node, target: Target) -> str | None:
    if node.result.type.layout is None:
        return "the number of channels is symbolic"
    return why_not_u8(node, target) if node.result.type.is_quantized else why_not_f32(node, target)


def clipped_windows(size: int, out: int, kernel: int, stride: int, before: int, dilation: int = 1) -> Axis:
    """Windows along an axis without the taps that lie in the border."""
    found = []
    for place in range(out):
        start = place * stride - before
        skipped = max(0, -(start // dilation)) if start < 0 else 0
        first = start + skipped * dilation
        found.append((first, max(0, min(kernel - skipped, -(-(size - first) // dilation)))))
    return found


def _merged(axes: Sequence[Axis], taps: Sequence[int]) -> tuple[list[Axis], list[int]]:
    """(axes, bytes between taps), the last axes as one where the taps of the only window lie evenly over both: those
    of a global pooling."""
    axes, taps = list(axes), list(taps)
    while len(axes) > 1 and len(axes[-2]) == len(axes[-1]) == 1:
        (first, count), (inner_first, inner_count) = axes[-2][0], axes[-1][0]
        if taps[-2] != inner_count * taps[-1] or first or inner_first:
            break
        axes[-2:], taps[-2:] = [[(0, count * inner_count)]], [taps[-1]]
    return axes, taps


def _block(channels: int, most_lanes: int) -> tuple[int, int]:
    """(lanes, vectors) of the kernels: blocks as equal as possible."""
    lanes = min(most_lanes, 1 << (channels.bit_length() - 1))
    needed = -(-channels // lanes)
    blocks = -(-needed // kernels.MOST_VECTORS)
    return lanes, -(-needed // blocks)


def _written_out(kernel: Sequence[int]) -> tuple[int, int]:
    """Windows of up to nine taps are written out."""
    rows, columns = (1, *kernel)[-2:]
    return (rows, columns) if len(kernel) <= 2 and rows * columns <= 9 else (0, 0)


@dataclass(frozen=True)
class _Pooling:
    """A pooling of the node's operand.

    Attributes:
        axes: the windows along each spatial axis.
        dilation: pixels from tap to tap along each axis.
        divisors: [*spatial], see `kernels.Windows`.
        window: (rows, columns) of windows whose taps are written out, or (0, 0).
    """

    axes: Sequence[Axis]
    dilation: Sequence[int]
    divisors: np.ndarray
    window: tuple[int, int]

    def arguments(self, s: NodeLowering, y: TensorView) -> kernels.Pool[Memory, int]:
        """The arguments of a kernel that writes the result, or memory like it."""
        assert s.out.layout is not None
        x = s.channels_last(0, s.out.layout.channel_stride)
        spatial = x.strides[2:]
        offsets = [[(first * stride, count) for first, count in axis] for axis, stride in zip(self.axes, spatial)]
        offsets, taps = _merged(offsets, [stride * d for stride, d in zip(spatial, self.dilation)])
        missing = 3 - len(offsets)
        axes, taps = [[(0, 1)]] * missing + offsets, [0] * missing + taps
        depth_stride, row_stride, pixel_stride = [0] * missing + list(y.strides[len(y.strides) - len(offsets) :])
        depths, heights, widths = (s.table(np.array(axis, np.int64)) for axis in axes)
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
                divisors=s.table(self.divisors.astype(np.float32)),
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
    """Channels that kernels compute: those of the storage if they are bytes."""
    assert s.out.layout is not None
    return s.out.layout.channel_stride if s.out.is_quantized else s.result().shape[1]


def _call(s: NodeLowering, kernel: KernelKey[A], arguments: Arguments[A]) -> None:
    y = s.result()
    s.call(kernel, arguments, disjoint=True, bytes=(s.operand(0).elements + y.elements) * y.dtype.itemsize)


@lowers("max_pool", unless=_not_f32_or_u8)
def max_pool(s: NodeLowering) -> None:
    a, x, y = s.attrs, s.operand(0), s.result()
    axes = [
        clipped_windows(*each)
        for each in zip(x.shape[2:], y.shape[2:], a["kernel"], a["stride"], (p[0] for p in a["padding"]), a["dilation"])
    ]
    _max(s, axes, a["dilation"], _written_out(a["kernel"]))


@lowers("adaptive_max_pool", unless=_not_f32_or_u8)
def adaptive_max_pool(s: NodeLowering) -> None:
    _max(s, _adaptive_axes(s), (1,) * len(s.attrs["output_size"]), (0, 0))


def _max(s: NodeLowering, axes: Sequence[Axis], dilation: Sequence[int], window: tuple[int, int]) -> None:
    y = s.result()
    pooling = _Pooling(axes, dilation, np.ones(math.prod(y.shape[2:])), window)
    lanes, vectors = _block(_channels(s), s.target.vector_bytes // y.dtype.itemsize)
    if not s.out.is_quantized:
        _call(s, kernels.max_pool_f32(lanes=lanes, vectors=vectors, window=window), pooling.arguments(s, y))
        return
    same_codes = s.type(0).quant == s.out.quant
    largest = y if same_codes else s.new(s.out, f"{s.node.name}.largest", s.out.layout)
    _call(s, kernels.max_pool_u8(lanes=lanes, vectors=vectors, window=window), pooling.arguments(s, largest))
    if not same_codes:
        requantize_run(s, largest, s.type(0).params)


def _adaptive_axes(s: NodeLowering) -> list[Axis]:
    sizes = zip(s.operand(0).shape[2:], s.attrs["output_size"])
    return [[(start, stop - start) for start, stop in adaptive_bounds(size, out)] for size, out in sizes]


def _average(s: NodeLowering, axes: Sequence[Axis], counts: np.ndarray, window: tuple[int, int], small: bool) -> None:
    """counts: by what the sum at each place of the result is divided. small: see `kernels.avg_pool_u8`."""
    y, dilation = s.result(), (1,) * len(axes)
    counts = np.broadcast_to(counts, y.shape[2:])
    lanes, vectors = _block(_channels(s), s.target.vector_bytes // y.dtype.itemsize)
    if not s.out.is_quantized:
        pooling = _Pooling(axes, dilation, counts, window)
        _call(s, kernels.avg_pool_f32(lanes=lanes, vectors=vectors, window=window), pooling.arguments(s, y))
        return
    multipliers = np.broadcast_to(mean_multiplier(s.type(0), s.out, counts), counts.shape)
    pooling = _Pooling(axes, dilation, multipliers, window)
    _call(
        s,
        kernels.avg_pool_u8(lanes=lanes, vectors=vectors, window=window, small=small),
        kernels.AveragePoolU8(pool=pooling.arguments(s, y), in_zero=zero_point(s.type(0)), codes=code_range(s.out)),
    )


@lowers("avg_pool", unless=_not_f32_or_u8)
def avg_pool(s: NodeLowering) -> None:
    a, x, y = s.attrs, s.operand(0), s.result()
    axes = [
        clipped_windows(*each)
        for each in zip(x.shape[2:], y.shape[2:], a["kernel"], a["stride"], (p[0] for p in a["padding"]))
    ]
    counts = window_counts(
        x.shape, a["kernel"], a["stride"], a["padding"], a["ceil_mode"], a["count_include_pad"], a["divisor_override"]
    )
    _average(s, axes, counts, _written_out(a["kernel"]), math.prod(a["kernel"]) <= kernels.WORD_TAPS)


@lowers("adaptive_avg_pool", unless=_not_f32_or_u8)
def adaptive_avg_pool(s: NodeLowering) -> None:
    axes = _adaptive_axes(s)
    counts = np.ones([1] * len(axes), np.int64)
    for i, axis in enumerate(axes):
        counts = counts * np.array([n for _, n in axis]).reshape([-1 if j == i else 1 for j in range(len(axes))])
    _average(s, axes, counts, (0, 0), False)


def copy_places(s: NodeLowering, places: Sequence[np.ndarray]) -> None:
    """Each result pixel is the operand's pixel at these places, one array an axis: a maximum over one tap."""
    _max(s, [[(int(place), 1) for place in axis] for axis in places], (1,) * len(places), (1, 1))
