"""Lowers the ops by which calibration reads values: kernels compute ranges and counts, reading elements where they lie,
and Python steps take whole values."""

from __future__ import annotations

from typing import Literal

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernels import statistics as kernels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import SLACK, TensorView, row_major_strides
from qcompiler.backends.program.recorded import View
from qcompiler.backends.rules.copy import merged_axes
from qcompiler.ir import Value
from qcompiler.ops.quantized import Observe
from qcompiler.ops.statistics import ChannelRange, ValueCounts, ValueRange

_PART = 1 << 16
"""The least elements of a part."""
_MOST_PARTS = 16
_ONE = kernels.OuterAxis(size=1, stride=0)


def _runs(s: NodeLowering, value: Value, axis: int = 0, step: int = 1) -> tuple[TensorView, kernels.Runs[int]]:
    """Every step-th index of an axis of a value, and its runs. The value is read where it lies if kernels can,
    otherwise from a copy without gaps."""
    x = _every(s.view(value), axis, step)
    found = _outer_and_run(x)
    if found is None:
        x = s.row_major(value) if step == 1 else _copied(s, x)
        found = _outer_and_run(x)
        assert found is not None, "a tensor without gaps is one run"
    outer, run = found
    parts = min(max(x.elements // _PART, 1), _MOST_PARTS)
    first, second = [_ONE] * (kernels.OUTER - len(outer)) + outer
    return x, kernels.Runs(outer=(first, second), run=run, parts=parts)


def _every(x: TensorView, axis: int, step: int) -> TensorView:
    """Every step-th index of an axis, from step // 2 on."""
    if step == 1:
        return x
    shape, strides = list(x.shape), list(x.strides)
    shape[axis], strides[axis] = len(range(step // 2, shape[axis], step)), strides[axis] * step
    return x.moved(step // 2 * x.strides[axis], shape, strides)


def _copied(s: NodeLowering, x: TensorView) -> TensorView:
    """A copy without gaps."""
    size = x.dtype.itemsize
    copy = TensorView(s.scratch(x.elements * size + SLACK, "every"), x.dtype, x.shape, row_major_strides(x.shape, size))
    s.copy(x, copy)
    return copy


def _outer_and_run(x: TensorView) -> tuple[list[kernels.OuterAxis[int]], int] | None:
    """The axes around the runs, and the elements of a run. None if there are too many axes, or no runs."""
    if x.elements <= 1:
        return [], x.elements
    *outer, last = merged_axes(x.shape, x.strides, x.strides)
    if last.x_stride != x.dtype.itemsize or len(outer) > kernels.OUTER:
        return None
    return [kernels.OuterAxis(size=axis.size, stride=axis.x_stride) for axis in outer], last.size


@lowers("value_range")
def value_range(s: NodeLowering) -> None:
    x, runs = _runs(s, ValueRange(s.node).x)
    keys = s.scratch(8 * runs.parts, "keys")
    s.call(kernels.range_of_parts(), kernels.RangeOfParts[Memory, int](x=x, keys=keys, runs=runs), bytes=4 * x.elements)
    s.call(kernels.range_of_keys(), kernels.Range(keys=keys, y=s.result(), parts=runs.parts))


@lowers("channel_range")
def channel_range(s: NodeLowering) -> None:
    op = ChannelRange(s.node)
    x, size = s.view(op.x), 4
    found = _channel_axes(x, op.axis)
    if found is None:
        x = s.row_major(op.x)
        found = _channel_axes(x, op.axis)
        assert found is not None, "around an axis of a tensor without gaps lie two axes at most"
    outer, run = found
    mode: Literal["across", "along"] = "across" if x.strides[op.axis] == size and run == 1 else "along"
    s.call(
        kernels.channel_ranges(mode=mode),
        kernels.ChannelRanges[Memory, int](
            x=x,
            y=s.result(),
            channels=x.shape[op.axis],
            stride=x.strides[op.axis],
            outer=(outer[0], outer[1], outer[2]),
            run=run,
        ),
        bytes=size * x.elements,
    )


def _channel_axes(x: TensorView, axis: int) -> tuple[list[kernels.OuterAxis[int]], int] | None:
    """The three axes around the runs of one channel, and the elements of a run; None if there are more axes."""
    shape, strides = (tuple(each[:axis]) + tuple(each[axis + 1 :]) for each in (x.shape, x.strides))
    axes = [kernels.OuterAxis(size=each.size, stride=each.x_stride) for each in merged_axes(shape, strides, strides)]
    run = 1
    if axes and axes[-1].stride == x.dtype.itemsize:
        run = axes.pop().size
    if len(axes) > 3:
        return None
    return [_ONE] * (3 - len(axes)) + axes, run


@lowers("value_counts")
def value_counts(s: NodeLowering) -> None:
    op = ValueCounts(s.node)
    x, runs = _runs(s, op.x, op.axis, op.step)
    memory, bounds = s.scratch(kernels.PART_BYTES * runs.parts, "counts"), s.row_major(op.bounds)
    s.call(
        kernels.counts_of_parts(),
        kernels.CountsOfParts[Memory, int](x=x, bounds=bounds, memory=memory, runs=runs),
        bytes=4 * x.elements,
    )
    s.call(kernels.sum_counts(), kernels.Counts(memory=memory, y=s.result(), parts=runs.parts))


@lowers("observe")
def observe(s: NodeLowering) -> None:
    """A Python step that reads the value where it lies. It is linked with the function that takes the value."""
    value, result = Observe(s.node).x, s.node.result
    x = s.view(value)
    s.lowering.builder.python_step(s.node.name, reads=[View(x.buffer, x.dtype, x.shape, x.offset, x.strides)])
    if result.uses or result in s.lowering.views:
        s.copy(s.view(value), s.result())
    else:
        s.lowering.views[result] = s.view(value)
