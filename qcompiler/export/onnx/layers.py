"""Products, convolutions, pools, norms and reductions as ONNX's ops."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.dims import Dim
from qcompiler.export.onnx.builder import ELEMENTS
from qcompiler.export.onnx.node import NodeWriter, Refusal, pads, writes
from qcompiler.ops.pool import adaptive_bounds
from qcompiler.ops.windows import output_size
from qcompiler.types import DType

# -- products


@writes("linear")
def linear(w: NodeWriter) -> str:
    if w.type().rank == 2:
        y = w.emit("Gemm", w.x(), w.x(1), w.x(2), transB=1)
    else:
        y = w.emit("MatMul", w.x(), w.model.transposed(w.value(1)))
        y = w.emit("Add", y, w.x(2)) if w.has(2) else y
    return w.activated(w.emit("Add", y, w.x(3)) if w.has(3) else y)


@writes("matmul")
def matmul(w: NodeWriter) -> str:
    return w.emit("MatMul", w.x(), w.x(1))


@writes("conv")
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


@writes("conv_transpose")
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


@writes("max_pool")
def max_pool(w: NodeWriter) -> str:
    op, padding = w.op, _window_pads(w)
    _check_pads(w, padding)
    return w.emit(
        "MaxPool", w.x(), kernel_shape=op.kernel, strides=op.stride, pads=pads(padding), dilations=op.dilation
    )


@writes("max_pool_indices")
def max_pool_indices(w: NodeWriter) -> str:
    """ONNX counts from the first image."""
    op, padding = w.op, _window_pads(w)
    _check_pads(w, padding)
    found = w.emits(
        2, "MaxPool", w.x(), kernel_shape=op.kernel, strides=op.stride, pads=pads(padding), dilations=op.dilation
    )
    return w.emit("Mod", found[1], w.build.size(math.prod(w.type().shape[2:]), w.base))


@writes("avg_pool")
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


@writes("adaptive_avg_pool", "adaptive_max_pool")
def adaptive_pool(w: NodeWriter) -> str:
    """Windows differ in size, so each part of an axis is reduced by itself."""
    average = w.op.name == "adaptive_avg_pool"
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


_REDUCTIONS = {"mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin", "prod": "ReduceProd"}


@writes(*_REDUCTIONS)
def reduction(w: NodeWriter) -> str:
    return w.emit(_REDUCTIONS[w.op.name], w.x(), w.ints(w.op.axes), keepdims=int(w.op.keepdims))


@writes("cumsum")
def cumsum(w: NodeWriter) -> str:
    axis = w.constant(np.array(w.op.axis, np.int64), "axis")
    return w.emit("CumSum", w.x(), axis, exclusive=int(w.op.exclusive), reverse=int(w.op.reverse))


@writes("argmax", "argmin")
def arg_extreme(w: NodeWriter) -> str:
    kind = "ArgMax" if w.op.name == "argmax" else "ArgMin"
    return w.emit(kind, w.x(), axis=w.op.axis, keepdims=int(w.op.keepdims))


@writes("argsort")
def argsort(w: NodeWriter) -> str:
    count = w.build.size(w.type().shape[w.op.axis], w.base)
    return w.emits(2, "TopK", w.x(), count, axis=w.op.axis, largest=int(w.op.descending), sorted=1)[1]


@writes("softmax")
def softmax(w: NodeWriter) -> str:
    y = w.emit("Softmax", w.x(), axis=w.op.axis)
    if not w.op.masked_is_zero:
        return y
    top = w.emit("ReduceMax", w.x(), w.ints([w.op.axis]), keepdims=1)
    masked = w.emit("Equal", top, w.number(-math.inf))
    return w.emit("Where", masked, w.number(0.0), y)


@writes("log_softmax")
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


@writes("batch_norm")
def batch_norm(w: NodeWriter) -> str:
    count = w.type(1).sizes[0]
    given = (w.x(), _parameter(w, 3, 1.0, count), _parameter(w, 4, 0.0, count), w.x(1), w.x(2))
    return w.emit("BatchNormalization", *given, epsilon=w.op.eps)


@writes("layer_norm")
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


@writes("rms_norm")
def rms_norm(w: NodeWriter) -> str:
    rank = w.type().rank
    axes = w.ints(range(rank - w.op.normalized_rank, rank))
    square = w.emit("Mul", w.x(), w.x())
    mean = w.emit("ReduceMean", square, axes, keepdims=1)
    root = w.emit("Sqrt", w.emit("Add", mean, w.number(w.op.eps)))
    y = w.emit("Div", w.x(), root)
    y = w.emit("Mul", y, w.x(1)) if w.has(1) else y
    return w.emit("Add", y, w.x(2)) if w.has(2) else y


@writes("group_norm")
def group_norm(w: NodeWriter) -> str:
    count = _channels(w)
    if w.type().rank == 2:
        raise Refusal("a group norm without spatial axes")
    given = (w.x(), _parameter(w, 1, 1.0, count), _parameter(w, 2, 0.0, count))
    return w.emit("GroupNormalization", *given, num_groups=w.op.groups, epsilon=w.op.eps)


@writes("instance_norm")
def instance_norm(w: NodeWriter) -> str:
    count = _channels(w)
    given = (w.x(), _parameter(w, 1, 1.0, count), _parameter(w, 2, 0.0, count))
    return w.emit("InstanceNormalization", *given, epsilon=w.op.eps)


@writes("l2_normalize")
def l2_normalize(w: NodeWriter) -> str:
    length = w.emit("ReduceL2", w.x(), w.ints([w.op.axis]), keepdims=1)
    return w.emit("Div", w.x(), w.emit("Max", length, w.number(w.op.eps)))


# -- recurrent layers


_ONNX_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}
"""Which of our gates each of ONNX's is: i o f c of i f g o, z r h of r z n."""
_ACTIVATIONS: dict[str, tuple[str, bool, bool]] = {
    "sigmoid": ("Sigmoid", False, False),
    "tanh": ("Tanh", False, False),
    "relu": ("Relu", False, False),
    "softsign": ("Softsign", False, False),
    "softplus": ("Softplus", False, False),
    "affine": ("Affine", True, True),
    "leaky_relu": ("LeakyRelu", True, False),
    "thresholded_relu": ("ThresholdedRelu", True, False),
    "scaled_tanh": ("ScaledTanh", True, True),
    "hardsigmoid": ("HardSigmoid", True, True),
    "elu": ("Elu", True, False),
}
"""Ours -> ONNX's name, and whether it has an alpha and a beta."""


@writes("lstm", "gru", "rnn")
def recurrent(w: NodeWriter) -> list[str]:
    """Weights are constants in ONNX's order of gates."""
    op, order = w.op, _ONNX_GATES[w.op.name]
    if any(value is not None and value.type.is_quantized for value in w.node.operands):
        raise Refusal("a recurrent layer on codes")
    if op.name == "lstm" and w.has(9):
        raise Refusal("an lstm that projects its states")
    units = w.type(2).sizes[0] // len(order)

    def gates(index: int, places: tuple[int, ...] = order) -> np.ndarray:
        data = w.data(index, op.operands[index].name).reshape(len(places), units, -1)
        return np.concatenate([data[place] for place in places])

    given = [w.x(), w.constant(gates(1)[None], "w"), w.constant(gates(2)[None], "r")]
    biases = [gates(i)[:, 0] if w.has(i) else np.zeros(len(order) * units, np.float32) for i in (3, 4)]
    given.append(w.constant(np.concatenate(biases)[None].astype(np.float32), "b") if w.has(3) or w.has(4) else "")
    if w.has(6):
        steps = w.emit("Gather", w.emit("Shape", w.x()), w.ints([0]), axis=0)
        bounded = w.emit("Min", w.emit("Max", w.x(6), w.ints([0])), steps)
        given.append(w.emit("Cast", bounded, to=int(ELEMENTS[DType.I32])))
    else:
        given.append("")
    given.append(w.emit("Unsqueeze", w.x(5), w.ints([0])) if w.has(5) else "")
    attrs: dict[str, object] = {"hidden_size": units, "direction": "reverse" if op.reverse else "forward"}
    if op.name == "lstm":
        given.append(w.emit("Unsqueeze", w.x(7), w.ints([0])) if w.has(7) else "")
        given.append(w.constant(gates(8, (0, 2, 1))[:, 0][None], "p") if w.has(8) else "")
        attrs["input_forget"] = int(op.input_forget)
    if op.name == "gru":
        attrs["linear_before_reset"] = int(op.linear_before_reset)
    named = [(_ACTIVATIONS[name], given_) for name, given_ in zip(op.activations(), op.parameters())]
    alphas = [alpha for (_, has, _), (alpha, _) in named if has]
    betas = [beta for (_, _, has), (_, beta) in named if has]
    y, *states = w.emits(
        len(w.node.results),
        op.name.upper(),
        *given,
        activations=[name for (name, _, _), _ in named],
        activation_alpha=alphas or None,
        activation_beta=betas or None,
        clip=op.clip,
        **attrs,
    )
    last = [w.emit("Squeeze", state, w.ints([0])) for state in states]
    if w.has(6):  # what a row without a step keeps
        idle = w.emit("Unsqueeze", w.emit("LessOrEqual", w.x(6), w.ints([0])), w.ints([1]))
        before = [w.x(index) if w.has(index) else w.number(0.0) for index in (5, 7)]
        last = [w.emit("Where", idle, old, new) for old, new in zip(before, last)]
    return [w.emit("Squeeze", y, w.ints([1])), *last]
