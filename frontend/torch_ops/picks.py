"""ATen ops that pick, replace and sort elements by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import indexing, scattering
from qcompiler.frontend.torch_ops.table import aten, unsupported

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


# -- sorts

aten("topk")(lambda x, k, dim=-1, largest=True, sorted=True: scattering.topk(x, k, dim, largest))
aten("sort")(scattering.sort)
aten("sort.stable")(lambda x, stable=None, dim=-1, descending=False: scattering.sort(x, dim, descending))
aten("argsort")(scattering.argsort)
aten("argsort.stable")(lambda x, stable, dim=-1, descending=False: scattering.argsort(x, dim, descending))
