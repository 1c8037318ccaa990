"""ATen ops on elements and on element types, and ops that return their operand."""

from __future__ import annotations

import math
from typing import Any

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import functional as F
from qcompiler.frontend.array_ops import binary, cast, kind_of, reshape, unary
from qcompiler.frontend.proxy import power
from qcompiler.frontend.torch_ops.table import TABLE, aten, dtype_of, scaled_by, unsupported
from qcompiler.types import DType

for _name, _op in (("sub", "sub"), ("add", "add")):

    @aten(f"{_name}.Tensor", f"{_name}.Scalar")
    def _scaled(x: Any, y: Any, alpha: Any = 1, _op: str = _op) -> Any:
        return binary(_op, x, y if alpha == 1 else binary("mul", y, alpha))


for _name, _op in (
    ("mul", "mul"),
    ("maximum", "maximum"),
    ("minimum", "minimum"),
    ("eq", "equal"),
    ("ne", "not_equal"),
    ("lt", "less"),
    ("le", "less_equal"),
    ("gt", "greater"),
    ("ge", "greater_equal"),
):
    aten(_name, f"{_name}.Tensor", f"{_name}.Scalar")(lambda x, y, _op=_op: binary(_op, x, y))
aten("logical_and", "bitwise_and.Tensor")(lambda x, y: binary("logical_and", x, y))
aten("logical_or", "bitwise_or.Tensor")(lambda x, y: binary("logical_or", x, y))
aten("logical_xor", "bitwise_xor.Tensor")(lambda x, y: binary("not_equal", x, y))
aten("logical_not", "bitwise_not")(ops.logical_not)
aten("rsub.Scalar", "rsub.Tensor")(lambda x, y, alpha=1: binary("sub", y, x if alpha == 1 else binary("mul", x, alpha)))
aten("max.other")(lambda x, y: binary("maximum", x, y))
aten("min.other")(lambda x, y: binary("minimum", x, y))
aten("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")(power)
for _name, _op in (
    ("neg", "neg"),
    ("abs", "abs"),
    ("sqrt", "sqrt"),
    ("rsqrt", "rsqrt"),
    ("reciprocal", "reciprocal"),
    ("exp", "exp"),
    ("log", "log"),
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
aten("log1p")(lambda x: unary("log", binary("add", x, 1.0)))
aten("expm1")(lambda x: binary("sub", unary("exp", x), 1.0))
aten("exp2")(lambda x: unary("exp", binary("mul", x, math.log(2))))
aten("isnan")(lambda x: binary("not_equal", x, x))
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
aten("remainder.Scalar", "remainder.Tensor")(
    lambda x, y: binary("sub", x, binary("mul", unary("floor", binary("div", x, y)), y))
)
aten("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")(lambda x, p, train: F.dropout(x, p, train))
aten("gelu")(lambda x, approximate="none": unary("gelu", x, approximate=approximate))


@aten("elu")
def _elu(x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    if input_scale != 1:
        raise unsupported("elu with input_scale is not supported")
    return scaled_by(unary("elu", x, alpha=float(alpha)), scale)


@aten("div.Tensor", "div.Scalar", "true_divide.Tensor", "div.Tensor_mode", "div.Scalar_mode", "floor_divide")
def _div(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    quotient = binary("div", x, y)
    if rounding_mode is None:
        return quotient
    rounded = (
        unary("floor", quotient)
        if rounding_mode == "floor"
        else binary("mul", unary("sign", quotient), unary("floor", unary("abs", quotient)))
    )
    ints = not any(kind_of(item).is_float for item in (x, y))
    return cast(rounded, DType.I64) if ints else rounded


TABLE["aten.floor_divide.default"] = lambda x, y: _div(x, y, "floor")


aten(
    "alias",
    "clone",
    "detach",
    "contiguous",
    "lift_fresh_copy",
    "lift_fresh",
    "positive",
    "view_as_real_copy",
    "to.device",
    "dropout_identity",
)(lambda x, *args, **kwargs: x)
aten("type_as")(lambda x, other: cast(x, kind_of(other)))
aten("to.other")(lambda x, other, *args, **kwargs: cast(x, kind_of(other)))
aten("_to_copy")(lambda x, dtype=None, **kwargs: x if dtype is None else cast(x, dtype_of(dtype)))
aten("to.dtype", "to.dtype_layout")(
    lambda x, dtype=None, *args, **kwargs: x if dtype is None else cast(x, dtype_of(dtype))
)
