"""ATen ops that pick, replace and sort elements by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import indexing, scattering
from qcompiler.frontend.ranges import arange
from qcompiler.frontend.sizes import sized
from qcompiler.frontend.torch_ops.table import aten, dtype_of, unsupported
from qcompiler.types import DType

aten("index_select")(lambda x, dim, index: indexing.take(x, index, dim))
aten("gather")(lambda x, dim, index, sparse_grad=False: indexing.gather_elements(x, index, dim))


def _by_axis(indices: Sequence[Any]) -> dict[int, Any]:
    return {axis: index for axis, index in enumerate(indices) if index is not None}


aten("index.Tensor")(lambda x, indices: indexing.take_many(x, _by_axis(indices)))
aten("index_put", "_unsafe_index_put")(
    lambda x, indices, values, accumulate=False: scattering.assign(x, _by_axis(indices), values, accumulate)
)
aten("scatter.src")(scattering.scatter_elements)
aten("scatter.value")(scattering.scatter_elements)
aten("scatter_add")(lambda x, dim, index, src: scattering.scatter_elements(x, dim, index, src, "add"))
aten("index_copy")(lambda x, dim, index, source: scattering.add_slices(x, dim, index, source, "none"))
aten("index_fill.int_Scalar")(lambda x, dim, index, value: _fill(x, dim, index, value))


def _fill(x: Any, dim: int, index: Any, value: Any) -> Any:
    axis = ops.check_axis(dim, ops.rank(x), "index_fill")
    return scattering.assign(x, {axis: index}, value)


@aten("index_add")
def _index_add(x: Any, dim: int, index: Any, source: Any, alpha: Any = 1) -> Any:
    return scattering.add_slices(x, dim, index, source if alpha == 1 else ops.binary("mul", source, alpha))


@aten("scatter_reduce.two")
def _scatter_reduce(x: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool = True) -> Any:
    names = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}
    if reduce not in names or not include_self:
        raise unsupported(f"scatter_reduce with {reduce!r} and include_self={include_self} is not supported")
    return scattering.scatter_elements(x, dim, index, src, names[reduce])


@aten("diagonal", "diagonal_copy")
def _diagonal(x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The elements whose index along dim2 is `offset` more than along dim1, as the last axis."""
    first, second = (ops.check_axis(dim, ops.rank(x), "diagonal") for dim in (dim1, dim2))
    down, right = max(-offset, 0), max(offset, 0)
    rows, columns = ops.dims(x)[first] - down, ops.dims(x)[second] - right
    if rows == columns:
        count = sized(rows, x.trace)
    else:
        static = ops.static_size(x, first, "diagonal") - down, ops.static_size(x, second, "diagonal") - right
        count = max(min(static), 0)
    places = arange(0, count)
    found = indexing.take_many(x, {first: ops.binary("add", places, down), second: ops.binary("add", places, right)})
    at = min(first, second) if abs(first - second) == 1 else 0
    return ops.moveaxis(found, at, -1)


for _name, _indices in (("tril_indices", np.tril_indices), ("triu_indices", np.triu_indices)):
    aten(_name)(
        lambda row, col, offset=0, dtype=None, _of=_indices, **kwargs: ops.lift(
            np.stack(_of(int(row), offset, int(col))), dtype=dtype_of(dtype) if dtype is not None else None
        )
    )


# -- sorts


@aten("bucketize.Tensor", "bucketize.Scalar")
def _bucketize(x: Any, boundaries: Any, out_int32: bool = False, right: bool = False) -> Any:
    return _sorted_place(boundaries, x, out_int32, right)


@aten("searchsorted.Tensor", "searchsorted.Scalar")
def _searchsorted(
    ordered: Any, x: Any, out_int32: bool = False, right: bool = False, side: str | None = None, sorter: Any = None
) -> Any:
    if sorter is not None:
        raise unsupported("searchsorted with a sorter is not supported")
    return _sorted_place(ordered, x, out_int32, right or side == "right")


def _sorted_place(ordered: Any, x: Any, out_int32: bool, right: bool) -> Any:
    """How many elements of a line in ascending order come before x, which is NaN last; `right` counts equal ones."""
    if ops.rank(ordered) == 1:
        line = ordered
    else:
        line = ops.expand_dims(ordered, -2)
    x = ops.expand_dims(ops.lift(x), -1) if ops.rank(ops.lift(x)) else ops.lift(x)
    before = ops.binary("less_equal" if right else "less", line, x)
    before = ops.binary("logical_or", before, ops.binary("not_equal", x, x))
    found = ops.total("sum", before, -1)
    return ops.cast(found, DType.I32) if out_int32 else found


aten("topk")(lambda x, k, dim=-1, largest=True, sorted=True: scattering.topk(x, k, dim, largest))
aten("sort")(scattering.sort)
aten("sort.stable")(lambda x, stable=None, dim=-1, descending=False: scattering.sort(x, dim, descending))
aten("argsort")(scattering.argsort)
aten("argsort.stable")(lambda x, stable, dim=-1, descending=False: scattering.argsort(x, dim, descending))
aten("median")(lambda x: scattering.median(ops.reshape(x, (-1,)))[0])
aten("median.dim")(scattering.median)
