"""max_pool, avg_pool and the adaptive ones, channels last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qcompiler.backends.kernel_ir.definition import KernelDef
from qcompiler.backends.kernels import pool as kernels
from qcompiler.backends.lowering.context import NodeLowering, lowers, not_float, not_u8
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.rules.convert import bounds, requantize_run, zero_point
from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.ops.pool import adaptive_bounds, window_counts
from qcompiler.ops.rescale import mean_multiplier

Axis = list[tuple[int, int]]
"""(first input place, number of taps) of every output place along one axis."""


def _not_f32_or_u8(node: Node, target: Target) -> str | None:
    if node.result.type.layout is None:
        return "the number of channels is symbolic"
    return not_u8(node, target) if node.result.type.is_quantized else not_float(node, target)


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


def _block(channels: int, most_lanes: int) -> dict[str, int]:
    """lanes and vectors of the kernels: blocks as equal as possible."""
    lanes = min(most_lanes, 1 << (channels.bit_length() - 1))
    needed = -(-channels // lanes)
    blocks = -(-needed // kernels.MOST_VECTORS)
    return {"lanes": lanes, "vectors": -(-needed // blocks)}


def _written_out(kernel: Sequence[int]) -> tuple[int, int]:
    """Windows of up to nine taps are written out."""
    rows, columns = (1, *kernel)[-2:]
    return (rows, columns) if len(kernel) <= 2 and rows * columns <= 9 else (0, 0)


def _pool(
    s: NodeLowering,
    kernel: KernelDef,
    axes: Sequence[Axis],
    dilation: Sequence[int],
    divisors: np.ndarray,
    window: tuple[int, int],
    static: Mapping[str, int] | None = None,
    y: TensorView | None = None,
    **more: float,
) -> None:
    y = y or s.result()
    stride = s.out.layout.channel_stride
    x = s.channels_last(0, stride)
    channels = stride if s.out.is_quantized else y.shape[1]
    offsets = [[(first * step, count) for first, count in axis] for axis, step in zip(axes, x.strides[2:])]
    offsets, taps = _merged(offsets, [step * d for step, d in zip(x.strides[2:], dilation)])
    gone = 3 - len(offsets)
    windows, taps = [[(0, 1)]] * gone + offsets, [0] * gone + taps
    results = [0] * gone + list(y.strides[len(y.strides) - len(offsets) :])
    sizes = [len(axis) for axis in windows]
    tables = [s.table(np.array(axis, np.int64)) for axis in windows]
    block = _block(channels, s.target.vector_bytes // y.dtype.itemsize)
    s.call(
        kernel,
        {**block, "window": window, **(static or {})},
        x=x,
        depths=tables[0],
        heights=tables[1],
        widths=tables[2],
        divisors=s.table(divisors.astype(np.float32)),
        y=y,
        images=y.shape[0],
        depth=sizes[0],
        height=sizes[1],
        width=sizes[2],
        channels=channels,
        x_image=x.strides[0],
        tap_d=taps[0],
        tap_h=taps[1],
        tap_w=taps[2],
        y_image=y.strides[0],
        y_depth=results[0],
        y_row=results[1],
        y_pixel=results[2],
        writes=("y",),
        disjoint=True,
        bytes=(x.elements + y.elements) * y.dtype.itemsize,
        **more,
    )


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
    ones = np.ones(math.prod(y.shape[2:]))
    if not s.out.is_quantized:
        _pool(s, kernels.max_pool_f32, axes, dilation, ones, window)
    elif s.type(0).quant == s.out.quant:
        _pool(s, kernels.max_pool_u8, axes, dilation, ones, window)
    else:
        found = s.lowering.new(s.out, f"{s.node.name}.largest", s.out.layout)
        _pool(s, kernels.max_pool_u8, axes, dilation, ones, window, y=found)
        requantize_run(s, found)


def _adaptive_axes(s: NodeLowering) -> list[Axis]:
    sizes = zip(s.operand(0).shape[2:], s.attrs["output_size"])
    return [[(start, stop - start) for start, stop in adaptive_bounds(size, out)] for size, out in sizes]


def _average(s: NodeLowering, axes: Sequence[Axis], counts: np.ndarray, window: tuple[int, int], small: bool) -> None:
    ones = (1,) * len(axes)
    counts = np.broadcast_to(counts, s.result().shape[2:])
    if not s.out.is_quantized:
        _pool(s, kernels.avg_pool_f32, axes, ones, counts, window)
        return
    multipliers = np.broadcast_to(mean_multiplier(s.type(0), s.out, counts), counts.shape)
    _pool(
        s,
        kernels.avg_pool_u8,
        axes,
        ones,
        multipliers,
        window,
        {"small": small},
        in_zero=zero_point(s.type(0)),
        zero=zero_point(s.out),
        **bounds(s.out),
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
