"""Lowers gathers and scatters: ops that pick or replace elements by index."""

from __future__ import annotations

import math
from typing import cast

from qcompiler.backends.kernels import gather as kernels
from qcompiler.backends.lowering.index_checks import check_indices
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.ops.indexing import Gather, GatherElements, GatherNd, Picker
from qcompiler.ops.scatter import Scatter, ScatterNdReduce


def _why_not_indices(node: Node, target: Target) -> str | None:
    """Why no kernel reads the indices of a node, or None."""
    op = Picker.of(node) or Scatter.of(node)
    assert op is not None
    kind = str(op.indices.type.dtype)
    return None if kind in ("i64", "i32") else f"indices are {kind}"


@lowers("gather", unless=_why_not_indices)
def gather(s: NodeLowering) -> None:
    op = Gather(s.node)
    x, indices, y = s.row_major(op.x), s.row_major(op.indices), s.result()
    check_indices(s, indices, [x.shape[op.axis]])
    s.call(
        kernels.gather_rows(itemsize=x.dtype.itemsize, wide=indices.dtype.itemsize == 8),
        kernels.GatherRows(
            x=x,
            indices=kernels.Indices(indices, size=x.shape[op.axis]),
            y=y,
            outer=math.prod(x.shape[: op.axis]),
            picks=indices.elements,
            inner=math.prod(x.shape[op.axis + 1 :]),
        ),
        bytes=2 * y.elements * y.dtype.itemsize,
    )


@lowers("gather_elements", unless=_why_not_indices)
def gather_elements(s: NodeLowering) -> None:
    op = GatherElements(s.node)
    x, indices, y, axis = s.view(op.x), s.row_major(op.indices), s.result(), op.axis
    check_indices(s, indices, [x.shape[axis]])
    axes = [
        kernels.GatherAxis(size, 0 if i == axis else stride) for i, (size, stride) in enumerate(zip(y.shape, x.strides))
    ]
    s.call(
        kernels.gather_single(itemsize=x.dtype.itemsize, wide=indices.dtype.itemsize == 8),
        kernels.GatherElements(
            x=x,
            indices=kernels.Indices(indices, size=x.shape[axis]),
            y=y,
            axes=(*[kernels.GatherAxis(1, 0)] * (kernels.AXES - len(axes)), *axes),
            stride=x.strides[axis],
        ),
        bytes=2 * y.elements * y.dtype.itemsize,
    )


@lowers("gather_nd", unless=_why_not_indices)
def gather_nd(s: NodeLowering) -> None:
    op = GatherNd(s.node)
    x, indices, y = s.row_major(op.x), s.row_major(op.indices), s.result()
    depth = indices.shape[-1]
    check_indices(s, indices, x.shape[:depth])
    axes = [kernels.GatherAxis(size, stride) for size, stride in zip(x.shape[:depth], x.strides)]
    s.call(
        kernels.gather_tuples(itemsize=x.dtype.itemsize, wide=indices.dtype.itemsize == 8, depth=depth),
        kernels.GatherTuples(
            x=x,
            indices=indices,
            y=y,
            axes=(*axes, *[kernels.GatherAxis(1, 0)] * (kernels.AXES - depth)),
            picks=math.prod(indices.shape[:-1]),
            inner=math.prod(x.shape[depth:]),
        ),
        bytes=2 * y.elements * y.dtype.itemsize,
    )


def _why_not_combined(node: Node, target: Target) -> str | None:
    """Why no kernel combines the elements of a node, or None."""
    kind = str(ScatterNdReduce(node).x.type.dtype)
    return _why_not_indices(node, target) if kind in kernels.SCATTERED else f"no scatter of {kind}"


@lowers("scatter_nd", unless=_why_not_indices)
def scatter_nd(s: NodeLowering) -> None:
    _scatter(s, "none")


@lowers("scatter_nd_reduce", unless=_why_not_combined)
def scatter_nd_reduce(s: NodeLowering) -> None:
    _scatter(s, cast("kernels.Reduction", ScatterNdReduce(s.node).reduction))


def _scatter(s: NodeLowering, reduction: kernels.Reduction) -> None:
    op = Scatter.of(s.node)
    assert op is not None
    indices, updates, y = s.row_major(op.indices), s.row_major(op.updates), s.result()
    depth = indices.shape[-1]
    check_indices(s, indices, y.shape[:depth])
    axes = [kernels.GatherAxis(size, stride) for size, stride in zip(y.shape[:depth], y.strides)]
    s.copy(s.view(op.x), y)
    s.call(
        kernels.scatter_tuples(
            dtype="" if reduction == "none" else str(op.x.type.dtype),
            itemsize=y.dtype.itemsize,
            wide=indices.dtype.itemsize == 8,
            depth=depth,
            reduction=reduction,
        ),
        kernels.ScatterTuples(
            updates=updates,
            indices=indices,
            y=y,
            axes=(*axes, *[kernels.GatherAxis(1, 0)] * (kernels.AXES - depth)),
            picks=math.prod(indices.shape[:-1]),
            inner=math.prod(y.shape[depth:]),
        ),
        bytes=2 * updates.elements * y.dtype.itemsize,
    )
