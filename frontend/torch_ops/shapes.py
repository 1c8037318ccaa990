"""ATen ops on shapes and slices, and those that make new tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import indexing, scattering
from qcompiler.frontend.array_ops import cast, dims, kind_of, lift, rank, reshape
from qcompiler.frontend.ranges import arange
from qcompiler.frontend.sizes import as_dim
from qcompiler.frontend.torch_ops.table import TABLE, aten, dtype_of
from qcompiler.types import DType

aten("view", "reshape", "_unsafe_view", "view_copy")(reshape)
aten("flatten.using_ints")(ops.flatten)
aten("t", "numpy_T")(ops.transpose)
aten("permute")(ops.transpose)
aten("transpose.int")(ops.swapaxes)
aten("movedim.int", "movedim.intlist")(ops.moveaxis)
aten("unsqueeze")(ops.expand_dims)
aten("squeeze")(ops.squeeze)
aten("expand")(lambda x, sizes, implicit=False: ops.expand(x, sizes))
aten("expand_as")(lambda x, other: ops.expand(x, dims(other)))
aten("broadcast_to")(ops.expand)
aten("repeat", "tile")(ops.tile)
aten("flip")(ops.flip)
aten("tril")(lambda x, diagonal=0: ops.trilu(x, False, diagonal))
aten("triu")(lambda x, diagonal=0: ops.trilu(x, True, diagonal))
aten("roll")(lambda x, shifts, dims=(): indexing.roll(x, shifts, list(dims) or None))
aten("select.int")(indexing.select)
aten("cat")(lambda xs, dim=0: _cat(xs, dim))
aten("stack")(ops.stack)
aten("chunk")(lambda x, chunks, dim=0: x.chunk(chunks, dim))
aten("split.Tensor")(lambda x, size, dim=0: x.split(int(size), dim))
aten("split_with_sizes", "split.sizes")(lambda x, sizes, dim=0: x.split(list(sizes), dim))
aten("unbind.int")(
    lambda x, dim=0: tuple(
        indexing.select(x, dim, i) for i in range(ops.static_size(x, ops.check_axis(dim, rank(x), "unbind"), "unbind"))
    )
)
aten("narrow")(lambda x, dim, start, length: _slice(x, dim, start, start + length))


def _cat(xs: Sequence[Any], dim: int) -> Any:
    """Concatenate; like torch, skip empty tensors of rank 1."""
    kept = [x for x in xs if not (rank(x) == 1 and dims(x) == (0,))]
    return ops.concat(kept, dim)


@aten("squeeze.dim", "squeeze.dims")
def _squeeze(x: Any, dim: Any) -> Any:
    """Squeeze; like torch, leave axes of another size than 1."""
    axes = [ops.check_axis(axis, rank(x), "squeeze") for axis in (dim if isinstance(dim, (list, tuple)) else [dim])]
    return ops.squeeze(x, ops.singles(x, axes))


@aten("slice.Tensor")
def _slice(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    axis = ops.check_axis(dim, rank(x), "slice")
    stop = None if isinstance(end, int) and end >= indexing.FULL else end
    return indexing.slice_axes(x, {axis: indexing.within_example(x, axis, slice(start, stop, step))})


@aten("select_scatter")
def _select_scatter(x: Any, source: Any, dim: int, index: Any) -> Any:
    axis = ops.check_axis(dim, rank(x), "select_scatter")
    end = None if isinstance(index, int) and index == -1 else index + 1
    return scattering.assign_slice(x, axis, slice(index, end), ops.expand_dims(source, axis))


@aten("slice_scatter")
def _slice_scatter(x: Any, source: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    return scattering.assign_slice(x, ops.check_axis(dim, rank(x), "slice_scatter"), slice(start, end, step), source)


aten("copy")(lambda x, source, non_blocking=False: ops.expand(cast(source, kind_of(x)), dims(x)))


@aten("unflatten.int")
def _unflatten(x: Any, dim: int, sizes: Sequence[Any]) -> Any:
    axis = ops.check_axis(dim, rank(x), "unflatten")
    return reshape(x, (*dims(x)[:axis], *sizes, *dims(x)[axis + 1 :]))


aten("unfold")(indexing.windows)


@aten("repeat_interleave.self_int")
def _repeat_interleave(x: Any, repeats: Any, dim: int | None = None, output_size: Any = None) -> Any:
    """Each slice along an axis, `repeats` times in a row."""
    if dim is None:
        x, dim = reshape(x, (-1,)), 0
    axis = ops.check_axis(dim, rank(x), "repeat_interleave")
    before, size, behind = dims(x)[:axis], dims(x)[axis], dims(x)[axis + 1 :]
    times = as_dim(repeats)
    spread = ops.expand(ops.expand_dims(x, axis + 1), (*before, size, times, *behind))
    return reshape(spread, (*before, size * times, *behind))


# -- new tensors


def _filled(shape: Sequence[Any], value: Any, dtype: DType) -> Any:
    sizes = tuple(as_dim(size) for size in shape)
    return ops.expand(lift(value, dtype=dtype), sizes)


def _new_dtype(dtype: Any, value: Any) -> DType:
    if dtype is not None:
        return dtype_of(dtype)
    return DType.F32 if isinstance(value, float) else DType.BOOL if isinstance(value, bool) else DType.I64


aten("full")(lambda size, value, dtype=None, **kwargs: _filled(size, value, _new_dtype(dtype, value)))
aten("zeros")(lambda size, dtype=None, **kwargs: _filled(size, 0, _new_dtype(dtype, 0.0)))
aten("ones")(lambda size, dtype=None, **kwargs: _filled(size, 1, _new_dtype(dtype, 0.0)))
for _name in ("empty.memory_format", "empty_permuted"):  # torch says nothing of the elements
    aten(_name)(lambda size, *args, dtype=None, **kwargs: _filled(size, 0, _new_dtype(dtype, 0.0)))
aten("empty_like")(lambda x, dtype=None, **kwargs: _full_like(x, 0, dtype=dtype))
aten("new_empty")(
    lambda x, size, dtype=None, **kwargs: _filled(size, 0, kind_of(x) if dtype is None else dtype_of(dtype))
)
aten("scalar_tensor")(lambda value, dtype=None, **kwargs: lift(value, dtype=_new_dtype(dtype, 0.0)))
aten("full_like", "new_full")(lambda x, *args, **kwargs: _full_like(x, *args, **kwargs))
aten("zeros_like")(lambda x, dtype=None, **kwargs: _full_like(x, 0, dtype=dtype))
aten("ones_like")(lambda x, dtype=None, **kwargs: _full_like(x, 1, dtype=dtype))
aten("new_zeros")(
    lambda x, size, dtype=None, **kwargs: _filled(size, 0, kind_of(x) if dtype is None else dtype_of(dtype))
)
aten("new_ones")(
    lambda x, size, dtype=None, **kwargs: _filled(size, 1, kind_of(x) if dtype is None else dtype_of(dtype))
)
TABLE["aten.new_full.default"] = lambda x, size, value, dtype=None, **kwargs: _filled(
    size, value, kind_of(x) if dtype is None else dtype_of(dtype)
)


def _full_like(x: Any, value: Any, dtype: Any = None, **kwargs: Any) -> Any:
    return _filled(dims(x), value, kind_of(x) if dtype is None else dtype_of(dtype))


def _arange(start: Any, end: Any, step: Any = 1, dtype: Any = None, **kwargs: Any) -> Any:
    is_float = any(isinstance(number, float) for number in (start, end, step))
    return arange(start, end, step, _new_dtype(dtype, 0.0 if is_float else 0))


aten("arange.start_step")(_arange)
aten("arange.start")(lambda start, end, **kwargs: _arange(start, end, **kwargs))
aten("arange")(lambda end, **kwargs: _arange(0, end, **kwargs))
