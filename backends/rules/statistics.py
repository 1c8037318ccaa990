"""Lowers the ops by which calibration reads values: kernels compute ranges and counts, reading elements where they lie,
and Python steps take whole values."""

from __future__ import annotations

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernels import statistics as kernels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.program.builder import View
from qcompiler.backends.rules.copy import merged_axes
from qcompiler.ir import Value
from qcompiler.ops.quantized import Observe
from qcompiler.ops.statistics import ValueCounts, ValueRange

_PART = 1 << 16
"""The least elements of a part."""
_MOST_PARTS = 16
_ONE = kernels.OuterAxis(size=1, stride=0)


def _runs(s: NodeLowering, value: Value) -> tuple[TensorView, kernels.Runs[int]]:
    """A value and its runs. The value is read where it lies if kernels can, otherwise from a copy without gaps."""
    x = s.view(value)
    found = _outer_and_run(x)
    if found is None:
        x = s.row_major(value)
        found = _outer_and_run(x)
        assert found is not None, "a tensor without gaps is one run"
    outer, run = found
    parts = min(max(x.elements // _PART, 1), _MOST_PARTS)
    first, second = [_ONE] * (kernels.OUTER - len(outer)) + outer
    return x, kernels.Runs(outer=(first, second), run=run, parts=parts)


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


@lowers("value_counts")
def value_counts(s: NodeLowering) -> None:
    op = ValueCounts(s.node)
    x, runs = _runs(s, op.x)
    memory, bounds = s.scratch(kernels.PART_BYTES * runs.parts, "counts"), s.row_major(op.bounds)
    s.call(
        kernels.counts_of_parts(),
        kernels.CountsOfParts[Memory, int](x=x, bounds=bounds, memory=memory, runs=runs),
        bytes=4 * x.elements,
    )
    s.call(kernels.sum_counts(), kernels.Counts(memory=memory, y=s.result(), parts=runs.parts))


@lowers("observe")
def observe(s: NodeLowering) -> None:
    """A Python step that reads the value, row major. It is linked with the function that takes the value."""
    value, result = Observe(s.node).x, s.node.result
    x = s.row_major(value)
    s.lowering.builder.python_step(s.node.name, reads=[View(x.buffer, x.dtype, x.shape, x.offset)])
    if result.uses or result in s.lowering.views:
        s.copy(s.view(value), s.result())
    else:
        s.lowering.views[result] = s.view(value)
