"""Ops that move elements, and computation with shapes at import."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import indexing
from qcompiler.frontend.array_ops import dims, rank
from qcompiler.frontend.onnx_ops.node import OnnxNode, onnx
from qcompiler.frontend.ranges import arange
from qcompiler.frontend.sizes import Size, as_dim, sized
from qcompiler.notes import Guard
from qcompiler.quantization import qmath


def sizes(values: list[Any]) -> np.ndarray:
    """Sizes as an array: i64 if all are ints, or else of objects."""
    return np.array(values, np.int64 if all(isinstance(v, int) for v in values) else object)


def _shape(n: OnnxNode, value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return list(value.shape)
    return [sized(size, n.trace) for size in dims(value)]


@onnx("Shape")
def _shape_op(n: OnnxNode) -> Any:
    found = _shape(n, n.raw(0))
    return sizes(found[slice(n.attr("start", 0), n.attr("end", None))])


@onnx("Size")
def _size(n: OnnxNode) -> Any:
    total = math.prod(_shape(n, n.raw(0)))
    return sizes([total]).reshape(())


@onnx("Constant")
def _constant(n: OnnxNode) -> Any:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in n.attrs:
            value = n.attrs[name]
            if isinstance(value, np.ndarray):
                return n.as_f32(value.astype(str) if value.dtype == object else value)
            return np.asarray(value, np.float32 if "float" in name else np.int64)
    raise n.refuse("only values of numbers are supported", got=", ".join(n.attrs))


@onnx("ConstantOfShape")
def _constant_of_shape(n: OnnxNode) -> Any:
    value = np.ravel(n.as_f32(n.attr("value", np.zeros(1, np.float32))))[0]
    shape = n.ints(0)
    if all(isinstance(size, int) for size in shape) and n.is_known(math.prod(shape)):
        return np.full(shape, value)
    return ops.expand(np.asarray(value), shape)


@onnx("Range")
def _range(n: OnnxNode) -> Any:
    start, stop, step = (n.known(i).reshape(()).item() for i in range(3))
    if any(isinstance(number, Size) for number in (start, stop, step)):
        return arange(start, stop, step)
    dtype = n.known(0).dtype
    if step == 0 or not all(math.isfinite(v) for v in (start, stop, step)):
        raise n.refuse("a step of 0, or bounds that are not finite", got=f"{start}, {stop}, {step}")
    count = max(math.ceil((stop - start) / step), 0)
    n.small(count)
    if dtype.kind == "f":  # as the specification has it; numpy.arange adds up another step
        return np.asarray(dtype.type(start) + np.arange(count).astype(dtype) * dtype.type(step), dtype)
    return np.arange(int(start), int(stop), int(step), dtype=np.int64 if dtype.kind == "O" else dtype)


@onnx("Reshape")
def _reshape(n: OnnxNode) -> Any:
    x = n.raw(0)
    target = n.ints(1)
    own = _shape(n, x)
    if not n.attr("allowzero", 0):
        target = [own[i] if isinstance(size, int) and size == 0 else size for i, size in enumerate(target)]
    if isinstance(x, np.ndarray):
        return x.reshape([int(size) for size in target])
    return ops.reshape(n.x(0), target)


@onnx("Flatten")
def _flatten(n: OnnxNode) -> Any:
    x = n.x(0)
    axis = n.attr("axis", 1)
    if axis < 0 and n.opset < 11:
        raise n.refuse("a negative axis, which opsets before 11 do not have", expected=f"0 to {rank(x)}", got=axis)
    axis = axis + rank(x) if axis < 0 else axis
    shape = dims(x)
    return ops.reshape(x, (math.prod(shape[:axis]), math.prod(shape[axis:])))


@onnx("Squeeze", "Unsqueeze")
def _squeeze(n: OnnxNode) -> Any:
    given, x = n.axes(1), n.raw(0)
    axes = None if given is None else tuple(given)
    if n.op == "Squeeze":
        return np.squeeze(x, axes) if isinstance(x, np.ndarray) else ops.squeeze(n.x(0), axes)
    if axes is None:
        raise n.refuse("the axes are missing")
    return np.expand_dims(x, axes) if isinstance(x, np.ndarray) else ops.expand_dims(n.x(0), axes)


@onnx("Transpose")
def _transpose(n: OnnxNode) -> Any:
    perm = n.attr("perm", None)
    if isinstance(n.raw(0), np.ndarray):
        return np.transpose(n.raw(0), perm)
    return ops.transpose(n.x(0), perm)


@onnx("Slice")
def _slice(n: OnnxNode) -> Any:
    value = n.raw(0)
    if n.opset < 10:
        starts, ends, axes, steps = n.attr("starts"), n.attr("ends"), n.attr("axes", None), None
    else:
        starts, ends, axes, steps = n.ints(1), n.ints(2), n.optional_ints(3), n.optional_ints(4)
    shape = _shape(n, value)
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    ranges: dict[int, slice] = {}
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise n.refuse("starts, ends, axes and steps of different lengths", got=f"{starts}, {ends}, {axes}, {steps}")
    for axis, start, end, step in zip(axes, starts, ends, steps):
        axis = ops.check_axis(axis, len(shape), "Slice")
        if axis in ranges:
            raise n.refuse("an axis is given twice", got=str(list(axes)))
        ranges[axis] = _range_of(n, shape[axis], start, end, int(step))
    bounds = [bound for each in ranges.values() for bound in (each.start, each.stop)]
    if isinstance(value, np.ndarray) and not any(isinstance(bound, Size) for bound in bounds):
        return value[tuple(ranges.get(axis, slice(None)) for axis in range(len(shape)))]
    x = n.x(0)
    return indexing.slice_axes(x, {axis: indexing.within_example(x, axis, each) for axis, each in ranges.items()})


def _range_of(n: OnnxNode, size: Any, start: Any, end: Any, step: int) -> slice:
    """The elements that ONNX's clamping of bounds selects, as numpy's slice. The two differ where a negative step
    starts before the axis: ONNX starts at element 0."""
    if step == 0:
        raise n.refuse("a step of 0")
    if all(isinstance(bound, int) for bound in (size, start, end)):
        start, end = (bound + size if bound < 0 else bound for bound in (start, end))
        if step > 0:
            return slice(min(max(start, 0), size), min(max(end, 0), size), step)
        start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
        return slice(start, None if end == -1 else end, step) if size else slice(0)
    if step < 0 and isinstance(start, int) and start <= -(2**31) + 1:
        raise n.refuse("a negative step from before the start of a symbolic axis", got=start)
    if step > 0 and _reaches_end(n, size, end):
        end = None
    return slice(None if _beyond(start) else start, None if _beyond(end) else end, step)


def _reaches_end(n: OnnxNode, size: Any, end: Any) -> bool:
    """Whether a bound on a symbolic axis is at or behind its end. An example decides, and a guard says so; without one
    only a bound that no size of a model reaches."""
    if _beyond(end) or not isinstance(end, int) or end < 0:
        return _beyond(end)
    if isinstance(size, Size) and size.dim.names() <= n.trace.sizes.keys():
        return size <= end
    if end >= _LARGE:
        n.trace.guard(Guard(as_dim(size), "<=", end))
    return end >= _LARGE


_LARGE = 10**6
"""A bound of a slice that stands for the end of an axis whose size is not known."""


def _beyond(bound: Any) -> bool:
    """Whether a bound is a number that stands for the end of an axis, whatever its size."""
    return isinstance(bound, int) and not -(2**31) + 1 < bound < 2**31 - 1


@onnx("Split")
def _split(n: OnnxNode) -> Any:
    value = n.raw(0)
    if isinstance(value, np.ndarray):
        axis = ops.check_axis(n.attr("axis", 0), value.ndim, n.op)
        return tuple(np.split(value, np.cumsum(_split_sizes(n, value.shape[axis]))[:-1], axis))
    x = n.x(0)
    axis = ops.check_axis(n.attr("axis", 0), rank(x), n.op)
    bounds = list(itertools.accumulate(_split_sizes(n, dims(x)[axis]), initial=0))
    return tuple(indexing.slice_axes(x, {axis: slice(a, b)}) for a, b in itertools.pairwise(bounds))


def _split_sizes(n: OnnxNode, size: DimLike) -> list[int]:
    """The sizes of the parts: those given, or equal ones, of which the last may be smaller (opset 18).

    Raises:
        TraceError: they are not one for each output, or do not add up to the size of the axis.
    """
    count = len(n.outputs)
    given = n.ints(1) if n.has(1) else n.attr("split", None)
    declared = n.attr("num_outputs", count)
    if declared != count:
        raise n.refuse("num_outputs is not the number of outputs", expected=count, got=declared)
    if given is not None:
        parts = [int(part) for part in given]
    elif isinstance(size, Dim):
        raise n.refuse("an even split of a symbolic axis", got=str(size), hint="give the sizes of the parts")
    else:
        part = -(-size // count)
        parts = [part] * (count - 1) + [size - part * (count - 1)]
    if len(parts) != count or min(parts) < 0 or (not isinstance(size, Dim) and sum(parts) != size):
        raise n.refuse(
            "the parts do not fit the axis", expected=f"{count} parts that add up to {size}", got=str(parts)[:200]
        )
    return parts


@onnx("Concat")
def _concat(n: OnnxNode) -> Any:
    axis = n.attr("axis")
    if n.is_known(sum(value.size for value in n.values if isinstance(value, np.ndarray))):
        return np.concatenate(n.values, axis)
    return ops.concat(n.alike(range(len(n.values))), axis)


@onnx("Pad")
def _pad(n: OnnxNode) -> Any:
    pads = n.ints(1) if n.has(1) else n.attr("pads")
    given = np.ravel(n.known(2))[0].item() if n.has(2) else n.attr("value", 0.0)
    value = float(given)
    if value != given and not math.isnan(value):  # a float compares exactly with an int
        raise n.refuse("the value is not exact as a float", expected="at most 2^53", got=given)
    n.only("mode", "constant", "reflect", "edge")
    x = n.x(0)
    if n.moved is not None:  # the border is a code
        quant, element = n.moved.value.type.params, n.moved.element
        value = float(qmath.dequantize(element.held(np.asarray(int(value))), quant))
    axes = [ops.check_axis(a, rank(x), n.op) for a in n.ints(3)] if n.has(3) else list(range(rank(x)))
    pairs = [(0, 0)] * rank(x)
    for i, axis in enumerate(axes):
        pairs[axis] = (int(pads[i]), int(pads[i + len(axes)]))
    cut = {
        axis: slice(max(0, -before), None if after >= 0 else after)
        for axis, (before, after) in enumerate(pairs)
        if min(before, after) < 0
    }
    x = indexing.slice_axes(x, cut) if cut else x
    return ops.pad(x, [(max(0, before), max(0, after)) for before, after in pairs], n.attr("mode", "constant"), value)


@onnx("Trilu")
def _trilu(n: OnnxNode) -> Any:
    diagonal = int(np.ravel(n.known(1))[0]) if n.has(1) else 0
    return ops.trilu(n.x(0), bool(n.attr("upper", 1)), diagonal)


@onnx("Expand")
def _expand(n: OnnxNode) -> Any:
    x, target = n.x(0), n.ints(1)
    own = [1] * (len(target) - rank(x)) + [sized(size, n.trace) for size in dims(x)]
    target = [1] * (len(own) - len(target)) + target
    shape = [have if isinstance(want, int) and want == 1 else want for have, want in zip(own, target)]
    return ops.expand(x, shape)


@onnx("Tile")
def _tile(n: OnnxNode) -> Any:
    return ops.tile(n.x(0), [int(count) for count in n.ints(1)])


@onnx("Gather")
def _gather(n: OnnxNode) -> Any:
    axis, value, indices = n.attr("axis", 0), n.raw(0), n.raw(1)
    both = isinstance(value, np.ndarray) and isinstance(indices, np.ndarray)
    if n.is_known(indices.size * value.size // max(1, value.shape[axis]) if both else 0):
        return np.asarray(np.take(value, indices.astype(np.int64), axis))
    if isinstance(indices, np.ndarray) and indices.ndim == 0:
        return indexing.select(n.x(0), ops.check_axis(axis, rank(n.raw(0)), n.op), int(indices))
    return indexing.take(n.x(0), indices if isinstance(indices, np.ndarray) else n.x(1), axis)


@onnx("GatherElements")
def _gather_elements(n: OnnxNode) -> Any:
    indices = n.raw(1)
    return indexing.gather_elements(n.x(0), indices if isinstance(indices, np.ndarray) else n.x(1), n.attr("axis", 0))


@onnx("DepthToSpace")
def _depth_to_space(n: OnnxNode) -> Any:
    n.only("mode", "DCR", "CRD")
    x, b = n.x(0), int(n.attr("blocksize"))
    if n.attr("mode", "DCR") == "CRD":
        return n.emit("pixel_shuffle", (x,), factor=b)
    batch, channels, height, width = dims(x)
    split = ops.transpose(ops.reshape(x, (batch, b, b, channels // (b * b), height, width)), (0, 3, 4, 1, 5, 2))
    return ops.reshape(split, (batch, channels // (b * b), height * b, width * b))


@onnx("SpaceToDepth")
def _space_to_depth(n: OnnxNode) -> Any:
    n.only("mode", "DCR", "CRD")
    x, b = n.x(0), int(n.attr("blocksize"))
    if n.attr("mode", "DCR") == "CRD":
        return n.emit("pixel_unshuffle", (x,), factor=b)
    batch, channels, height, width = dims(x)
    split = ops.transpose(ops.reshape(x, (batch, channels, height // b, b, width // b, b)), (0, 3, 5, 1, 2, 4))
    return ops.reshape(split, (batch, channels * b * b, height // b, width // b))


def moves_codes(op: str) -> bool:
    """Whether an op on codes gives some of them back, so that the result has their quantization. Trilu does not: it
    puts codes of 0, which need not stand for 0."""
    return op in (
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GlobalMaxPool",
        "MaxPool",
        "Pad",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    )
