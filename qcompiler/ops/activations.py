"""Activation functions. All but prelu are unary: on 8-bit operands they become one 256-entry table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from qcompiler.errors import ShapeError
from qcompiler.ir import AttrValue
from qcompiler.opdef import (
    OWN_RANGE,
    SHARES_INPUT,
    Op,
    Sample,
    Trait,
    TypedArray,
    fixed,
    float_attr,
    no_accumulator,
    operand,
    parameter,
    str_attr,
)
from qcompiler.ops.interfaces import Mover
from qcompiler.quantization import qmath
from qcompiler.types import TensorType, tensor

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_erf = np.frompyfunc(math.erf, 1, 1)
_erfc = np.frompyfunc(math.erfc, 1, 1)


def erf(x: np.ndarray) -> np.ndarray:
    """The error function in float64, rounded to the dtype of x."""
    x = np.asarray(x)
    return np.asarray(_erf(x.astype(np.float64)), np.float64).astype(x.dtype)


class Unary(Op):
    """A function of x, element by element. An op gives `function`, which sees x in float64 and is rounded once to the
    dtype of x; with `exact`, it sees x as it is: a few IEEE operations that every dtype rounds alike."""

    quant = OWN_RANGE
    traits = frozenset({Trait.UNARY, Trait.ELEMENTWISE})
    element_cost = (0.015, 0.30)
    exact: ClassVar[bool] = False
    takes_integers: ClassVar[bool] = False
    sampled: ClassVar[tuple[float, float]] = (-4.0, 4.0)
    sampled_attrs: ClassVar[dict[str, AttrValue]] = {}
    x = operand()

    def function(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError(self.name)

    def infer(self, x: TensorType) -> TensorType:
        if not (x.dtype.is_float or (x.dtype.is_integer and self.takes_integers)):
            raise ShapeError(f"operand of {self.name}", expected="a float type", got=str(x), hint="insert a cast")
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        if self.exact:
            return np.asarray(self.function(x), x.dtype)
        return np.asarray(self.function(x.astype(np.float64))).astype(x.dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        """Five shapes around the vector width."""
        shapes = ((7,), (2, 33), (1, 3, 5, 5), (2, 16), (1, 1))
        return [Sample((tensor("f32", *shape),), cls.sampled_attrs, *cls.sampled) for shape in shapes]


class Clamp(Unary):
    """A clamp. Its result shares the parameters of its operand."""

    quant = SHARES_INPUT
    exact = True
    takes_integers = True
    element_cost = (0.053, 0.065)

    @property
    def bounds(self) -> tuple[float, float]:
        """What it clamps to."""
        raise NotImplementedError


class Relu(Clamp):
    """max(x, 0)."""

    name = "relu"
    is_homogeneous = True
    commutes_with_clip = True

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, math.inf

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.where(x < 0, 0, x)

    def is_identity(self) -> bool:
        return Relu.of(self.x.producer) is not None


class Relu6(Clamp):
    """min(max(x, 0), 6)."""

    name = "relu6"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 6.0

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.where(x < 0, 0, np.where(x > 6, 6, x))

    def is_identity(self) -> bool:
        return Relu6.of(self.x.producer) is not None


class Hardtanh(Clamp):
    """Clamp to [min_value, max_value]; torch.clamp with both bounds, ONNX Clip."""

    name = "hardtanh"
    element_cost = (0.015, 0.066)
    min_value = float_attr(default=-1.0)
    max_value = float_attr(default=1.0)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.min_value, self.max_value

    def infer(self, x: TensorType) -> TensorType:
        result = super().infer(x)
        if not self.min_value <= self.max_value:
            raise ShapeError(
                "attrs of hardtanh", expected="min_value <= max_value", got=f"{self.min_value}, {self.max_value}"
            )
        return result

    def function(self, x: np.ndarray) -> np.ndarray:
        """Integers are clamped to the truncated bounds, those saturated to the type."""
        low, high = np.float32(self.min_value), np.float32(self.max_value)
        if x.dtype.kind in "iu":
            least, most = np.iinfo(x.dtype).min, np.iinfo(x.dtype).max
            first, last = (most if bound >= most else least if bound <= least else int(bound) for bound in (low, high))
            return np.clip(x, first, last)
        return np.where(x < self.min_value, low, np.where(x > self.max_value, high, x))


def sigmoid_of(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _softplus_of(x: np.ndarray, beta: float = 1.0, threshold: float = 20.0) -> np.ndarray:
    scaled = beta * x
    soft = (np.maximum(scaled, 0) + np.log1p(np.exp(-np.abs(scaled)))) / beta
    return np.where(scaled > threshold, x, soft)


def _elu_of(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _unless_nan(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """y, with the NaNs of x."""
    return np.where(np.isnan(x), x, y)


class Sigmoid(Unary):
    """1 / (1 + exp(-x))."""

    name = "sigmoid"
    quant = fixed(1 / 256, 0)
    element_cost = (0.014, 0.46)

    def function(self, x: np.ndarray) -> np.ndarray:
        return sigmoid_of(x)


class Hardsigmoid(Unary):
    """min(max(x/6 + 1/2, 0), 1)."""

    name = "hardsigmoid"
    quant = fixed(1 / 256, 0)
    element_cost = (0.015, 0.125)

    def function(self, x: np.ndarray) -> np.ndarray:
        return _unless_nan(x, np.clip(x / 6 + 0.5, 0, 1))


class Tanh(Unary):
    """Hyperbolic tangent."""

    name = "tanh"
    quant = fixed(2 / 256, 128)
    element_cost = (0.015, 0.61)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.tanh(x)


class Hardswish(Unary):
    """x * min(max(x + 3, 0), 6) / 6."""

    name = "hardswish"
    element_cost = (0.015, 0.125)

    def function(self, x: np.ndarray) -> np.ndarray:
        return x * np.clip(x + 3, 0, 6) / 6


class Silu(Unary):
    """x * sigmoid(x); swish."""

    name = "silu"
    element_cost = (0.014, 0.50)

    def function(self, x: np.ndarray) -> np.ndarray:
        return x * sigmoid_of(x)


class Gelu(Unary):
    """x * Phi(x), or its tanh approximation."""

    name = "gelu"
    approximate = str_attr(default="none", choices=("none", "tanh"))
    element_cost = (0.015, 1.06)

    def function(self, x: np.ndarray) -> np.ndarray:
        if self.approximate == "tanh":
            # 1 + tanh(u) = 2 / (1 + exp(-2u)), without the cancellation
            return x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * np.asarray(_erfc(-x / math.sqrt(2))).astype(np.float64)


class Mish(Unary):
    """x * tanh(softplus(x))."""

    name = "mish"

    def function(self, x: np.ndarray) -> np.ndarray:
        return x * np.tanh(_softplus_of(x))


class Elu(Unary):
    """x if x > 0 else alpha * (exp(x) - 1)."""

    name = "elu"
    alpha = float_attr(default=1.0)

    def function(self, x: np.ndarray) -> np.ndarray:
        return _elu_of(x, self.alpha)


class Selu(Unary):
    """scale * elu(x, alpha) with the self-normalizing constants."""

    name = "selu"

    def function(self, x: np.ndarray) -> np.ndarray:
        return _SELU_SCALE * _elu_of(x, _SELU_ALPHA)


class Celu(Unary):
    """max(x, 0) + min(alpha * (exp(x / alpha) - 1), 0)."""

    name = "celu"
    alpha = float_attr(default=1.0)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0) / self.alpha))


class Softplus(Unary):
    """log(1 + exp(beta * x)) / beta; x itself where beta * x > threshold."""

    name = "softplus"
    beta = float_attr(default=1.0)
    threshold = float_attr(default=20.0)
    element_cost = (0.015, 1.59)

    def function(self, x: np.ndarray) -> np.ndarray:
        return _softplus_of(x, self.beta, self.threshold)


class Softsign(Unary):
    """x / (1 + |x|)."""

    name = "softsign"
    element_cost = (0.015, 0.125)

    def function(self, x: np.ndarray) -> np.ndarray:
        return x / (1 + np.abs(x))


class Softshrink(Unary):
    """x - lambd above lambd, x + lambd below -lambd, else 0."""

    name = "softshrink"
    lambd = float_attr(default=0.5)
    element_cost = (0.015, 0.125)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.where(x > self.lambd, x - self.lambd, np.where(x < -self.lambd, x + self.lambd, 0 * x))


class Hardshrink(Unary):
    """x where |x| > lambd, else 0."""

    name = "hardshrink"
    lambd = float_attr(default=0.5)

    def function(self, x: np.ndarray) -> np.ndarray:
        return _unless_nan(x, np.where(np.abs(x) > self.lambd, x, 0))


class Tanhshrink(Unary):
    """x - tanh(x)."""

    name = "tanhshrink"

    def function(self, x: np.ndarray) -> np.ndarray:
        return x - np.tanh(x)


class Logsigmoid(Unary):
    """log(sigmoid(x))."""

    name = "logsigmoid"

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


class LeakyRelu(Unary):
    """x if x > 0 else negative_slope * x."""

    name = "leaky_relu"
    negative_slope = float_attr(default=0.01)
    element_cost = (0.015, 0.066)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, self.negative_slope * x)


class Threshold(Unary):
    """x if x > threshold else value; NaN stays."""

    name = "threshold"
    threshold = float_attr(default=0.0)
    value = float_attr(default=0.0)
    element_cost = (0.015, 0.066)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.where(x <= self.threshold, self.value, x)


def _slopes(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """One slope, or one per channel along axis 1, shaped to broadcast against x."""
    return weight.reshape(1, -1, *([1] * (x.ndim - 2))) if x.ndim > 1 and weight.size != 1 else weight


class Prelu(Op):
    """x if x > 0 else weight * x; weight [1], or one a channel (axis 1)."""

    name = "prelu"
    quant = OWN_RANGE
    traits = frozenset({Trait.ELEMENTWISE})
    chooses_params = True
    element_cost = (0.047, 0.066)
    terms = no_accumulator
    x = operand()
    weight = parameter()

    def infer(self, x: TensorType, weight: TensorType) -> TensorType:
        channels = x.shape[1] if x.rank > 1 else 1
        if weight.rank != 1 or weight.shape[0] not in (1, channels):
            raise ShapeError("weight of prelu", expected=f"[1] or [{channels}]", got=str(weight))
        return x

    def reference(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, (_slopes(x, weight) * x).reshape(x.shape))

    def integer(self, x: TypedArray, weight: TypedArray, *, out: TensorType) -> np.ndarray:
        centered, over = x.centered(), out.params.scales
        scale = qmath.multiplier(x.scales, over=over)
        slope = qmath.multiplier(x.scales, _slopes(x.array, weight.array), over=over)
        return qmath.requantize(centered.astype(np.float32) * np.where(centered > 0, scale, slope), out)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", *shape), tensor("f32", slopes)))
            for shape, slopes in (
                ((2, 3, 4, 4), 3),
                ((2, 8), 1),
                ((5,), 1),
                ((1, 33, 3), 33),
                ((2, 33), 33),
                ((2, 2, 2, 2, 2), 2),
            )
        ]


class Dropout(Mover):
    """The identity at inference; keeps its rate for training."""

    name = "dropout"
    quant = SHARES_INPUT
    traits = frozenset({Trait.MOVES_DATA, Trait.IDENTITY_AT_INFERENCE})
    is_view = True
    x = operand()
    rate = float_attr(default=0.5)

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x

    def is_identity(self) -> bool:
        return True

    @staticmethod
    def samples() -> Sequence[Sample]:
        shapes = ((7,), (2, 33), (1, 3, 5, 5), (2, 16), (1, 1))
        return [Sample((tensor("f32", *shape),), {}, -4.0, 4.0) for shape in shapes]
