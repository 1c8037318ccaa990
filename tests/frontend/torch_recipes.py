"""Arguments for every torch op that the importer maps, by element type.

`RECIPES` has an entry for each name of the importer's table: a function from an element type to argument lists. Ops of
one signature share a recipe. Extremes go to the ops that take single elements; sums of products get moderate numbers,
because the order of their additions is free.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

Arguments = tuple[Any, ...]
Recipe = Callable[[torch.dtype], list[Arguments]]
FLOATS = (torch.float32, torch.float64, torch.float16)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
DTYPES = (*FLOATS, *INTEGERS, torch.bool)
RECIPES: dict[str, Recipe] = {}
SUMS: set[str] = set()
"""Ops that add up several terms. Their arguments are moderate numbers."""


def recipe(names: str, *, sums: bool = False) -> Callable[[Recipe], Recipe]:
    """Register a recipe under names of ops; a name without a dot means `.default`."""

    def add(build: Recipe) -> Recipe:
        for name in names.split():
            full = f"aten.{name}" if "." in name else f"aten.{name}.default"
            RECIPES[full] = build
            if sums:
                SUMS.add(full)
        return build

    return add


summing = functools.partial(recipe, sums=True)


# -- numbers


def extremes(dtype: torch.dtype) -> torch.Tensor:
    """Ends of the range, zeros of both signs, ties of rounding, numbers that f32 does not hold, infinities and NaN.
    Those of f16 and f64 are exact as f32."""
    if dtype is torch.bool:
        return torch.tensor([False, True, True, False, True])
    if dtype.is_floating_point:
        numbers = [
            0.0,
            -0.0,
            1,
            -1,
            0.5,
            -0.5,
            1.5,
            2.5,
            -2.5,
            3,
            7,
            -7.25,
            2.0**-8,
            2.0**-14,
            -(2.0**-20),
            100,
            -60000,
        ]
        wide = [] if dtype is torch.float16 else [2.0**24, 2.0**31, -(2.0**63), 1e-8, 1e-20, 1e30, -3e38, 1e-45, 88.7]
        return torch.tensor([*numbers, *wide, math.inf, -math.inf, math.nan], dtype=torch.float32).to(dtype)
    info = torch.iinfo(dtype)
    numbers = [0, 1, 2, 3, 7, -1, -2, -7, info.min, info.min + 1, info.max - 1, info.max, 2**24 + 1, 2**31, -(2**31)]
    return torch.tensor([n for n in numbers if info.min <= n <= info.max], dtype=dtype)


def moderate(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers between -3 and 3, or 0 and 3, with ties."""
    generator = torch.Generator().manual_seed(seed + math.prod(shape))
    if dtype.is_floating_point:
        return torch.randint(-24, 25, shape, generator=generator).div(8).to(dtype)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    return torch.randint(0 if dtype is torch.uint8 else -3, 4, shape, generator=generator).to(dtype)


def pairs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Every pair of extremes."""
    x, y = torch.meshgrid(extremes(dtype), extremes(dtype), indexing="ij")
    return x.reshape(-1).clone(), y.reshape(-1).clone()


def scalars(dtype: torch.dtype) -> list[Any]:
    """Python numbers of the kind of a type, and of a higher one."""
    return [2.5, -0.5, 3] if dtype.is_floating_point else [3, 1, 2.5] if dtype is torch.uint8 else [3, -2, 2.5]


def rows(dtype: torch.dtype) -> torch.Tensor:
    """Extremes in rows: each starts at another place."""
    x = extremes(dtype)
    return torch.stack([x.roll(k) for k in (0, 3, 7)])


# -- elements


@recipe(
    "logical_not bitwise_not neg abs sqrt rsqrt reciprocal exp expm1 log log1p sin cos atan erf floor ceil round sign"
    " square relu relu6 sigmoid hardsigmoid tanh hardswish silu mish selu log_sigmoid log2 log10 exp2 isnan alias"
    " detach lift_fresh_copy lift_fresh positive max min any all celu softplus leaky_relu hardtanh gelu elu softshrink"
    " hardshrink clone zeros_like ones_like numpy_T squeeze"
)
def _one(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype),), (extremes(dtype)[:1].reshape(()),)]


@recipe("log_sigmoid_forward")
def _first_only(dtype: torch.dtype) -> list[Arguments]:
    return [(extremes(dtype),)]


@recipe(
    "add.Tensor sub.Tensor rsub.Tensor mul.Tensor maximum minimum max.other min.other eq.Tensor ne.Tensor lt.Tensor"
    " le.Tensor gt.Tensor ge.Tensor logical_and logical_or logical_xor bitwise_and.Tensor bitwise_or.Tensor"
    " bitwise_xor.Tensor __and__.Tensor __or__.Tensor __xor__.Tensor bitwise_left_shift.Tensor"
    " bitwise_right_shift.Tensor __lshift__.Tensor __rshift__.Tensor div.Tensor true_divide.Tensor "
    " clamp_min.Tensor clamp_max.Tensor"
)
def _two(dtype: torch.dtype) -> list[Arguments]:
    x, y = pairs(dtype)
    other = torch.int64 if not dtype.is_floating_point else torch.int32
    return [(x, y), (x, y[:1]), (x, y[:1].reshape(())), (x, moderate(other, len(x)))]


@recipe("remainder.Tensor fmod.Tensor floor_divide")
def _division(dtype: torch.dtype) -> list[Arguments]:
    """Without what torch stops at: 0, and the least integer over -1."""
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
    """Extremes whose conversion C defines."""
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


# -- layers


@summing("softmax.int log_softmax.int _safe_softmax")
def _softmax(dtype: torch.dtype) -> list[Any]:
    return [(moderate(dtype, 3, 9), 1), (moderate(dtype, 3, 9), 0, {"dtype": torch.float32})]


@summing("_softmax _log_softmax")
def _plain_softmax(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 3, 9), 1, False)]


@summing("linear")
def _linear(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 2, 5), moderate(dtype, 3, 5), moderate(dtype, 3))]


@summing("matmul mm")
def _matmul(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 2, 5), moderate(dtype, 5, 3))]


@summing("bmm")
def _bmm(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 2, 3, 5), moderate(dtype, 2, 5, 3))]


@summing("mv")
def _mv(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 3, 5), moderate(dtype, 5))]


@summing("dot")
def _dot(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 5), moderate(dtype, 5, seed=1))]


@summing("einsum")
def _einsum(dtype: torch.dtype) -> list[Arguments]:
    x, y = moderate(dtype, 2, 3), moderate(dtype, 3, 4)
    return [("ij,jk->ik", [x, y]), ("ij->j", [x]), ("ij,jk->jik", [x, y])]


@summing("bilinear")
def _bilinear(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 2, 3), moderate(dtype, 2, 4), moderate(dtype, 5, 3, 4), moderate(dtype, 5))]


@summing("embedding")
def _embedding(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 7, 3), torch.tensor([[0, 6], [2, 2]]))]


@summing("addmm")
def _addmm(dtype: torch.dtype) -> list[Any]:
    x, y, z = moderate(dtype, 2, 3), moderate(dtype, 2, 5), moderate(dtype, 5, 3)
    return [(x, y, z), (x, y, z, {"beta": 2, "alpha": 3})]


@summing("baddbmm")
def _baddbmm(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 4, 2, 3), moderate(dtype, 4, 2, 5), moderate(dtype, 4, 5, 3))]


_private = {1: "", 2: " _adaptive_avg_pool2d", 3: " _adaptive_avg_pool3d"}
for _n in (1, 2, 3):
    _image = (5,) * _n
    _kernel = (3,) * _n

    @summing(f"conv{_n}d conv{_n}d.padding conv_transpose{_n}d{'.input' if _n > 1 else ''}")
    def _conv(dtype: torch.dtype, image: Any = _image, kernel: Any = _kernel) -> list[Arguments]:
        return [(moderate(dtype, 1, 2, *image), moderate(dtype, 2, 2, *kernel), moderate(dtype, 2))]

    @summing(f"max_pool{_n}d avg_pool{_n}d max_pool{_n}d_with_indices")
    def _pool(dtype: torch.dtype, image: Any = _image, n: int = _n) -> list[Arguments]:
        return [(moderate(dtype, 1, 2, *image), [2] * n)]

    @summing(f"adaptive_avg_pool{_n}d adaptive_max_pool{_n}d{_private[_n]}")
    def _adaptive(dtype: torch.dtype, image: Any = _image, n: int = _n) -> list[Arguments]:
        return [(moderate(dtype, 1, 2, *image), [2] * n)]

    @summing(f"upsample_nearest{_n}d.vec _upsample_nearest_exact{_n}d.vec")
    def _nearest(dtype: torch.dtype, image: Any = _image, n: int = _n) -> list[Arguments]:
        return [(moderate(dtype, 1, 2, *image), [10] * n, None)]

    @summing(f"upsample_{('linear', 'bilinear', 'trilinear')[_n - 1]}{_n}d.vec")
    def _upsample(dtype: torch.dtype, image: Any = _image, n: int = _n) -> list[Arguments]:
        return [(moderate(dtype, 1, 2, *image), [10] * n, aligned, None) for aligned in (False, True)]

    @summing(f"reflection_pad{_n}d replication_pad{_n}d")
    def _border(dtype: torch.dtype, image: Any = _image, n: int = _n) -> list[Arguments]:
        return [(moderate(dtype, 1, 2, *image), [1, 2] * n)]


@summing("convolution")
def _convolution(dtype: torch.dtype) -> list[Arguments]:
    x, w, b = moderate(dtype, 1, 2, 5, 5), moderate(dtype, 2, 2, 3, 3), moderate(dtype, 2)
    return [(x, w, b, [1, 1], [1, 1], [1, 1], transposed, [0, 0], 1) for transposed in (False, True)]


@summing("scaled_dot_product_attention")
def _attention(dtype: torch.dtype) -> list[Arguments]:
    return [tuple(moderate(dtype, 1, 2, 4, 8, seed=seed) for seed in range(3))]


@summing("group_norm")
def _group_norm(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 2, 4, 5), 2, moderate(dtype, 4), moderate(dtype, 4))]


@summing("layer_norm rms_norm")
def _layer_norm(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 2, 9), [9], moderate(dtype, 9))]


@summing("native_layer_norm")
def _native_layer_norm(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 2, 9), [9], moderate(dtype, 9), None, 1e-5)]


def _statistics(dtype: torch.dtype) -> Arguments:
    return (
        moderate(dtype, 4),
        moderate(dtype, 4, seed=1),
        moderate(dtype, 4, seed=2),
        moderate(dtype, 4, seed=3) * moderate(dtype, 4, seed=3),
    )


@summing("batch_norm")
def _batch_norm(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 2, 4, 5), *_statistics(dtype), False, 0.1, 0.5, False)]


@summing("_native_batch_norm_legit_no_training")
def _native_batch_norm(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 2, 4, 5), *_statistics(dtype), 0.1, 0.5)]


@summing("instance_norm")
def _instance_norm(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 2, 4, 5), moderate(dtype, 4), None, None, None, True, 0.1, 1e-5, False)]


@summing("pixel_shuffle")
def _pixel_shuffle(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 1, 4, 3, 3), 2)]


@summing("pixel_unshuffle channel_shuffle native_channel_shuffle")
def _shuffle(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 1, 4, 4, 4), 2)]


@summing("pad")
def _pad(dtype: torch.dtype) -> list[Any]:
    return [(moderate(dtype, 2, 3, 4), [1, 2], mode) for mode in ("constant", "reflect", "replicate")]


@summing("constant_pad_nd")
def _constant_pad(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 2, 3), [1, 2], 0), (moderate(dtype, 2, 3), [1, 0, 0, 1], 3)]


# -- shapes


def _shaped(names: str, *arguments: Arguments) -> None:
    """Ops that move the elements of a tensor [3, n] of extremes."""
    recipe(names)(lambda dtype: [(rows(dtype), *rest) for rest in arguments])


_shaped("view reshape _unsafe_view view_copy", ([-1],))
_shaped("flatten.using_ints", (0, 1))
_shaped("t", ())
_shaped("permute", ([1, 0],))
_shaped("transpose.int", (0, 1))
_shaped("movedim.int", (0, 1))
_shaped("movedim.intlist", ([0], [1]))
_shaped("unsqueeze", (1,))
_shaped("squeeze.dim", (0,))
_shaped("squeeze.dims", ([0, 1],))
_shaped("expand broadcast_to", ([2, 3, -1],))
_shaped("repeat tile", ([2, 1],), ([2, 1, 2],))
_shaped("flip", ([0, 1],))
_shaped("tril triu", (), (1,))
_shaped("roll", ([1], [1]), (2,))
_shaped("select.int", (0, 1))
_shaped("chunk", (2, 0))
_shaped("split.Tensor", (2, 0))
_shaped("split_with_sizes split.sizes", ([1, 2], 0))
_shaped("unbind.int", (0,))
_shaped("narrow", (1, 1, 2))
_shaped("slice.Tensor", (1, 1, 4, 2))
_shaped("unflatten.int", (0, [3, 1]))
_shaped("index_select", (1, torch.tensor([2, 0])))
_shaped("gather", (1, torch.tensor([[2, 0], [1, 1], [0, 3]])))
_shaped("index.Tensor", ([torch.tensor([2, -1])],))
_shaped("new_zeros new_ones", ([2],))
_shaped("new_full", ([2], 3))
_shaped("full_like", (3,))
RECIPES["aten.broadcast_to.default"] = lambda dtype: [(rows(dtype), [2, 3, rows(dtype).shape[1]])]
RECIPES["aten.expand_as.default"] = lambda dtype: [(rows(dtype), moderate(dtype, 2, *rows(dtype).shape))]
RECIPES["aten.select_scatter.default"] = lambda dtype: [(rows(dtype), extremes(dtype), 0, 1)]
RECIPES["aten.slice_scatter.default"] = lambda dtype: [(rows(dtype), extremes(dtype)[None].clone(), 0, 1, 2)]
RECIPES["aten.cat.default"] = lambda dtype: [
    ([rows(dtype), rows(dtype)], 1),
    ([rows(dtype), moderate(torch.int16, 1, rows(dtype).shape[1])], 0),
]
RECIPES["aten.stack.default"] = lambda dtype: [([rows(dtype), rows(dtype)], 1)]


@recipe("zeros ones")
def _new(dtype: torch.dtype) -> list[Any]:
    return [([2, 3], {"dtype": dtype})]


@recipe("full")
def _full(dtype: torch.dtype) -> list[Any]:
    return [([2, 3], 3, {"dtype": dtype}), ([2, 3], 3), ([2], 2.5), ([2], True)]


@recipe("scalar_tensor")
def _scalar(dtype: torch.dtype) -> list[Any]:
    return [(3, {"dtype": dtype}), (2.5,)]


@recipe("arange")
def _arange(dtype: torch.dtype) -> list[Any]:
    return [(5, {"dtype": dtype}), (2.5,), (5,)]


@recipe("arange.start")
def _arange_from(dtype: torch.dtype) -> list[Any]:
    return [(2, 5, {"dtype": dtype}), (2, 4.5)]


@recipe("arange.start_step")
def _arange_by(dtype: torch.dtype) -> list[Any]:
    return [(2, 9, 2, {"dtype": dtype}), (2, 4, 0.5)]


OF_SIZES = frozenset(
    f"aten.{name}"
    for name in [
        "sym_size.int",
        "sym_numel.default",
        "_assert_scalar.default",
        "_assert_async.msg",
        "sym_constrain_range.default",
        "sym_constrain_range_for_size.default",
        "_assert_tensor_metadata.default",
        "mul.default",
        "eq.default",
        "ne.default",
        "lt.default",
        "le.default",
        "gt.default",
        "ge.default",
    ]
)
"""Ops on sizes and Python numbers, and torch's checks: they have no element type."""
