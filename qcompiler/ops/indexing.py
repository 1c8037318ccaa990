"""Gathers: elements picked by integer indices. On quantized operands the codes move.

An index i may be negative: then it counts from the end. Outside -size <= i < size it is an error (InputError) here;
compiled code never reads outside the operand.
"""

from __future__ import annotations

import numpy as np

from qcompiler.dims import Dim
from qcompiler.errors import InputError, ShapeError
from qcompiler.opdef import REQUIRED, AttrSpec, OperandSpec, QuantKind, QuantRule, Role, Sample, Trait
from qcompiler.ops.axes import check_axis
from qcompiler.ops.legacy import legacy_op as OpDef
from qcompiler.ops.legacy import register
from qcompiler.types import TensorType, tensor

_AXIS = (AttrSpec("axis", "int", REQUIRED),)
_OPERANDS = (OperandSpec("x"), OperandSpec("indices", Role.INDEX))
_TRAITS = frozenset({Trait.MOVES_DATA})
_SHARED = QuantRule(QuantKind.SHARES_INPUT)


def _check_indices(op: str, x: TensorType, indices: TensorType, axis: int) -> None:
    check_axis(op, axis, x)
    if not indices.dtype.is_integer or indices.is_quantized:
        raise ShapeError(f"indices of {op}", expected="plain integers, i64[...]", got=str(indices), hint="insert cast")


def _in_range(op: str, indices: np.ndarray, size: int) -> np.ndarray:
    """Indices from 0 on; InputError names the first one outside."""
    wide = indices.astype(np.int64)
    outside = (wide < -size) | (wide >= size)
    if outside.any():
        raise InputError(
            f"an index of {op} is outside", expected=f"{-size} to {size - 1}", got=int(wide[outside].flat[0])
        )
    return np.where(wide < 0, wide + size, wide)


def _infer_gather(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    _check_indices("gather", x, indices, axis)
    return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather(x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
    return np.take(x, _in_range("gather", indices, x.shape[axis]), axis=axis)


def _i64(*values: int, shape: tuple[int, ...] | None = None) -> np.ndarray:
    array = np.array(values, np.int64)
    return array if shape is None else array.reshape(shape)


register(
    OpDef(
        name="gather",
        doc="Whole slices of x by index along an axis: result shape x.shape[:axis] + indices.shape + "
        "x.shape[axis+1:]. torch "
        "index_select, embedding; numpy.take; ONNX Gather.",
        family="indexing",
        operands=_OPERANDS,
        attrs=_AXIS,
        infer=_infer_gather,
        reference=_gather,
        quant=_SHARED,
        traits=_TRAITS,
        samples=lambda: [
            Sample((tensor("f32", 10, 8), _i64(3, 1, 9, 0)), {"axis": 0}),
            Sample((tensor("f32", 3, 5), _i64(0, 4, -1, 2, 2, 1, shape=(2, 3))), {"axis": 1}),
            Sample((tensor("f32", 7), _i64(-7, shape=())), {"axis": 0}),
            Sample((tensor("f32", 2, 4, 33), np.array([[1], [3]], np.int32)), {"axis": 1}),
            Sample((tensor("f32", 1, 3), _i64(0, 0, 0)), {"axis": 0}),
        ],
    )
)


def _infer_gather_elements(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    _check_indices("gather_elements", x, indices, axis)
    fits = indices.rank == x.rank and all(
        i == axis or have == want or not (isinstance(have, Dim) or isinstance(want, Dim)) and want < have
        for i, (have, want) in enumerate(zip(x.shape, indices.shape))
    )
    if not fits:
        raise ShapeError(
            "indices of gather_elements",
            expected=f"the rank of {x}, no size larger but on axis {axis}",
            got=str(indices),
        )
    return x.with_shape(indices.shape)


def _gather_elements(x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
    inside = x[tuple(slice(None) if i == axis else slice(0, size) for i, size in enumerate(indices.shape))]
    return np.take_along_axis(inside, _in_range("gather_elements", indices, x.shape[axis]), axis=axis)


register(
    OpDef(
        name="gather_elements",
        doc="One element of x for each index: result[..., i, ...] = x[..., indices[..., i, ...], ...] along an "
        "axis; shape of indices. "
        "torch.gather; numpy.take_along_axis; ONNX GatherElements.",
        family="indexing",
        operands=_OPERANDS,
        attrs=_AXIS,
        infer=_infer_gather_elements,
        reference=_gather_elements,
        quant=_SHARED,
        traits=_TRAITS,
        samples=lambda: [
            Sample((tensor("f32", 3, 5), _i64(0, 4, 2, 1, 3, -1, shape=(3, 2))), {"axis": 1}),
            Sample((tensor("f32", 4, 3), _i64(0, 3, 1, shape=(1, 3))), {"axis": 0}),
            Sample((tensor("f32", 7), _i64(6, 0, 0, 3, 1, 2, 5, 4, 4)), {"axis": 0}),
            Sample((tensor("f32", 2, 3, 4), np.arange(8, dtype=np.int32).reshape(2, 1, 4) % 3), {"axis": 1}),
            Sample((tensor("f32", 1, 1), _i64(0, shape=(1, 1))), {"axis": 0}),
        ],
    )
)
