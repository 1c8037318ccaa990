"""Ops that pick elements by index, put others in their places, or sort."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import indexing, scattering
from qcompiler.frontend.array_ops import binary, dims, rank
from qcompiler.frontend.onnx_ops.node import OnnxNode, onnx
from qcompiler.frontend.ranges import arange
from qcompiler.frontend.recorder import Traced
from qcompiler.frontend.sizes import sized
from qcompiler.ir import Const
from qcompiler.types import DType


@onnx("GatherND")
def _gather_nd(n: OnnxNode) -> Any:
    x, indices, batch = n.x(0), n.x(1), int(n.attr("batch_dims", 0))
    if not 0 <= batch < min(rank(x), rank(indices)):
        raise n.refuse("batch_dims", expected=f"0 to {min(rank(x), rank(indices)) - 1}", got=batch)
    shape = dims(indices)[:-1]
    places = []
    for axis in range(batch):
        along = ops.reshape(arange(0, sized(shape[axis], n.trace)), (shape[axis], *(1,) * (len(shape) - axis)))
        places.append(ops.expand(along, (*shape, 1)))
    return n.emit("gather_nd", (x, ops.concat([*places, indices], -1) if places else indices))


_REDUCTIONS = ("none", "add", "mul", "max", "min")


@onnx("ScatterND")
def _scatter_nd(n: OnnxNode) -> Any:
    n.only("reduction", *_REDUCTIONS)
    return scattering.scatter(n.x(0), n.x(1), n.x(2), n.attr("reduction", "none"))


@onnx("ScatterElements", "Scatter")
def _scatter_elements(n: OnnxNode) -> Any:
    n.only("reduction", *_REDUCTIONS)
    return scattering.scatter_elements(n.x(0), n.attr("axis", 0), n.x(1), n.x(2), n.attr("reduction", "none"))


@onnx("TopK")
def _top_k(n: OnnxNode) -> Any:
    k = int(n.ints(1)[0]) if n.has(1) else int(n.attr("k"))
    return scattering.topk(n.x(0), k, n.attr("axis", -1), bool(n.attr("largest", 1)))


@onnx("OneHot")
def _one_hot(n: OnnxNode) -> Any:
    """Indices of the new axis count from its end where they are negative; others outside give no 1."""
    indices, depth = ops.cast(n.x(0), DType.I64), int(np.ravel(n.known(1))[0])
    if depth < 1:
        raise n.refuse("the depth", expected="1 or more", got=depth)
    off, on = (indexing.select(n.x(2), 0, place) for place in range(2))
    axis = ops.check_axis(n.attr("axis", -1), rank(indices) + 1, n.op)
    indices = ops.where(binary("less", indices, 0), binary("add", indices, depth), indices)
    along = np.arange(depth).reshape((depth,) + (1,) * (rank(indices) - axis))
    return ops.where(binary("equal", ops.expand_dims(indices, axis), along), on, off)


@onnx("Hardmax")
def _hardmax(n: OnnxNode) -> Any:
    """1 at the first of the largest elements of an axis; before opset 13 of all axes from `axis` on."""
    x = n.floats(0)
    shape = dims(x)
    axis = ops.check_axis(n.attr("axis", 1 if n.opset < 13 else -1), rank(x), n.op)
    if n.opset < 13 and axis < rank(x) - 1:
        x = ops.flatten(x, axis, -1)
    first = n.emit("argmax", (x,), axis=axis, keepdims=True)
    size = ops.static_size(x, axis, n.op)
    along = np.arange(size).reshape((size,) + (1,) * (rank(x) - axis - 1))
    return ops.reshape(ops.cast(binary("equal", first, along), DType.F32), shape)


@onnx("EyeLike")
def _eye_like(n: OnnxNode) -> Any:
    from qcompiler.frontend.onnx_ops.elementwise import dtype_of

    dtype = dtype_of(n, n.attr("dtype")) if "dtype" in n.attrs else n.dtype(0)
    x = n.x(0)
    if rank(x) != 2:
        raise n.refuse("the rank of the operand", expected=2, got=rank(x))
    rows, columns = (ops.static_size(x, axis, n.op) for axis in range(2))
    n.small(rows * columns)
    k = int(n.attr("k", 0))
    return np.eye(rows, columns, max(min(k, columns), -rows), dtype.numpy)


@onnx("NonZero")
def _non_zero(n: OnnxNode) -> Any:
    """Of known numbers, or of as many equal ones as an axis has elements, as exporters write a range."""
    value = n.raw(0)
    if isinstance(value, np.ndarray):
        return np.stack(np.nonzero(n.sizes_as_ints(value))).astype(np.int64)
    producer = value.value.producer if isinstance(value, Traced) else None
    filled = producer.operands[0] if producer is not None and producer.op == "expand" else None
    if rank(value) != 1 or not isinstance(filled, Const) or filled.data.size != 1 or not filled.data.reshape(()):
        raise n.refuse("how many elements are not 0 depends on data", expected="a constant", hint="Where")
    return ops.reshape(arange(0, sized(dims(value)[0], n.trace)), (1, -1))


@onnx("Compress")
def _compress(n: OnnxNode) -> Any:
    chosen, x = np.flatnonzero(n.known(1)), n.x(0)
    axis = n.attr("axis", None)
    if axis is None:
        x, axis = ops.reshape(x, (math.prod(dims(x)),)), 0
    return indexing.take(x, chosen.astype(np.int64), axis)
