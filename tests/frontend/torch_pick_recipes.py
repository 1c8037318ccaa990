"""Arguments of torch ops that pick, replace, sort and count elements, and of those that make windows."""

from __future__ import annotations

from typing import Any

import torch

from tests.frontend.torch_recipes import Arguments, extremes, moderate, recipe, rows, summing

I = torch.tensor


def distinct(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Different elements in an order that is no sort. torch does not say which of equal elements comes first."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count) * 7 + 3) % count).reshape(shape).to(dtype)


def pick(names: str, *arguments: Arguments) -> None:
    """Register ops on a tensor [3, n] of extremes."""
    recipe(names)(lambda dtype: [(rows(dtype), *rest) for rest in arguments])


pick("index_select", (1, I([2, 0])))
pick("gather", (1, I([[2, 0], [1, 1], [0, 3]])))
pick(
    "index.Tensor",
    ([I([2, -1])],),
    ([I([2, -1]), I([0, 3])],),
    ([I([[2], [0]]), I([0, 3, -1])],),
    ([None, I([[2, -1]])],),
)
pick("index_fill.int_Scalar", (1, I([2, 0]), 3))
pick("unfold", (1, 3, 2), (0, 2, 1))
pick("repeat_interleave.self_int", (2,), (2, 1), (3, 0))


pick("diagonal diagonal_copy", (), (1,), (-1, 1, 0))


@recipe("tril_indices triu_indices")
def _triangles(dtype: torch.dtype) -> list[Any]:
    return [(3, 4), (4, 3, 1), (3, 3, -1, {"dtype": dtype})]


@recipe("searchsorted.Tensor")
def _search(dtype: torch.dtype) -> list[Any]:
    ordered = torch.arange(10).reshape(2, 5).to(dtype)
    x = moderate(dtype, 2, 7)
    return [(ordered, x), (ordered[0], x), (ordered, x, True), (ordered, x, {"side": "right"}), (ordered, ordered)]


@recipe("searchsorted.Scalar")
def _search_one(dtype: torch.dtype) -> list[Any]:
    return [(torch.arange(5).to(dtype), 3), (torch.arange(5).to(dtype), 3, {"right": True})]


@recipe("bucketize.Tensor")
def _bucketize(dtype: torch.dtype) -> list[Any]:
    return [(rows(dtype), torch.arange(5).to(dtype)), (moderate(dtype, 7), torch.arange(5).to(dtype), {"right": True})]


@recipe("bucketize.Scalar")
def _bucketize_one(dtype: torch.dtype) -> list[Any]:
    return [(3, torch.arange(5).to(dtype)), (3, torch.arange(5).to(dtype), {"right": True})]


@recipe("index_put _unsafe_index_put")
def _put(dtype: torch.dtype) -> list[Arguments]:
    x = rows(dtype)
    return [
        (x, [I([2, 0])], extremes(dtype)[None].clone()),
        (x, [None, I([1, -1])], moderate(dtype, 3, 2)),
        (x, [I([[2], [0]]), I([1, 3])], moderate(dtype, 2, 2)),
        (x, [x == x], moderate(dtype, 1).reshape(())),
        (x, [x[:, 0] == x[:, 0]], extremes(dtype)),
    ]


@recipe("scatter.src")
def _scatter(dtype: torch.dtype) -> list[Arguments]:
    return [(rows(dtype), 1, I([[2, 0], [1, 3]]), rows(dtype)), (rows(dtype), 0, I([[2, 0, 1]]), rows(dtype))]


pick("scatter.value", (1, I([[2, 0], [1, 3]]), 3))


@recipe("index_copy")
def _index_copy(dtype: torch.dtype) -> list[Arguments]:
    return [(rows(dtype), 0, I([2, 0]), rows(dtype)[:2]), (rows(dtype), 1, I([1, 3]), moderate(dtype, 3, 2))]


@summing("index_add")
def _index_add(dtype: torch.dtype) -> list[Arguments]:
    x, y = moderate(dtype, 3, 5), moderate(dtype, 3, 2, seed=1)
    return [(x, 1, I([4, 4]), y), (x, 0, I([2, 1, 2]), x)]


@summing("scatter_add")
def _scatter_add(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 3, 5), 1, I([[2, 0, 2], [1, 3, 1]]), moderate(dtype, 3, 5, seed=1))]


@summing("scatter_reduce.two")
def _scatter_reduce(dtype: torch.dtype) -> list[Arguments]:
    x, y, at = moderate(dtype, 3, 5), moderate(dtype, 3, 5, seed=1), I([[2, 0, 2], [1, 3, 1]])
    return [(x, 1, at, y, name) for name in ("sum", "prod", "amax", "amin")]


@recipe("topk")
def _topk(dtype: torch.dtype) -> list[Arguments]:
    x = distinct(dtype, 2, 9)
    return [(x, 4), (x, 2, 0), (x, 3, 1, False)]


@recipe("median")
def _median(dtype: torch.dtype) -> list[Arguments]:
    return [(distinct(dtype, 2, 9),), (rows(dtype),), (moderate(dtype, 3, 4),)]


@recipe("median.dim")
def _median_along(dtype: torch.dtype) -> list[Arguments]:
    x = distinct(dtype, 2, 9)
    return [(x, 1), (x, 0, True), (x[:, :4].clone(), 1)]


@recipe("sort argsort")
def _sort(dtype: torch.dtype) -> list[Arguments]:
    x = distinct(dtype, 2, 9)
    return [(x,), (x, 0), (x, 1, True)]


@recipe("sort.stable argsort.stable")
def _stable(dtype: torch.dtype) -> list[Any]:
    return [(rows(dtype), {"stable": True, "dim": dim, "descending": down}) for dim in (0, 1) for down in (False, True)]


@recipe("histc")
def _histc(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 50), 5, -2, 3), (distinct(dtype, 3, 4), 4, 0, 8)]


@summing("_cdist_forward")
def _cdist(dtype: torch.dtype) -> list[Arguments]:
    x, y = moderate(dtype, 2, 3, 4), moderate(dtype, 2, 5, 4, seed=1)
    return [(x, y, 2.0, None), (x, y, 1.0, None)]


@summing("var_mean.correction std_mean.correction")
def _spread(dtype: torch.dtype) -> list[Any]:
    x = moderate(dtype, 3, 5)
    return [(x, [1], {"correction": 0}), (x, None, {"keepdim": True}), (x, [0], {"keepdim": True})]


@summing("_embedding_bag _embedding_bag_forward_only")
def _bags(dtype: torch.dtype) -> list[Arguments]:
    weight, at, offsets = moderate(dtype, 6, 3), I([1, 5, 0, 0, 3]), I([0, 2, 2])
    plain = [(weight, at, offsets, False, mode) for mode in (0, 1, 2)]
    return [*plain, *((weight, at, offsets, False, mode, False, None, False, 0) for mode in (0, 1, 2))]


@summing("_grouped_mm")
def _grouped(dtype: torch.dtype) -> list[Arguments]:
    return [(moderate(dtype, 6, 8), moderate(dtype, 3, 8, 8, seed=1), I([2, 2, 6], dtype=torch.int32))]
