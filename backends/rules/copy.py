"""Copies between places of one shape and any strides; borders around images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.backends.kernels import transpose
from qcompiler.backends.kernels.copy import OUTER, copy_strided_nd, fill_gaps
from qcompiler.backends.lowering.views import TensorView, before_halo, with_halo
from qcompiler.errors import LoweringError
from qcompiler.types import TensorType

if TYPE_CHECKING:
    from qcompiler.backends.lowering.node import NodeLowering

Axis = tuple[int, int, int]
"""Elements, bytes between them in x, bytes between them in y."""


def merged_axes(shape: Sequence[int], x: Sequence[int], y: Sequence[int]) -> list[Axis]:
    """The same copy with as few axes as possible, the one with the smallest step in y last."""
    axes = sorted(((n, i, j) for n, i, j in zip(shape, x, y) if n != 1), key=lambda axis: (-axis[2], -axis[1]))
    merged: list[Axis] = []
    for n, i, j in axes:
        if merged and merged[-1][1] == n * i and merged[-1][2] == n * j:
            merged[-1] = (merged[-1][0] * n, i, j)
        else:
            merged.append((n, i, j))
    return merged or [(1, 0, 0)]


def copy_strided(s: NodeLowering, x: TensorView, y: TensorView) -> None:
    """Append the copy y[...] = x[...]."""
    if x.shape != y.shape or x.dtype.itemsize != y.dtype.itemsize:
        raise LoweringError(
            "a copy between different arrays", expected=f"{y.dtype}{y.shape}", got=f"{x.dtype}{x.shape}"
        )
    size = x.dtype.itemsize
    if x.elements == 0:
        return
    axes = merged_axes(x.shape, x.strides, y.strides)
    inner = {(size, size): "run", (0, size): "fill", (0, 0): "run"}.get(axes[-1][1:], "any")
    if inner == "any" and _transpose(s, x, y, axes):
        return
    if inner == "any":
        axes.append(axes.pop(max(range(len(axes)), key=lambda i: axes[i][0])))
    if len(axes) > OUTER + 1:
        raise LoweringError(
            "a copy over too many axes", expected=f"at most {OUTER + 1} that do not merge", got=len(axes)
        )
    outer = [(1, 0, 0)] * (OUTER + 1 - len(axes)) + axes[:-1]
    extents = {f"{prefix}{i}": axis[k] for i, axis in enumerate(outer) for k, prefix in enumerate(("n", "xs", "ys"))}
    count, x_step, y_step = axes[-1]
    s.call(
        copy_strided_nd,
        {"itemsize": size, "inner": inner},
        x=x,
        y=y,
        count=count,
        x_step=x_step,
        y_step=y_step,
        writes=("y",),
        bytes=2 * x.elements * size,
        **extents,
    )


def _transpose(s: NodeLowering, x: TensorView, y: TensorView, axes: Sequence[Axis]) -> bool:
    """Append a copy whose innermost axes in x and in y are two different ones; False if it is none."""
    size = x.dtype.itemsize
    columns = next((axis for axis in axes if axis[1] == size), None)
    rows = axes[-1]
    others = [axis for axis in axes[:-1] if axis is not columns]
    if columns is None or rows[2] != size or len(others) > transpose.OUTER:
        return False
    outer = [(1, 0, 0)] * (transpose.OUTER - len(others)) + others
    extents = {f"{prefix}{i}": axis[k] for i, axis in enumerate(outer) for k, prefix in enumerate(("n", "xs", "ys"))}
    s.call(
        transpose.copy_transposed,
        {"itemsize": size},
        x=x,
        y=y,
        rows=rows[0],
        columns=columns[0],
        x_row=rows[1],
        y_column=columns[2],
        writes=("y",),
        bytes=2 * x.elements * size,
        **extents,
    )
    return True


def fill_border(s: NodeLowering, y: TensorView, type: TensorType) -> None:
    """Append what writes real zero all around the images of a value with a halo, beside the steps that write the
    images."""
    layout, size = type.layout, y.dtype.itemsize
    assert layout is not None
    inside = np.zeros(with_halo(y.shape[2:], layout), bool)
    inside[tuple(slice(before, before + n) for n, (before, _) in zip(y.shape[2:], layout.halo))] = True
    edges = np.flatnonzero(np.diff(inside.reshape(-1), prepend=True, append=True)).reshape(-1, 2)
    gaps = np.stack([edges[:, 0] * size, edges[:, 1] - edges[:, 0]], axis=1) * layout.channel_stride
    zero = type.quant.zero_point[0] if type.quant is not None else 0
    s.call(
        fill_gaps,
        {"itemsize": size},
        gaps=s.table(gaps),
        y=y.moved(-before_halo(y.strides, layout), y.shape, y.strides),
        images=y.shape[0],
        gap_count=len(gaps),
        y_image=y.strides[0],
        fill=zero,
        writes=("y",),
        bytes=y.shape[0] * int(gaps[:, 1].sum()) * size,
        disjoint=True,
    )
