"""Appends copies between views of one shape and any strides, and fills borders around images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from qcompiler.backends.kernels import copy as kernels
from qcompiler.backends.kernels import transpose
from qcompiler.backends.lowering.views import TensorView, before_halo, with_halo
from qcompiler.errors import LoweringError
from qcompiler.traced_size import is_traced
from qcompiler.types import TensorType

if TYPE_CHECKING:
    from qcompiler.backends.lowering.node import NodeLowering, Steps

Axis: TypeAlias = kernels.CopyAxis[int]
_ONE = kernels.CopyAxis(size=1, x_stride=0, y_stride=0)
_MODES: dict[tuple[int, int], kernels.Inner] = {(1, 1): "run", (0, 1): "fill", (0, 0): "run"}
"""The modes of `copy_strided_nd` by the innermost strides in x and in y, in elements; all others are "any"."""


def merged_axes(shape: Sequence[int], x: Sequence[int], y: Sequence[int]) -> list[Axis]:
    """The axes of a copy, merged to as few as possible; the one with the smallest stride in y comes last. x, y: the
    strides. An axis of an open size stays even if the size of a call is 1, so that the copy serves all sizes."""
    axes = [kernels.CopyAxis(*axis) for axis in zip(shape, x, y) if is_traced(axis[0]) or axis[0] != 1]
    merged: list[Axis] = []
    for axis in sorted(axes, key=lambda axis: (-axis.y_stride, -axis.x_stride)):
        last = merged[-1] if merged else None
        if last and last.x_stride == axis.size * axis.x_stride and last.y_stride == axis.size * axis.y_stride:
            merged[-1] = kernels.CopyAxis(last.size * axis.size, axis.x_stride, axis.y_stride)
        else:
            merged.append(axis)
    return merged or [_ONE]


def copy_strided(s: Steps, x: TensorView, y: TensorView) -> None:
    """Append the copy y[...] = x[...]."""
    if x.shape != y.shape or x.dtype.itemsize != y.dtype.itemsize:
        raise LoweringError(
            "a copy between different arrays", expected=f"{y.dtype}{y.shape}", got=f"{x.dtype}{x.shape}"
        )
    size = x.dtype.itemsize
    if x.elements == 0:
        return
    axes = merged_axes(x.shape, x.strides, y.strides)
    inner = _mode(axes[-1], size)
    if inner == "any" and _transpose(s, x, y, axes):
        return
    if inner == "any":
        axes.append(axes.pop(max(range(len(axes)), key=lambda i: axes[i].size)))
    few = len(axes) <= kernels.OUTER + 1
    kernel, outer = (kernels.copy_strided_nd, kernels.OUTER) if few else (kernels.copy_strided_many, kernels.MOST_OUTER)
    around = (*[_ONE] * (outer + 1 - len(axes)), *axes[:-1])
    s.call(
        kernel(itemsize=size, inner=inner),
        kernels.StridedCopy(x=x, y=y, outer=around, innermost=axes[-1]),
        bytes=2 * x.elements * size,
    )


def _mode(innermost: Axis, size: int) -> kernels.Inner:
    """How the kernel runs along the innermost axis."""
    for (x, y), mode in _MODES.items():
        if (innermost.x_stride, innermost.y_stride) == (x * size, y * size):
            return mode
    return "any"


def _transpose(s: Steps, x: TensorView, y: TensorView, axes: Sequence[Axis]) -> bool:
    """Append a copy whose innermost axes in x and in y differ. False, with nothing appended, if they are the same."""
    size = x.dtype.itemsize
    columns = next((axis for axis in axes if axis.x_stride == size), None)
    rows = axes[-1]
    others = [axis for axis in axes[:-1] if axis is not columns]
    if columns is None or rows.y_stride != size or len(others) > transpose.OUTER:
        return False
    s.call(
        transpose.copy_transposed(itemsize=size),
        transpose.TransposedCopy(
            x=x,
            y=y,
            rows=rows.size,
            columns=columns.size,
            x_row=rows.x_stride,
            y_column=columns.y_stride,
            outer=(*[_ONE] * (transpose.OUTER - len(others)), *others),
        ),
        bytes=2 * x.elements * size,
    )
    return True


_ROW_BYTES = 96
"""Bytes that lowering needs for one row of an image with a border."""


def fill_border(s: NodeLowering, y: TensorView, type: TensorType) -> None:
    """Append a call that writes real zero into the border around the images of a value with a halo. It may run at the
    same time as the steps that write the images."""
    layout, size = type.layout, y.dtype.itemsize
    assert layout is not None
    whole, (*others, columns) = with_halo(y.shape[2:], layout), y.shape[2:]
    s.check_table(math.prod(others), _ROW_BYTES)
    starts = np.full((), layout.halo[-1][0], np.int64)  # of the rows of pixels inside, in pixels
    for axis, n in enumerate(others):
        places = np.arange(n, dtype=np.int64) + layout.halo[axis][0]
        starts = np.add.outer(starts, places * math.prod(whole[axis + 1 :]))
    begins, ends = np.append(0, starts.reshape(-1) + columns), np.append(starts.reshape(-1), math.prod(whole))
    begins, ends = begins[ends > begins], ends[ends > begins]
    gaps = np.stack([begins * size, ends - begins], axis=1) * layout.channel_stride
    zero = type.quant.zero_point[0] if type.quant is not None else 0
    s.call(
        kernels.fill_gaps(itemsize=size),
        kernels.Gaps(
            gaps=s.stored(gaps),
            y=y.moved(-before_halo(y.strides, layout), y.shape, y.strides),
            images=y.shape[0],
            gap_count=len(gaps),
            y_image=y.strides[0],
            fill=zero,
        ),
        bytes=y.shape[0] * int(gaps[:, 1].sum()) * size,
        disjoint=True,
    )
