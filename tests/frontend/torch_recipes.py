"""The table of arguments for every torch op that the importer maps, and what its recipes share.

`RECIPES` has an entry for each name of the importer's table: a function from an element type to argument lists. Ops of
one signature share a recipe. Extremes go to the ops that take single elements; sums of products get moderate numbers,
because the order of their additions is free. `torch_element_recipes`, `torch_layer_recipes` and
`torch_pick_recipes` fill the table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.frontend import extremes as numbers

Arguments = tuple[Any, ...]
Recipe = Callable[[torch.dtype], list[Arguments]]
FLOATS = (torch.float32, torch.float64, torch.float16)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
DTYPES = (*FLOATS, *INTEGERS, torch.bool)
RECIPES: dict[str, Recipe] = {}
SUMS: set[str] = set()
"""The ops that add up several terms. Their arguments are moderate numbers."""


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


def _numpy_type(dtype: torch.dtype) -> np.dtype:
    return np.dtype(str(dtype).removeprefix("torch."))


def extremes(dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(numbers.extremes(_numpy_type(dtype)))


def moderate(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(numbers.moderate(_numpy_type(dtype), *shape, seed=seed))


def pairs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Every pair of extremes."""
    x, y = torch.meshgrid(extremes(dtype), extremes(dtype), indexing="ij")
    return x.reshape(-1).clone(), y.reshape(-1).clone()


def scalars(dtype: torch.dtype) -> list[Any]:
    """Python numbers of the kind of a type, and of a higher kind."""
    return [2.5, -0.5, 3] if dtype.is_floating_point else [3, 1, 2.5] if dtype is torch.uint8 else [3, -2, 2.5]


def rows(dtype: torch.dtype) -> torch.Tensor:
    """Extremes in rows, each of which starts at another one."""
    x = extremes(dtype)
    return torch.stack([x.roll(k) for k in (0, 3, 7)])


OF_SIZES = frozenset(
    f"aten.{name}"
    for name in [
        "sym_size.int",
        "sym_numel.default",
        "_local_scalar_dense.default",
        "item.default",
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
"""The ops that give or take sizes and Python numbers, and torch's checks, which have no element type."""
