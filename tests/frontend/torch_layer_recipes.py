"""Arguments of torch ops that stand for layers, move elements or make tensors."""

from __future__ import annotations

from typing import Any

import torch

from tests.frontend.torch_recipes import (
    RECIPES,
    Arguments,
    extremes,
    moderate,
    recipe,
    rows,
    summing,
)

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
    """Register ops that move the elements of a tensor [3, n] of extremes."""
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
