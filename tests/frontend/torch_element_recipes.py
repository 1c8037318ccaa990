"""Arguments of torch ops on elements, casts and reductions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from tests.frontend.torch_recipes import (
    DTYPES,
    Arguments,
    extremes,
    moderate,
    pairs,
    recipe,
    rows,
    scalars,
    summing,
)


@recipe(
    "logical_not bitwise_not neg abs sqrt rsqrt reciprocal exp expm1 log log1p sin cos atan erf floor ceil round sign"
    " square relu relu6 sigmoid hardsigmoid tanh hardswish silu mish selu log_sigmoid log2 log10 exp2 isnan isinf trunc"
    " fix alias"
    " detach lift_fresh_copy lift_fresh positive max min any all celu softplus leaky_relu hardtanh gelu elu softshrink"
    " hardshrink tan asin acos atanh asinh acosh sinh cosh clone zeros_like ones_like numpy_T squeeze"
)
def _one(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype),), (extremes(dtype)[:1].reshape(()),)]


@recipe("round.decimals")
def _round(dtype: torch.dtype) -> list[Any]:
    near_a_tie = torch.tensor([1.7255859375]).to(dtype)  # 100 times as much is a tie in f16, none in f32
    return [
        (near_a_tie, {"decimals": 2}),
        *((moderate(dtype, 20), {"decimals": decimals}) for decimals in (0, 1, 2, -1)),
    ]


@recipe("log_sigmoid_forward")
def _first_only(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype),)]


@recipe(
    "add.Tensor sub.Tensor rsub.Tensor mul.Tensor maximum minimum max.other min.other eq.Tensor ne.Tensor lt.Tensor"
    " le.Tensor gt.Tensor ge.Tensor logical_and logical_or logical_xor bitwise_and.Tensor bitwise_or.Tensor"
    " bitwise_xor.Tensor __and__.Tensor __or__.Tensor __xor__.Tensor bitwise_left_shift.Tensor"
    " bitwise_right_shift.Tensor __lshift__.Tensor __rshift__.Tensor div.Tensor true_divide.Tensor "
    " clamp_min.Tensor clamp_max.Tensor atan2"
)
def _two(dtype: torch.dtype) -> list[Arguments]:
    x, y = pairs(dtype)
    other = torch.int64 if not dtype.is_floating_point else torch.int32
    return [(x, y), (x, y[:1]), (x, y[:1].reshape(())), (x, moderate(other, len(x)))]


@recipe("remainder.Tensor fmod.Tensor floor_divide")
def _division(dtype: torch.dtype) -> list[Arguments]:
    """Operands of a division without those at which torch stops: 0, and the least integer over -1."""
    x, y = pairs(dtype)
    if not dtype.is_floating_point and dtype is not torch.bool:
        y = torch.where((y == 0) | ((y == -1) & (x == torch.iinfo(dtype).min)), torch.full_like(y, 3), y)
    return [(x, y)]


@recipe("div.Tensor_mode")
def _rounded_division(dtype: torch.dtype) -> list[Any]:
    return [
        (*arguments, {"rounding_mode": mode}) for arguments in _division(dtype) for mode in ("floor", "trunc", None)
    ]


@recipe("div.Scalar_mode")
def _rounded_division_by_number(dtype: torch.dtype) -> list[Any]:
    return [(extremes(dtype), n, {"rounding_mode": mode}) for n in scalars(dtype) for mode in ("floor", "trunc", None)]


@recipe(
    "add.Scalar sub.Scalar rsub.Scalar mul.Scalar eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar"
    " bitwise_and.Scalar bitwise_or.Scalar bitwise_xor.Scalar __and__.Scalar __or__.Scalar __xor__.Scalar"
    " bitwise_left_shift.Tensor_Scalar bitwise_right_shift.Tensor_Scalar __lshift__.Scalar __rshift__.Scalar"
    " remainder.Scalar fmod.Scalar div.Scalar clamp_min clamp_max"
)
def _with_number(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype), number) for number in scalars(dtype)]


@recipe(
    "bitwise_and.Scalar_Tensor bitwise_or.Scalar_Tensor bitwise_xor.Scalar_Tensor bitwise_left_shift.Scalar_Tensor"
    " bitwise_right_shift.Scalar_Tensor"
)
def _number_first(dtype: torch.dtype) -> list[Arguments]:
    return [(3, extremes(dtype)), (100, extremes(dtype))]


@recipe("remainder.Scalar_Tensor")
def _number_over(dtype: torch.dtype) -> list[Arguments]:
    return [(7, _division(dtype)[0][1])]


@recipe("pow.Tensor_Tensor")
def _powers(dtype: torch.dtype) -> list[Arguments]:
    return [pairs(dtype)]


@recipe("pow.Tensor_Scalar")
def _power(dtype: torch.dtype) -> list[Arguments]:
    exponents = (0, 1, 2, 3, 0.5, -0.5, -1.0, 2.5) if dtype.is_floating_point else (0, 1, 2, 3, 13, 0.5, -1, 2.0)
    return [(extremes(dtype), exponent) for exponent in exponents]


@recipe("pow.Scalar")
def _number_to_power(dtype: torch.dtype) -> list[Arguments]:
    return [(2, extremes(dtype)), (2.5, extremes(dtype)), (-1, extremes(dtype))]


@recipe("clamp clip")
def _clamp(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype), low, high) for low, high in ((1, 5), (0.5, 2.5), (3, 1), (None, 2), (2, None))]


@recipe("clamp.Tensor")
def _clamp_by_tensors(dtype: torch.dtype) -> list[Arguments]:
    x, low = pairs(dtype)
    return [(x, low, low.flip(0)), (x, None, low)]


@recipe("where.self")
def _where(dtype: torch.dtype) -> list[Arguments]:
    x, y = pairs(dtype)
    return [(torch.arange(len(x)) % 3 == 0, x, y), (torch.arange(len(x)) % 2 == 0, x, moderate(torch.int32, 1))]


@recipe("where.ScalarOther")
def _where_number_last(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype) == 1, extremes(dtype), number) for number in scalars(dtype)]


@recipe("where.ScalarSelf")
def _where_number_first(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype) == 1, number, extremes(dtype)) for number in scalars(dtype)]


@recipe("where.Scalar")
def _where_numbers(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype) == 1, 2, 3), (extremes(dtype) == 1, 2.5, 3)]


@recipe("masked_fill.Scalar")
def _masked_fill(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype), extremes(dtype) == 1, 3)]


@recipe("masked_fill.Tensor")
def _masked_fill_tensor(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype), extremes(dtype) == 1, extremes(dtype)[1].clone())]


@recipe("threshold")
def _threshold(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype), 1, 3)]


@recipe("rrelu")
def _rrelu(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype), 0.125, 0.25, False)]


@recipe("dropout feature_dropout alpha_dropout feature_alpha_dropout")
def _dropout(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype), 0.5, False)]


@summing("addcmul addcdiv")
def _three(dtype: torch.dtype) -> list[Arguments]:
    x, y, z = (moderate(dtype, 4, 9, seed=seed) for seed in range(3))
    return [(x, y, torch.where(z == 0, torch.ones_like(z), z))]


@summing("lerp.Scalar")
def _lerp(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 4, 9), moderate(dtype, 4, 9, seed=1), 0.25)]


@summing("lerp.Tensor")
def _lerp_by_tensor(dtype: torch.dtype) -> list[Arguments]:
    return [tuple(moderate(dtype, 4, 9, seed=seed) for seed in range(3))]


@recipe("prelu _prelu_kernel")
def _prelu(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 2, 3, 5), moderate(dtype, 3, seed=1)), (rows(dtype)[None], moderate(dtype, 1, seed=1))]


@summing("glu")
def _glu(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 4, 6), 1)]


@recipe("contiguous")
def _contiguous(dtype: torch.dtype) -> list[Any]:
    return [(extremes(dtype), {"memory_format": torch.contiguous_format})]


def _castable(dtype: torch.dtype, to: torch.dtype) -> torch.Tensor:
    """The extremes whose conversion C defines."""
    x = extremes(dtype)
    if not dtype.is_floating_point or to.is_floating_point or to is torch.bool:
        return x
    info = torch.iinfo(to)
    wide = x.to(torch.float64)
    return x[(wide > max(info.min, -(2**62)) - 1) & (wide < min(info.max, 2**62) + 1)]


def _casts(dtype: torch.dtype) -> Iterator[tuple[torch.Tensor, torch.dtype]]:
    return ((_castable(dtype, to), to) for to in DTYPES)


@recipe("type_as to.other copy")
def _like(dtype: torch.dtype) -> list[Arguments]:
    return [(x, torch.zeros(len(x), dtype=to)) for x, to in _casts(dtype)]


@recipe("to.dtype")
def _to_dtype(dtype: torch.dtype) -> list[Arguments]:
    return list(_casts(dtype))


@recipe("to.device")
def _to_device(dtype: torch.dtype) -> list[Arguments]:
    return [(x, torch.device("cpu"), to) for x, to in _casts(dtype)]


@recipe("_to_copy to.dtype_layout")
def _to_copy(dtype: torch.dtype) -> list[Any]:
    return [(x, {"dtype": to}) for x, to in _casts(dtype)]


# -- reductions


@summing("mean sum prod")
def _total(dtype: torch.dtype) -> list[Any]:
    whole = extremes(dtype) if not dtype.is_floating_point else moderate(dtype, 3, 5)
    return [(whole,), (moderate(dtype, 2, 3),), (moderate(dtype, 3, 5), {"dtype": torch.float32})] + [
        (whole[:1].reshape(-1)[:1].reshape(()),)
    ]


@summing("mean.dim sum.dim_IntList")
def _totals(dtype: torch.dtype) -> list[Any]:
    x = moderate(dtype, 3, 4, 5)
    return [(x, [1]), (x, [0, 2], True), (x, None), (x, [1], False, {"dtype": torch.float32})] + [
        (rows(dtype), [0])
    ] * (not dtype.is_floating_point)


@summing("prod.dim_int")
def _products(dtype: torch.dtype) -> list[Any]:
    return [(moderate(dtype, 3, 4), 1), (moderate(dtype, 3, 4), 0, True, {"dtype": torch.float32})] + [
        (rows(dtype), 0)
    ] * (not dtype.is_floating_point)


@recipe("amax amin")
def _extreme(dtype: torch.dtype) -> list[Arguments]:
    return [(rows(dtype), [1]), (rows(dtype), [], True), (moderate(dtype, 2, 3, 4), [0, 2])]


@recipe("max.dim min.dim any.dim all.dim")
def _along(dtype: torch.dtype) -> list[Arguments]:
    return [(rows(dtype), 1), (rows(dtype), 0, True), (moderate(dtype, 3, 9), 1)]


@recipe("any.dims all.dims")
def _along_axes(dtype: torch.dtype) -> list[Arguments]:
    return [(rows(dtype), [0, 1]), (moderate(dtype, 3, 9), [1], True)]


@recipe("argmax argmin")
def _search(dtype: torch.dtype) -> list[Arguments]:
    return [
        (rows(dtype),),
        (rows(dtype), 1),
        (moderate(dtype, 3, 9), 0, True),
        (moderate(dtype, 9).reshape(9)[0].clone(),),
    ]


@summing("cumsum")
def _cumsum(dtype: torch.dtype) -> list[Any]:
    return [(moderate(dtype, 3, 9), 1), (moderate(dtype, 3, 9), 0, {"dtype": torch.float32}), (rows(dtype), 0)][
        : 2 if dtype.is_floating_point else 3
    ]


@summing("var.correction std.correction")
def _variance(dtype: torch.dtype) -> list[Any]:
    return [(moderate(dtype, 3, 9),), (moderate(dtype, 3, 9), [1], {"correction": 0, "keepdim": True})]


@summing("var.dim std.dim")
def _variance_along(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 3, 9), [1]), (moderate(dtype, 3, 9), [0, 1], False)]


@summing("logsumexp")
def _logsumexp(dtype: torch.dtype) -> list[Arguments]:
    endless = torch.tensor([[-math.inf] * 3, [math.inf, 0, -math.inf], [math.inf, -1, math.nan]])
    return [(moderate(dtype, 3, 9), [1]), (endless.to(dtype), [1]), (moderate(dtype, 3, 9), [0, 1], True)]


@summing("linalg_vector_norm norm.ScalarOpt_dim")
def _norm(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 3, 9), order, [1]) for order in (2, 1, math.inf)]
