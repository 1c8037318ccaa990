"""Arithmetic, comparisons and activations."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, kind_of, rank, unary
from qcompiler.frontend.onnx_ops.codes import Codes
from qcompiler.frontend.onnx_ops.node import Meaning, OnnxNode, onnx
from qcompiler.types import DType

_UNARY = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Neg": "neg",
    "Abs": "abs",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Sign": "sign",
    "Sin": "sin",
    "Cos": "cos",
    "Atan": "atan",
    "Erf": "erf",
    "Softsign": "softsign",
    "HardSwish": "hardswish",
    "Mish": "mish",
}


def _unary(op: str) -> Meaning:
    return lambda n: unary(op, n.x(0))


for _name, _op in _UNARY.items():
    onnx(_name)(_unary(_op))


def _truncated(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """ONNX's integer division, which truncates. Symbolic sizes are not negative, so the floor is the same."""
    if object in (x.dtype, y.dtype):
        return np.asarray(x.astype(object) // y.astype(object), object)
    if x.dtype.kind in "iu" and y.dtype.kind in "iu":
        return (np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))).astype(x.dtype)
    return x / y


_KNOWN: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _truncated,
}


@onnx("Add", "Sub", "Mul", "Div")
def _arithmetic(n: OnnxNode) -> Any:
    if n.is_known():
        return np.asarray(_KNOWN[n.op](n.raw(0), n.raw(1)))
    x, y = n.x(0), n.x(1)
    if n.op == "Div" and not kind_of(x).is_float:
        quotient = binary("div", x, y)
        return ops.cast(binary("mul", unary("sign", quotient), unary("floor", unary("abs", quotient))), kind_of(x))
    return binary(n.op.lower(), x, y)


@onnx("Pow")
def _pow(n: OnnxNode) -> Any:
    x, y = n.x(0), n.x(1)
    if kind_of(x).is_float:
        return binary("pow", x, y)
    return ops.cast(binary("pow", ops.cast(x, DType.F32), y), kind_of(x))


_VARIADIC = {"Min": "minimum", "Max": "maximum", "Sum": "add"}


@onnx("Min", "Max", "Sum", "Mean")
def _variadic(n: OnnxNode) -> Any:
    if n.is_known() and n.op in ("Min", "Max"):
        return reduce(np.minimum if n.op == "Min" else np.maximum, n.values)
    total = reduce(lambda x, y: binary(_VARIADIC.get(n.op, "add"), x, y), [n.x(i) for i in range(len(n.values))])
    return binary("div", total, float(len(n.values))) if n.op == "Mean" else total


@onnx("Mod")
def _mod(n: OnnxNode) -> Any:
    if n.is_known():
        return np.asarray((np.fmod if n.attr("fmod", 0) else np.mod)(n.raw(0), n.raw(1)))
    raise n.refuse("remainders of data are not supported", expected="operands known at import")


_COMPARISONS = {
    "Equal": "equal",
    "Greater": "greater",
    "Less": "less",
    "GreaterOrEqual": "greater_equal",
    "LessOrEqual": "less_equal",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "not_equal",
}


@onnx(*_COMPARISONS)
def _compare(n: OnnxNode) -> Any:
    if n.op == "Equal" and n.is_known():
        return np.asarray(n.raw(0) == n.raw(1), bool)
    return binary(_COMPARISONS[n.op], n.x(0), n.x(1))


@onnx("Not")
def _not(n: OnnxNode) -> Any:
    return ops.logical_not(n.x(0))


@onnx("Where")
def _where(n: OnnxNode) -> Any:
    if n.is_known():
        return np.where(n.raw(0), n.raw(1), n.raw(2))
    return ops.where(n.x(0), n.x(1), n.x(2))


@onnx("IsNaN")
def _is_nan(n: OnnxNode) -> Any:
    x = n.x(0)
    return binary("not_equal", x, x)


@onnx("Clip")
def _clip(n: OnnxNode) -> Any:
    bounds = [n.attr(name, None) if not n.has(i) else n.raw(i) for i, name in ((1, "min"), (2, "max"))]
    x = n.x(0)
    plain = [b.reshape(()).item() if isinstance(b, np.ndarray) else b for b in bounds]
    if (
        kind_of(x).is_float
        and all(b is None or isinstance(b, (int, float)) for b in plain)
        and any(b is not None for b in plain)
    ):
        low, high = (-math.inf if plain[0] is None else plain[0]), (math.inf if plain[1] is None else plain[1])
        if low <= high:
            return unary("hardtanh", x, min_value=float(low), max_value=float(high))
    return ops.clip(x, *bounds)


@onnx("LeakyRelu")
def _leaky_relu(n: OnnxNode) -> Any:
    return unary("leaky_relu", n.x(0), negative_slope=float(n.attr("alpha", 0.01)))


@onnx("Elu")
def _elu(n: OnnxNode) -> Any:
    return unary("elu", n.x(0), alpha=float(n.attr("alpha", 1.0)))


@onnx("Celu")
def _celu(n: OnnxNode) -> Any:
    return unary("celu", n.x(0), alpha=float(n.attr("alpha", 1.0)))


@onnx("Selu")
def _selu(n: OnnxNode) -> Any:
    alpha, gamma = n.attr("alpha", 1.67326319217681884765625), n.attr("gamma", 1.05070102214813232421875)
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.0507010) < 1e-6:
        return unary("selu", n.x(0))
    return binary("mul", unary("elu", n.x(0), alpha=float(alpha)), float(gamma))


@onnx("ThresholdedRelu")
def _thresholded_relu(n: OnnxNode) -> Any:
    return unary("threshold", n.x(0), threshold=float(n.attr("alpha", 1.0)), value=0.0)


@onnx("HardSigmoid")
def _hard_sigmoid(n: OnnxNode) -> Any:
    alpha, beta = n.attr("alpha", 0.2), n.attr("beta", 0.5)
    if np.float32(alpha) == np.float32(1 / 6) and beta == 0.5:
        return unary("hardsigmoid", n.x(0))
    line = binary("add", binary("mul", n.x(0), float(alpha)), float(beta))
    return unary("hardtanh", line, min_value=0.0, max_value=1.0)


@onnx("Softplus")
def _softplus(n: OnnxNode) -> Any:
    return unary("softplus", n.x(0), beta=1.0, threshold=math.inf)


@onnx("Gelu")
def _gelu(n: OnnxNode) -> Any:
    return unary("gelu", n.x(0), approximate=n.attr("approximate", "none"))


@onnx("Shrink")
def _shrink(n: OnnxNode) -> Any:
    x, bias, lambd = n.x(0), n.attr("bias", 0.0), n.attr("lambd", 0.5)
    if bias == lambd:
        return unary("softshrink", x, lambd=float(lambd))
    if bias == 0:
        return unary("hardshrink", x, lambd=float(lambd))
    below = ops.where(binary("less", x, -float(lambd)), binary("add", x, float(bias)), 0.0)
    return ops.where(binary("greater", x, float(lambd)), binary("sub", x, float(bias)), below)


@onnx("PRelu")
def _prelu(n: OnnxNode) -> Any:
    x, slope = n.x(0), n.raw(1)
    if isinstance(slope, np.ndarray) and slope.size in (1, *(d for d in ops.dims(x)[1:2] if isinstance(d, int))):
        along = slope.ndim and slope.ndim == rank(x) - 1 and slope.shape[0] == slope.size
        if slope.size == 1 or (rank(x) > 1 and (along or (slope.ndim == rank(x) and slope.shape[1] == slope.size))):
            return n.emit("prelu", (x, slope.reshape(-1)))
    return ops.where(binary("greater", x, 0.0), x, binary("mul", n.x(1), x))


@onnx("Tan", "Sinh", "Cosh")
def _ratio(n: OnnxNode) -> Any:
    x = n.x(0)
    if n.op == "Tan":
        return binary("div", unary("sin", x), unary("cos", x))
    grown, shrunk = unary("exp", x), unary("exp", unary("neg", x))
    return binary("mul", binary("sub" if n.op == "Sinh" else "add", grown, shrunk), 0.5)


@onnx("Dropout", "Identity")
def _identity(n: OnnxNode) -> Any:
    n.unused(1)
    if n.op == "Dropout" and n.has(2) and bool(np.any(n.known(2))):
        raise n.refuse("training_mode is not supported", hint="export the model for inference")
    return n.raw(0)


_DTYPES = {
    1: DType.F32,
    2: DType.U8,
    3: DType.I8,
    5: DType.I16,
    6: DType.I32,
    7: DType.I64,
    9: DType.BOOL,
    10: DType.F32,
    11: DType.F32,
}


def dtype_of(n: OnnxNode, number: int) -> DType:
    """The element type of an ONNX TensorProto type; all floats are f32."""
    if number not in _DTYPES:
        raise n.refuse(
            "the element type is not supported", expected="float, int8, uint8, int16, int32, int64, bool", got=number
        )
    return _DTYPES[number]


@onnx("Cast")
def _cast(n: OnnxNode) -> Any:
    value = n.raw(0)
    if isinstance(value, Codes) and value.element.number == n.attr("to"):
        return value
    dtype = dtype_of(n, n.attr("to"))
    if isinstance(value, np.ndarray):
        if value.dtype == object and dtype.is_integer:
            return value
        return n.sizes_as_ints(value).astype(dtype.numpy)
    return ops.cast(n.x(0), dtype)


@onnx("CastLike")
def _cast_like(n: OnnxNode) -> Any:
    return ops.cast(n.x(0), kind_of(n.raw(1)))
