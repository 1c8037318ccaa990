"""conv_transpose as convolutions without stride, one for each phase of the result.

Along an axis, pixel o = stride * j + p of the result takes pixel i of the operand through tap k where

    o + padding = stride * i + dilation * k,  so  i = j + (p + padding - dilation * k) / stride

for the taps k for which the division leaves no remainder. Pixels of one phase p share their taps and lie `stride`
pixels apart.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.rules.conv import (
    Pixels,
    Taps,
    channel_stride_of,
    check_rows,
    check_taps,
    convolve,
    list_bytes,
    padded,
    unrolls_as_depthwise,
    why_not_products,
    why_not_weighted,
)
from qcompiler.backends.rules.depthwise import Lines, filter_channels, repeated_channels, row_offset
from qcompiler.backends.rules.gemm import Distances
from qcompiler.backends.rules.planes import byte_planes
from qcompiler.backends.rules.weights import Weight
from qcompiler.backends.target import Target
from qcompiler.dims import Dim
from qcompiler.ir import Const, Node
from qcompiler.ops.conv import ConvTranspose

MOST_PHASES = 256
"""The most phases, the product of the strides: each has steps of its own."""


@dataclass(frozen=True)
class Phase:
    """The pixels first, first + stride, ... of the result along one axis.

    Attributes:
        count: how many pixels there are.
        taps: the slice of the weight's axis that they use.
        shifts: for each tap the pixel of x that the first pixel uses, ascending.
    """

    first: int
    count: int
    taps: slice
    shifts: tuple[int, ...]


def phases(size: int, kernel: int, stride: int, dilation: int, padding: int) -> list[Phase]:
    """The phases of one axis. size: the result's size along it."""
    found = []
    for first in range(min(stride, size)):
        taps = [k for k in reversed(range(kernel)) if (first + padding - k * dilation) % stride == 0]
        step = taps[0] - taps[1] if len(taps) > 1 else 1
        chosen = slice(taps[0], taps[-1] - step if taps[-1] >= step else None, -step) if taps else slice(0, 0)
        found.append(
            Phase(
                first,
                -(-(size - first) // stride),
                chosen,
                tuple((first + padding - k * dilation) // stride for k in taps),
            )
        )
    return found


def _why_not_transposed(node: Node, target: Target) -> str | None:
    """Why a conv_transpose is not lowered, or None."""
    op = ConvTranspose(node)
    if math.prod(op.stride) > MOST_PHASES:
        return f"its strides make {math.prod(op.stride)} phases, and kernels run for at most {MOST_PHASES}"
    axes = zip(op.weight.type.shape[2:], op.stride, op.dilation)
    sparse = any(isinstance(n, int) and len({k * d % s for k in range(min(n, s))}) < s for n, s, d in axes)
    if sparse and not isinstance(op.weight, Const):
        return "phases without taps of a weight that is not constant"
    return why_not_weighted(node, target) if unrolls_as_depthwise(op) else why_not_products(op, target)


@lowers("conv_transpose", unless=_why_not_transposed)
def conv_transpose(s: NodeLowering) -> None:
    op = ConvTranspose(s.node)
    weight, is_depthwise = Weight.of(s, op.weight), unrolls_as_depthwise(op)
    check_taps(s, weight)
    check_rows(s, s.result().shape, list_bytes(3 + (math.prod(weight.shape[2:-1]) if is_depthwise else 0)))
    before = [first for first, _ in op.padding]
    axes = [phases(*axis) for axis in zip(s.result().shape[2:], weight.shape[2:], op.stride, op.dilation, before)]
    (_depthwise if is_depthwise else _dense)(s, op, weight, axes)


def _dense(s: NodeLowering, op: ConvTranspose, weight: Weight, axes: list[list[Phase]]) -> None:
    y, channel_stride = s.result(), channel_stride_of(s, op)
    x = s.channels_last(op.x, channel_stride)
    borders = []
    for size, along in zip(x.shape[2:], axes):
        first = min((shift for phase in along for shift in phase.shifts), default=0)
        last = max((shift + phase.count for phase in along for shift in phase.shifts), default=0)
        borders.append((max(0, -first), max(0, last - size)))
    x, low_plane = byte_planes(s, padded(s, op, x, borders, channel_stride))
    forward = weight.taken("forward", lambda array: array.swapaxes(0, 1))
    for number, chosen in enumerate(itertools.product(*axes)):
        offsets = tuple(
            tuple((shift + before) * stride for shift in phase.shifts)
            for phase, (before, _), stride in zip(chosen, borders, x.strides[2:])
        )
        rows = [
            [sum(j * stride for j, stride in zip(at, x.strides[2:])), _start(op, y, chosen, at), 0]
            for at in itertools.product(*(range(phase.count) for phase in chosen[:-1]))
        ]
        stride = Distances(x.strides[-1], op.stride[-1] * y.strides[-1])
        pixels = Pixels(np.array(rows, np.int64), chosen[-1].count, _static_columns(s, chosen), stride)
        part = _phase(forward, number, 2, chosen)
        convolve(s, op, x, None, part, Taps(offsets, x.strides[-1]), pixels, low_plane)


def _depthwise(s: NodeLowering, op: ConvTranspose, weight: Weight, axes: list[list[Phase]]) -> None:
    y, x = s.result(), repeated_channels(s, op, weight.shape[1] // op.groups)
    filters = weight.taken("filters", lambda array: array.reshape(-1, *array.shape[2:]))
    for number, chosen in enumerate(itertools.product(*axes)):
        *others, last = chosen
        rows = []
        for at in itertools.product(*(range(phase.count) for phase in others)):
            taps = itertools.product(*(tuple(j + shift for shift in phase.shifts) for j, phase in zip(at, others)))
            rows.append([_start(op, y, chosen, at), 0, *(row_offset(x, tap) for tap in taps)])
        lines = Lines(
            rows=rows,
            columns=last.count,
            static_columns=_static_columns(s, chosen),
            stride=1,
            dilation=last.shifts[1] - last.shifts[0] if len(last.shifts) > 1 else 1,
            before=-last.shifts[0] if last.shifts else 0,
            spread=op.stride[-1],
        )
        filter_channels(s, op, x, None, _phase(filters, number, 1, chosen), lines)


def _phase(weight: Weight, number: int, leading: int, chosen: tuple[Phase, ...]) -> Weight:
    """The taps of a phase. leading: axes of the weight before those of the taps."""
    index = (*(slice(None),) * leading, *(phase.taps for phase in chosen))
    return weight.taken(f"phase{number}", lambda array: array[index])


def _start(op: ConvTranspose, y: TensorView, chosen: tuple[Phase, ...], at: tuple[int, ...]) -> int:
    """The byte offset in y of the first pixel of a phase's row."""
    places = [phase.first + stride * j for phase, stride, j in zip(chosen, op.stride, (*at, 0))]
    return sum(place * stride for place, stride in zip(places, y.strides[2:]))


def _static_columns(s: NodeLowering, chosen: tuple[Phase, ...]) -> int | Dim:
    """The number of pixels in a phase's row, or the symbolic size that decides it."""
    size = s.out.shape[-1]
    return chosen[-1].count if isinstance(size, int) else size
