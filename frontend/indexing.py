"""Indexing of traced values: slices, numpy's basic indexing, gathers, and functions made of slices (split, roll).

A slice that counts from the end of an axis of symbolic size is recorded with flips, so that it is right for every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.errors import TraceError
from qcompiler.frontend.array_ops import (
    check_axis,
    concat,
    dims,
    expand,
    flip,
    kind_of,
    lift,
    rank,
    reshape,
    trace_of,
    type_of,
)
from qcompiler.frontend.recorder import Trace, Traced
from qcompiler.frontend.sizes import Size
from qcompiler.types import DType

if TYPE_CHECKING:
    from qcompiler.frontend.proxy import Proxy

FULL = 2**31 - 1  # a slice's stop that means "to the end", whatever the size


def slice_axes(x: Proxy, ranges: dict[int, slice]) -> Proxy:
    """Slice some axes with numpy's meaning, in as few ops as possible."""
    axes, starts, stops, steps, flips_before, flips_after = [], [], [], [], [], []
    for axis, wanted in sorted(ranges.items()):
        start, stop, step, before, after = _normalise(x, axis, wanted)
        if before:
            flips_before.append(axis)
        if after:
            flips_after.append(axis)
        if (start, stop, step) != (0, FULL, 1):
            axes.append(axis)
            starts.append(start)
            stops.append(stop)
            steps.append(step)
    if flips_before:
        x = flip(x, flips_before)
    if axes:
        x = x.trace.emit(
            "slice", (x,), {"axes": tuple(axes), "starts": tuple(starts), "stops": tuple(stops), "steps": tuple(steps)}
        )
    return flip(x, flips_after) if flips_after else x


def _normalise(x: Proxy, axis: int, wanted: slice) -> tuple[int, int, int, bool, bool]:
    """The slice as (start, stop, step, flip before, flip after) with a positive step and start >= 0."""
    size = dims(x)[axis]
    step = 1 if wanted.step is None else int(wanted.step)
    if step == 0:
        raise TraceError("a slice's step is 0", where=x.trace.place())
    if not isinstance(size, Dim):
        start, stop, step = slice(_index(wanted.start), _index(wanted.stop), step).indices(size)
        backwards = step < 0
        if backwards:  # the same elements of the flipped axis
            count = len(range(start, stop, step))
            start, step = size - 1 - start, -step
            stop = start + max(count - 1, 0) * step + (count > 0)
        if (start, stop, step) == (0, size, 1):
            stop = FULL
        return start, max(stop, start), step, backwards, False
    first, end = _symbolic(x, size, wanted.start), _symbolic(x, size, wanted.stop)
    if step < 0:
        start, stop, step, before, after = _normalise_forward(x, flip_bound(first), flip_bound(end), -step)
        return start, stop, step, not before, after
    return _normalise_forward(x, first, end, step)


def flip_bound(bound: int | None) -> int | None:
    """A bound counted from the other end of the axis."""
    return None if bound is None else -1 - bound


def _normalise_forward(x: Proxy, start: int | None, stop: int | None, step: int) -> tuple[int, int, int, bool, bool]:
    start = 0 if start is None else start
    stop = FULL if stop is None else stop
    if start >= 0 and stop >= 0:
        return start, max(stop, start), step, False, False
    if step != 1:
        raise TraceError(
            "a stepped slice that counts from the end of a symbolic axis",
            where=x.trace.place(),
            hint="slice twice: first x[-n:], then [::step]",
        )
    if start >= 0 and start == 0:  # [:-n]: flip, drop the first n, flip back
        return -stop, FULL, 1, True, True
    if start < 0 and stop == FULL:  # [-n:]: flip, take the first n, flip back
        return 0, -start, 1, True, start != -1
    if start < 0 and stop < 0:  # [-n:-m]
        return -stop, max(-start, -stop), 1, True, stop - start > 1
    raise TraceError(
        "a slice with bounds from both ends of a symbolic axis",
        where=x.trace.place(),
        hint="slice twice: first x[n:], then [:-m]",
    )


def _index(bound: Any) -> int | None:
    return None if bound is None else int(bound)


def _symbolic(x: Proxy, size: Dim, bound: Any) -> int | None:
    """A bound on an axis of symbolic size: the axis' own size means "to the end", `size - n` counts from the end."""
    if isinstance(bound, Size):
        rest = bound.dim - size
        if isinstance(rest, Dim):
            return bound.bake()
        return rest if rest < 0 else FULL
    return _index(bound)


def select(x: Proxy, axis: int, index: int) -> Proxy:
    """torch's select: one position of an axis, which is dropped."""
    return getitem(x, (slice(None),) * check_axis(axis, rank(x), "select") + (int(index),))


def getitem(x: Proxy, index: Any) -> Proxy:
    """numpy's basic indexing, and one list or array of indices (a gather)."""
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
            ranges[axis] = part
        elif isinstance(part, (int, np.integer, Size)) and not isinstance(part, bool):
            ranges[axis] = _single(x, axis, part)
            dropped.add(axis)
        else:
            gathers.append((axis, part))
        axis += 1
    if len(gathers) > 1:
        raise TraceError(
            "indexing with several arrays at once is not supported",
            where=x.trace.place(),
            hint="index one axis after the other, or use np.take_along_axis",
        )
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
    for axis, part in gathers:
        before = sum(1 for p in parts[: next(i for i, p in enumerate(parts) if p is part)] if p is None)
        result = take(result, part, axis + before - sum(1 for d in dropped if d < axis))
    return result


def _single(x: Proxy, axis: int, part: Any) -> slice:
    size = dims(x)[axis]
    if isinstance(part, Size):
        rest = part.dim - size
        part = rest if not isinstance(rest, Dim) and rest < 0 else part.bake()
    index = int(part)
    if not isinstance(size, Dim) and not -size <= index < size:
        raise TraceError(f"index {index} is outside of axis {axis}", where=x.trace.place(), got=str(type_of(x)))
    return slice(index, index + 1 if index != -1 else None)


def take(x: Any, indices: Any, axis: int | None) -> Proxy:
    """numpy's take: indices of any rank along one axis (None: of the flattened array)."""
    trace = trace_of(x, indices)
    x = lift(x, trace)
    if kind_of(indices) is DType.BOOL:
        raise TraceError(
            "indexing with a mask gives a shape that depends on data",
            where=trace.place(),
            hint="np.where(mask, x, y) keeps the shape",
        )
    if kind_of(indices).is_float:
        raise TraceError("indices must be ints", where=trace.place())
    if axis is None:
        x, axis = reshape(x, (-1,)), 0
    axis = check_axis(axis, rank(x), "take")
    if not isinstance(indices, Traced):
        indices = _wrapped_indices(np.asarray(indices), dims(x)[axis], trace)
    return trace.emit("gather", (x, lift(indices, trace, dtype=DType.I64)), {"axis": axis})


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
