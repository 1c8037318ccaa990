"""Sequences of tensors whose length is known at import: they are lists here, and the graph has none of them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import indexing
from qcompiler.frontend.array_ops import dims, rank
from qcompiler.frontend.onnx_ops.node import OnnxNode, onnx


def _items(n: OnnxNode) -> list[Any]:
    value = n.raw(0)
    if not isinstance(value, list):
        raise n.refuse("operand 0 is no sequence")
    return value


def _place(n: OnnxNode, index: int, count: int) -> int:
    """Operand `index` as the place of one of `count` elements."""
    found = int(n.known(index).reshape(()))
    if not -count <= found < count:
        raise n.refuse("no such element", expected=f"{-count} to {count - 1}", got=found)
    return found % count


@onnx("SequenceConstruct", "SequenceEmpty")
def _construct(n: OnnxNode) -> Any:
    return list(n.values)


@onnx("SequenceAt")
def _at(n: OnnxNode) -> Any:
    return _items(n)[_place(n, 1, len(_items(n)))]


@onnx("SequenceLength")
def _length(n: OnnxNode) -> Any:
    return np.asarray(len(_items(n)), np.int64)


@onnx("SequenceInsert")
def _insert(n: OnnxNode) -> Any:
    items = list(_items(n))
    items.insert(_place(n, 2, len(items) + 1) if n.has(2) else len(items), n.raw(1))
    return items


@onnx("SequenceErase")
def _erase(n: OnnxNode) -> Any:
    items = list(_items(n))
    del items[_place(n, 1, len(items)) if n.has(1) else -1]
    return items


@onnx("ConcatFromSequence")
def _concat(n: OnnxNode) -> Any:
    items, axis = _items(n), n.attr("axis")
    if not items:
        raise n.refuse("the sequence is empty")
    known = [item for item in items if isinstance(item, np.ndarray)]
    if len(known) == len(items):
        return (np.stack if n.attr("new_axis", 0) else np.concatenate)(known, axis)
    n.values = items
    parts = n.alike(range(len(items)))
    return ops.stack(parts, axis) if n.attr("new_axis", 0) else ops.concat(parts, axis)


@onnx("SplitToSequence")
def _split(n: OnnxNode) -> Any:
    x = n.x(0)
    axis = ops.check_axis(n.attr("axis", 0), rank(x), n.op)
    if not n.has(1):
        count = ops.static_size(x, axis, n.op)
        parts = [indexing.slice_axes(x, {axis: slice(i, i + 1)}) for i in range(count)]
        return parts if n.attr("keepdims", 1) else [ops.squeeze(part, axis) for part in parts]
    given = n.known(1)
    if given.ndim == 0:
        size, part = ops.static_size(x, axis, n.op), int(given)
        if part < 1:
            raise n.refuse("the size of a part", expected="1 or more", got=part)
        sizes = [min(part, size - start) for start in range(0, size, part)]
    else:
        sizes = [int(size) for size in given]
        whole = dims(x)[axis]
        if min(sizes, default=0) < 0 or (isinstance(whole, int) and sum(sizes) != whole):
            raise n.refuse("the parts do not fit the axis", expected=f"sizes that add up to {whole}", got=str(sizes))
    bounds = itertools.accumulate(sizes, initial=0)
    return [indexing.slice_axes(x, {axis: slice(a, b)}) for a, b in itertools.pairwise(bounds)]


@onnx("Optional")
def _optional(n: OnnxNode) -> Any:
    return n.raw(0)


@onnx("OptionalGetElement")
def _element(n: OnnxNode) -> Any:
    if not n.has(0):
        raise n.refuse("the optional is empty")
    return n.raw(0)


@onnx("OptionalHasElement")
def _has_element(n: OnnxNode) -> Any:
    return np.asarray(n.has(0))
