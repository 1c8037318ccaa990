"""Operands and attributes of ONNX ops that compute: elementwise functions, products, pools, norms and reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.frontend.onnx.recipes import Draw, Operands, i64, no_nan, recipe

# -- elementwise


@recipe("Abs", "Neg", "Floor", "Ceil", "Round", "Sign", "Relu", "Identity")
@recipe("Not", "Shrink", "LeakyRelu", "ThresholdedRelu", "Sqrt", "Reciprocal", bound=1)
@recipe("Sigmoid", "Tanh", "Exp", "Log", "Sin", "Cos", "Atan", "Erf", "Softsign", "Mish", "Elu", "Celu", bound=4)
@recipe("HardSigmoid", bound="sum")
@recipe("Softplus", "Gelu", "HardSwish", "Selu", "Tan", "Sinh", "Cosh", bound=4)
@recipe("Asin", "Acos", "Atanh", "Asinh", "Acosh", bound=8)
@recipe("BitwiseNot")
def _unary(d: Draw) -> tuple[Operands, dict[str, Any]]:
    attrs = {"approximate": d.one("none", "tanh")} if d.op == "Gelu" else {}
    x = d.data(d.shape(), "V" if "V" in d.types else "T")
    return [no_nan(x) if d.op in ("Sign", "Shrink", "ThresholdedRelu") else x], attrs


@recipe("IsNaN", "IsInf")
def _is_nan(d: Draw) -> tuple[Operands, dict[str, Any]]:
    return [d.data(d.shape(), "T1")], {}


@recipe("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor")
@recipe("BitwiseAnd", "BitwiseOr", "BitwiseXor")
@recipe("Add", "Sub", "Mul", "PRelu", bound=1)
def _binary(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x, y = d.broadcast(["T", "T"])
    if d.op == "PRelu":  # broadcasts one way: the slope to x
        x = d.data(np.broadcast_shapes(x.shape, y.shape))
    return [x, y], {}


@recipe("Mod")
@recipe("Div", bound=1)
def _division(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x, y = d.broadcast(["T", "T"])
    attrs = {"fmod": 1 if y.dtype.kind not in "iu" and d.opset < 28 else d.one(0, 1)} if d.op == "Mod" else {}
    return [x, np.where(y == 0, y.dtype.type(3), y) if y.dtype.kind in "iu" else y], attrs  # x / 0 is undefined


@recipe("Pow", bound=2)
def _pow(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x, y = d.broadcast(["T", "T1" if "T1" in d.types else "T"])
    if x.dtype.kind in "iu":  # what leaves the type is undefined
        low = 1 if x.dtype.kind == "u" else -3
        x = d.rng.integers(low, 4, x.shape).astype(x.dtype)
        x, y = np.where(x == 0, x.dtype.type(2), x), d.rng.integers(0, 4, y.shape).astype(y.dtype)
    return [x, y], {}


@recipe("Min", "Max", bound=0)
@recipe("Sum", "Mean", bound="sum")
def _variadic(d: Draw) -> tuple[Operands, dict[str, Any]]:
    count, tame = int(d.rng.integers(1, 4)), d.op in ("Sum", "Mean")
    if d.opset < 8:
        shape = d.shape()
        return [d.data(shape, tame=tame) for _ in range(count)], {}
    return d.broadcast(["T"] * count, tame=tame), {}


@recipe("Where")
def _where(d: Draw) -> tuple[Operands, dict[str, Any]]:
    return d.broadcast(["B", "T", "T"]), {}


@recipe("Clip", bound=0)
def _clip(d: Draw) -> tuple[Operands, dict[str, Any]]:
    bounds = [no_nan(d.data(())) if d.chance(0.8) else None for _ in range(2)]
    if d.chance(0.6) and bounds[0] is not None and bounds[1] is not None and bounds[1] < bounds[0]:
        bounds.reverse()
    if d.opset < 11:
        named = zip(("min", "max"), bounds)
        return [d.data(d.shape())], {name: float(bound) for name, bound in named if bound is not None}
    return [d.data(d.shape()), *bounds], {}


@recipe("Cast", "CastLike")
def _cast(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data(d.shape(), "T1")
    target = d.types["T2"]
    whole = target not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL)
    if x.dtype.kind == "f" and whole:  # out of range is undefined
        unsigned = np.dtype(helper.tensor_dtype_to_np_dtype(target)).kind == "u"
        x = np.where(np.abs(x) < 127, np.abs(x) if unsigned else x, x.dtype.type(2.5))
    return (
        ([x], {"to": target}) if d.op == "Cast" else ([x, d.values((1,), helper.tensor_dtype_to_np_dtype(target))], {})
    )


@recipe("Dropout")
def _dropout(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.wanted = d.one(1, 1, 2)
    if d.opset < 12:
        return [d.data(d.shape())], {"ratio": 0.25}
    d.known |= {1, 2}
    training = np.array(d.chance(0.2)) if d.chance(0.5) else None
    ratio = 0.0 if training is not None and training else 0.25  # without a ratio training does not drop
    return [d.data(d.shape()), np.array(ratio).astype(d.data((), "T1").dtype), training], {}


# -- convolutions, products, pools


def _windows(d: Draw, spatial: Sequence[int], kernel: Sequence[int], pool: bool = False) -> dict[str, Any]:
    """Draw strides, dilations, and pads or auto_pad, so that each window sees the operand."""
    attrs: dict[str, Any] = {}
    dilations = [int(d.one(1, 1, 2)) for _ in kernel]
    if d.chance(0.4) and all(k * e <= s for k, e, s in zip(kernel, dilations, spatial)):
        attrs["dilations"] = dilations
    else:
        dilations = [1] * len(kernel)
    if d.chance(0.7):
        attrs["strides"] = [int(d.one(1, 2, 3)) for _ in kernel]
    auto = d.one("NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    if auto != "NOTSET":
        attrs["auto_pad"] = auto
        if pool and auto != "VALID":  # ONNX Runtime leaves dilations out, and takes padding below 0 for an error
            attrs.pop("dilations", None)
            attrs["strides"] = [min(s, k) for s, k in zip(attrs.get("strides", kernel), kernel)]
    elif d.chance(0.6):
        most = [k - 1 if pool else 2 for k in kernel]
        attrs["pads"] = [int(d.rng.integers(0, m + 1)) for m in most * 2]
    return attrs


def _image(d: Draw, channels: int, low: int = 3, high: int = 7) -> tuple[int, list[int], list[int]]:
    """Draw (batch, spatial sizes, a kernel that fits)."""
    spatial = [int(d.rng.integers(low, high)) for _ in range(int(d.one(1, 2, 2, 3)))]
    return int(d.one(1, 2)), spatial, [int(d.rng.integers(1, 4)) for _ in spatial]


@recipe("Conv", "ConvTranspose", bound="sum")
def _conv(d: Draw) -> tuple[Operands, dict[str, Any]]:
    group, i, o = int(d.one(1, 1, 2)), int(d.one(1, 2, 3)), int(d.one(1, 2, 3))
    batch, spatial, kernel = _image(d, i)
    attrs = _windows(d, spatial, kernel)
    attrs.update({"group": group} if group > 1 else {})
    attrs.update({"kernel_shape": kernel} if d.chance(0.5) else {})
    transposed = d.op == "ConvTranspose"
    if transposed:
        strides, dilations = (attrs.get(name, [1] * len(kernel)) for name in ("strides", "dilations"))
        attrs["pads"] = [0] * 2 * len(kernel)
        if d.chance(0.4):
            attrs["output_padding"] = [int(d.rng.integers(0, s)) for s in strides]
        if d.chance(0.3):
            extra = attrs.get("output_padding", [0] * len(kernel))
            attrs["output_shape"] = [
                max(1, s * (n - 1) + e + (k - 1) * a + 1 - int(d.rng.integers(0, 2)))
                for s, n, e, k, a in zip(strides, spatial, extra, kernel, dilations)
            ]
            attrs["auto_pad"] = d.one("NOTSET", "SAME_UPPER", "SAME_LOWER")
        if attrs.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attrs:
            del attrs["pads"]
    weight = (i * group, o, *kernel) if transposed else (o * group, i, *kernel)
    bias = d.data((o * group,), tame=True) if d.chance(0.5) else None
    return [d.data((batch, i * group, *spatial), tame=True), d.data(weight, tame=True), bias], attrs


@recipe("Gemm", bound="sum")
def _gemm(d: Draw) -> tuple[Operands, dict[str, Any]]:
    m, k, n = (int(d.one(1, 2, 3, 5)) for _ in range(3))
    a, b = int(d.chance(0.4)), int(d.chance(0.4))
    c = d.one((), (1,), (n,), (1, n), (m, 1), (m, n), None if d.opset >= 11 else (n,))
    attrs: dict[str, Any] = {"transA": a, "transB": b}
    if d.chance(0.5):
        attrs |= {"alpha": d.one(0.5, 2.0, 0.0, -1.0), "beta": d.one(0.25, 0.0, 2.0)}
    return [
        d.data((k, m) if a else (m, k), tame=True),
        d.data((n, k) if b else (k, n), tame=True),
        None if c is None else d.data(c, tame=True),
    ], attrs


@recipe("MatMul", bound="sum")
def _matmul(d: Draw) -> tuple[Operands, dict[str, Any]]:
    m, k, n = (int(d.one(1, 2, 3, 5)) for _ in range(3))
    batch = d.shape(0, 2, empty=False)
    left = d.one((k,), (m, k), (*batch, m, k), (*(1 for _ in batch), m, k))
    right = d.one((k,), (k, n), (*batch, k, n))
    return [d.data(left, tame=True), d.data(right, tame=True)], {}


@recipe("Einsum", bound="sum")
def _einsum(d: Draw) -> tuple[Operands, dict[str, Any]]:
    equation, shapes = d.one(
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 1)]),
        ("i,i->", [(5,), (5,)]),
        ("i,j->ij", [(2,), (3,)]),
        ("ij->ji", [(2, 3)]),
        ("ij->i", [(2, 3)]),
        ("ii->i", [(3, 3)]),
        ("...ij,...jk->...ik", [(2, 1, 2, 3), (5, 3, 2)]),
        ("ij,jk", [(2, 3), (3, 2)]),
        ("bhid,bhjd->bhij", [(1, 2, 3, 4), (1, 2, 5, 4)]),
    )
    return [d.data(shape, tame=True) for shape in shapes], {"equation": equation}


@recipe("MaxPool", bound=0)
@recipe("AveragePool", bound="sum")
def _pool(d: Draw) -> tuple[Operands, dict[str, Any]]:
    batch, spatial, kernel = _image(d, 2)
    attrs = {"kernel_shape": kernel, **_windows(d, spatial, kernel, pool=True)}
    if d.opset < 8:  # ONNX Runtime has no doubles then, and onnx's evaluator pads otherwise
        attrs.pop("auto_pad", None)
    if d.op == "AveragePool" and d.opset < 19:
        attrs.pop("dilations", None)
    if d.op == "MaxPool" and d.opset >= 8 and d.chance(0.3):
        d.wanted = 2
        attrs["storage_order"] = int(d.chance(0.3))
    if d.op == "AveragePool":
        attrs["count_include_pad"] = int(d.chance(0.5))
    attrs["ceil_mode"] = int(d.chance(0.4))
    x = no_nan(d.data((batch, 2, *spatial), tame=d.op == "AveragePool"))
    return [np.where(x == -math.inf, x.dtype.type(0), x)], attrs  # ONNX Runtime starts from the lowest finite number


@recipe("GlobalMaxPool", bound=0)
@recipe("GlobalAveragePool", bound="sum")
def _global_pool(d: Draw) -> tuple[Operands, dict[str, Any]]:
    shape = (*d.shape(2, 2, empty=False), *d.shape(1, 3, empty=False))
    return [no_nan(d.data(shape, tame=d.op == "GlobalAveragePool"))], {}


# -- normalisation


def _positive(x: np.ndarray) -> np.ndarray:
    return np.abs(x) + x.dtype.type(0.5)


@recipe("BatchNormalization", bound="scaled")
def _batch_norm(d: Draw) -> tuple[Operands, dict[str, Any]]:
    shape = d.shape(2, 4, empty=False)
    first, second = ("T1", "T2") if "T2" in d.types else ("U", "U") if "U" in d.types else ("T", "T")
    scale, bias = (d.data(shape[1:2], first if "T1" in d.types else "T", tame=True) for _ in range(2))
    mean, var = (d.data(shape[1:2], second, tame=True) for _ in range(2))
    attrs = {"training_mode": 1} if d.opset >= 14 and d.chance(0.1) else {}
    if attrs:
        d.wanted = 3
    return [d.data(shape, tame=True), scale, bias, mean, _positive(var)], attrs


@recipe("InstanceNormalization", bound="scaled")
def _instance_norm(d: Draw) -> tuple[Operands, dict[str, Any]]:
    shape = (*d.shape(2, 2, empty=False), *d.shape(1, 2, empty=False), 3)
    return [d.data(shape, tame=True), d.data(shape[1:2], tame=True), d.data(shape[1:2], tame=True)], {}


@recipe("GroupNormalization", bound="scaled")
def _group_norm(d: Draw) -> tuple[Operands, dict[str, Any]]:
    groups, per = int(d.one(1, 2, 3)), int(d.one(1, 2))
    shape = (2, groups * per, *d.shape(1, 2, empty=False), 3)
    d.known |= {1, 2}
    size = (groups if d.opset < 21 else groups * per,)
    return [d.data(shape, tame=True), d.data(size, tame=True), d.data(size, tame=True)], {"num_groups": groups}


@recipe("LayerNormalization", bound="scaled")
def _layer_norm(d: Draw) -> tuple[Operands, dict[str, Any]]:
    shape = (*d.shape(0, 3, empty=False), 5)
    axis = d.one(-1, d.axis(len(shape)))
    inner = shape[axis:]
    d.wanted = d.one(1, 1, 3)
    bias = d.data(inner, tame=True) if d.chance(0.6) else None
    return [d.data(shape, tame=True), d.data(inner, tame=True), bias], {"axis": axis} if axis != -1 or d.chance(
        0.5
    ) else {}


@recipe("RMSNormalization", bound="scaled")
def _rms_norm(d: Draw) -> tuple[Operands, dict[str, Any]]:
    shape = (*d.shape(0, 3, empty=False), 5)
    axis = d.axis(len(shape))
    inner = shape[axis:]
    scale = d.data(inner if d.chance(0.7) else (1,) * (len(inner) - 1) + (5,), "V", tame=True)
    return [d.data(shape, tame=True), scale], {"axis": axis} if axis != -1 else {}


@recipe("LpNormalization", bound="scaled")
def _lp_norm(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data((*d.shape(0, 3, empty=False), 4), tame=True)
    x = np.where(np.abs(x) < 1e-6, x.dtype.type(0), x)  # squares that f32 has
    return [x], {"p": d.one(1, 2), "axis": d.axis(x.ndim)}


@recipe("Softmax", "LogSoftmax", bound="scaled")
def _softmax(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data(d.shape(1, 4, empty=False), tame=True)
    return [x], {"axis": d.axis(x.ndim)} if d.chance(0.8) and (d.opset >= 13 or x.ndim > 1) else {}


# -- reductions


@recipe("ReduceMax", "ReduceMin", bound=0)
@recipe("ReduceSum", "ReduceMean", "ReduceL1", "ReduceSumSquare", bound="sum")
@recipe("ReduceProd", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", bound="scaled")
def _reduce(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    extremes = d.op in ("ReduceMax", "ReduceMin")
    shape = d.shape(0, 4, empty=d.op != "ReduceMean")  # the mean of nothing is undefined
    x = d.data(shape, tame=not extremes)
    if d.op == "ReduceSum" and x.dtype.kind in "iu":
        x = d.data(shape)
    if extremes:
        x = no_nan(x)
    if d.op == "ReduceLogSum":
        x = np.abs(x)
    axes = d.axes(x.ndim)
    attrs: dict[str, Any] = {"keepdims": int(d.chance(0.6))} if d.chance(0.8) else {}
    if d.opset >= (13 if d.op == "ReduceSum" else 18):
        if d.chance(0.3):
            attrs["noop_with_empty_axes"] = 1
        return [x, i64(axes) if axes or d.chance(0.5) else None], attrs
    return [x], attrs | ({"axes": axes} if axes else {})


@recipe("CumSum", bound="sum")
def _cumsum(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    shape = d.shape(1, 4)
    return [d.data(shape, tame=True), np.array(d.axis(len(shape)), helper.tensor_dtype_to_np_dtype(d.types["T2"]))], {}


@recipe("ArgMax", "ArgMin")
def _arg(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = no_nan(d.data(d.shape(1, 4, empty=False)))
    return [x], {"axis": d.axis(x.ndim)} if d.chance(0.8) else {}
