"""Reductions and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from qcompiler.errors import ShapeError
from qcompiler.opdef import REQUIRED, AttrSpec, OpDef, OperandSpec, QuantKind, QuantRule, Sample, register
from qcompiler.ops.rescale import mean_multiplier, share_or_requantize
from qcompiler.quantization import qmath
from qcompiler.types import DType, TensorType, tensor

_X = (OperandSpec("x"),)
_ATTRS = (AttrSpec("axes", "ints", REQUIRED), AttrSpec("keepdims", "bool", False))


def _reduced(x: TensorType, axes, keepdims: bool) -> TensorType:
    if not axes or any(not 0 <= axis < x.rank for axis in axes) or len(set(axes)) != len(axes):
        raise ShapeError("axes of a reduction", expected=f"distinct, in 0..{x.rank - 1}", got=str(axes))
    shape = [1 if i in axes else size for i, size in enumerate(x.shape) if keepdims or i not in axes]
    return TensorType(x.dtype, tuple(shape))


def _samples() -> list[Sample]:
    cases = (((2, 3, 4, 5), (2, 3), False), ((3, 7), (1,), True), ((33,), (0,), False), ((1, 16, 3), (0, 2), False), ((2, 2), (0, 1), True))
    return [Sample((tensor("f32", *shape),), {"axes": axes, "keepdims": keep}) for shape, axes, keep in cases]


def _reduction(name: str, doc: str, function: Callable[..., np.ndarray], kind: QuantKind, integer: Callable[..., np.ndarray] | None) -> None:
    register(OpDef(
        name=name, doc=doc, family="reduce", operands=_X, attrs=_ATTRS, infer=_reduced,
        reference=lambda x, axes, keepdims: np.asarray(function(x, axis=axes, keepdims=keepdims), x.dtype), integer=integer,
        quant=QuantRule(kind), samples=_samples,
    ))


def _count(shape: tuple[int, ...], axes) -> int:
    return math.prod(shape[axis] for axis in axes)


def _sum_codes(arrays, types, axes, keepdims: bool) -> np.ndarray:
    return qmath.centered(arrays[0], types[0].quant).sum(axis=axes, keepdims=keepdims, dtype=np.int32)


def _mean_integer(arrays, types, out: TensorType, *, axes, keepdims) -> np.ndarray:
    scale = mean_multiplier(types[0], out, _count(arrays[0].shape, axes))
    return qmath.requantize(_sum_codes(arrays, types, axes, keepdims).astype(np.float32) * scale, out)


def _sum_integer(arrays, types, out: TensorType, *, axes, keepdims) -> np.ndarray:
    scale = qmath.multiplier(types[0].quant.scales, over=out.quant.scales)
    return qmath.requantize(_sum_codes(arrays, types, axes, keepdims).astype(np.float32) * scale, out)


_reduction("mean", "Mean over axes.", np.mean, QuantKind.SHARES_INPUT, _mean_integer)
_reduction("sum", "Sum over axes.", np.sum, QuantKind.OWN_RANGE, _sum_integer)
_reduction("max", "Maximum over axes.", np.max, QuantKind.SHARES_INPUT,
           lambda arrays, types, out, axes, keepdims: share_or_requantize(arrays[0].max(axis=axes, keepdims=keepdims), types[0], out))
_reduction("min", "Minimum over axes.", np.min, QuantKind.SHARES_INPUT,
           lambda arrays, types, out, axes, keepdims: share_or_requantize(arrays[0].min(axis=axes, keepdims=keepdims), types[0], out))
_reduction("prod", "Product over axes.", np.prod, QuantKind.FLOAT_ONLY, None)

register(OpDef(
    name="argmax", doc="Index of the first maximum along one axis, i64.", family="reduce", operands=_X,
    attrs=(AttrSpec("axis", "int", REQUIRED), AttrSpec("keepdims", "bool", False)),
    infer=lambda x, axis, keepdims: TensorType(DType.I64, _reduced(x, (axis,), keepdims).shape),
    reference=lambda x, axis, keepdims: np.argmax(x, axis=axis, keepdims=keepdims), quant=QuantRule(QuantKind.FLOAT_ONLY),
    samples=lambda: [Sample((tensor("f32", *shape),), {"axis": axis, "keepdims": keep}) for shape, axis, keep in
                     (((2, 3), 1, False), ((5,), 0, False), ((2, 3, 4), 1, True), ((1, 33), 1, False), ((4, 1), 0, True))],
))


def _infer_softmax(x: TensorType, axis: int) -> TensorType:
    if not 0 <= axis < x.rank:
        raise ShapeError("axis of softmax", expected=f"0..{x.rank - 1}", got=axis)
    return x


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    wide = x.astype(np.float64)
    e = np.exp(wide - wide.max(axis=axis, keepdims=True))
    return (e / e.sum(axis=axis, keepdims=True)).astype(x.dtype)


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    wide = x.astype(np.float64)
    wide = wide - wide.max(axis=axis, keepdims=True)
    return (wide - np.log(np.exp(wide).sum(axis=axis, keepdims=True))).astype(x.dtype)


def softmax_table(source: TensorType, count: int) -> np.ndarray:
    """i32[256]: rne(exp(-d * s) * 2^k) for the distance d = max - q.

    k = 30 - ceil(log2(count)), at most 24: the sum of `count` entries of at most 2^k stays within 2^30.
    """
    k = min(24, 30 - max(0, (count - 1).bit_length()))
    return np.rint(np.exp(-np.arange(256) * np.float64(source.quant.scale[0])) * 2.0**k).astype(np.int32)


def _softmax_integer(arrays, types, out: TensorType, *, axis: int) -> np.ndarray:
    q = arrays[0].astype(np.int32)
    table = softmax_table(types[0], q.shape[axis])
    e = table[q.max(axis=axis, keepdims=True) - q]
    total = e.sum(axis=axis, keepdims=True, dtype=np.int32)
    ratio = e.astype(np.float32) / total.astype(np.float32)
    return qmath.requantize(ratio * qmath.multiplier(1.0, over=out.quant.scales), out)


def _softmax_samples() -> list[Sample]:
    return [Sample((tensor("f32", *shape),), {"axis": axis}) for shape, axis in
            (((2, 10), 1), ((33,), 0), ((1, 4, 3, 3), 1), ((2, 3, 7), 2), ((1, 1), 1))]


register(OpDef(
    name="softmax", doc="exp(x) / sum(exp(x)) along one axis.", family="reduce", operands=_X, attrs=(AttrSpec("axis", "int", REQUIRED),),
    infer=_infer_softmax, reference=_softmax, integer=_softmax_integer, quant=QuantRule(QuantKind.FIXED, fixed=(1 / 256, 0)),
    samples=_softmax_samples,
))
register(OpDef(
    name="log_softmax", doc="x - log(sum(exp(x))) along one axis.", family="reduce", operands=_X, attrs=(AttrSpec("axis", "int", REQUIRED),),
    infer=_infer_softmax, reference=_log_softmax, quant=QuantRule(QuantKind.FLOAT_ONLY), samples=_softmax_samples,
))
