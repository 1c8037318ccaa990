"""Convolutions, products, pooling, normalisation, reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, dims, kind_of, lift, rank, unary
from qcompiler.frontend.einsum import einsum
from qcompiler.frontend.functional.layers import outputs_side_by_side
from qcompiler.frontend.onnx_ops.node import OnnxNode, onnx
from qcompiler.frontend.recorder import Traced
from qcompiler.ir import Const
from qcompiler.ops import conv
from qcompiler.types import DType

Pairs = tuple[tuple[int, int], ...]


def spatial_padding(
    n: OnnxNode, x: Any, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Pairs:
    """pads or auto_pad as pairs (before, after), one per spatial axis."""
    n.only("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    auto, count = n.attr("auto_pad", "NOTSET"), len(kernel)
    for name, least, wanted in (("strides", 1, count), ("dilations", 1, count), ("pads", None, 2 * count)):
        given = n.attr(name, None)
        if given is not None and (len(given) != wanted or (least is not None and min(given, default=least) < least)):
            raise n.refuse(
                f"{name} do not fit the kernel",
                expected=f"{wanted} numbers{'' if least is None else f' of at least {least}'}",
                got=list(given),
            )
    if auto == "VALID":
        return ((0, 0),) * count
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pairs = []
        for size, k, s, d in zip(dims(x)[2:], kernel, stride, dilation):
            if isinstance(size, Dim):
                raise n.refuse(f"auto_pad={auto} of a symbolic size", got=str(size), hint="give the size as an int")
            total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            pairs.append((total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2))
        return tuple(pairs)
    pads = n.attr("pads", [0] * (2 * count))
    return tuple((int(pads[i]), int(pads[i + count])) for i in range(count))


def conv_geometry(n: OnnxNode, x: Any, weight_shape: Sequence[DimLike]) -> dict[str, Any]:
    kernel = tuple(size for size in weight_shape[2:] if not isinstance(size, Dim))
    if len(kernel) != len(weight_shape[2:]):
        raise n.refuse("a kernel of symbolic size", got=", ".join(map(str, weight_shape)))
    if tuple(n.attr("kernel_shape", kernel)) != kernel:
        raise n.refuse("kernel_shape is not that of the weights", expected=list(kernel), got=n.attr("kernel_shape"))
    stride, dilation = (tuple(n.attr(name, [1] * len(kernel))) for name in ("strides", "dilations"))
    return {
        "stride": stride,
        "padding": spatial_padding(n, x, kernel, stride, dilation),
        "dilation": dilation,
        "groups": int(n.attr("group", 1)),
    }


@onnx("Conv")
def _conv(n: OnnxNode) -> Any:
    x, weight = n.x(0), n.x(1)
    return n.emit("conv", (x, weight, n.optional(2)), **conv_geometry(n, x, dims(weight)))


@onnx("ConvTranspose")
def _conv_transpose(n: OnnxNode) -> Any:
    x, weight = n.x(0), n.x(1)
    geometry = conv_geometry(n, x, dims(weight))
    weight = _transposed_weight(n, weight, geometry["groups"])
    count = len(geometry["stride"])
    extra = tuple(int(p) for p in n.attr("output_padding", [0] * count))
    wanted, auto = n.attr("output_shape", None), n.attr("auto_pad", "NOTSET")
    if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        pairs = []
        for i, (size, k, s, d) in enumerate(
            zip(dims(x)[2:], dims(weight)[2:], geometry["stride"], geometry["dilation"])
        ):
            target = wanted[i] if wanted is not None else size * s
            total = s * (size - 1) + extra[i] + d * (k - 1) + 1 - target
            if isinstance(total, Dim) or total < 0:
                raise n.refuse("output_shape is larger than the kernel reaches, or symbolic", got=str(target))
            small, large = total // 2, total - total // 2
            pairs.append((small, large) if auto == "SAME_UPPER" else (large, small))
        geometry["padding"] = tuple(pairs)
    return n.emit("conv_transpose", (x, weight, n.optional(2)), output_padding=extra, **geometry)


def _transposed_weight(n: OnnxNode, weight: Any, groups: int) -> Any:
    """The weight [C, O/groups, *K] of a ConvTranspose as the IR has it: [C/groups, O, *K]. Codes stay codes; parameters
    of an output channel serve that channel of every group."""
    const = _dequantized_const(weight)
    if const is None or groups <= 1 or len(const.data) % groups or const.type.params.axis not in (None, 1):
        return outputs_side_by_side(weight, groups)
    quant = const.type.params
    if quant.axis == 1:
        quant = replace(quant, scale=quant.scale * groups, zero_point=quant.zero_point * groups)
    codes = n.quantized_constant(conv.outputs_side_by_side(const.data, groups), quant, const.type.dtype)
    return n.trace.emit("dequantize", (codes,))


@onnx("Gemm")
def _gemm(n: OnnxNode) -> Any:
    a, b, c = n.floats(0), n.raw(1), n.raw(2)
    alpha, beta = n.number("alpha", 1.0), n.number("beta", 1.0)
    transposed = bool(n.attr("transB", 0))
    a = ops.transpose(a, (1, 0)) if n.attr("transA", 0) else a
    if isinstance(b, np.ndarray) and b.ndim == 2 and b.dtype.kind == "f":
        weight = b if transposed else b.T
        weight = weight if alpha == 1 else weight * np.float32(alpha)
        weight, alpha = n.raw(1) if weight is b else np.ascontiguousarray(weight), 1.0
    else:
        weight = _dequantized_weight(n, b, transposed)
    if weight is not None and alpha == 1:
        bias = _layer_bias(n, c, beta, dims(lift(weight))[0])
        if c is None or bias is not None:
            return n.emit("linear", (a, weight, bias))
    if weight is not None:
        product = n.emit("linear", (a, weight))
    else:
        b = n.x(1)
        product = ops.matmul(a, ops.transpose(b, (1, 0)) if transposed else b)
    product = product if alpha == 1 else binary("mul", product, alpha)
    if c is None:
        return product
    return binary("add", product, n.x(2) if beta == 1 else binary("mul", n.x(2), beta))


def _layer_bias(n: OnnxNode, c: Any, beta: float, channels: DimLike) -> Any:
    """The C of a Gemm as the bias [channels] of a layer, if it is constant and has one number, or one a channel."""
    shape = None if c is None else tuple(dims(c))
    if not isinstance(channels, int) or shape not in ((), (1,), (1, 1), (channels,), (1, channels)):
        return None
    if isinstance(c, np.ndarray):
        if c.dtype.kind != "f":
            return None
        if beta == 1 and shape == (channels,):
            return c
        return np.array(np.broadcast_to(c.reshape(-1), (channels,)), np.float32) * np.float32(beta)
    const = _dequantized_const(c)
    if const is None or beta != 1:
        return None
    if shape == (channels,):
        return c
    quant, codes = const.type.params, np.broadcast_to(const.data.reshape(-1), (channels,))
    quant = quant if quant.axis is None else quant.moved(0)
    return n.trace.emit("dequantize", (n.quantized_constant(np.array(codes), quant, const.type.dtype),))


def _dequantized_const(value: Any) -> Const | None:
    """The constant codes that a value was dequantized from, or None."""
    producer = value.value.producer if isinstance(value, Traced) else None
    if producer is None or producer.op != "dequantize":
        return None
    const = producer.operands[0]
    return const if isinstance(const, Const) and const.type.is_quantized else None


def _dequantized_weight(n: OnnxNode, value: Any, outputs_first: bool) -> Any:
    """A dequantized constant matrix as the weight [out, in] of a linear layer, or None for anything else."""
    const = _dequantized_const(value)
    if const is None or rank(value) != 2:
        return None
    quant = const.type.params
    if outputs_first:
        return value
    turned = quant if quant.axis is None else quant.moved(1 - quant.axis)
    codes = n.quantized_constant(np.ascontiguousarray(const.data.T), turned, const.type.dtype)
    return n.trace.emit("dequantize", (codes,))


@onnx("MatMul")
def _matmul(n: OnnxNode) -> Any:
    weight = _dequantized_weight(n, n.raw(1), outputs_first=False)
    return ops.matmul(n.floats(0), n.floats(1)) if weight is None else n.emit("linear", (n.x(0), weight))


@onnx("Einsum")
def _einsum(n: OnnxNode) -> Any:
    return einsum(n.attr("equation"), *(n.floats(i) for i in range(len(n.values))))


# -- pooling


@onnx("MaxPool")
def _max_pool(n: OnnxNode) -> Any:
    kernel = tuple(n.attr("kernel_shape"))
    stride, dilation = (tuple(n.attr(name, [1] * len(kernel))) for name in ("strides", "dilations"))
    x = n.x(0)
    attrs = {
        "kernel": kernel,
        "stride": stride,
        "dilation": dilation,
        "ceil_mode": bool(n.attr("ceil_mode", 0)),
        "padding": spatial_padding(n, x, kernel, stride, dilation),
    }
    largest = n.emit("max_pool", (x,), **attrs)
    if not any(n.outputs[1:]):
        return largest
    n.only("storage_order", 0)
    return largest, binary("add", n.emit("max_pool_indices", (x,), **attrs), _starts_of_images(n, x))


def _starts_of_images(n: OnnxNode, x: Any) -> np.ndarray:
    """i64 [N, C, 1, ...]: the index in x of the first element of each channel's image."""
    sizes = dims(x)
    if any(isinstance(size, Dim) for size in sizes):
        raise n.refuse("the indices of a max pool of an open size are not supported")
    images, channels, *spatial = (int(size) for size in sizes if not isinstance(size, Dim))
    starts = np.arange(images * channels, dtype=np.int64) * math.prod(spatial)
    return starts.reshape(images, channels, *(1,) * len(spatial))


@onnx("AveragePool")
def _average_pool(n: OnnxNode) -> Any:
    kernel = tuple(n.attr("kernel_shape"))
    ones = [1] * len(kernel)
    n.only("dilations", ones)
    stride, x = tuple(n.attr("strides", ones)), n.x(0)
    return n.emit(
        "avg_pool",
        (x,),
        kernel=kernel,
        stride=stride,
        padding=spatial_padding(n, x, kernel, stride, tuple(ones)),
        ceil_mode=bool(n.attr("ceil_mode", 0)),
        count_include_pad=bool(n.attr("count_include_pad", 0)),
    )


@onnx("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(n: OnnxNode) -> Any:
    x = n.x(0)
    op = "adaptive_avg_pool" if n.op == "GlobalAveragePool" else "adaptive_max_pool"
    return n.emit(op, (x,), output_size=(1,) * (rank(x) - 2))


# -- normalisation


@onnx("BatchNormalization")
def _batch_norm(n: OnnxNode) -> Any:
    n.only("training_mode", 0)
    n.unused(1, 2, 3, 4)
    return n.emit("batch_norm", (n.x(0), n.x(3), n.x(4), n.x(1), n.x(2)), eps=n.number("epsilon", 1e-5))


@onnx("InstanceNormalization")
def _instance_norm(n: OnnxNode) -> Any:
    return n.emit("instance_norm", (n.x(0), n.x(1), n.x(2)), eps=n.number("epsilon", 1e-5))


@onnx("GroupNormalization")
def _group_norm(n: OnnxNode) -> Any:
    x, groups = n.x(0), int(n.attr("num_groups"))
    scale, bias = n.known(1), n.known(2)
    if n.opset < 21:  # one gain and shift per group
        repeat = ops.static_size(x, 1, "GroupNormalization") // groups
        scale, bias = np.repeat(scale, repeat), np.repeat(bias, repeat)
    return n.emit("group_norm", (x, scale, bias), groups=groups, eps=n.number("epsilon", 1e-5))


def _over_last_axes(n: OnnxNode, op: str, axis: int) -> Any:
    """The node as a norm over the axes from `axis` on. Its parameters broadcast to these axes. Sums are made in f64,
    which is at least as exact as any stash_type."""
    x = n.x(0)
    shape = dims(x)[axis:]
    given = [n.optional(index) for index in range(1, len(n.values))]
    parameters = [p if p is None or dims(p) == shape else ops.expand(p, shape) for p in given]
    return n.emit(op, (x, *parameters), normalized_rank=len(shape), eps=n.number("epsilon", 1e-5))


@onnx("RMSNormalization")
def _rms_norm(n: OnnxNode) -> Any:
    return _over_last_axes(n, "rms_norm", ops.check_axis(n.attr("axis", -1), rank(n.x(0)), n.op))


@onnx("LayerNormalization")
def _layer_norm(n: OnnxNode) -> Any:
    x = n.x(0)
    axis = ops.check_axis(n.attr("axis", -1), rank(x), n.op)
    normal = _over_last_axes(n, "layer_norm", axis)
    if not any(n.outputs[1:]):
        return normal
    axes = tuple(range(axis, rank(x)))
    mean = ops.reduce("mean", x, axes, True)
    variance = ops.reduce("mean", unary("square", binary("sub", x, mean)), axes, True)
    return normal, mean, unary("rsqrt", binary("add", variance, n.number("epsilon", 1e-5)))


@onnx("LpNormalization")
def _lp_norm(n: OnnxNode) -> Any:
    x = n.x(0)
    axis = ops.check_axis(n.attr("axis", -1), rank(x), n.op)
    if n.attr("p", 2) == 2:
        eps = float(np.finfo(np.float32).smallest_subnormal)  # only rows of zeros are shorter, and they give 0
        return n.emit("l2_normalize", (x,), axis=axis, eps=eps)
    size = ops.reduce("sum", unary("abs", x), axis, True)
    return binary("div", x, ops.where(binary("equal", size, 0.0), 1.0, size))


@onnx("Softmax", "LogSoftmax")
def _softmax(n: OnnxNode) -> Any:
    x, op = n.x(0), "softmax" if n.op == "Softmax" else "log_softmax"
    if n.opset >= 13:
        return ops.softmax(x, n.attr("axis", -1), op)
    axis = n.attr("axis", 1) % max(rank(x), 1)  # before 13: over all axes from `axis` on
    if axis == rank(x) - 1:
        return ops.softmax(x, axis, op)
    return ops.reshape(ops.softmax(ops.flatten(x, axis, -1), axis, op), dims(x))


# -- reductions


_REDUCTIONS = (
    "Mean",
    "Sum",
    "Max",
    "Min",
    "Prod",
    "SumSquare",
    "L1",
    "L2",
    "LogSum",
    "LogSumExp",
)
_OF_FLOATS = ("L2", "LogSum", "LogSumExp")


@onnx(*(f"Reduce{kind}" for kind in _REDUCTIONS))
def _reduce(n: OnnxNode) -> Any:
    kind, axes, keepdims = n.op.removeprefix("Reduce"), n.axes(1), bool(n.attr("keepdims", 1))
    noop = not axes and bool(n.attr("noop_with_empty_axes", 0))
    if kind == "Prod" and isinstance(n.raw(0), np.ndarray) and n.raw(0).dtype.kind in "iO" and not noop:
        return _product_of_sizes(n.raw(0), axes, keepdims)
    x = n.floats(0) if kind in _OF_FLOATS else n.x(0)
    listed = tuple(axes) if axes else () if noop else tuple(range(rank(x)))

    def over(op: str, value: Any, keepdims: bool = keepdims) -> Any:
        return ops.reduce(op, value, listed, keepdims) if listed else value

    if kind in ("Max", "Min"):
        if kind_of(x) is DType.BOOL:  # false is below true
            return ops.cast(over(kind.lower(), ops.cast(x, DType.I32)), DType.BOOL)
        return over(kind.lower(), x)
    if kind == "Mean" and not kind_of(x).is_float:
        count = math.prod(ops.static_size(x, axis % rank(x), n.op) for axis in listed)
        return n.emit("trunc_divide", (_summed(x, listed, keepdims), np.asarray(count, kind_of(x).numpy)))
    if kind == "Mean":
        return over("mean", x)
    if kind == "Prod":
        return n.emit("prod", (x,), axes=_sorted(listed, rank(x)), keepdims=keepdims) if listed else x
    if kind == "LogSumExp":
        return _log_sum_exp(n, x, listed, keepdims)
    terms = binary("mul", x, x) if kind in ("SumSquare", "L2") else unary("abs", x) if kind == "L1" else x
    total = _summed(terms, listed, keepdims)
    return unary("sqrt" if kind == "L2" else "log", total) if kind in _OF_FLOATS else total


def _sorted(axes: Sequence[int], count: int) -> tuple[int, ...]:
    return ops.check_axes(tuple(axes), count, "a reduction")


def _summed(x: Any, axes: Sequence[int], keepdims: bool) -> Any:
    """Sums in the element type of x: ONNX does not widen integers."""
    if not axes:
        return x
    return x.trace.emit("sum", (x,), {"axes": _sorted(axes, rank(x)), "keepdims": keepdims})


def _product_of_sizes(values: np.ndarray, axes: Sequence[int] | None, keepdims: bool) -> Any:
    """Known integers, which may be symbolic sizes."""
    if axes and sorted(axis % values.ndim for axis in axes) != list(range(values.ndim)):
        return np.asarray(np.prod(values, axis=tuple(axes), keepdims=keepdims, dtype=values.dtype))
    symbolic = values.dtype == object
    held = math.prod(values.ravel().tolist()) if symbolic else np.multiply.reduce(values, None, values.dtype)
    return np.asarray(held, values.dtype).reshape((1,) * values.ndim if keepdims else ())


def _log_sum_exp(n: OnnxNode, x: Any, axes: Sequence[int], keepdims: bool) -> Any:
    """log(sum(exp(x - top))) + top. Where the top is infinite, 0 takes its place: inf - inf is NaN."""
    top = ops.reduce("max", x, tuple(axes), True) if axes else x
    finite = binary("less", unary("abs", top), math.inf)
    shift = ops.where(finite, top, 0.0)
    total = _summed(unary("exp", binary("sub", x, shift)), axes, True)
    whole = binary("add", unary("log", total), shift)
    return whole if keepdims or not axes else ops.squeeze(whole, tuple(axes))


@onnx("CumSum")
def _cumsum(n: OnnxNode) -> Any:
    x = n.x(0)
    axis = ops.check_axis(int(np.ravel(n.known(1))[0]), rank(x), "CumSum")
    return n.emit("cumsum", (x,), axis=axis, exclusive=bool(n.attr("exclusive", 0)), reverse=bool(n.attr("reverse", 0)))


@onnx("ArgMax", "ArgMin")
def _arg_extreme(n: OnnxNode) -> Any:
    """The last of equal ones is the first of the flipped axis, counted from its end."""
    x, op = n.x(0), n.op.lower()
    axis, keepdims = ops.check_axis(n.attr("axis", 0), rank(x), n.op), bool(n.attr("keepdims", 1))
    if not n.attr("select_last_index", 0):
        return n.emit(op, (x,), axis=axis, keepdims=keepdims)
    size = ops.static_size(x, axis, n.op)
    return binary("sub", size - 1, n.emit(op, (ops.flip(x, axis),), axis=axis, keepdims=keepdims))
