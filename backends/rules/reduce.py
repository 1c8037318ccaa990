"""Lowers reductions over axes, cumulative sums, argmax and argmin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernels import cumsum as cumulative
from qcompiler.backends.kernels import reduce as kernels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import SLACK, TensorView, row_major_strides
from qcompiler.backends.lowering.why_not import why_not_f32, why_not_u8
from qcompiler.backends.rules.convert import code_range, zero_point
from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.ops.reduce import ArgExtreme, Argmin, Cumsum, Mean, Reduction, Sum, check_sum_fits
from qcompiler.ops.rescale import mean_multiplier
from qcompiler.quantization import qmath
from qcompiler.types import DType

_INTEGERS = {DType.I32: 32, DType.I64: 64}
Axis = kernels.KeptAxis[int]
"""An axis of the operand. A reduced axis has y_stride 0."""


@dataclass(frozen=True)
class _Plan:
    """The axes of a reduction in the form that kernels take. x: the operand where it lies, or a copy of it."""

    mode: kernels.Mode
    x: TensorView
    tensors: kernels.Reduce[Memory, int]


def _merged(axes: list[Axis]) -> list[Axis]:
    """The axes without those of size 1, merged where possible; the one with the smallest stride in x comes last."""
    merged: list[Axis] = []
    for axis in sorted((axis for axis in axes if axis.size != 1), key=lambda axis: -axis.x_stride):
        last = merged[-1] if merged else None
        if last and last.x_stride == axis.size * axis.x_stride and last.y_stride == axis.size * axis.y_stride:
            merged[-1] = Axis(last.size * axis.size, axis.x_stride, axis.y_stride)
        else:
            merged.append(axis)
    return merged


def _plan(x: TensorView, y: TensorView, kept: list[Axis], reduced: list[Axis]) -> _Plan | None:
    """The plan of a reduction, or None if its axes do not fit the kernels."""
    kept, reduced = _merged(kept), _merged(reduced)
    adjacent = (x.dtype.itemsize, y.dtype.itemsize)
    inner = next((axis for axis in kept if (axis.x_stride, axis.y_stride) == adjacent), None)
    if inner is not None:
        kept.remove(inner)
    elif reduced and reduced[-1].x_stride != x.dtype.itemsize:
        return None
    if len(kept) > 2 or len(reduced) > 2:
        return None
    one = Axis(1, 0, 0)
    first, second = [one] * (2 - len(kept)) + kept
    rows, columns = (kernels.ReducedAxis(axis.size, axis.x_stride) for axis in [one] * (2 - len(reduced)) + reduced)
    tensors = kernels.Reduce[Memory, int](
        x=x, y=y, kept=(first, second), reduced=(rows, columns), inner=inner.size if inner else 1
    )
    return _Plan("across" if inner else "along", x, tensors)


def _planned(s: NodeLowering, op: Reduction) -> _Plan:
    """The plan of a reduction of the operand where it lies, or of a copy that has the reduced axes last."""
    x, y, axes = s.view(op.x), s.result(), op.axes
    y_strides = iter([n for axis, n in enumerate(y.strides) if len(y.shape) < len(x.shape) or axis not in axes])
    kept_axes = [axis for axis in range(len(x.shape)) if axis not in axes]
    stride_of = {axis: next(y_strides) for axis in kept_axes}

    def split(view: TensorView) -> tuple[list[Axis], list[Axis]]:
        kept = [Axis(view.shape[a], view.strides[a], stride_of[a]) for a in kept_axes]
        return kept, [Axis(view.shape[a], view.strides[a], 0) for a in axes]

    found = _plan(x, y, *split(x))
    if found is None:
        order = [*sorted(kept_axes, key=lambda axis: -stride_of[axis]), *axes]
        physical = row_major_strides([x.shape[a] for a in order], x.dtype.itemsize)
        strides = tuple(physical[order.index(a)] for a in range(len(order)))
        size = x.elements * x.dtype.itemsize + SLACK
        copy = TensorView(s.scratch(size, "reduced_last"), x.dtype, x.shape, strides)
        s.copy(x, copy)
        found = _plan(copy, y, *split(copy))
    assert found is not None, "the kept axes of the copy lie as in the result: two at most do not merge"
    return found


def _reduction(node: Node) -> Reduction:
    op = Reduction.of(node)
    assert op is not None
    return op


@lowers("sum", "mean", "prod", "max", "min", unless=why_not_f32)
def reduce_real(s: NodeLowering) -> None:
    reduction = _reduction(s.node)
    plan = _planned(s, reduction)
    divisor = math.prod(plan.x.shape[a] for a in reduction.axes) if isinstance(reduction, Mean) else 1
    op = Sum.name if isinstance(reduction, Mean) else reduction.name
    s.call(
        kernels.reduce_real(op=op, mode=plan.mode),
        kernels.ReduceReal(plan.tensors, divisor=float(divisor)),
        bytes=4 * plan.x.elements,
    )


def _why_not_integer(node: Node, target: Target) -> str | None:
    """Why a node's operand is not plain i32 or i64, or None."""
    type = _reduction(node).x.type
    return None if type.dtype in _INTEGERS and not type.is_quantized else f"{type} is not i32 or i64"


@lowers("sum", "prod", "max", "min", unless=_why_not_integer)
def reduce_integer(s: NodeLowering) -> None:
    plan = _planned(s, _reduction(s.node))
    s.call(kernels.reduce_integer(op=s.node.op, mode=plan.mode, bits=_INTEGERS[s.out.dtype]), plan.tensors)


@lowers("sum", "mean", "max", "min", unless=why_not_u8)
def reduce_codes(s: NodeLowering) -> None:
    reduction = _reduction(s.node)
    plan = _planned(s, reduction)
    source, sums = reduction.x.type, isinstance(reduction, (Mean, Sum))
    op = Sum.name if sums else reduction.name
    count = math.prod(plan.x.shape[a] for a in reduction.axes)
    if sums:
        check_sum_fits(reduction.name, source, count)
    if isinstance(reduction, Mean):
        scale = mean_multiplier(source, s.out, count)
    else:
        scale = qmath.multiplier(source.params.scale[0], over=s.out.params.scale[0])
    s.call(
        kernels.reduce_codes(op=op, mode=plan.mode),
        kernels.ReduceCodes(
            plan.tensors,
            in_zero_sum=zero_point(source) * (count if sums else 1),
            scale=float(np.ravel(scale)[0]),
            codes=code_range(s.out),
        ),
        bytes=plan.x.elements,
    )


def _why_not_cumulative(node: Node, target: Target) -> str | None:
    """Why no kernel sums the operand of a node, or None."""
    type = Cumsum(node).x.type
    return None if str(type.dtype) in cumulative.TYPES and not type.is_quantized else f"no cumsum of {type}"


@lowers("cumsum", unless=_why_not_cumulative)
def cumsum(s: NodeLowering) -> None:
    op = Cumsum(s.node)
    x, axis = s.row_major(op.x), op.axis
    y = s.result() if s.result().is_row_major else s.new(s.out, f"{s.node.name}.row_major")
    across = any(size != 1 for size in s.out.shape[axis + 1 :])
    s.call(
        cumulative.cumsum(dtype=str(s.out.dtype), across=across, exclusive=op.exclusive, reverse=op.reverse),
        cumulative.Cumsum(
            x=x, y=y, outer=math.prod(x.shape[:axis]), size=x.shape[axis], inner=math.prod(x.shape[axis + 1 :])
        ),
        bytes=2 * x.elements * x.dtype.itemsize,
    )
    if y is not s.result():
        s.copy(y, s.result())


def _extreme(node: Node) -> ArgExtreme:
    op = ArgExtreme.of(node)
    assert op is not None
    return op


def _why_not_searched(node: Node, target: Target) -> str | None:
    """Why no kernel searches a node's operand, or None."""
    kind = str(_extreme(node).x.type.dtype)
    return None if kind in kernels.SEARCHED else f"no search in {kind}"


@lowers("argmax", "argmin", unless=_why_not_searched)
def search(s: NodeLowering) -> None:
    op = _extreme(s.node)
    axis, x = op.axis, s.view(op.x)
    y = s.result() if s.result().is_row_major else s.new(s.out, f"{s.node.name}.row_major")
    shape, strides, size = x.shape, x.strides, x.dtype.itemsize
    layout = op.x.type.layout
    if layout is not None and layout.order == "channels_last" and axis == 1:  # each pixel is a line
        outer, inner = shape[0] * math.prod(shape[2:]), 1
        x_outer, x_stride, x_inner = strides[-1], size, 0
    else:
        x = s.row_major(op.x)
        outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        x_outer, x_stride, x_inner = shape[axis] * inner * size, inner * size, size
    s.call(
        kernels.search(op="argmin" if isinstance(op, Argmin) else "argmax", dtype=str(op.x.type.dtype)),
        kernels.Search(
            x=x,
            y=y,
            outer=outer,
            size=shape[axis],
            inner=inner,
            x_outer=x_outer,
            x_stride=x_stride,
            x_inner=x_inner,
        ),
        bytes=x.elements * size,
    )
    if y is not s.result():
        s.copy(y, s.result())
