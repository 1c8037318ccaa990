"""ATen ops on elements and on element types, and ops that return their operand."""

from __future__ import annotations

import math
from typing import Any

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import functional as F
from qcompiler.frontend import trigonometry
from qcompiler.frontend.array_ops import binary, cast, kind_of, lift, reshape, unary
from qcompiler.frontend.proxy import power
from qcompiler.frontend.torch_ops.table import aten, dtype_of, scaled_by, unsupported
from qcompiler.types import DType

for _name, _op in (("sub", "sub"), ("add", "add")):

    @aten(f"{_name}.Tensor", f"{_name}.Scalar")
    def _scaled(x: Any, y: Any, alpha: Any = 1, _op: str = _op) -> Any:
        return binary(_op, x, y if alpha == 1 else binary("mul", y, alpha))


for _name, _op in (
    ("mul", "mul"),
    ("eq", "equal"),
    ("ne", "not_equal"),
    ("lt", "less"),
    ("le", "less_equal"),
    ("gt", "greater"),
    ("ge", "greater_equal"),
):
    aten(f"{_name}.Tensor", f"{_name}.Scalar")(lambda x, y, _op=_op: binary(_op, x, y))
aten("logical_and")(lambda x, y: binary("logical_and", x, y))
aten("logical_or")(lambda x, y: binary("logical_or", x, y))
aten("logical_xor")(lambda x, y: binary("not_equal", cast(lift(x), DType.BOOL), cast(lift(y), DType.BOOL)))
aten("logical_not")(ops.logical_not)
aten("bitwise_not")(ops.bitwise_not)
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    _operator = f"__{_name.removeprefix('bitwise_')}__"
    aten(f"{_name}.Tensor", f"{_name}.Scalar", f"{_name}.Scalar_Tensor", f"{_operator}.Tensor", f"{_operator}.Scalar")(
        lambda x, y, _op=_name: binary(_op, x, y)
    )
for _name, _op in (("left", "shift_left"), ("right", "shift_right")):
    _operator, _name = f"__{_name[0]}shift__", f"bitwise_{_name}_shift"
    aten(f"{_name}.Tensor", f"{_name}.Tensor_Scalar", f"{_name}.Scalar_Tensor")(lambda x, y, _op=_op: binary(_op, x, y))
    aten(f"{_operator}.Tensor", f"{_operator}.Scalar")(lambda x, y, _op=_op: binary(_op, x, y))
aten("remainder.Scalar", "remainder.Tensor", "remainder.Scalar_Tensor")(lambda x, y: binary("remainder", x, y))
aten("fmod.Scalar", "fmod.Tensor")(lambda x, y: binary("fmod", x, y))
aten("rsub.Scalar", "rsub.Tensor")(lambda x, y, alpha=1: binary("sub", y, x if alpha == 1 else binary("mul", x, alpha)))
aten("maximum", "max.other")(lambda x, y: binary("maximum", x, y))
aten("minimum", "min.other")(lambda x, y: binary("minimum", x, y))
aten("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")(power)
for _name, _op in (
    ("neg", "neg"),
    ("abs", "abs"),
    ("sqrt", "sqrt"),
    ("rsqrt", "rsqrt"),
    ("reciprocal", "reciprocal"),
    ("exp", "exp"),
    ("expm1", "expm1"),
    ("log", "log"),
    ("log1p", "log1p"),
    ("sin", "sin"),
    ("cos", "cos"),
    ("atan", "atan"),
    ("erf", "erf"),
    ("floor", "floor"),
    ("ceil", "ceil"),
    ("round", "round"),
    ("sign", "sign"),
    ("square", "square"),
    ("relu", "relu"),
    ("relu6", "relu6"),
    ("sigmoid", "sigmoid"),
    ("hardsigmoid", "hardsigmoid"),
    ("tanh", "tanh"),
    ("hardswish", "hardswish"),
    ("silu", "silu"),
    ("mish", "mish"),
    ("selu", "selu"),
):
    aten(_name)(lambda x, _op=_op: unary(_op, x))
for _name in ("tan", "asin", "acos", "atan2", "atanh", "asinh", "acosh", "sinh", "cosh"):
    aten(_name)(getattr(trigonometry, _name))
aten("log_sigmoid")(lambda x: unary("logsigmoid", x))
aten("log_sigmoid_forward")(lambda x: (unary("logsigmoid", x), None))
aten("softshrink")(F.softshrink)
aten("hardshrink")(F.hardshrink)
aten("celu")(F.celu)
aten("softplus")(F.softplus)
aten("leaky_relu")(F.leaky_relu)
aten("hardtanh")(F.hardtanh)
aten("glu")(F.glu)
aten("threshold")(F.threshold)
aten("prelu")(F.prelu)
aten("_prelu_kernel")(lambda x, weight: F.prelu(x, reshape(weight, (ops.type_of(weight).elements,))))
aten("rrelu")(lambda x, lower=1 / 8, upper=1 / 3, training=False, generator=None: F.rrelu(x, lower, upper, training))
aten("log2")(lambda x: binary("mul", unary("log", x), 1 / math.log(2)))
aten("log10")(lambda x: binary("mul", unary("log", x), 1 / math.log(10)))
aten("exp2")(lambda x: binary("pow", 2.0, x))
aten("round.decimals")(lambda x, decimals: _round(x, decimals))
aten("isnan")(lambda x: binary("not_equal", x, x))
aten("isinf")(
    lambda x: binary("equal", unary("abs", x), math.inf) if kind_of(x).is_float else binary("not_equal", x, x)
)
aten("trunc", "fix")(ops.truncated)
aten("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")(ops.where)
aten("masked_fill.Scalar", "masked_fill.Tensor")(lambda x, mask, value: ops.where(mask, value, x))
aten("clamp", "clip", "clamp.Tensor")(lambda x, min=None, max=None: ops.clip(x, min, max))
aten("clamp_min", "clamp_min.Tensor")(lambda x, min: ops.clip(x, min, None))
aten("clamp_max", "clamp_max.Tensor")(lambda x, max: ops.clip(x, None, max))
aten("addcmul")(lambda x, a, b, value=1: binary("add", x, scaled_by(binary("mul", a, b), value)))
aten("addcdiv")(lambda x, a, b, value=1: binary("add", x, scaled_by(binary("div", a, b), value)))
aten("lerp.Scalar", "lerp.Tensor")(
    lambda x, end, weight: binary("add", x, binary("mul", weight, binary("sub", end, x)))
)
aten("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")(lambda x, p, train: F.dropout(x, p, train))
aten("gelu")(lambda x, approximate="none": unary("gelu", x, approximate=approximate))


def _isinf(x: Any) -> Any:
    if not kind_of(x).is_float:
        return binary("not_equal", x, x)  # no integer is
    return binary("equal", unary("abs", x), math.inf)


def _round(x: Any, decimals: int) -> Any:
    """x rounded to a number of decimals, in the way of torch: scaled, rounded, scaled back; f16 in f32."""
    kind = kind_of(x)
    if kind is DType.F16 and decimals:
        return cast(_round(cast(x, DType.F32), decimals), kind)
    factor = 10.0 ** abs(decimals)
    if decimals < 0:
        return binary("mul", unary("round", binary("div", x, factor)), factor)
    return binary("div", unary("round", binary("mul", x, factor)), factor) if decimals else unary("round", x)


@aten("elu")
def _elu(x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    if input_scale != 1:
        raise unsupported("elu with input_scale is not supported")
    return scaled_by(unary("elu", x, alpha=float(alpha)), scale)


@aten("div.Tensor", "div.Scalar", "true_divide.Tensor", "div.Tensor_mode", "div.Scalar_mode")
def _div(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return binary("div", x, y)
    if rounding_mode == "floor":
        return binary("floor_divide", x, y)
    return ops.truncated(binary("div", x, y)) if ops.common_dtype(x, y).is_float else binary("trunc_divide", x, y)


aten("floor_divide")(lambda x, y: binary("floor_divide", x, y))


aten(
    "alias",
    "clone",
    "detach",
    "contiguous",
    "lift_fresh_copy",
    "lift_fresh",
    "positive",
)(lambda x, *args, **kwargs: x)
aten("type_as")(lambda x, other: cast(x, kind_of(other)))
aten("to.other")(lambda x, other, *args, **kwargs: cast(x, kind_of(other)))
aten("to.device")(lambda x, device, dtype, *args, **kwargs: cast(x, dtype_of(dtype)))
aten("_to_copy")(lambda x, dtype=None, **kwargs: x if dtype is None else cast(x, dtype_of(dtype)))
aten("to.dtype", "to.dtype_layout")(
    lambda x, dtype=None, *args, **kwargs: x if dtype is None else cast(x, dtype_of(dtype))
)
