"""Which operands and attributes a one-node model of an op needs, and the bound on its float results.

`RECIPES` has every op of the importer's table that is not quantized. A recipe draws operands and those attributes that
depend on shapes; what a schema alone determines (flags, float attributes with a default) `one_op_models` draws.
`layer_recipes` and `shape_recipes` fill the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import helper

Operands = Sequence["np.ndarray | None"]

EXTREMES = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, -3.0, 1e-3, -1e-5, 1e-20, 1e-40, 7.25, 100.0, -104.0]
HUGE = [88.8, 16777217.0, 2147483648.0, -2147483648.0, 3e9, 1e20, 3.4e38, -3.4e38, math.nan, math.inf, -math.inf]


@dataclass
class Draw:
    """A case that is being drawn: its op, its opset, the element type of each of the schema's type parameters.

    known: operands that the importer needs as initializers. wanted: how many outputs are asked for. attrs: given to the
    node, besides those that a recipe returns.
    """

    rng: np.random.Generator
    op: str
    opset: int
    types: dict[str, int]
    known: set[int] = field(default_factory=set)
    wanted: int = 1

    def one(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def shape(self, low: int = 0, high: int = 4, empty: bool = True) -> tuple[int, ...]:
        """Draw `low` to `high` axes; now and then a size is 0."""
        sizes = [int(self.one(1, 2, 3, 3, 5)) for _ in range(int(self.rng.integers(low, high + 1)))]
        if empty and sizes and self.chance(0.05):
            sizes[int(self.rng.integers(len(sizes)))] = 0
        return tuple(sizes)

    def data(self, shape: Sequence[int], param: str = "T", tame: bool = False) -> np.ndarray:
        """Draw values of a type parameter's element type. tame: they can be summed without overflow."""
        dtype = helper.tensor_dtype_to_np_dtype(self.types[param])
        return self.values(shape, dtype, tame)

    def values(self, shape: Sequence[int], dtype: Any, tame: bool = False) -> np.ndarray:
        return np.asarray(self._values(tuple(shape), dtype, tame))

    def _values(self, shape: tuple[int, ...], dtype: Any, tame: bool) -> Any:
        dtype, count = np.dtype(dtype), math.prod(shape)
        if dtype.kind == "O":
            return np.array([str(self.rng.integers(9)) for _ in range(count)], object).reshape(shape)
        if dtype.kind == "b":
            return self.rng.random(shape) < 0.5
        if dtype.kind in "iu":
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            pool = [low, low + 1, -7, -3, -1, 0, 1, 2, 3, 7, 2**24 + 1, -(2**24) - 1, 2**31 - 1, high - 1, high]
            pool = [v for v in pool if low <= v <= high and not (tame and abs(v) > 7)]
            return np.array([pool[i] for i in self.rng.integers(len(pool), size=count)], dtype).reshape(shape)
        if dtype.kind == "c":
            return self.rng.normal(size=shape).astype(dtype)
        real = self.rng.normal(size=count) * 2
        pool = EXTREMES if tame else EXTREMES + HUGE
        picked = self.rng.random(count) < (0.25 if tame else 0.6)
        real = np.where(picked, np.array(pool)[self.rng.integers(len(pool), size=count)], real)
        with np.errstate(all="ignore"):
            narrow = np.float16 if dtype == np.float16 else np.float32
            return real.astype(narrow).astype(dtype).reshape(shape)

    def broadcast(self, params: Sequence[str], high: int = 4, tame: bool = False) -> list[np.ndarray]:
        """Draw operands whose shapes broadcast against each other."""
        whole = self.shape(0, high)
        found = []
        for param in params:
            rest = whole[int(self.rng.integers(len(whole) + 1)) if self.chance(0.4) else 0 :]
            found.append(self.data([1 if self.chance(0.2) else size for size in rest], param, tame))
        return found

    def axis(self, rank: int) -> int:
        """Draw an axis, counted from either end."""
        return int(self.rng.integers(-rank, rank)) if rank else 0

    def axes(self, rank: int) -> list[int]:
        count = int(self.rng.integers(0, rank + 1))
        return [int(axis - rank if self.chance(0.3) else axis) for axis in self.rng.permutation(rank)[:count]]


Make = Callable[[Draw], tuple[Operands, dict[str, Any]]]


@dataclass(frozen=True)
class Recipe:
    """How to draw a case, and how near its floats must be.

    Attributes:
        bound: "exact": equal, signs of zeros and places of NaN included.
            An int: units in the last place of the result. 0 leaves only the signs of zeros open, as a maximum does.
            "sum": a unit for each term, of the result for the operands' magnitudes. That bounds the rounding of a sum
            of products in any order.
            "scaled": 64 units of the largest result: a few dozen roundings, of values that are not much larger.
    """

    make: Make
    bound: str | int = "exact"


RECIPES: dict[str, Recipe] = {}


def recipe(*ops: str, bound: str | int = "exact") -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        RECIPES.update(dict.fromkeys(ops, Recipe(make, bound)))
        return make

    return add


def i64(values: Iterable[int]) -> np.ndarray:
    return np.array(list(values), np.int64)


def no_nan(x: np.ndarray) -> np.ndarray:
    """ONNX does not say which of two numbers is larger if one is NaN."""
    return np.where(np.isnan(x), x.dtype.type(1), x) if x.dtype.kind == "f" else x
