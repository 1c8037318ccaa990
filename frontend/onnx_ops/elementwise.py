"""Arithmetic, comparisons and activations."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import trigonometry
from qcompiler.frontend.array_ops import binary, kind_of, lift, rank, unary
from qcompiler.frontend.onnx_ops.codes import Codes, Sums
from qcompiler.frontend.onnx_ops.node import DTYPES, Meaning, OnnxNode, onnx
from qcompiler.frontend.sizes import Size
from qcompiler.ops.elementwise import converted
from qcompiler.types import DType

_UNARY = {
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
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


_OF_INTEGERS = ("abs", "sign")
"""Ops of `_UNARY` that mean the same on integers. ONNX has Relu on them too, and Erf until opset 13."""


def _unary(op: str) -> Meaning:
    return lambda n: unary(op, n.x(0) if op in _OF_INTEGERS else n.floats(0))


for _name, _op in _UNARY.items():
    onnx(_name)(_unary(_op))


@onnx("Neg")
def _neg(n: OnnxNode) -> Any:
    """Minus a symbolic size stays symbolic: exporters write x[:, -S:] with it."""
    value = n.raw(0)
    is_of_sizes = isinstance(value, np.ndarray) and value.dtype == object
    return np.asarray(-value, object) if is_of_sizes else unary("neg", n.x(0))


@onnx("Relu")
def _relu(n: OnnxNode) -> Any:
    return unary("relu", n.x(0)) if n.dtype(0).is_float else binary("maximum", n.x(0), 0)


def _quotient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Div of known numbers: integers truncate. Symbolic sizes are not negative, so the floor is the same; what is minus
    a size is divided as its opposite."""
    if object in (x.dtype, y.dtype):
        return np.asarray(_size_quotient(x.astype(object), y.astype(object)), object)
    if x.dtype.kind not in "iu":
        return x / y
    rest = np.fmod(x, y)  # 0 for the least integer over -1, whose quotient wraps
    return np.asarray(np.where(y == -1, np.negative(x), (x - rest) // y), x.dtype)


def _is_minus_a_size(item: Any) -> bool:
    greatest = item.dim.bounds()[1] if isinstance(item, Size) else item
    return greatest is not None and greatest <= 0


_size_quotient = np.frompyfunc(lambda x, y: -(-x // y) if _is_minus_a_size(x) else x // y, 2, 1)


def _remainder(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x % y if object in (x.dtype, y.dtype) else np.mod(x, y)


_KNOWN: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _quotient,
}


@onnx("Add", "Sub", "Mul", "Div")
def _arithmetic(n: OnnxNode) -> Any:
    if n.is_known():
        with np.errstate(all="ignore"):
            return np.asarray(_KNOWN[n.op](n.raw(0), n.raw(1)))
    x, y = n.x(0), n.x(1)
    if n.op == "Div" and not kind_of(x).is_float:
        return n.emit("trunc_divide", (x, y))
    return binary(n.op.lower(), x, y)


@onnx("Mod")
def _mod(n: OnnxNode) -> Any:
    truncates = bool(n.attr("fmod", 0))
    if n.is_known():
        with np.errstate(all="ignore"):
            return np.asarray((np.fmod if truncates else _remainder)(n.raw(0), n.raw(1)))
    return n.emit("fmod" if truncates else "remainder", (n.x(0), n.x(1)))


@onnx("Pow")
def _pow(n: OnnxNode) -> Any:
    """The result has the type of x. Integers are multiplied exactly and wrap: in 64 bits, of which the low ones are
    kept. An exponent must be exact as f32, or whole, as x is."""
    x, exponent = n.x(0), n.raw(1)
    whole, wide = not n.dtype(1).is_float, n.dtype(1) in (DType.I32, DType.I64)
    numbers = exponent if isinstance(exponent, np.ndarray) else None
    if n.dtype(0).is_float:
        if wide and (numbers is None or np.any(np.abs(numbers.astype(np.float64)) > 2**24)):
            raise n.refuse(f"exponents of {n.dtype(1)} may not be exact as f32", hint="Cast the exponent to float")
        return binary("pow", x, n.x(1))
    if not whole and (numbers is None or np.any(numbers != np.rint(numbers))):
        raise n.refuse("an integer to the power of a float is not supported", expected="an integer exponent")
    power = numbers.astype(np.int64) if numbers is not None else n.x(1)
    return ops.cast(n.emit("pow", (ops.cast(x, DType.I64), ops.cast(lift(power), DType.I64))), n.dtype(0))


_VARIADIC = {"Min": "minimum", "Max": "maximum", "Sum": "add"}


@onnx("Min", "Max", "Sum", "Mean")
def _variadic(n: OnnxNode) -> Any:
    if n.is_known() and n.op in ("Min", "Max"):
        return reduce(np.minimum if n.op == "Min" else np.maximum, n.values)
    total = reduce(lambda x, y: binary(_VARIADIC.get(n.op, "add"), x, y), [n.x(i) for i in range(len(n.values))])
    return binary("div", total, float(len(n.values))) if n.op == "Mean" else total


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


_BITWISE = {"BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor"}


@onnx(*_BITWISE)
def _bitwise(n: OnnxNode) -> Any:
    codes, mask = n.raw(0), n.raw(1)
    if n.op == "BitwiseOr" and isinstance(codes, Codes) and isinstance(mask, np.ndarray) and mask.ndim == 0 == mask:
        return codes  # as 16-bit codes are exported
    return binary(_BITWISE[n.op], n.x(0), n.x(1))


@onnx("BitwiseNot")
def _bitwise_not(n: OnnxNode) -> Any:
    return ops.bitwise_not(n.x(0))


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


@onnx("IsInf")
def _is_inf(n: OnnxNode) -> Any:
    x, both = n.floats(0), (n.attr("detect_positive", 1), n.attr("detect_negative", 1))
    found = [binary("equal", x, value) for value, wanted in zip((math.inf, -math.inf), both) if wanted]
    return reduce(lambda a, b: binary("logical_or", a, b), found) if found else binary("less", x, -math.inf)


@onnx("Clip")
def _clip(n: OnnxNode) -> Any:
    x, low, high = n.x(0), n.raw(1), n.raw(2)
    if n.opset < 11:
        low, high = (np.asarray(n.attrs[name], np.float32) if name in n.attrs else None for name in ("min", "max"))
    known = all(bound is None or isinstance(bound, np.ndarray) for bound in (low, high))
    if known and kind_of(x).is_float and not (low is None and high is None):
        least = -math.inf if low is None else float(low.reshape(()))
        most = math.inf if high is None else float(high.reshape(()))
        if least <= most:
            return unary("hardtanh", x, min_value=least, max_value=most)
    return ops.clip(x, n.optional(1), n.optional(2)) if n.opset >= 11 else ops.clip(x, low, high)


@onnx("LeakyRelu")
def _leaky_relu(n: OnnxNode) -> Any:
    return unary("leaky_relu", n.x(0), negative_slope=n.number("alpha", 0.01))


@onnx("Elu")
def _elu(n: OnnxNode) -> Any:
    return unary("elu", n.x(0), alpha=n.number("alpha", 1.0))


@onnx("Celu")
def _celu(n: OnnxNode) -> Any:
    return unary("celu", n.x(0), alpha=n.number("alpha", 1.0))


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
    alpha, beta = n.number("alpha", 0.2), n.number("beta", 0.5)
    if np.float32(alpha) == np.float32(1 / 6) and beta == 0.5:
        return unary("hardsigmoid", n.x(0))
    line = binary("add", binary("mul", n.x(0), alpha), beta)
    return unary("hardtanh", line, min_value=0.0, max_value=1.0)


@onnx("Softplus")
def _softplus(n: OnnxNode) -> Any:
    return unary("softplus", n.x(0), beta=1.0, threshold=math.inf)


@onnx("Gelu")
def _gelu(n: OnnxNode) -> Any:
    return unary("gelu", n.x(0), approximate=n.attr("approximate", "none"))


@onnx("Shrink")
def _shrink(n: OnnxNode) -> Any:
    x, bias, lambd = n.floats(0), float(n.attr("bias", 0.0)), float(n.attr("lambd", 0.5))
    if bias == lambd:
        return unary("softshrink", x, lambd=lambd)
    if bias == 0:
        return unary("hardshrink", x, lambd=lambd)
    below = ops.where(binary("less", x, -lambd), binary("add", x, bias), 0.0)
    return ops.where(binary("greater", x, lambd), binary("sub", x, bias), below)


@onnx("PRelu")
def _prelu(n: OnnxNode) -> Any:
    x, slope = n.floats(0), n.raw(1)
    if (
        isinstance(slope, np.ndarray)
        and np.isfinite(slope).all()
        and slope.size in (1, *(d for d in ops.dims(x)[1:2] if isinstance(d, int)))
    ):
        along = slope.ndim and slope.ndim == rank(x) - 1 and slope.shape[0] == slope.size
        if slope.size == 1 or (rank(x) > 1 and (along or (slope.ndim == rank(x) and slope.shape[1] == slope.size))):
            return n.emit("prelu", (x, slope.reshape(-1)))
    return ops.where(binary("less", x, 0.0), binary("mul", n.x(1), x), x)


@onnx("Tan", "Asin", "Acos", "Atanh", "Asinh", "Acosh", "Sinh", "Cosh")
def _trigonometric(n: OnnxNode) -> Any:
    return getattr(trigonometry, n.op.lower())(n.floats(0))


@onnx("Dropout", "Identity")
def _identity(n: OnnxNode) -> Any:
    n.unused(1)
    if n.op == "Dropout" and n.has(2) and bool(np.any(n.known(2))):
        raise n.refuse("training_mode is not supported", hint="export the model for inference")
    return n.raw(0)


def dtype_of(n: OnnxNode, number: int) -> DType:
    """The element type of an ONNX TensorProto type; all floats are f32."""
    if number not in DTYPES:
        raise n.refuse(
            "the element type is not supported", expected="float, int8, uint8, int16, int32, int64, bool", got=number
        )
    return DTYPES[number]


_ROUNDED = {10: "float16", 11: "float64"}


@onnx("Cast")
def _cast(n: OnnxNode) -> Any:
    number, value = n.attr("to"), n.raw(0)
    if isinstance(value, Codes) and value.element.number == number:
        return value
    dtype = dtype_of(n, number)
    if number in _ROUNDED:
        n.trace.note(f"{n.name}: {_ROUNDED[number]} is computed as f32")
    if isinstance(value, Sums) and dtype is DType.F32:
        return value.real()
    if not isinstance(value, np.ndarray):
        return ops.cast(n.x(0), dtype)
    if value.dtype == object and dtype.is_integer:
        return value
    value = n.sizes_as_ints(value)
    if value.dtype.kind == "U":
        raise n.refuse("the element type is not supported", got="string")
    with np.errstate(over="ignore"):
        return converted(value.astype(np.float16) if number == 10 else value, dtype)


@onnx("CastLike")
def _cast_like(n: OnnxNode) -> Any:
    return ops.cast(n.x(0), n.dtype(1))
