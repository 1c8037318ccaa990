"""Reductions over axes, and argmax."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.backends.kernels import reduce as kernels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView, row_major_strides
from qcompiler.backends.lowering.why_not import why_not_f32, why_not_u8
from qcompiler.backends.rules.convert import bounds, zero_point
from qcompiler.backends.target import Target
from qcompiler.errors import LoweringError
from qcompiler.ir import Node
from qcompiler.ops.reduce import check_sum_fits
from qcompiler.ops.rescale import mean_multiplier
from qcompiler.quantization import qmath
from qcompiler.types import DType

_INTEGERS = {DType.I32: 32, DType.I64: 64}
Axis = tuple[int, int, int]
"""Elements, bytes between them in x, bytes between them in y (0 for a reduced axis)."""


def _merged(axes: list[Axis]) -> list[Axis]:
    merged: list[Axis] = []
    for n, i, j in sorted((axis for axis in axes if axis[0] != 1), key=lambda axis: -axis[1]):
        if merged and merged[-1][1] == n * i and merged[-1][2] == n * j:
            merged[-1] = (merged[-1][0] * n, i, j)
        else:
            merged.append((n, i, j))
    return merged


def _plan(x: TensorView, kept: list[Axis], reduced: list[Axis], y_size: int) -> tuple[str, dict[str, int]] | None:
    """(mode, extents) if the axes fit the kernels, else None."""
    size = x.dtype.itemsize
    kept, reduced = _merged(kept), _merged(reduced)
    inner: Axis | None = next((axis for axis in kept if axis[1] == size and axis[2] == y_size), None)
    if inner is not None:
        kept.remove(inner)
    elif not reduced or reduced[-1][1] != size:
        return None
    if len(kept) > 2 or len(reduced) > 2:
        return None
    kept = [(1, 0, 0)] * (2 - len(kept)) + kept
    reduced = [(1, 0, 0)] * (2 - len(reduced)) + reduced
    extents = {"inner": inner[0] if inner else 1}
    for i in range(2):
        extents |= {
            f"a{i}": kept[i][0],
            f"xa{i}": kept[i][1],
            f"ya{i}": kept[i][2],
            f"r{i}": reduced[i][0],
            f"xr{i}": reduced[i][1],
        }
    return ("across" if inner else "along"), extents


def planned(s: NodeLowering, axes: Sequence[int]) -> tuple[TensorView, TensorView, str, dict[str, int]]:
    """(x, y, mode, extents): the operand where it lies, or a copy with the reduced axes last."""
    x, y = s.operand(0), s.result()
    y_strides = iter([step for axis, step in enumerate(y.strides) if len(y.shape) < len(x.shape) or axis not in axes])
    kept_axes = [axis for axis in range(len(x.shape)) if axis not in axes]
    steps = {axis: next(y_strides) for axis in kept_axes}

    def split(place: TensorView) -> tuple[list[Axis], list[Axis]]:
        kept = [(place.shape[a], place.strides[a], steps[a]) for a in kept_axes]
        return kept, [(place.shape[a], place.strides[a], 0) for a in axes]

    found = _plan(x, *split(x), y.dtype.itemsize)
    if found is None:
        order = [*kept_axes, *axes]
        physical = row_major_strides([x.shape[a] for a in order], x.dtype.itemsize)
        strides = tuple(physical[order.index(a)] for a in range(len(order)))
        copy = TensorView(s.scratch(x.elements * x.dtype.itemsize + 64, "reduced_last"), x.dtype, x.shape, strides)
        s.copy(x, copy)
        x, found = copy, _plan(copy, *split(copy), y.dtype.itemsize)
    if found is None:  # a result that lies in more than three pieces
        raise LoweringError("a reduction over too many axes", where=s.node.describe())
    return x, y, *found


def _not_real(node: Node, target: Target) -> str | None:
    return why_not_f32(node, target)


@lowers("sum", "mean", "prod", "max", "min", unless=_not_real)
def reduce_real(s: NodeLowering) -> None:
    x, y, mode, extents = planned(s, s.attrs["axes"])
    divisor = math.prod(x.shape[a] for a in s.attrs["axes"]) if s.node.op == "mean" else 1
    op = "sum" if s.node.op == "mean" else s.node.op
    s.call(
        kernels.reduce_real,
        {"op": op, "mode": mode},
        x=x,
        y=y,
        divisor=float(divisor),
        writes=("y",),
        bytes=4 * x.elements,
        **extents,
    )


def _not_integer(node: Node, target: Target) -> str | None:
    type = node.operands[0].type
    return None if type.dtype in _INTEGERS and not type.is_quantized else f"{type} is not i32 or i64"


@lowers("sum", "max", "min", unless=_not_integer)
def reduce_integer(s: NodeLowering) -> None:
    x, y, mode, extents = planned(s, s.attrs["axes"])
    s.call(
        kernels.reduce_integer,
        {"op": s.node.op, "mode": mode, "bits": _INTEGERS[s.out.dtype]},
        x=x,
        y=y,
        writes=("y",),
        **extents,
    )


@lowers("sum", "mean", "max", "min", unless=why_not_u8)
def reduce_codes(s: NodeLowering) -> None:
    x, y, mode, extents = planned(s, s.attrs["axes"])
    source, op = s.type(0), "sum" if s.node.op == "mean" else s.node.op
    count = math.prod(x.shape[a] for a in s.attrs["axes"])
    if op == "sum":
        check_sum_fits(s.node.op, source, count)
    over = (
        mean_multiplier(source, s.out, count)
        if s.node.op == "mean"
        else qmath.multiplier(source.quant.scale[0], over=s.out.quant.scale[0])
    )
    zeros = zero_point(source) * (count if op == "sum" else 1)
    s.call(
        kernels.reduce_codes,
        {"op": op, "mode": mode},
        x=x,
        y=y,
        in_zero_sum=zeros,
        zero=zero_point(s.out),
        scale=float(np.ravel(over)[0]),
        writes=("y",),
        bytes=x.elements,
        **bounds(s.out),
        **extents,
    )


def _not_argmax(node: Node, target: Target) -> str | None:
    kind = str(node.operands[0].type.dtype)
    return None if kind in ("f32", "i32", "i64", "u8", "i8") else f"no argmax of {kind}"


@lowers("argmax", unless=_not_argmax)
def argmax(s: NodeLowering) -> None:
    axis, x = s.attrs["axis"], s.operand(0)
    y = s.result() if s.result().is_row_major else s.lowering.new(s.out, f"{s.node.name}.row_major", None)
    shape, strides, size = x.shape, x.strides, x.dtype.itemsize
    channels_last = s.type(0).layout is not None and s.type(0).layout.order == "channels_last"
    if channels_last and axis == 1:  # a line a pixel
        outer, inner = shape[0] * math.prod(shape[2:]), 1
        x_outer, x_step, x_inner = strides[-1], size, 0
    else:
        x = s.row_major(0)
        outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        x_outer, x_step, x_inner = shape[axis] * inner * size, inner * size, size
    s.call(
        kernels.argmax,
        {"dtype": str(s.type(0).dtype)},
        x=x,
        y=y,
        outer=outer,
        size=shape[axis],
        inner=inner,
        x_outer=x_outer,
        x_step=x_step,
        x_inner=x_inner,
        writes=("y",),
        bytes=x.elements * size,
    )
    if y is not s.result():
        s.copy(y, s.result())
