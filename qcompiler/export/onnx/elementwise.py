"""Elementwise ops as ONNX's."""

from __future__ import annotations

import numpy as np

from qcompiler.export.onnx.builder import ELEMENTS
from qcompiler.export.onnx.node import NodeWriter, Refusal, Writer, writes
from qcompiler.ops.activations import (
    Celu,
    Dropout,
    Elu,
    Gelu,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyRelu,
    Logsigmoid,
    Mish,
    Prelu,
    Relu,
    Relu6,
    Selu,
    Sigmoid,
    Silu,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
    Threshold,
)
from qcompiler.ops.division import FloorDivide, Fmod, Remainder, TruncDivide
from qcompiler.ops.elementwise import (
    Abs,
    Add,
    Atan,
    Cast,
    Ceil,
    Cos,
    Div,
    Equal,
    Erf,
    Exp,
    Expm1,
    Floor,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    Log,
    Log1p,
    Maximum,
    Minimum,
    Mul,
    Neg,
    NotEqual,
    Pow,
    Reciprocal,
    Round,
    Rsqrt,
    Sign,
    Sin,
    Sqrt,
    Square,
    Sub,
    Where,
)
from qcompiler.ops.logic import (
    BitwiseAnd,
    BitwiseNot,
    BitwiseOr,
    BitwiseXor,
    LogicalAnd,
    LogicalNot,
    LogicalOr,
    ShiftLeft,
    ShiftRight,
)
from qcompiler.types import DType

_SAME = {
    Minimum: "Min", Maximum: "Max", Pow: "Pow", Sub: "Sub", Equal: "Equal", Less: "Less",
    LessEqual: "LessOrEqual", Greater: "Greater", GreaterEqual: "GreaterOrEqual", Where: "Where",
    Neg: "Neg", Abs: "Abs", Sqrt: "Sqrt", Reciprocal: "Reciprocal", Exp: "Exp", Log: "Log", Sin: "Sin",
    Cos: "Cos", Atan: "Atan", Erf: "Erf", Floor: "Floor", Ceil: "Ceil", Round: "Round", Sign: "Sign",
    LogicalAnd: "And", LogicalOr: "Or", LogicalNot: "Not", BitwiseAnd: "BitwiseAnd",
    BitwiseOr: "BitwiseOr", BitwiseXor: "BitwiseXor", BitwiseNot: "BitwiseNot", Relu: "Relu",
    Sigmoid: "Sigmoid", Tanh: "Tanh", Hardswish: "HardSwish", Mish: "Mish", Selu: "Selu",
    Softsign: "Softsign", Dropout: "Identity", TruncDivide: "Div", Div: "Div",
}  # fmt: skip
"""Ops that are one op of ONNX with the same operands and no attributes."""
_ATTRS = {
    Elu: ("Elu", {"alpha": "alpha"}),
    Celu: ("Celu", {"alpha": "alpha"}),
    LeakyRelu: ("LeakyRelu", {"alpha": "negative_slope"}),
    Gelu: ("Gelu", {"approximate": "approximate"}),
}


def _same(kind: str) -> Writer:
    return lambda w: w.emit(kind, *w.xs())


for _op, _kind in _SAME.items():
    writes(_op)(_same(_kind))


@writes(*_ATTRS)
def with_attributes(w: NodeWriter) -> str:
    kind, attrs = _ATTRS[type(w.op)]
    return w.emit(kind, w.x(), **{name: getattr(w.op, ours) for name, ours in attrs.items()})


@writes(Add, Mul)
def fusing(w: NodeWriter) -> str:
    return w.activated(w.emit(w.op.name.title(), w.x(), w.x(1)))


@writes(NotEqual)
def not_equal(w: NodeWriter) -> str:
    return w.emit("Not", w.emit("Equal", w.x(), w.x(1)))


@writes(Cast)
def cast(w: NodeWriter) -> str:
    """ONNX does not say what a float becomes that the integer type does not hold, so it is clamped before."""
    dtype = w.op.dtype
    if w.type().dtype.is_float and dtype.is_integer:
        if dtype.bits > 16 and w.type().dtype is not DType.F64:
            most = np.nextafter(w.type().dtype.numpy.type(2.0 ** (dtype.bits - 1)), w.type().dtype.numpy.type(0))
            low, high = w.number(max(float(dtype.min), -float(np.finfo(most).max))), w.constant(most, "most")
        else:
            low, high = w.number(dtype.min), w.number(dtype.max)
        clamped = w.emit("Clip", w.x(), low, high)
        return w.emit("Cast", w.emit("Where", w.emit("IsNaN", w.x()), w.number(0.0), clamped), to=int(ELEMENTS[dtype]))
    return w.emit("Cast", w.x(), to=int(ELEMENTS[w.op.dtype]))


@writes(Rsqrt)
def rsqrt(w: NodeWriter) -> str:
    return w.emit("Reciprocal", w.emit("Sqrt", w.x()))


@writes(Square)
def square(w: NodeWriter) -> str:
    return w.emit("Mul", w.x(), w.x())


@writes(Expm1)
def expm1(w: NodeWriter) -> str:
    """Near 0, where exp(x) - 1 cancels, 2 t / (1 - t) with t = tanh(x / 2)."""
    t = w.emit("Tanh", w.emit("Mul", w.x(), w.number(0.5)))
    near = w.emit("Div", w.emit("Mul", t, w.number(2.0)), w.emit("Sub", w.number(1.0), t))
    far = w.emit("Sub", w.emit("Exp", w.x()), w.number(1.0))
    return w.emit("Where", w.emit("Less", w.emit("Abs", w.x()), w.number(1.0)), near, far)


@writes(Log1p)
def log1p(w: NodeWriter) -> str:
    """With u = 1 + x rounded: log(u) * x / (u - 1), and x itself where u is 1."""
    one = w.number(1.0)
    u = w.emit("Add", w.x(), one)
    less = w.emit("Sub", u, one)
    is_one = w.emit("Equal", u, one)
    safe = w.emit("Where", is_one, one, less)
    corrected = w.emit("Mul", w.emit("Log", u), w.emit("Div", w.x(), safe))
    is_infinite = w.emit("IsInf", w.x())
    return w.emit("Where", is_one, w.x(), w.emit("Where", is_infinite, w.emit("Log", u), corrected))


@writes(Fmod)
def fmod(w: NodeWriter) -> str:
    return w.emit("Mod", w.x(), w.x(1), fmod=1)


@writes(Remainder)
def remainder(w: NodeWriter) -> str:
    return _remainder(w)


def _remainder(w: NodeWriter) -> str:
    """x - y * floor(x / y), with the sign of y."""
    if not w.type().dtype.is_float:
        return w.emit("Mod", w.x(), w.x(1))
    rest, zero = w.emit("Mod", w.x(), w.x(1), fmod=1), w.number(0.0)
    differs = w.emit("Xor", w.emit("Less", rest, zero), w.emit("Less", w.x(1), zero))
    moves = w.emit("And", differs, w.emit("Not", w.emit("Equal", rest, zero)))
    return w.emit("Where", moves, w.emit("Add", rest, w.x(1)), rest)


@writes(FloorDivide)
def floor_divide(w: NodeWriter) -> str:
    difference = w.emit("Sub", w.x(), _remainder(w))
    quotient = w.emit("Div", difference, w.x(1))
    return w.emit("Round", quotient) if w.type().dtype.is_float else quotient


@writes(Relu6)
def relu6(w: NodeWriter) -> str:
    return w.emit("Clip", w.x(), w.number(0), w.number(6))


@writes(Hardtanh)
def hardtanh(w: NodeWriter) -> str:
    return w.emit("Clip", w.x(), w.number(w.op.min_value), w.number(w.op.max_value))


@writes(Hardsigmoid)
def hardsigmoid(w: NodeWriter) -> str:
    return w.emit("HardSigmoid", w.x(), alpha=1 / 6, beta=0.5)


@writes(Silu)
def silu(w: NodeWriter) -> str:
    return w.emit("Mul", w.x(), w.emit("Sigmoid", w.x()))


@writes(Softplus)
def softplus(w: NodeWriter) -> str:
    beta, threshold = w.op.beta, w.op.threshold
    scaled = w.x() if beta == 1 else w.emit("Mul", w.x(), w.number(beta))
    y = w.emit("Softplus", scaled)
    y = y if beta == 1 else w.emit("Div", y, w.number(beta))
    if threshold >= 20:  # log(1 + exp(x)) is x to the last bit of f32
        return y
    return w.emit("Where", w.emit("Greater", scaled, w.number(threshold)), w.x(), y)


@writes(Softshrink, Hardshrink)
def shrink(w: NodeWriter) -> str:
    return w.emit("Shrink", w.x(), lambd=w.op.lambd, bias=w.op.lambd if isinstance(w.op, Softshrink) else 0.0)


@writes(Tanhshrink)
def tanhshrink(w: NodeWriter) -> str:
    return w.emit("Sub", w.x(), w.emit("Tanh", w.x()))


@writes(Logsigmoid)
def logsigmoid(w: NodeWriter) -> str:
    return w.emit("Neg", w.emit("Softplus", w.emit("Neg", w.x())))


@writes(Threshold)
def threshold(w: NodeWriter) -> str:
    low = w.emit("LessOrEqual", w.x(), w.number(w.op.threshold))
    return w.emit("Where", low, w.number(w.op.value), w.x())


@writes(Prelu)
def prelu(w: NodeWriter) -> str:
    slope, rank = w.x(1), w.type().rank
    if rank > 2 and w.type(1).shape[0] != 1:
        slope = w.reshape(slope, (w.type(1).shape[0], *[1] * (rank - 2)))
    return w.emit("PRelu", w.x(), slope)


@writes(ShiftLeft, ShiftRight)
def shift(w: NodeWriter) -> str:
    """ONNX shifts codes without a sign alone."""
    if w.type().dtype is not DType.U8:
        raise Refusal(f"ONNX shifts unsigned integers, not {w.type().dtype}")
    return w.emit("BitShift", w.x(), w.x(1), direction="LEFT" if isinstance(w.op, ShiftLeft) else "RIGHT")
