"""Rows of a table by index, alone or combined by bags."""

from __future__ import annotations

import math
from typing import Any

from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import indexing
from qcompiler.frontend.array_ops import binary, cast, dims, expand_dims, lift, rank, trace_of
from qcompiler.frontend.functional.calling import traceable
from qcompiler.frontend.indexing import slice_axes
from qcompiler.frontend.proxy import Proxy
from qcompiler.frontend.scattering import add_slices
from qcompiler.frontend.source import user_place
from qcompiler.types import DType

BAG_MODES = ("sum", "mean", "max")


@traceable
def embedding(
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """The rows of `weight` [n, d] at integer indices of any shape. `padding_idx`, `scale_grad_by_freq` and `sparse`
    change gradients alone.

    Raises:
        TraceError: `max_norm` is given, which changes the weight.
    """
    no_max_norm("embedding", max_norm)
    trace = trace_of(input, weight)
    return indexing.take(lift(weight, trace), input, 0)


@traceable
def embedding_bag(
    input: Any,
    weight: Any,
    offsets: Any = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """The sums, means or maxima of the rows of `weight` [n, d] in each bag of indices, f32 [bags, d]. A bag without
    indices gives 0.

    Args:
        input: integer indices, [bags, length], or all bags one after the other, [count].
        offsets: where each bag of one-dimensional indices starts, in ascending order from 0. Indices before the first
            offset are in no bag.
        per_sample_weights: f32 of the shape of the indices, which multiplies their rows; for sums alone.
        include_last_offset: the last offset is the end of the last bag.
        padding_idx: rows of this index are left out; negative ones count from the end.

    Raises:
        TraceError: an unknown mode, offsets beside two-dimensional indices or none beside one-dimensional ones, weights
            for another mode than sums, or `max_norm`, which changes the weight.
    """
    no_max_norm("embedding_bag", max_norm)
    trace = trace_of(input, weight, offsets, per_sample_weights)
    input, weight = lift(input, trace), ops.single(weight, "embedding_bag", trace)
    _check_bags(input, offsets, mode, per_sample_weights, include_last_offset)
    rows = indexing.take(weight, input, 0)
    if per_sample_weights is not None:
        per_sample_weights = ops.single(per_sample_weights, "embedding_bag", trace)
        if dims(per_sample_weights) != dims(input):
            raise TraceError(
                "per_sample_weights of embedding_bag",
                where=user_place(),
                expected=f"the shape of {input!r}",
                got=repr(per_sample_weights),
            )
        rows = binary("mul", rows, expand_dims(per_sample_weights, -1))
    is_read = None
    if padding_idx is not None:
        is_read = binary("not_equal", input, checked_padding(padding_idx, ops.static_size(weight, 0, "embedding_bag")))
        rows = ops.where(expand_dims(is_read, -1), rows, -math.inf if mode == "max" else 0.0)
    ones = ops.expand(lift(1.0, trace), dims(input)) if is_read is None else cast(is_read, DType.F32)
    if offsets is None:
        combined = ops.reduce("max" if mode == "max" else "sum", rows, 1)
        counts = ops.reduce("sum", ones, 1)
    else:
        bags = _bags(lift(offsets, trace, dtype=DType.I64), input, include_last_offset)
        combined = bags.combine(rows, "max" if mode == "max" else "add")
        counts = bags.combine(ones, "add")
    if mode == "sum":
        return combined
    counts = expand_dims(counts, 1)
    if mode == "mean":
        return binary("div", combined, binary("maximum", counts, 1.0))
    return ops.where(binary("greater", counts, 0.0), combined, 0.0)


def _check_bags(input: Proxy, offsets: Any, mode: str, weights: Any, include_last_offset: bool) -> None:
    if mode not in BAG_MODES:
        raise TraceError("mode of embedding_bag", where=user_place(), expected=" | ".join(BAG_MODES), got=repr(mode))
    if rank(input) not in (1, 2):
        raise TraceError("indices of embedding_bag", where=user_place(), expected="rank 1 or 2", got=repr(input))
    if (rank(input) == 1) != (offsets is not None):
        raise TraceError(
            "offsets of embedding_bag",
            where=user_place(),
            expected="offsets beside indices of rank 1, and none beside indices of rank 2",
            got=f"indices {input!r}, offsets {offsets!r}",
        )
    if offsets is None and include_last_offset:
        raise TraceError("include_last_offset of embedding_bag without offsets", where=user_place())
    if weights is not None and mode != "sum":
        raise TraceError("per_sample_weights are for sums", where=user_place(), expected="mode='sum'", got=repr(mode))


class _Bags:
    """Bags of a list of indices.

    Attributes:
        places: i64 [count], the number of each index's bag, counted from 1; 0 for indices before the first offset.
        offsets: how many there are.
        last: how many of the bags are no result: 1 if the last offset is an end.
    """

    def __init__(self, places: Proxy, offsets: Any, last: int) -> None:
        self.places, self.offsets, self.last = places, offsets, last

    def combine(self, x: Proxy, reduction: str) -> Proxy:
        """x [count, ...] combined by bags, "add" or "max"; -inf is the maximum of none."""
        first = ops.lift(-math.inf if reduction == "max" else 0.0, x.trace)
        empty = ops.expand(first, (self.offsets + 1, *dims(x)[1:]))
        return slice_axes(add_slices(empty, 0, self.places, x, reduction), {0: slice(1, -1 if self.last else None)})


def _bags(offsets: Proxy, indices: Proxy, include_last_offset: bool) -> _Bags:
    if rank(offsets) != 1:
        raise TraceError("offsets of embedding_bag", where=user_place(), expected="rank 1", got=repr(offsets))
    count, size = dims(offsets)[0], dims(indices)[0]
    ones = ops.expand(lift(1, offsets.trace), (count,))
    started = add_slices(ops.expand(lift(0, offsets.trace), (size + 1,)), 0, offsets, ones)
    places = slice_axes(ops.cumsum(started, 0), {0: slice(0, -1)})
    return _Bags(places, count, int(include_last_offset))


def checked_padding(padding_idx: int, rows: int) -> int:
    """A row's index, which may count from the end, from 0 on; TraceError if there is no such row."""
    if not -rows <= padding_idx < rows:
        raise TraceError("padding_idx", where=user_place(), expected=f"{-rows} to {rows - 1}", got=padding_idx)
    return padding_idx % rows


def no_max_norm(what: str, max_norm: float | None) -> None:
    """TraceError if the rows of a weight should be made shorter when they are read."""
    if max_norm is not None:
        raise TraceError(
            f"{what} with max_norm writes to its weight",
            where=user_place(),
            expected="None",
            got=max_norm,
            hint="scale the rows that are too long once, before the model is compiled",
        )
