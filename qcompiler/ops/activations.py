"""Activation functions. All but prelu are unary: on 8-bit operands they become one 256-entry table."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from qcompiler.errors import ShapeError
from qcompiler.opdef import AttrSpec, OperandSpec, QuantKind, QuantRule, Role, Sample, Trait
from qcompiler.ops.legacy import legacy_op as OpDef
from qcompiler.ops.legacy import register
from qcompiler.quantization import qmath
from qcompiler.types import TensorType, tensor

_UNARY = frozenset({Trait.UNARY, Trait.ELEMENTWISE})
_OWN = QuantRule(QuantKind.OWN_RANGE)
_SHARED = QuantRule(QuantKind.SHARES_INPUT)
_erf = np.frompyfunc(math.erf, 1, 1)
_erfc = np.frompyfunc(math.erfc, 1, 1)
_KEEPS_INTEGERS = frozenset({"neg", "abs", "sign", "square", "relu", "relu6", "hardtanh"})


def erf(x: np.ndarray) -> np.ndarray:
    """The error function in float64, rounded to the dtype of x."""
    x = np.asarray(x)
    return np.asarray(_erf(x.astype(np.float64)), np.float64).astype(x.dtype)


def in_float64(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Evaluate in float64 and round once to the dtype of x: the reference of every transcendental op."""

    def rounded(x: np.ndarray, **attrs: object) -> np.ndarray:
        x = np.asarray(x)
        with np.errstate(all="ignore"):
            return np.asarray(function(x.astype(np.float64), **attrs)).astype(x.dtype)

    return rounded


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _softplus(x: np.ndarray, beta: float = 1.0, threshold: float = 20.0) -> np.ndarray:
    scaled = beta * x
    soft = (np.maximum(scaled, 0) + np.log1p(np.exp(-np.abs(scaled)))) / beta
    return np.where(scaled > threshold, x, soft)


def _gelu(x: np.ndarray, approximate: str) -> np.ndarray:
    if approximate == "tanh":
        # 1 + tanh(u) = 2 / (1 + exp(-2u)), without the cancellation
        return x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * np.asarray(_erfc(-x / math.sqrt(2))).astype(np.float64)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _elu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _keep_nan(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x), x, y)


def _hardtanh(x: np.ndarray, min_value: float, max_value: float) -> np.ndarray:
    """Integers are clamped to the truncated bounds, those saturated to the type."""
    low, high = np.float32(min_value), np.float32(max_value)
    if x.dtype.kind in "iu":
        least, most = np.iinfo(x.dtype).min, np.iinfo(x.dtype).max
        return np.clip(
            x, *(most if bound >= most else least if bound <= least else int(bound) for bound in (low, high))
        )
    return np.where(x < min_value, low, np.where(x > max_value, high, x))


def samples(low: float = -4.0, high: float = 4.0, **attrs: object) -> Callable[[], list[Sample]]:
    """Five shapes around the vector width."""
    shapes = ((7,), (2, 33), (1, 3, 5, 5), (2, 16), (1, 1))
    return lambda: [Sample((tensor("f32", *shape),), attrs, low, high) for shape in shapes]


def _infer_unary(name: str) -> Callable[..., TensorType]:
    def infer(x: TensorType, **attrs: object) -> TensorType:
        if not (x.dtype.is_float or (x.dtype.is_integer and name in _KEEPS_INTEGERS)):
            raise ShapeError(f"operand of {name}", expected="a float type", got=str(x), hint="insert a cast")
        if name == "hardtanh" and not attrs["min_value"] <= attrs["max_value"]:
            raise ShapeError(
                "attrs of hardtanh",
                expected="min_value <= max_value",
                got=f"{attrs['min_value']}, {attrs['max_value']}",
            )
        return x

    return infer


def unary(
    name: str,
    doc: str,
    function: Callable[..., np.ndarray],
    quant: QuantRule = _OWN,
    attrs: tuple[AttrSpec, ...] = (),
    family: str = "activations",
    exact: bool = False,
    low: float = -4.0,
    high: float = 4.0,
) -> None:
    """Declare a unary op. exact: `function` is a few IEEE operations and keeps the dtype itself."""

    def in_own_dtype(x: np.ndarray, **attrs: object) -> np.ndarray:
        return np.asarray(function(x, **attrs), np.asarray(x).dtype)

    register(
        OpDef(
            name=name,
            doc=doc,
            family=family,
            operands=(OperandSpec("x"),),
            attrs=attrs,
            infer=_infer_unary(name),
            reference=in_own_dtype if exact else in_float64(function),
            quant=quant,
            samples=samples(low, high),
            traits=_UNARY,
        )
    )


unary("relu", "max(x, 0).", lambda x: np.where(x < 0, 0, x), _SHARED, exact=True)
unary("relu6", "min(max(x, 0), 6).", lambda x: np.where(x < 0, 0, np.where(x > 6, 6, x)), _SHARED, exact=True)
unary(
    "hardtanh",
    "Clamp to [min_value, max_value]; torch.clamp with both bounds, ONNX Clip.",
    _hardtanh,
    _SHARED,
    (AttrSpec("min_value", "float", -1.0), AttrSpec("max_value", "float", 1.0)),
    exact=True,
)
unary("sigmoid", "1 / (1 + exp(-x)).", _sigmoid, QuantRule(QuantKind.FIXED, fixed=(1 / 256, 0)))
unary(
    "hardsigmoid",
    "min(max(x/6 + 1/2, 0), 1).",
    lambda x: _keep_nan(x, np.clip(x / 6 + 0.5, 0, 1)),
    QuantRule(QuantKind.FIXED, fixed=(1 / 256, 0)),
)
unary("tanh", "Hyperbolic tangent.", np.tanh, QuantRule(QuantKind.FIXED, fixed=(2 / 256, 128)))
unary("hardswish", "x * min(max(x + 3, 0), 6) / 6.", lambda x: x * np.clip(x + 3, 0, 6) / 6)
unary("silu", "x * sigmoid(x); swish.", lambda x: x * _sigmoid(x))
unary(
    "gelu",
    "x * Phi(x), or its tanh approximation.",
    _gelu,
    attrs=(AttrSpec("approximate", "str", "none", choices=("none", "tanh")),),
)
unary("mish", "x * tanh(softplus(x)).", lambda x: x * np.tanh(_softplus(x)))
unary("elu", "x if x > 0 else alpha * (exp(x) - 1).", _elu, attrs=(AttrSpec("alpha", "float", 1.0),))
unary(
    "selu", "scale * elu(x, alpha) with the self-normalizing constants.", lambda x: _SELU_SCALE * _elu(x, _SELU_ALPHA)
)
unary(
    "celu",
    "max(x, 0) + min(alpha * (exp(x / alpha) - 1), 0).",
    lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha)),
    attrs=(AttrSpec("alpha", "float", 1.0),),
)
unary(
    "softplus",
    "log(1 + exp(beta * x)) / beta; x itself where beta * x > threshold.",
    _softplus,
    attrs=(AttrSpec("beta", "float", 1.0), AttrSpec("threshold", "float", 20.0)),
)
unary("softsign", "x / (1 + |x|).", lambda x: x / (1 + np.abs(x)))
unary(
    "softshrink",
    "x - lambd above lambd, x + lambd below -lambd, else 0.",
    lambda x, lambd: np.where(x > lambd, x - lambd, np.where(x < -lambd, x + lambd, 0 * x)),
    attrs=(AttrSpec("lambd", "float", 0.5),),
)
unary(
    "hardshrink",
    "x where |x| > lambd, else 0.",
    lambda x, lambd: _keep_nan(x, np.where(np.abs(x) > lambd, x, 0)),
    attrs=(AttrSpec("lambd", "float", 0.5),),
)
unary("tanhshrink", "x - tanh(x).", lambda x: x - np.tanh(x))
unary("logsigmoid", "log(sigmoid(x)).", lambda x: np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))))
unary(
    "leaky_relu",
    "x if x > 0 else negative_slope * x.",
    lambda x, negative_slope: np.where(x > 0, x, negative_slope * x),
    attrs=(AttrSpec("negative_slope", "float", 0.01),),
)
unary(
    "threshold",
    "x if x > threshold else value; NaN stays.",
    lambda x, threshold, value: np.where(x <= threshold, value, x),
    attrs=(AttrSpec("threshold", "float", 0.0), AttrSpec("value", "float", 0.0)),
)


def _infer_prelu(x: TensorType, weight: TensorType) -> TensorType:
    channels = x.shape[1] if x.rank > 1 else 1
    if weight.rank != 1 or weight.shape[0] not in (1, channels):
        raise ShapeError("weight of prelu", expected=f"[1] or [{channels}]", got=str(weight))
    return x


def _slopes(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight.reshape(1, -1, *([1] * (x.ndim - 2))) if x.ndim > 1 and weight.size > 1 else weight


def _prelu_integer(arrays, types, out: TensorType) -> np.ndarray:
    x, weight = arrays
    centered = qmath.centered(x, types[0].quant)
    scale = qmath.multiplier(types[0].quant.scales, over=out.quant.scales)
    slope = qmath.multiplier(types[0].quant.scales, _slopes(x, weight), over=out.quant.scales)
    return qmath.requantize(centered.astype(np.float32) * np.where(centered > 0, scale, slope), out)


register(
    OpDef(
        name="prelu",
        doc="x if x > 0 else weight * x; weight [1], or one a channel (axis 1).",
        family="activations",
        operands=(OperandSpec("x"), OperandSpec("weight", Role.PARAMETER)),
        infer=_infer_prelu,
        reference=lambda x, weight: np.where(x > 0, x, _slopes(x, weight) * x),
        integer=_prelu_integer,
        quant=_OWN,
        traits=frozenset({Trait.ELEMENTWISE}),
        samples=lambda: [
            Sample((tensor("f32", *shape), tensor("f32", slopes)))
            for shape, slopes in (
                ((2, 3, 4, 4), 3),
                ((2, 8), 1),
                ((5,), 1),
                ((1, 33, 3), 33),
                ((2, 33), 33),
                ((2, 2, 2, 2, 2), 2),
            )
        ],
    )
)
register(
    OpDef(
        name="dropout",
        doc="The identity at inference; keeps its rate for training.",
        family="activations",
        operands=(OperandSpec("x"),),
        attrs=(AttrSpec("rate", "float", 0.5),),
        infer=lambda x, rate: x,
        reference=lambda x, rate: x,
        quant=_SHARED,
        samples=samples(),
        traits=frozenset({Trait.MOVES_DATA, Trait.IDENTITY_AT_INFERENCE}),
    )
)
