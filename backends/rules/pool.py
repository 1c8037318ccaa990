"""max_pool, avg_pool and the adaptive ones, channels last."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.backends.kernels import pool as kernels
from qcompiler.backends.kernel_ir.definition import KernelDef
from qcompiler.backends.rules.convert import bounds, zero_point
from qcompiler.backends.steps import Steps, lowers, not_float, not_u8
from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.ops.pool import adaptive_bounds, window_counts
from qcompiler.ops.rescale import mean_multiplier

Axis = list[tuple[int, int]]
"""(first input place, number of taps) of every output place along one axis."""


def _not_f32_or_u8(node: Node, target: Target) -> str | None:
    return not_u8(node, target) if node.result.type.is_quantized else not_float(node, target)


def _not_max(node: Node, target: Target) -> str | None:
    reason = _not_f32_or_u8(node, target)
    if reason is None and node.result.type.is_quantized and node.operands[0].type.quant != node.result.type.quant:
        return "operand and result have other parameters"
    return reason


def clipped_windows(size: int, out: int, kernel: int, stride: int, before: int, dilation: int = 1) -> Axis:
    """Windows along an axis without the taps that lie in the border."""
    found = []
    for place in range(out):
        start = place * stride - before
        skipped = max(0, -(start // dilation)) if start < 0 else 0
        first = start + skipped * dilation
        found.append((first, max(0, min(kernel - skipped, -(-(size - first) // dilation)))))
    return found


def _pool(s: Steps, kernel: KernelDef, axes: Sequence[Axis], dilation: Sequence[int], divisors: np.ndarray, **more: float) -> None:
    y = s.result()
    quantized = s.out.is_quantized
    stride = s.out.layout.channel_stride
    x = s.channels_last(0, stride)
    gone = 3 - len(axes)
    windows = [[(0, 1)]] * gone + list(axes)
    steps = [0] * gone + list(x.strides[2:])
    results = [0] * gone + list(y.strides[2:])
    sizes = [1] * gone + list(y.shape[2:])
    taps = [step * d for step, d in zip(steps, [1] * gone + list(dilation))]
    tables = [s.table(np.array([(first * step, count) for first, count in axis], np.int64)) for axis, step in zip(windows, steps)]
    s.call(kernel, x=x, depths=tables[0], heights=tables[1], widths=tables[2], divisors=s.table(divisors.astype(np.float32)), y=y,
           images=y.shape[0], depth=sizes[0], height=sizes[1], width=sizes[2], channels=stride if quantized else y.shape[1],
           x_image=x.strides[0], tap_d=taps[0], tap_h=taps[1], tap_w=taps[2], y_image=y.strides[0], y_depth=results[0], y_row=results[1],
           y_pixel=results[2], writes=("y",), bytes=(x.elements + y.elements) * y.dtype.itemsize, **more)


@lowers("max_pool", unless=_not_max)
def max_pool(s: Steps) -> None:
    a, x, y = s.attrs, s.operand(0), s.result()
    axes = [clipped_windows(*each) for each in zip(x.shape[2:], y.shape[2:], a["kernel"], a["stride"], (p[0] for p in a["padding"]),
                                                   a["dilation"])]
    _max(s, axes, a["dilation"])


@lowers("adaptive_max_pool", unless=_not_max)
def adaptive_max_pool(s: Steps) -> None:
    _max(s, _adaptive_axes(s), (1,) * len(s.attrs["output_size"]))


def _max(s: Steps, axes: Sequence[Axis], dilation: Sequence[int]) -> None:
    kernel = kernels.max_pool_u8 if s.out.is_quantized else kernels.max_pool_f32
    _pool(s, kernel, axes, dilation, np.ones(math.prod(s.result().shape[2:])))


def _adaptive_axes(s: Steps) -> list[Axis]:
    sizes = zip(s.operand(0).shape[2:], s.attrs["output_size"])
    return [[(start, stop - start) for start, stop in adaptive_bounds(size, out)] for size, out in sizes]


def _average(s: Steps, axes: Sequence[Axis], counts: np.ndarray) -> None:
    ones = (1,) * len(axes)
    counts = np.broadcast_to(counts, s.result().shape[2:])
    if not s.out.is_quantized:
        _pool(s, kernels.avg_pool_f32, axes, ones, counts)
        return
    multipliers = np.broadcast_to(mean_multiplier(s.type(0), s.out, counts), counts.shape)
    _pool(s, kernels.avg_pool_u8, axes, ones, multipliers, in_zero=zero_point(s.type(0)), zero=zero_point(s.out), **bounds(s.out))


@lowers("avg_pool", unless=_not_f32_or_u8)
def avg_pool(s: Steps) -> None:
    a, x, y = s.attrs, s.operand(0), s.result()
    axes = [clipped_windows(*each) for each in zip(x.shape[2:], y.shape[2:], a["kernel"], a["stride"], (p[0] for p in a["padding"]))]
    _average(s, axes, window_counts(x.shape, a["kernel"], a["stride"], a["padding"], a["ceil_mode"], a["count_include_pad"],
                                    a["divisor_override"]))


@lowers("adaptive_avg_pool", unless=_not_f32_or_u8)
def adaptive_avg_pool(s: Steps) -> None:
    axes = _adaptive_axes(s)
    counts = np.ones([1] * len(axes), np.int64)
    for i, axis in enumerate(axes):
        counts = counts * np.array([n for _, n in axis]).reshape([-1 if j == i else 1 for j in range(len(axes))])
    _average(s, axes, counts)


def copy_places(s: Steps, places: Sequence[np.ndarray]) -> None:
    """Each result pixel is the operand's pixel at these places, one array an axis: a maximum over one tap."""
    _max(s, [[(int(place), 1) for place in axis] for axis in places], (1,) * len(places))
