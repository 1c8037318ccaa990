"""The functions of gates and states that recurrent kernels apply, register by register."""

from __future__ import annotations

from collections.abc import Callable

from qcompiler.backends.kernel_ir.builder import KernelBuilder
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, F64
from qcompiler.backends.kernels.math import exp, expm1, log1p
from qcompiler.backends.kernels.math import tanh as tanh_f64
from qcompiler.backends.kernels.real_functions import FLOAT
from qcompiler.quantization import qmath


def clip(b: KernelBuilder, x: Value, low: Value, high: Value) -> Value:
    """x within [low, high]; NaN stays."""
    return b.select(x < low, low, b.select(x > high, high, x))


def _named(name: str) -> Callable[..., Value]:
    return lambda b, x, alpha, beta: FLOAT[name](b, x)


def _scaled_tanh(b: KernelBuilder, x: Value, alpha: Value, beta: Value) -> Value:
    real, outer, inner = (b.convert("fpext", v, F64) for v in (x, alpha, beta))
    return b.convert("fptrunc", outer * tanh_f64(b, inner * real), F32)


def _elu(b: KernelBuilder, x: Value, alpha: Value, beta: Value) -> Value:
    low, factor = b.convert("fpext", b.fmin(x, 0.0), F64), b.convert("fpext", alpha, F64)
    return b.select(x < 0.0, b.convert("fptrunc", factor * expm1(b, low), F32), x)


def _softplus(b: KernelBuilder, x: Value, alpha: Value, beta: Value) -> Value:
    real = b.convert("fpext", x, F64)
    positive = b.select(real < 0.0, b.zero(real.type), real)
    return b.convert("fptrunc", positive + log1p(b, exp(b, -b.fabs(real))), F32)


ACTIVATIONS: dict[str, Callable[[KernelBuilder, Value, Value, Value], Value]] = {
    "sigmoid": _named("sigmoid"),
    "tanh": _named("tanh"),
    "relu": _named("relu"),
    "softsign": _named("softsign"),
    "softplus": _softplus,
    "affine": lambda b, x, alpha, beta: alpha * x + beta,
    "leaky_relu": lambda b, x, alpha, beta: b.select(x < 0.0, alpha * x, x),
    "thresholded_relu": lambda b, x, alpha, beta: b.select(x <= alpha, b.zero(x.type), x),
    "scaled_tanh": _scaled_tanh,
    "hardsigmoid": lambda b, x, alpha, beta: clip(b, alpha * x + beta, b.zero(x.type), b.const(x.type, 1.0)),
    "elu": _elu,
}
"""The activations of `qcompiler.ops.recurrent`, of f32 registers."""


def gate_tanh(b: KernelBuilder, x: Value) -> Value:
    """Rule (9) of qmath: tanh."""
    v = b.clamp(x, -qmath.GATE_BOUND, qmath.GATE_BOUND) * 0.5
    u = v * v
    p, q = v * _horner(b, u, qmath.GATE_P), _horner(b, u, qmath.GATE_Q)
    return (p + p) * q / (p * p + q * q)


def gate_sigmoid(b: KernelBuilder, x: Value) -> Value:
    """Rule (9) of qmath: the sigmoid."""
    return gate_tanh(b, x * 0.5) * 0.5 + 0.5


def _horner(b: KernelBuilder, u: Value, coefficients: tuple[float, ...]) -> Value:
    total = b.const(u.type, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * u + coefficient
    return total


STATIC_FUNCTIONS: dict[str, Callable[[KernelBuilder, Value], Value]] = {
    "sigmoid": gate_sigmoid,
    "tanh": gate_tanh,
    "relu": lambda b, x: b.select(x < 0.0, b.zero(x.type), x),
}
"""The activations of static layers."""
