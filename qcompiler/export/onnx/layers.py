"""Products, convolutions, pools, norms and reductions as ONNX's ops."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.dims import Dim
from qcompiler.export.onnx.node import NodeWriter, Refusal, pads, writes
from qcompiler.ops.conv import Conv, ConvTranspose
from qcompiler.ops.linear import Linear, Matmul
from qcompiler.ops.norm import BatchNorm, GroupNorm, InstanceNorm, L2Normalize, LayerNorm, RmsNorm
from qcompiler.ops.pool import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool, MaxPoolIndices, adaptive_bounds
from qcompiler.ops.reduce import Argmax, Argmin, Cumsum, LogSoftmax, Max, Mean, Min, Prod, Softmax, Sum
from qcompiler.ops.sort import Argsort
from qcompiler.ops.windows import output_size

# -- products


@writes(Linear)
def linear(w: NodeWriter) -> str:
    if w.type().rank == 2:
        y = w.emit("Gemm", w.x(), w.x(1), w.x(2), transB=1)
    else:
        y = w.emit("MatMul", w.x(), w.model.transposed(w.value(1)))
        y = w.emit("Add", y, w.x(2)) if w.has(2) else y
    return w.activated(w.emit("Add", y, w.x(3)) if w.has(3) else y)


@writes(Matmul)
def matmul(w: NodeWriter) -> str:
    return w.emit("MatMul", w.x(), w.x(1))


@writes(Conv)
def conv(w: NodeWriter) -> str:
    op = w.op
    y = w.emit(
        "Conv",
        *(w.x(), w.x(1), w.x(2)),
        strides=op.stride,
        pads=pads(op.padding),
        dilations=op.dilation,
        group=op.groups,
        kernel_shape=w.type(1).sizes[2:],
    )
    return w.activated(w.emit("Add", y, w.x(3)) if w.has(3) else y)


@writes(ConvTranspose)
def conv_transpose(w: NodeWriter) -> str:
    """The weight [C/g, O, *K] becomes ONNX's [C, O/g, *K]."""
    op, weight = w.op, w.x(1)
    depth, outputs, *kernel = w.type(1).sizes
    if op.groups > 1:
        split = w.reshape(weight, (depth, op.groups, outputs // op.groups, *kernel))
        swapped = w.emit("Transpose", split, perm=[1, 0, *range(2, 3 + len(kernel))])
        weight = w.reshape(swapped, (depth * op.groups, outputs // op.groups, *kernel))
    y = w.emit(
        "ConvTranspose",
        *(w.x(), weight, w.x(2)),
        strides=op.stride,
        pads=pads(op.padding),
        dilations=op.dilation,
        group=op.groups,
        output_padding=op.output_padding,
        kernel_shape=kernel,
    )
    return w.activated(y)


# -- pools


def _window_pads(w: NodeWriter) -> list[tuple[int, int]]:
    """The padding, with what ceil_mode adds at the end."""
    op = w.op
    found = []
    dilation = getattr(op, "dilation", (1,) * len(op.kernel))
    for size, kernel, stride, pair, d in zip(w.type().shape[2:], op.kernel, op.stride, op.padding, dilation):
        extra = 0
        if op.ceil_mode and stride > 1:
            if isinstance(size, Dim):
                raise Refusal("ceil_mode on a size that is not known")
            windows = output_size(size, kernel, stride, pair, d, True)
            extra = max(0, (int(windows) - 1) * stride + d * (kernel - 1) + 1 - pair[0] - pair[1] - size)  # type: ignore[arg-type]
        found.append((pair[0], pair[1] + extra))
    return found


def _check_pads(w: NodeWriter, padding: list[tuple[int, int]]) -> None:
    if any(max(pair) >= kernel for pair, kernel in zip(padding, w.op.kernel)):
        raise Refusal("a border as wide as the window")


@writes(MaxPool)
def max_pool(w: NodeWriter) -> str:
    op, padding = w.op, _window_pads(w)
    _check_pads(w, padding)
    return w.emit(
        "MaxPool", w.x(), kernel_shape=op.kernel, strides=op.stride, pads=pads(padding), dilations=op.dilation
    )


@writes(MaxPoolIndices)
def max_pool_indices(w: NodeWriter) -> str:
    """ONNX counts from the first image."""
    op, padding = w.op, _window_pads(w)
    _check_pads(w, padding)
    found = w.emits(
        2, "MaxPool", w.x(), kernel_shape=op.kernel, strides=op.stride, pads=pads(padding), dilations=op.dilation
    )
    return w.emit("Mod", found[1], w.build.size(math.prod(w.type().shape[2:]), w.base))


@writes(AvgPool)
def avg_pool(w: NodeWriter) -> str:
    op, padding, x = w.op, _window_pads(w), w.x()
    extended = padding != [tuple(pair) for pair in op.padding]
    include = op.count_include_pad or op.divisor_override is not None
    if extended and include:
        if op.divisor_override is not None:
            padding, x = [(0, 0)] * len(padding), _zero_padded(w, x, padding)
        else:  # the declared border counts, and what ceil_mode adds does not
            x = _zero_padded(w, x, [tuple(pair) for pair in op.padding])
            padding = [(0, all_[1] - own[1]) for all_, own in zip(padding, op.padding)]
            include = False
    _check_pads(w, padding)
    y = w.emit(
        "AveragePool",
        x,
        kernel_shape=op.kernel,
        strides=op.stride,
        pads=pads(padding),
        count_include_pad=int(include),
    )
    if op.divisor_override is None:
        return y
    return w.emit("Mul", y, w.number(math.prod(op.kernel) / op.divisor_override))


def _zero_padded(w: NodeWriter, x: str, padding: list[tuple[int, int]]) -> str:
    whole = [(0, 0), (0, 0), *padding]
    return w.emit("Pad", x, w.ints(pads(whole), "pads"), w.number(0.0))


@writes(AdaptiveAvgPool, AdaptiveMaxPool)
def adaptive_pool(w: NodeWriter) -> str:
    """Windows differ in size, so each part of an axis is reduced by itself."""
    average = isinstance(w.op, AdaptiveAvgPool)
    if set(w.op.output_size) == {1}:
        return w.emit("GlobalAveragePool" if average else "GlobalMaxPool", w.x())
    x, kind = w.x(), "ReduceMean" if average else "ReduceMax"
    for axis, out in enumerate(w.op.output_size, 2):
        size = w.type().shape[axis]
        bounds = [(0, size)] if out == 1 else adaptive_bounds(int(size), out)  # type: ignore[arg-type]
        parts = []
        for start, stop in bounds:
            part = x if out == 1 else w.emit("Slice", x, *(w.ints([n], "bound") for n in (start, stop, axis)))  # type: ignore[list-item]
            parts.append(w.emit(kind, part, w.ints([axis]), keepdims=1))
        x = parts[0] if len(parts) == 1 else w.emit("Concat", *parts, axis=axis)
    return x


# -- reductions


_REDUCTIONS = {Mean: "ReduceMean", Sum: "ReduceSum", Max: "ReduceMax", Min: "ReduceMin", Prod: "ReduceProd"}


@writes(*_REDUCTIONS)
def reduction(w: NodeWriter) -> str:
    return w.emit(_REDUCTIONS[type(w.op)], w.x(), w.ints(w.op.axes), keepdims=int(w.op.keepdims))


@writes(Cumsum)
def cumsum(w: NodeWriter) -> str:
    axis = w.constant(np.array(w.op.axis, np.int64), "axis")
    return w.emit("CumSum", w.x(), axis, exclusive=int(w.op.exclusive), reverse=int(w.op.reverse))


@writes(Argmax, Argmin)
def arg_extreme(w: NodeWriter) -> str:
    kind = "ArgMax" if isinstance(w.op, Argmax) else "ArgMin"
    return w.emit(kind, w.x(), axis=w.op.axis, keepdims=int(w.op.keepdims))


@writes(Argsort)
def argsort(w: NodeWriter) -> str:
    count = w.build.size(w.type().shape[w.op.axis], w.base)
    return w.emits(2, "TopK", w.x(), count, axis=w.op.axis, largest=int(w.op.descending), sorted=1)[1]


@writes(Softmax)
def softmax(w: NodeWriter) -> str:
    y = w.emit("Softmax", w.x(), axis=w.op.axis)
    if not w.op.masked_is_zero:
        return y
    top = w.emit("ReduceMax", w.x(), w.ints([w.op.axis]), keepdims=1)
    masked = w.emit("Equal", top, w.number(-math.inf))
    return w.emit("Where", masked, w.number(0.0), y)


@writes(LogSoftmax)
def log_softmax(w: NodeWriter) -> str:
    return w.emit("LogSoftmax", w.x(), axis=w.op.axis)


# -- norms


def _parameter(w: NodeWriter, index: int, otherwise: float, size: int) -> str:
    """A parameter of a norm, or as many equal numbers."""
    return w.x(index) if w.has(index) else w.constant(np.full(size, otherwise, w.type().dtype.numpy), "filled")


def _channels(w: NodeWriter) -> int:
    size = w.type().shape[1]
    if isinstance(size, Dim):
        raise Refusal("a number of channels that is not known")
    return int(size)


@writes(BatchNorm)
def batch_norm(w: NodeWriter) -> str:
    count = w.type(1).sizes[0]
    given = (w.x(), _parameter(w, 3, 1.0, count), _parameter(w, 4, 0.0, count), w.x(1), w.x(2))
    return w.emit("BatchNormalization", *given, epsilon=w.op.eps)


@writes(LayerNorm)
def layer_norm(w: NodeWriter) -> str:
    rank = w.type().rank
    if w.has(1):
        weight = w.x(1)
    else:
        shape = w.type().shape[rank - w.op.normalized_rank :]
        if any(isinstance(size, Dim) for size in shape):
            raise Refusal("a norm without a weight, over a size that is not known")
        weight = w.constant(np.ones([int(size) for size in shape], np.float32), "ones")  # type: ignore[arg-type]
    return w.emit("LayerNormalization", w.x(), weight, w.x(2), axis=rank - w.op.normalized_rank, epsilon=w.op.eps)


@writes(RmsNorm)
def rms_norm(w: NodeWriter) -> str:
    rank = w.type().rank
    axes = w.ints(range(rank - w.op.normalized_rank, rank))
    square = w.emit("Mul", w.x(), w.x())
    mean = w.emit("ReduceMean", square, axes, keepdims=1)
    root = w.emit("Sqrt", w.emit("Add", mean, w.number(w.op.eps)))
    y = w.emit("Div", w.x(), root)
    y = w.emit("Mul", y, w.x(1)) if w.has(1) else y
    return w.emit("Add", y, w.x(2)) if w.has(2) else y


@writes(GroupNorm)
def group_norm(w: NodeWriter) -> str:
    count = _channels(w)
    if w.type().rank == 2:
        raise Refusal("a group norm without spatial axes")
    given = (w.x(), _parameter(w, 1, 1.0, count), _parameter(w, 2, 0.0, count))
    return w.emit("GroupNormalization", *given, num_groups=w.op.groups, epsilon=w.op.eps)


@writes(InstanceNorm)
def instance_norm(w: NodeWriter) -> str:
    count = _channels(w)
    given = (w.x(), _parameter(w, 1, 1.0, count), _parameter(w, 2, 0.0, count))
    return w.emit("InstanceNormalization", *given, epsilon=w.op.eps)


@writes(L2Normalize)
def l2_normalize(w: NodeWriter) -> str:
    length = w.emit("ReduceL2", w.x(), w.ints([w.op.axis]), keepdims=1)
    return w.emit("Div", w.x(), w.emit("Max", length, w.number(w.op.eps)))
