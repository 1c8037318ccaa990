"""The doors of ops, whose answers are compared with those of the ops' owners: ONNX Runtime, numpy and torch.

An input is the number of a seed: what is drawn from it is drawn by the suite's own recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qcompiler.errors import QCompilerError
from tests.fuzz.accepted import DYNAMIC, OBSERVED, check_runs
from tests.fuzz.damage import Chance
from tests.fuzz.door import generator
from tests.random_graphs import RECURRENT_STEPS, RandomGraph


class _Seeded:
    """The base of these doors."""

    suffix = ".seed"

    def draw(self, seed: int) -> bytes:
        return f"{seed}\n".encode()

    def run(self, data: bytes) -> str:
        return self.one(int(data))

    def one(self, seed: int) -> str:
        raise NotImplementedError

    def is_clear(self, error: QCompilerError) -> bool:
        return False  # the comparisons take refusals themselves

    def smaller(self, data: bytes) -> Iterator[bytes]:
        return iter(())


class OnnxOps(_Seeded):
    """One node, drawn by the recipe of its op."""

    def one(self, seed: int) -> str:
        from tests.frontend.onnx.one_op_models import check, draw

        return "refused" if check(draw(seed), "native" if seed % 4 == 0 else "reference") else "equal"


class QdqGraphs(_Seeded):
    """A QDQ graph, compared with ONNX Runtime without optimizations."""

    def one(self, seed: int) -> str:
        from tests.frontend.onnx.qdq_answers import one

        return one(seed, "native" if seed % 16 == 0 else "reference")


class _Network(RandomGraph):
    """A network that may have recurrent layers and embeddings too."""

    more_rows = RECURRENT_STEPS


class Networks(_Seeded):
    """A network of a few dozen nodes, as it is or quantized, on the interpreter and on two levels."""

    def one(self, seed: int) -> str:
        chance = Chance(generator("networks", seed))
        graph = _Network(chance.below(2**31)).build(chance.one([3, 6, 10]))
        config = chance.one([None, None, *OBSERVED, *DYNAMIC])
        return check_runs(graph, chance, native=True, config=config)


class NumpyOps(_Seeded):
    """A call of a numpy function by its recipe, with other numbers."""

    def one(self, seed: int) -> str:
        from tests.frontend import test_numpy_differential as owner

        chance = Chance(generator("ops-numpy", seed))
        function, dtype = chance.one(owner.CASES)
        is_ufunc = isinstance(function, np.ufunc)
        calls = owner.ufunc_arguments(function, dtype) if is_ufunc else owner.RECIPES[function](dtype)
        sums = function in owner.SUMS or function is np.matmul
        arguments = _mapped(chance.one(calls), lambda array: varied(array, chance, within=sums))
        return owner.outcome(function, arguments, sums)


class TorchOps(_Seeded):
    """A call of a torch op by its recipe, with other numbers: those for which torch defines the answer."""

    need_order = ("searchsorted", "bucketize")
    leave_ties_open = ("topk", "sort", "argsort", "median")
    """torch may give the index of any of equal elements."""

    def one(self, seed: int) -> str:
        import torch

        from tests.frontend import test_torch_differential as owner

        chance = Chance(generator("ops-torch", seed))
        name, dtype = chance.one(owner.CASES)

        def other(tensor: torch.Tensor) -> torch.Tensor:
            op = name.removeprefix("aten.").partition(".")[0]
            if op in self.leave_ties_open and not name.endswith(".stable"):
                return tensor.ravel()[torch.from_numpy(chance.rng.permutation(tensor.numel()))].reshape(tensor.shape)
            if op in self.need_order:
                return torch.sort(torch.from_numpy(varied(tensor.numpy(), chance, within=True))).values
            return torch.from_numpy(varied(tensor.numpy(), chance, within=name in owner.SUMS))

        leaves, structure = owner.pytree.tree_flatten(chance.one(owner.RECIPES[name](dtype)))
        changed = [other(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return owner.outcome_of(name, owner.pytree.tree_unflatten(changed, structure))


def _mapped(item: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    if isinstance(item, np.ndarray):
        return change(item)
    return type(item)(_mapped(part, change) for part in item) if isinstance(item, (list, tuple)) else item


def varied(array: np.ndarray, chance: Chance, *, within: bool) -> np.ndarray:
    """An array of the same type and shape. Its numbers are those of the old one in another order and number, or other
    ones between its least and largest; floats have any bits if the old array has infinities.

    within: only numbers that the old one has, as for sums, whose bound holds for these.
    """
    if not array.size:
        return array
    picked = np.asarray(array.ravel()[chance.rng.integers(array.size, size=array.shape)])
    if within or array.dtype == np.bool_:
        return picked
    if array.dtype.kind == "f":
        if np.isinf(array).any():
            other = chance.rng.bytes(array.nbytes)
            fresh = np.frombuffer(other, array.dtype).reshape(array.shape)
            with np.errstate(all="ignore"):
                fresh = fresh.astype(np.float32).astype(array.dtype)  # every float comes as f32
        else:
            fresh = chance.rng.uniform(array.min(), array.max(), array.shape).astype(np.float32).astype(array.dtype)
    else:
        fresh = chance.rng.integers(array.min(), array.max(), array.shape, dtype=array.dtype, endpoint=True)
    return np.asarray(np.where(chance.rng.random(array.shape) < 0.5, picked, fresh))
