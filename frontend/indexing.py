"""Indexing of traced values: slices, numpy's basic indexing, gathers, and functions made of slices (split, roll).

Bounds of slices may be symbolic: a bound that counts from the end of an axis of symbolic size becomes `size - n`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qcompiler.dims import Dim, DimLike, names_of
from qcompiler.errors import TraceError
from qcompiler.frontend.array_ops import (
    binary,
    broadcast_dims,
    check_axis,
    concat,
    dims,
    expand,
    flip,
    kind_of,
    lift,
    moveaxis,
    rank,
    reshape,
    stack,
    trace_of,
    transpose,
    type_of,
)
from qcompiler.frontend.recorder import Trace, Traced, shape_entry
from qcompiler.frontend.sizes import Size, sized
from qcompiler.notes import Guard
from qcompiler.types import DType

if TYPE_CHECKING:
    from qcompiler.frontend.proxy import Proxy

FULL = 2**31 - 1  # a slice's stop that means "to the end", whatever the size


def slice_axes(x: Proxy, ranges: dict[int, slice]) -> Proxy:
    """Slice some axes with numpy's meaning, in as few ops as possible."""
    found = {axis: normalised(x, axis, wanted) for axis, wanted in sorted(ranges.items())}
    flips = [axis for axis, part in found.items() if part.backwards]
    cut = {axis: part for axis, part in found.items() if (part.start, part.stop, part.step) != (0, FULL, 1)}
    if flips:
        x = flip(x, flips)
    if not cut:
        return x
    attrs = {
        "axes": tuple(cut),
        "starts": tuple(shape_entry(part.start) for part in cut.values()),
        "stops": tuple(shape_entry(part.stop) for part in cut.values()),
        "steps": tuple(part.step for part in cut.values()),
    }
    return x.trace.emit("slice", (x,), attrs)


class Range(NamedTuple):
    """A slice as the op takes it, of the flipped axis if `backwards`: bounds that count from 0, a positive step."""

    start: DimLike
    stop: DimLike
    step: int
    backwards: bool


def normalised(x: Proxy, axis: int, wanted: slice) -> Range:
    """numpy's slice of an axis as the op takes it."""
    size = dims(x)[axis]
    step = 1 if wanted.step is None else int(wanted.step)
    if step == 0:
        raise TraceError("a slice's step is 0", where=x.trace.place())
    start: DimLike | None
    stop: DimLike | None
    if not any(isinstance(bound, (Size, Dim)) for bound in (size, wanted.start, wanted.stop)):
        assert isinstance(size, int)
        start, stop, step = slice(_index(wanted.start), _index(wanted.stop), step).indices(size)
        backwards = step < 0
        if backwards:  # the same elements of the flipped axis
            count = len(range(start, stop, step))
            start, step = size - 1 - start, -step
            stop = start + max(count - 1, 0) * step + (count > 0)
        stop = FULL if (start, stop, step) == (0, size, 1) else max(stop, start)
        return Range(start, stop, step, backwards)
    start, stop = _place(x, size, wanted.start), _place(x, size, wanted.stop)
    if step < 0:
        start, stop = (None if place is None else size - 1 - place for place in (start, stop))
    start = 0 if start is None else start
    if stop is None or stop == size or isinstance(stop, int) and stop >= FULL:
        stop = FULL
    elif isinstance(start, int) and isinstance(stop, int):
        stop = max(stop, start)
    return Range(start, stop, abs(step), step < 0)


def within_example(x: Proxy, axis: int, wanted: slice) -> slice:
    """A slice of numpy's meaning whose bounds lie within the example's axis, in their order: those outside become its
    ends, and a slice that ends before its start is empty.

    A guard says that it is so in each call. Other sizes are refused.
    """
    size, sizes = dims(x)[axis], x.trace.sizes
    if not isinstance(size, Dim) or not size.names() <= sizes.keys() or (wanted.step is not None and wanted.step < 1):
        return wanted
    bounds = [wanted.start, wanted.stop]
    for i, bound in enumerate(bounds):
        if bound is None or isinstance(bound, (Size, Dim)) or abs(int(bound)) <= size.evaluate(sizes):
            continue
        if abs(int(bound)) < FULL:
            x.trace.guard(Guard(size, "<=", abs(int(bound))))
        if (i == 0) == (int(bound) > 0):  # it starts behind the end, or ends before the start
            return slice(0, 0, wanted.step)
        bounds[i] = None
    start, stop = bounds
    if isinstance(start, int) and isinstance(stop, int) and (start < 0) != (stop < 0):
        number = size.evaluate(sizes)
        if slice(start, stop).indices(number)[0] >= slice(start, stop).indices(number)[1]:  # empty, as for these sizes
            x.trace.guard(Guard(size, "<=" if stop < 0 else ">=", abs(start) + abs(stop)))
            return slice(0, 0, wanted.step)
    return slice(start, stop, wanted.step)


def _index(bound: Any) -> int | None:
    return None if bound is None else int(bound)


def _place(x: Proxy, size: DimLike, bound: Any) -> DimLike | None:
    """A bound of a slice, counted from the start of the axis, where the bound or the axis' size is symbolic.

    The example decides whether a symbolic bound is negative or lies behind the end, and the trace notes the guard.
    Without an example it is taken to lie inside. Compiled programs refuse sizes with which it does not.
    """
    if not isinstance(bound, Size):
        number = _index(bound)
        return number if number is None or number >= 0 else size + number
    if bound.dim == size:
        return size
    greatest = bound.dim.bounds()[1]
    if greatest is not None and greatest <= 0:  # minus a size
        x.trace.guard(Guard(bound.dim, "<", 0))
        return bound.dim + size
    known = bound.dim.names() | names_of(size)
    if not known <= x.trace.sizes.keys():
        return bound.dim
    place = bound.dim + size if bound < 0 else bound.dim
    return size if sized(place, x.trace) > sized(size, x.trace) else place


def select(x: Proxy, axis: int, index: int | Size) -> Proxy:
    """torch's select: one position of an axis, which is dropped."""
    return getitem(x, (slice(None),) * check_axis(axis, rank(x), "select") + (index,))


def getitem(x: Proxy, index: Any) -> Proxy:
    """numpy's basic indexing, and lists or arrays of indices (a gather)."""
    parts = list(index) if isinstance(index, tuple) else [index]
    used = sum(1 for part in parts if part is not None and part is not Ellipsis)
    if sum(1 for part in parts if part is Ellipsis) > 1 or used > rank(x):
        raise TraceError("too many indices", where=x.trace.place(), expected=f"at most {rank(x)}", got=len(parts))
    if not any(part is Ellipsis for part in parts):
        parts.append(Ellipsis)
    at = next(i for i, part in enumerate(parts) if part is Ellipsis)
    parts[at : at + 1] = [slice(None)] * (rank(x) - used)
    ranges: dict[int, slice] = {}
    gathers: list[tuple[int, Any]] = []
    dropped: set[int] = set()
    axis = 0
    for part in parts:
        if part is None:
            continue
        if isinstance(part, slice):
            ranges[axis] = within_example(x, axis, part)
        elif isinstance(part, (int, np.integer, Size)) and not isinstance(part, bool):
            ranges[axis] = _single(x, axis, part)
            dropped.add(axis)
        else:
            gathers.append((axis, part))
        axis += 1
    result = slice_axes(x, ranges)
    if dropped or any(part is None for part in parts):
        sizes: list[DimLike] = []
        axis = 0
        for part in parts:
            if part is None:
                sizes.append(1)
                continue
            if axis not in dropped:
                sizes.append(dims(result)[axis])
            axis += 1
        result = reshape(result, tuple(sizes))
    moved: dict[int, Any] = {}
    for axis, part in gathers:
        before = sum(1 for p in parts[: next(i for i, p in enumerate(parts) if p is part)] if p is None)
        moved[axis + before - sum(1 for d in dropped if d < axis)] = part
    return take_many(result, moved) if moved else result


def _single(x: Proxy, axis: int, part: Any) -> slice:
    size = dims(x)[axis]
    if isinstance(part, Size):
        at = _place(x, size, part)
        assert at is not None  # the place of a given bound
        return slice(sized(at, x.trace), sized(at + 1, x.trace))
    index = int(part)
    if not isinstance(size, Dim) and not -size <= index < size:
        raise TraceError(f"index {index} is outside of axis {axis}", where=x.trace.place(), got=str(type_of(x)))
    return slice(index, index + 1 if index != -1 else None)


def take(x: Any, indices: Any, axis: int | None) -> Proxy:
    """numpy's take: indices of any rank along one axis (None: of the flattened array)."""
    trace = trace_of(x, indices)
    x = lift(x, trace)
    if kind_of(indices) is DType.BOOL:
        raise _mask_refusal(trace)
    if kind_of(indices).is_float:
        raise TraceError("indices must be ints", where=trace.place())
    if axis is None:
        x, axis = reshape(x, (-1,)), 0
    axis = check_axis(axis, rank(x), "take")
    if not isinstance(indices, Traced):
        indices = _wrapped_indices(np.asarray(indices), dims(x)[axis], trace)
    return trace.emit("gather", (x, lift(indices, trace, dtype=DType.I64)), {"axis": axis})


def _mask_refusal(trace: Trace) -> TraceError:
    return TraceError(
        "indexing with a mask gives a shape that depends on data",
        where=trace.place(),
        hint="np.where(mask, x, y) keeps the shape",
    )


def take_many(x: Any, indices: Mapping[int, Any]) -> Proxy:
    """Index several axes at once: arrays by axis, which broadcast against each other. As in numpy, their axes replace
    the indexed ones if those are neighbours, and otherwise come first."""
    if len(indices) == 1:
        ((axis, index),) = indices.items()
        return take(x, index, axis)
    trace = trace_of(x, list(indices.values()))
    x = lift(x, trace)
    if any(kind_of(index) is DType.BOOL for index in indices.values()):
        raise _mask_refusal(trace)
    axes = sorted(indices)
    parts = [lift(indices[axis], trace, dtype=DType.I64) for axis in axes]
    common = broadcast_dims(*(dims(part) for part in parts))
    tuples = stack([expand(part, common) for part in parts], -1)
    rest = [axis for axis in range(rank(x)) if axis not in indices]
    found = trace.emit("gather_nd", (transpose(x, axes + rest), tuples))
    if axes != list(range(axes[0], axes[-1] + 1)):
        return found
    count, before = len(common), axes[0]
    return moveaxis(found, list(range(count, count + before)), list(range(before)))


def gather_elements(x: Any, indices: Any, axis: int) -> Proxy:
    """torch's gather: an index per element along `axis`. If indices are shorter on other axes, x is cut to them."""
    trace = trace_of(x, indices)
    x, indices = lift(x, trace), lift(indices, trace, dtype=DType.I64)
    axis = check_axis(axis, rank(x), "gather")
    if rank(indices) != rank(x):
        raise TraceError(
            "gather: indices and array differ in rank",
            where=trace.place(),
            got=repr(indices),
            expected=f"rank {rank(x)}",
        )
    pairs = zip(dims(x), dims(indices))
    x = slice_axes(
        x,
        {
            i: slice(0, count)
            for i, (size, count) in enumerate(pairs)
            if i != axis and size != count and not isinstance(count, Dim)
        },
    )
    return trace.emit("gather_elements", (x, indices), {"axis": axis})


def take_along_axis(x: Any, indices: Any, axis: int) -> Proxy:
    """numpy's take_along_axis: like gather_elements, but the other axes broadcast against each other."""
    trace = trace_of(x, indices)
    x, indices = lift(x, trace), lift(indices, trace, dtype=DType.I64)
    axis = check_axis(axis, rank(x), "take_along_axis")
    if rank(indices) != rank(x):
        raise TraceError(
            "take_along_axis: indices and array differ in rank",
            where=trace.place(),
            got=repr(indices),
            expected=f"rank {rank(x)}",
        )
    common = [a if b == 1 else b for a, b in zip(dims(x), dims(indices))]
    x = expand(x, [*common[:axis], dims(x)[axis], *common[axis + 1 :]])
    indices = expand(indices, [*common[:axis], dims(indices)[axis], *common[axis + 1 :]])
    return trace.emit("gather_elements", (x, indices), {"axis": axis})


def _wrapped_indices(indices: np.ndarray, size: DimLike, trace: Trace) -> np.ndarray:
    """Constant indices checked and made non-negative, if the size is known."""
    if isinstance(size, Dim) or not indices.size:
        return indices
    if indices.min() < -size or indices.max() >= size:
        raise TraceError(
            "an index is outside of its axis",
            where=trace.place(),
            expected=f"{-size} to {size - 1}",
            got=f"{indices.min()} to {indices.max()}",
        )
    return np.where(indices < 0, indices + size, indices) if indices.min() < 0 else indices


def split_at(x: Proxy, bounds: Sequence[int], axis: int) -> list[Proxy]:
    """The pieces between consecutive bounds; the last one runs to the end."""
    axis = check_axis(axis, rank(x), "split")
    edges = [0, *bounds, None]
    return [slice_axes(x, {axis: slice(low, high)}) for low, high in zip(edges, edges[1:])]


def windows(x: Proxy, axis: int, size: int, step: int) -> Proxy:
    """torch's Tensor.unfold: slices of `size` elements, `step` apart along an axis. The elements of a slice become the
    last axis."""
    from qcompiler.frontend.ranges import arange

    axis = check_axis(axis, max(rank(x), 1), "unfold")
    x = x if rank(x) else reshape(x, (1,))
    whole = dims(x)[axis]
    if isinstance(whole, int) and not 0 <= size <= whole:
        raise TraceError(f"unfold: no slice of {size} elements", where=x.trace.place(), got=str(type_of(x)))
    count = (whole - size) // step + 1
    starts = reshape(arange(0, sized(count * step, x.trace), step), (sized(count, x.trace), 1))
    places = binary("add", starts, np.arange(size))
    return moveaxis(take(x, places, axis), axis + 1, -1)


def roll(x: Proxy, shift: Any, axis: Any) -> Proxy:
    """numpy's roll: on each axis in turn, the two pieces around the cut change places."""
    if axis is None:
        return reshape(roll(reshape(x, (-1,)), shift, 0), dims(x))
    shifts = shift if isinstance(shift, (tuple, list)) else [shift]
    axes = axis if isinstance(axis, (tuple, list)) else [axis]
    for amount, rolled in zip(shifts, axes):
        along = check_axis(rolled, rank(x), "roll")
        size = dims(x)[along]
        amount = int(amount) if isinstance(size, Dim) else int(amount) % size
        if amount:
            x = concat(
                [slice_axes(x, {along: slice(-amount, None)}), slice_axes(x, {along: slice(None, -amount)})], along
            )
    return x
