"""Assignments to places that indices name, and sorts: functions on traced values, with torch's meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcompiler.dims import Dim
from qcompiler.errors import TraceError
from qcompiler.frontend import indexing
from qcompiler.frontend.array_ops import (
    any_of,
    argmax,
    binary,
    broadcast_dims,
    cast,
    check_axis,
    concat,
    dims,
    expand,
    kind_of,
    lift,
    moveaxis,
    rank,
    reshape,
    squeeze,
    stack,
    static_size,
    trace_of,
    transpose,
    where,
)
from qcompiler.frontend.indexing import gather_elements, slice_axes
from qcompiler.frontend.proxy import Proxy
from qcompiler.frontend.ranges import arange
from qcompiler.frontend.sizes import sized
from qcompiler.types import DType


def assign(x: Any, indices: Mapping[int, Any], values: Any, accumulate: bool = False) -> Proxy:
    """torch's index_put: x with `values` at the places of index arrays by axis, which broadcast against each other; or
    where one mask is true.

    Raises:
        TraceError: values for a mask that are chosen by how often it is true, or several masks.
    """
    trace = trace_of(x, list(indices.values()), values)
    x = lift(x, trace)
    values = lift(values, trace, dtype=kind_of(x))
    masks = [axis for axis, index in indices.items() if kind_of(index) is DType.BOOL]
    if masks:
        (axis, mask), *others = indices.items()
        behind = rank(x) - axis - rank(mask)
        if others or accumulate or rank(values) > behind:
            raise TraceError(
                "an assignment to a mask of values whose number depends on data",
                where=trace.place(),
                hint="torch.where(mask, values, x) keeps the shape",
            )
        return where(reshape(mask, (*dims(mask), *(1,) * behind)), values, x)
    axes = sorted(indices)
    parts = [lift(indices[axis], trace, dtype=DType.I64) for axis in axes]
    common = broadcast_dims(*(dims(part) for part in parts))
    tuples = stack([expand(part, common) for part in parts], -1)
    rest = [axis for axis in range(rank(x)) if axis not in indices]
    order = axes + rest
    lead = axes[0] if axes == list(range(axes[0], axes[-1] + 1)) else 0  # how many axes stand before the indices'
    shape = [dims(x)[axis] for axis in rest]
    values = expand(values, (*shape[:lead], *common, *shape[lead:]))
    values = moveaxis(values, list(range(lead, lead + len(common))), list(range(len(common))))
    found = scatter(transpose(x, order), tuples, values, "add" if accumulate else "none")
    return transpose(found, [order.index(axis) for axis in range(rank(x))])


def assign_slice(x: Any, axis: int, wanted: slice, source: Any) -> Proxy:
    """x with a slice along an axis replaced by `source`."""
    trace = trace_of(x, source)
    x, source = lift(x, trace), lift(source, trace, dtype=kind_of(x))
    part = indexing.normalised(x, axis, wanted)
    if part.step != 1:
        stop = dims(x)[axis] if part.stop == indexing.FULL else part.stop
        places = arange(sized(part.start, trace), sized(stop, trace), part.step)
        return add_slices(x, axis, places, source, "none")
    pieces = [] if part.start == 0 else [slice_axes(x, {axis: slice(0, sized(part.start, trace))})]
    pieces.append(source)
    if part.stop != indexing.FULL:
        pieces.append(slice_axes(x, {axis: slice(sized(part.stop, trace), None)}))
    return concat(pieces, axis)


def scatter_elements(x: Any, axis: int, indices: Any, updates: Any, reduction: str = "none") -> Proxy:
    """torch's scatter: an update for each index along an axis; the other indices of its place are its own."""
    trace = trace_of(x, indices, updates)
    x, indices = lift(x, trace), lift(indices, trace, dtype=DType.I64)
    if rank(x) == 0:
        x, indices = reshape(x, (1,)), reshape(indices, (1,))
        return reshape(scatter_elements(x, 0, indices, updates, reduction), ())
    axis = check_axis(axis, rank(x), "scatter")
    shape = dims(indices)
    updates = lift(updates, trace, dtype=kind_of(x))
    if not rank(updates):
        updates = expand(updates, shape)
    updates = slice_axes(
        updates,
        {i: slice(0, sized(size, trace)) for i, size in enumerate(shape) if dims(updates)[i] != size},
    )
    places = [indices if i == axis else expand(_along(i, rank(x), shape[i]), shape) for i in range(rank(x))]
    return scatter(x, stack(places, -1), updates, reduction)


def _along(axis: int, count: int, size: Any) -> Proxy:
    """0, 1, ... along one axis of `count`."""
    trace = trace_of()
    numbers = arange(0, sized(size, trace))
    return reshape(numbers, (*(1,) * axis, size, *(1,) * (count - axis - 1)))


def add_slices(x: Any, axis: int, index: Any, source: Any, reduction: str = "add") -> Proxy:
    """torch's index_add, or index_copy for "none": slices of `source` go to indices along an axis."""
    trace = trace_of(x, index, source)
    x = lift(x, trace)
    axis = check_axis(axis, rank(x), "index_add")
    order = [axis, *(i for i in range(rank(x)) if i != axis)]
    tuples = reshape(lift(index, trace, dtype=DType.I64), (-1, 1))
    updates = transpose(lift(source, trace, dtype=kind_of(x)), order)
    found = scatter(transpose(x, order), tuples, updates, reduction)
    return transpose(found, [order.index(i) for i in range(rank(x))])


def scatter(x: Proxy, tuples: Proxy, updates: Proxy, reduction: str) -> Proxy:
    """x with slices replaced, or combined with updates, at the places of index tuples: the last axis holds an index for
    each of the first axes of x."""
    if reduction == "none":
        return x.trace.emit("scatter_nd", (x, tuples, updates))
    kind = kind_of(x)
    if kind is DType.BOOL:
        wide = scatter(cast(x, DType.I32), tuples, cast(updates, DType.I32), reduction)
        return cast(wide, kind)
    return x.trace.emit("scatter_nd_reduce", (x, tuples, updates), {"reduction": reduction})


# -- sorts


def argsort(x: Any, axis: int = -1, descending: bool = False) -> Proxy:
    """The indices that sort x along an axis; equal elements keep their order."""
    trace = trace_of(x)
    x = lift(x, trace)
    if rank(x) == 0:
        return lift(0, trace)
    attrs = {"axis": check_axis(axis, rank(x), "argsort"), "descending": bool(descending)}
    return trace.emit("argsort", (x,), attrs)


def sort(x: Any, axis: int = -1, descending: bool = False) -> tuple[Proxy, Proxy]:
    """Sorted values along an axis, and their indices."""
    order = argsort(x, axis, descending)
    return (gather_elements(x, order, axis) if rank(x) else lift(x)), order


def topk(x: Any, k: int, axis: int = -1, largest: bool = True) -> tuple[Proxy, Proxy]:
    """The k largest or smallest elements along an axis, in order, and their indices."""
    axis = check_axis(axis, max(rank(x), 1), "topk")
    size = dims(x)[axis] if rank(x) else 1
    if not isinstance(size, Dim) and not 0 <= int(k) <= size:
        raise TraceError(
            "topk: more elements than there are", where=trace_of(x).place(), expected=f"0 to {size}", got=k
        )
    order = argsort(x, axis, descending=largest)
    if not rank(x):
        return lift(x), order
    order = slice_axes(order, {axis: slice(0, k)})
    return gather_elements(x, order, axis), order


def median(x: Any, axis: int = -1, keepdims: bool = False) -> tuple[Proxy, Proxy]:
    """torch's median along an axis, the lower of two middle elements, and its index; the first NaN if there is one."""
    x = lift(x, trace_of(x))
    if rank(x) == 0:
        return x, lift(0, x.trace)
    axis = check_axis(axis, rank(x), "median")
    size = static_size(x, axis, "median")
    if size == 0:
        raise TraceError("median: the axis is empty", where=x.trace.place(), expected="an element", got=str(dims(x)))
    middle = (size - 1) // 2
    index = slice_axes(argsort(x, axis), {axis: slice(middle, middle + 1)})
    if kind_of(x).is_float:
        odd = binary("not_equal", x, x)
        first = argmax(cast(odd, DType.F32), axis, True)
        index = where(any_of(odd, axis, True), first, index)
    found = gather_elements(x, index, axis)
    return (found, index) if keepdims else (squeeze(found, axis), squeeze(index, axis))
