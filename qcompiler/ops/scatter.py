"""Scatters: elements written to places that integer indices name.

Updates are applied in the order of the indices, so of several updates of one place the last one stays. Indices are
those of `ops/indexing.py`: negative ones count from the end, and others outside are an InputError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qcompiler.dims import Dim
from qcompiler.errors import ShapeError
from qcompiler.opdef import FLOAT_ONLY, SHARES_INPUT, LayoutRule, Op, Sample, index_operand, operand, str_attr
from qcompiler.ops.indexing import check_indices, in_range
from qcompiler.ops.interfaces import Mover
from qcompiler.types import DType, TensorType, tensor

REDUCTIONS: dict[str, Callable[[np.ndarray, tuple[np.ndarray, ...], np.ndarray], None]] = {
    "add": np.add.at,
    "mul": np.multiply.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}
"""How an update is combined with what stands at its place."""


class Scatter(Op):
    """What the scatters share: x, index tuples [..., K] for its first K axes, and updates of shape
    indices.shape[:-1] + x.shape[K:]."""

    layout = LayoutRule.ROW_MAJOR
    checks_values = True
    x = operand()
    indices = index_operand()
    updates = operand()

    def infer(self, x: TensorType, indices: TensorType, updates: TensorType) -> TensorType:
        check_indices(self.name, indices)
        depth = indices.shape[-1] if indices.rank else 0
        if isinstance(depth, Dim) or not 1 <= depth <= x.rank:
            raise ShapeError(
                f"indices of {self.name}", expected=f"a last axis of 1 to {x.rank} indices into {x}", got=str(indices)
            )
        wanted = x.with_shape((*indices.shape[:-1], *x.shape[depth:]))
        if updates.shape != wanted.shape or updates.dtype is not x.dtype:
            raise ShapeError(f"updates of {self.name}", expected=str(wanted), got=str(updates))
        return x

    def _places(self, x: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(in_range(self.name, indices[..., k], x.shape[k]) for k in range(indices.shape[-1]))


class ScatterNd(Scatter, Mover):
    """x with slices replaced: result[indices[i]] = updates[i] for index tuples. torch.index_put, scatter; ONNX
    ScatterND, ScatterElements."""

    name = "scatter_nd"
    quant = SHARES_INPUT

    def reference(self, x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
        result = x.copy()
        places = self._places(x, indices)
        for place in np.ndindex(*indices.shape[:-1]):  # numpy does not say which of several updates stays
            result[tuple(part[place] for part in places)] = updates[place]
        return result

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", *shape), np.array(indices, np.int64), tensor("f32", *updates)))
            for shape, indices, updates in (
                ((4, 5), [[3], [0], [-1]], (3, 5)),
                ((2, 3, 33), [[[0, 1], [1, 2]]], (1, 2, 33)),
                ((7,), [[2], [2], [-7]], (3,)),
                ((3, 4), [[0, 1], [2, -1], [0, 1]], (3,)),
                ((1, 1), [[0, 0]], (1,)),
            )
        ]


class ScatterNdReduce(Scatter):
    """x with updates combined into slices: result[indices[i]] is combined with updates[i], in the order of i. Floats
    are combined in their own type. torch.index_put(accumulate=True), scatter_add, index_add, scatter_reduce; ONNX
    ScatterND and ScatterElements with a reduction."""

    name = "scatter_nd_reduce"
    quant = FLOAT_ONLY
    reduction = str_attr(default="add", choices=tuple(REDUCTIONS))

    def infer(self, x: TensorType, indices: TensorType, updates: TensorType) -> TensorType:
        if x.dtype is DType.BOOL:
            raise ShapeError("operand of scatter_nd_reduce", expected="f32[...] or integers", got=str(x))
        return super().infer(x, indices, updates)

    def reference(self, x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
        result = x.copy()
        REDUCTIONS[self.reduction](result, self._places(x, indices), updates)
        return result

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample(
                (tensor("f32", *shape), np.array(indices, np.int64), tensor("f32", *updates)), {"reduction": reduction}
            )
            for shape, indices, updates, reduction in (
                ((4, 5), [[3], [0], [-1]], (3, 5), "add"),
                ((2, 3, 33), [[[0, 1], [1, 2], [0, 1]]], (1, 3, 33), "add"),
                ((7,), [[2], [2], [-7]], (3,), "mul"),
                ((3, 4), [[0, 1], [2, -1], [0, 1]], (3,), "max"),
                ((2, 9), [[0], [0]], (2, 9), "min"),
            )
        ]
