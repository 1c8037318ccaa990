"""Real functions of f32 registers, lane by lane, for elementwise kernels and fused activations.

Functions that need more than a few IEEE operations are evaluated in f64 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from qcompiler.backends.kernel_ir.builder import KernelBuilder
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, F64, I32
from qcompiler.backends.kernels import math as functions

Lanes = Callable[..., Value]


def in_f64(function: Lanes) -> Lanes:
    """The function evaluated in f64, and its result rounded to f32 once."""

    def narrow(b: KernelBuilder, *values: Value, **p: Value) -> Value:
        return b.convert("fptrunc", function(b, *(b.convert("fpext", value, F64) for value in values), **p), F32)

    return narrow


def _const(b: KernelBuilder, x: Value, value: float) -> Value:
    return b.const(x.type, value)


def _nan_or(b: KernelBuilder, x: Value, y: Value) -> Value:
    """x where it is NaN, otherwise y."""
    return b.select(x != x, x, y)


def _hardtanh(b: KernelBuilder, x: Value, min_value: Value, max_value: Value) -> Value:
    return b.select(x < min_value, min_value, b.select(x > max_value, max_value, x))


def _clip(b: KernelBuilder, x: Value, low: float, high: float) -> Value:
    low_value, high_value = _const(b, x, low), _const(b, x, high)
    return b.select(x < low_value, low_value, b.select(x > high_value, high_value, x))


def _elu(b: KernelBuilder, x: Value, alpha: Value) -> Value:
    return b.select(x > 0.0, x, alpha * functions.expm1(b, _clip(b, x, -math.inf, 0.0)))


def _celu(b: KernelBuilder, x: Value, alpha: Value) -> Value:
    return b.select(x > 0.0, x, alpha * functions.expm1(b, _clip(b, x, -math.inf, 0.0) / alpha))


def _softplus(b: KernelBuilder, x: Value, beta: Value, threshold: Value) -> Value:
    scaled = beta * x
    soft = (_clip(b, scaled, 0.0, math.inf) + functions.log1p(b, functions.exp(b, -b.fabs(scaled)))) / beta
    return b.select(scaled > threshold, x, soft)


def _mish(b: KernelBuilder, x: Value) -> Value:
    """x tanh(log(1 + e^x)) = x (w^2 - 1) / (w^2 + 1) with w = 1 + e^x, which is x n / (n + 2) with n = e^x (e^x + 2).
    For x above 20 it is x."""
    e = functions.exp(b, _clip(b, x, -math.inf, 20.0))
    n = e * (e + 2.0)
    return b.select(x > 20.0, x, x * (n / (n + 2.0)))


def _gelu(b: KernelBuilder, x: Value) -> Value:
    return x * 0.5 * functions.erfc(b, x * (-1 / math.sqrt(2)))


def _gelu_tanh(b: KernelBuilder, x: Value) -> Value:
    inner = x + x * x * x * 0.044715
    return x / (functions.exp(b, inner * (-2 * math.sqrt(2 / math.pi))) + 1.0)


def _logsigmoid(b: KernelBuilder, x: Value) -> Value:
    return _clip(b, x, -math.inf, 0.0) - functions.log1p(b, functions.exp(b, -b.fabs(x)))


def _softshrink(b: KernelBuilder, x: Value, lambd: Value) -> Value:
    return b.select(x > lambd, x - lambd, b.select(x < -lambd, x + lambd, x * 0.0))


def _sign(b: KernelBuilder, x: Value) -> Value:
    zero, one = _const(b, x, 0.0), _const(b, x, 1.0)
    return b.select(x > zero, one, zero) - b.select(x < zero, one, zero)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _floor_divide(b: KernelBuilder, x: Value, y: Value) -> Value:
    """The quotient that belongs to `remainder`, computed as numpy and torch do by C's fmod: (x - fmod(x, y)) / y, minus
    1 if the signs differ, rounded to the nearest whole number."""
    zero, one = _const(b, x, 0.0), _const(b, x, 1.0)
    plain = x / y
    rest = in_f64(functions.fmod)(b, x, y)
    quotient = (x - rest) / y
    quotient = b.select((rest != 0.0) & ((rest < 0.0) ^ (y < 0.0)), quotient - one, quotient)
    down = b.floor(quotient)
    down = b.select(quotient - down > 0.5, down + one, down)
    signed = b.bitcast(plain, x.type.of(I32)) & b.const(x.type.of(I32), -(1 << 31))
    down = b.select(quotient == 0.0, b.bitcast(signed, x.type), down)
    return b.select(y == zero, plain, down)


SINGLE: dict[str, Lanes] = {
    "relu": lambda b, x: b.select(x < 0.0, _const(b, x, 0.0), x),
    "relu6": lambda b, x: _clip(b, x, 0.0, 6.0),
    "hardtanh": _hardtanh,
    "hardshrink": lambda b, x, lambd: _nan_or(b, x, b.select(b.fabs(x) > lambd, x, _const(b, x, 0.0))),
    "leaky_relu": lambda b, x, negative_slope: b.select(x > 0.0, x, negative_slope * x),
    "threshold": lambda b, x, threshold, value: b.select(x <= threshold, value, x),
    "neg": lambda b, x: -x,
    "abs": lambda b, x: b.fabs(x),
    "sqrt": lambda b, x: b.sqrt(x),
    "rsqrt": lambda b, x: _const(b, x, 1.0) / b.sqrt(x),
    "reciprocal": lambda b, x: _const(b, x, 1.0) / x,
    "floor": lambda b, x: b.floor(x),
    "ceil": lambda b, x: -b.floor(-x),
    "round": lambda b, x: b.rint(x),
    "sign": _sign,
    "square": lambda b, x: x * x,
    "add": lambda b, x, y: x + y,
    "sub": lambda b, x, y: x - y,
    "mul": lambda b, x, y: x * y,
    "div": lambda b, x, y: x / y,
    "minimum": lambda b, x, y: b.select((x <= y) | (x != x), x, y),
    "maximum": lambda b, x, y: b.select((x >= y) | (x != x), x, y),
    "floor_divide": _floor_divide,
    "prelu": lambda b, x, slope: b.select(x > 0.0, x, slope * x),
    "sigmoid": functions.sigmoid_f32,
    "silu": lambda b, x: x * functions.sigmoid_f32(b, x),
}
"""Functions of f32 that are evaluated in f32."""

WIDE: dict[str, Lanes] = {
    "hardsigmoid": lambda b, x: _clip(b, x / 6.0 + 0.5, 0.0, 1.0),
    "tanh": functions.tanh,
    "hardswish": lambda b, x: x * _clip(b, x + 3.0, 0.0, 6.0) / 6.0,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "mish": _mish,
    "elu": _elu,
    "selu": lambda b, x: _elu(b, x, _const(b, x, _SELU_ALPHA)) * _SELU_SCALE,
    "celu": _celu,
    "softplus": _softplus,
    "softsign": lambda b, x: x / (b.fabs(x) + 1.0),
    "softshrink": _softshrink,
    "tanhshrink": functions.tanhshrink,
    "logsigmoid": _logsigmoid,
    "exp": functions.exp,
    "expm1": functions.expm1,
    "log": functions.log,
    "log1p": functions.log1p,
    "atan": functions.atan,
    "erf": functions.erf,
    "pow": functions.power,
    "fmod": functions.fmod,
    "remainder": functions.remainder,
}
"""Functions of f32 that are evaluated in f64."""

FLOAT: dict[str, Lanes] = {**SINGLE, **{name: in_f64(function) for name, function in WIDE.items()}}
"""All functions of f32. Those of `WIDE` take their attributes as f64 values."""

SIMPLE = frozenset(SINGLE) - {"sqrt", "rsqrt", "reciprocal", "div", "floor_divide", "sigmoid", "silu"}
"""Functions that are so short that computing several registers at a time pays off."""
