"""Gathers: elements picked by integer indices. On quantized operands the codes move.

An index i may be negative: then it counts from the end. Outside -size <= i < size it is an error (InputError), in
compiled programs too. In exported objects it is clamped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.dims import Dim
from qcompiler.errors import InputError, ShapeError
from qcompiler.opdef import SHARES_INPUT, LayoutRule, Sample, index_operand, int_attr, operand
from qcompiler.ops.axes import check_axis
from qcompiler.ops.interfaces import Mover
from qcompiler.types import TensorType, tensor


def in_range(op: str, indices: np.ndarray, size: int) -> np.ndarray:
    """Indices from 0 on; InputError names the first one outside."""
    wide = indices.astype(np.int64)
    outside = (wide < -size) | (wide >= size)
    if outside.any():
        raise InputError(
            f"an index of {op} is outside", expected=f"{-size} to {size - 1}", got=int(wide[outside].flat[0])
        )
    return np.where(wide < 0, wide + size, wide)


def check_indices(op: str, indices: TensorType) -> None:
    """ShapeError unless the indices are plain integers."""
    if not indices.dtype.is_integer or indices.is_quantized:
        raise ShapeError(f"indices of {op}", expected="plain integers, i64[...]", got=str(indices), hint="insert cast")


def _i64(*values: int, shape: tuple[int, ...] | None = None) -> np.ndarray:
    array = np.array(values, np.int64)
    return array if shape is None else array.reshape(shape)


class Picker(Mover):
    """Picks elements of x by index."""

    quant = SHARES_INPUT
    layout = LayoutRule.ROW_MAJOR
    picks = True
    checks_values = True
    x = operand()
    indices = index_operand()


class _AxisPicker(Picker):
    """Picks elements of x by index along an axis."""

    axis = int_attr()

    def _check(self, x: TensorType, indices: TensorType) -> None:
        check_axis(self.name, self.axis, x)
        check_indices(self.name, indices)


class Gather(_AxisPicker):
    """Whole slices of x by index along an axis: result shape x.shape[:axis] + indices.shape + x.shape[axis+1:]. torch
    index_select, embedding; numpy.take; ONNX Gather."""

    name = "gather"

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        self._check(x, indices)
        return x.with_shape((*x.shape[: self.axis], *indices.shape, *x.shape[self.axis + 1 :]))

    def reference(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return np.take(x, in_range("gather", indices, x.shape[self.axis]), axis=self.axis)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 10, 8), _i64(3, 1, 9, 0)), {"axis": 0}),
            Sample((tensor("f32", 3, 5), _i64(0, 4, -1, 2, 2, 1, shape=(2, 3))), {"axis": 1}),
            Sample((tensor("f32", 7), _i64(-7, shape=())), {"axis": 0}),
            Sample((tensor("f32", 2, 4, 33), np.array([[1], [3]], np.int32)), {"axis": 1}),
            Sample((tensor("f32", 1, 3), _i64(0, 0, 0)), {"axis": 0}),
        ]


class GatherElements(_AxisPicker):
    """One element of x for each index: result[..., i, ...] = x[..., indices[..., i, ...], ...] along an axis; shape of
    indices. torch.gather; numpy.take_along_axis; ONNX GatherElements."""

    name = "gather_elements"

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        self._check(x, indices)
        fits = indices.rank == x.rank and all(
            i == self.axis or have == want or not (isinstance(have, Dim) or isinstance(want, Dim)) and want < have
            for i, (have, want) in enumerate(zip(x.shape, indices.shape))
        )
        if not fits:
            raise ShapeError(
                "indices of gather_elements",
                expected=f"the rank of {x}, no size larger but on axis {self.axis}",
                got=str(indices),
            )
        return x.with_shape(indices.shape)

    def reference(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        axis = self.axis
        inside = x[tuple(slice(None) if i == axis else slice(0, size) for i, size in enumerate(indices.shape))]
        return np.take_along_axis(inside, in_range("gather_elements", indices, x.shape[axis]), axis=axis)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 3, 5), _i64(0, 4, 2, 1, 3, -1, shape=(3, 2))), {"axis": 1}),
            Sample((tensor("f32", 4, 3), _i64(0, 3, 1, shape=(1, 3))), {"axis": 0}),
            Sample((tensor("f32", 7), _i64(6, 0, 0, 3, 1, 2, 5, 4, 4)), {"axis": 0}),
            Sample((tensor("f32", 2, 3, 4), np.arange(8, dtype=np.int32).reshape(2, 1, 4) % 3), {"axis": 1}),
            Sample((tensor("f32", 1, 1), _i64(0, shape=(1, 1))), {"axis": 0}),
        ]


class GatherNd(Picker):
    """Slices of x by index tuples: the last axis of the indices holds K indices, one for each of the first K axes of x.
    Result shape indices.shape[:-1] + x.shape[K:]. numpy's and torch's x[i, j, ...] with several index arrays; ONNX
    GatherND."""

    name = "gather_nd"

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        check_indices(self.name, indices)
        depth = indices.shape[-1] if indices.rank else 0
        if isinstance(depth, Dim) or not 1 <= depth <= x.rank:
            raise ShapeError(
                "indices of gather_nd", expected=f"a last axis of 1 to {x.rank} indices into {x}", got=str(indices)
            )
        return x.with_shape((*indices.shape[:-1], *x.shape[depth:]))

    def reference(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        parts = [in_range("gather_nd", indices[..., k], x.shape[k]) for k in range(indices.shape[-1])]
        return x[tuple(parts)]

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 3, 5), _i64(2, 4, 0, -1, 1, 2, shape=(3, 2)))),
            Sample((tensor("f32", 4, 3, 9), _i64(3, 0, -4, 1, shape=(2, 2, 1)))),
            Sample((tensor("f32", 7), _i64(-7, shape=(1,)))),
            Sample((tensor("f32", 2, 3, 4), np.arange(24, dtype=np.int32).reshape(2, 4, 3) % 2)),
            Sample((tensor("f32", 2, 4, 33), _i64(1, 3, 0, 0, 1, -1, shape=(3, 2)))),
        ]
