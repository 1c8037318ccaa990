"""Gathers: elements picked by integer indices."""

from __future__ import annotations

import numpy as np

from qcompiler.errors import ShapeError
from qcompiler.opdef import REQUIRED, AttrSpec, OpDef, OperandSpec, QuantKind, QuantRule, Role, Sample, Trait, register
from qcompiler.types import TensorType, tensor

_OPERANDS = (OperandSpec("x"), OperandSpec("indices", Role.INDEX))
_AXIS = (AttrSpec("axis", "int", REQUIRED),)
_SHARED = QuantRule(QuantKind.SHARES_INPUT)
_MOVES = frozenset({Trait.MOVES_DATA})


def _check(x: TensorType, indices: TensorType, axis: int) -> None:
    if not 0 <= axis < x.rank or not indices.dtype.is_integer:
        raise ShapeError("gather", expected=f"axis 0..{x.rank - 1} and integer indices", got=f"axis {axis}, {indices}")


def _infer_gather(x: TensorType, indices: TensorType, axis: int) -> TensorType:
    _check(x, indices, axis)
    return TensorType(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1:]))


def _infer_elements(x: TensorType, indices: TensorType, axis: int) -> TensorType:
    _check(x, indices, axis)
    if x.rank != indices.rank:
        raise ShapeError("indices of gather_elements", expected=f"rank {x.rank}", got=str(indices))
    return TensorType(x.dtype, indices.shape)


register(OpDef(
    name="gather", doc="numpy take: rows of x along `axis`. ONNX Gather; an embedding is a gather of its weight along axis 0.",
    family="indexing", operands=_OPERANDS, attrs=_AXIS, infer=_infer_gather, reference=lambda x, indices, axis: np.take(x, indices, axis),
    quant=_SHARED, traits=_MOVES,
    samples=lambda: [Sample((tensor("f32", *shape), np.array(picks, np.int64)), {"axis": axis}) for shape, picks, axis in
                     (((5, 3), [0, 4, 2], 0), ((2, 7), [[1, 0], [6, 6]], 1), ((4,), [3], 0), ((2, 3, 4), [0], 2), ((9, 2), [-1, 1], 0))],
))
register(OpDef(
    name="gather_elements", doc="torch.gather: one index an element along `axis`. ONNX GatherElements.", family="indexing",
    operands=_OPERANDS, attrs=_AXIS, infer=_infer_elements,
    reference=lambda x, indices, axis: np.take_along_axis(x, indices, axis), quant=_SHARED, traits=_MOVES,
    samples=lambda: [Sample((tensor("f32", *shape), np.array(picks, np.int64)), {"axis": axis}) for shape, picks, axis in
                     (((2, 3), [[0, 2], [1, 1]], 1), ((4,), [3, 0], 0), ((3, 2), [[2, 0]], 0), ((1, 5), [[4, 4, 0]], 1), ((2, 2), [[0, 1], [1, 0]], 0))],
))
