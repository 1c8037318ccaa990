"""Normalization: batch_norm at inference, layer, group and instance norm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcompiler.errors import ShapeError
from qcompiler.opdef import REQUIRED, AttrSpec, OpDef, OperandSpec, QuantKind, QuantRule, Role, Sample, register
from qcompiler.quantization import qmath
from qcompiler.types import TensorType, tensor

_OWN = QuantRule(QuantKind.OWN_RANGE)
_EPS = AttrSpec("eps", "float", 1e-5)
_GAIN = (OperandSpec("weight", Role.PARAMETER, optional=True), OperandSpec("bias", Role.PARAMETER, optional=True))


def _channels(array: np.ndarray, rank: int) -> np.ndarray:
    return array.reshape(1, -1, *([1] * (rank - 2)))


def _infer_batch_norm(x: TensorType, mean: TensorType, var: TensorType, weight, bias, *, eps: float) -> TensorType:
    if x.rank < 2:
        raise ShapeError("operand of batch_norm", expected="[N,C,...]", got=str(x))
    for parameter in (mean, var, weight, bias):
        if parameter is not None and parameter.shape != (x.shape[1],):
            raise ShapeError("parameters of batch_norm", expected=f"[{x.shape[1]}]", got=str(parameter))
    return x


def _batch_norm_factors(mean, var, weight, bias, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """(factor, shift) in float64 so that y = x * factor + shift."""
    factor = 1.0 / np.sqrt(var.astype(np.float64) + eps)
    if weight is not None:
        factor = factor * weight
    shift = -mean.astype(np.float64) * factor
    return factor, shift if bias is None else shift + bias


def _batch_norm(x, mean, var, weight, bias, *, eps) -> np.ndarray:
    factor, shift = _batch_norm_factors(mean, var, weight, bias, eps)
    return (x * _channels(factor, x.ndim).astype(x.dtype) + _channels(shift, x.ndim).astype(x.dtype)).astype(x.dtype)


def _batch_norm_integer(arrays, types, out: TensorType, *, eps) -> np.ndarray:
    x, mean, var, weight, bias = arrays
    factor, shift = _batch_norm_factors(mean, var, weight, bias, eps)
    scale = qmath.multiplier(types[0].quant.scales, factor, over=out.quant.scales)
    offset = qmath.multiplier(shift, over=out.quant.scales)
    real = qmath.centered(x, types[0].quant).astype(np.float32) * _channels(scale, x.ndim) + _channels(offset, x.ndim)
    return qmath.requantize(real, out)


register(OpDef(
    name="batch_norm", doc="(x - mean) / sqrt(var + eps) * weight + bias a channel (axis 1), with given statistics.", family="norm",
    operands=(OperandSpec("x"), OperandSpec("mean", Role.PARAMETER), OperandSpec("var", Role.PARAMETER), *_GAIN), attrs=(_EPS,),
    infer=_infer_batch_norm, reference=_batch_norm, integer=_batch_norm_integer, quant=_OWN,
    samples=lambda: [Sample((tensor("f32", *shape), *(tensor("f32", shape[1]),) * count), low=0.5, high=2.0)
                     for shape, count in (((2, 3, 4, 4), 4), ((4, 5), 4), ((1, 33, 3), 2), ((1, 2, 2, 2, 2), 4), ((1, 1, 1, 1), 3))],
))


def _normalized(x: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    wide = x.astype(np.float64)
    centered = wide - wide.mean(axis=axes, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axis=axes, keepdims=True) + eps)


def _affine(y: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y.astype(dtype)


def normalized_codes(q: np.ndarray, source: TensorType, axes: tuple[int, ...], eps: float) -> np.ndarray:
    """f32 (q - mean) / sqrt(var + eps / s^2) from exact integer sums: mean = s1 / n, var = (n * s2 - s1^2) / n^2."""
    centered = qmath.centered(q, source.quant).astype(np.int64)
    n = int(np.prod([q.shape[axis] for axis in axes]))
    s1 = centered.sum(axis=axes, keepdims=True)
    s2 = (centered * centered).sum(axis=axes, keepdims=True)
    mean = s1.astype(np.float32) / np.float32(n)
    var = (n * s2 - s1 * s1).astype(np.float32) / np.float32(n * n)
    inverse = np.float32(1) / np.sqrt(var + np.float32(eps / np.float64(source.quant.scale[0]) ** 2))
    return (centered.astype(np.float32) - mean) * inverse


def _affine_codes(real: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, out: TensorType) -> np.ndarray:
    """real * f32(gamma / sy) + f32(beta / sy), requantized."""
    real = real * qmath.multiplier(1.0 if weight is None else weight, over=out.quant.scale[0])
    if bias is not None:
        real = real + qmath.multiplier(bias, over=out.quant.scale[0])
    return qmath.requantize(real, out)


def _infer_layer_norm(x: TensorType, weight, bias, *, normalized_rank: int, eps: float) -> TensorType:
    if not 1 <= normalized_rank <= x.rank:
        raise ShapeError("normalized_rank of layer_norm", expected=f"1..{x.rank}", got=normalized_rank)
    for parameter in (weight, bias):
        if parameter is not None and parameter.shape != x.shape[-normalized_rank:]:
            raise ShapeError("parameters of layer_norm", expected=str(x.shape[-normalized_rank:]), got=str(parameter))
    return x


def _last(rank: int, count: int) -> tuple[int, ...]:
    return tuple(range(rank - count, rank))


register(OpDef(
    name="layer_norm", doc="Zero mean and unit variance over the last normalized_rank axes, then weight and bias.", family="norm",
    operands=(OperandSpec("x"), *_GAIN), attrs=(AttrSpec("normalized_rank", "int", 1), _EPS), infer=_infer_layer_norm,
    reference=lambda x, weight, bias, normalized_rank, eps: _affine(
        _normalized(x, _last(x.ndim, normalized_rank), eps), weight, bias, x.dtype),
    integer=lambda arrays, types, out, normalized_rank, eps: _affine_codes(
        normalized_codes(arrays[0], types[0], _last(arrays[0].ndim, normalized_rank), eps), arrays[1], arrays[2], out),
    quant=_OWN,
    samples=lambda: [Sample((tensor("f32", *shape), *(tensor("f32", *shape[-rank:]),) * count), {"normalized_rank": rank})
                     for shape, rank, count in (((2, 8), 1, 2), ((2, 3, 33), 1, 2), ((1, 4, 5), 2, 2), ((3, 7), 1, 0), ((1, 16), 1, 1))],
))


def _grouped(x: np.ndarray, groups: int) -> np.ndarray:
    return x.reshape(x.shape[0], groups, -1)


def _infer_group_norm(x: TensorType, weight, bias, *, eps: float, groups: int = 1) -> TensorType:
    if x.rank < 3 and groups == 0 or x.rank < 2 or (groups and isinstance(x.shape[1], int) and x.shape[1] % groups):
        raise ShapeError("group norm", expected=f"[N,C,...] with C a multiple of {groups}", got=str(x))
    for parameter in (weight, bias):
        if parameter is not None and parameter.shape != (x.shape[1],):
            raise ShapeError("parameters of group norm", expected=f"[{x.shape[1]}]", got=str(parameter))
    return x


def _reference_group(x, weight, bias, groups: int, eps: float) -> np.ndarray:
    y = _normalized(_grouped(x, groups), (2,), eps).reshape(x.shape)
    return _affine(y, None if weight is None else _channels(weight, x.ndim), None if bias is None else _channels(bias, x.ndim), x.dtype)


def _integer_group(arrays, types, out: TensorType, groups: int, eps: float) -> np.ndarray:
    x, weight, bias = arrays
    real = normalized_codes(_grouped(x, groups), types[0], (2,), eps).reshape(x.shape)
    return _affine_codes(real, None if weight is None else _channels(weight, x.ndim), None if bias is None else _channels(bias, x.ndim), out)


def _group_samples(**attrs: int) -> Callable[[], list[Sample]]:
    shapes = ((2, 4, 3, 3), (1, 8, 5), (1, 4, 33), (2, 2, 2, 2, 2), (1, 16, 2, 2))
    return lambda: [Sample((tensor("f32", *s), tensor("f32", s[1]), tensor("f32", s[1])), attrs) for s in shapes]


register(OpDef(
    name="group_norm", doc="Zero mean and unit variance over each group of channels and all spatial axes, a sample.", family="norm",
    operands=(OperandSpec("x"), *_GAIN), attrs=(AttrSpec("groups", "int", REQUIRED), _EPS), infer=_infer_group_norm,
    reference=lambda x, weight, bias, groups, eps: _reference_group(x, weight, bias, groups, eps),
    integer=lambda arrays, types, out, groups, eps: _integer_group(arrays, types, out, groups, eps), quant=_OWN,
    samples=_group_samples(groups=2),
))
register(OpDef(
    name="instance_norm", doc="Zero mean and unit variance over the spatial axes of each channel, a sample.", family="norm",
    operands=(OperandSpec("x"), *_GAIN), attrs=(_EPS,), infer=lambda x, weight, bias, eps: _infer_group_norm(x, weight, bias, eps=eps),
    reference=lambda x, weight, bias, eps: _reference_group(x, weight, bias, x.shape[1], eps),
    integer=lambda arrays, types, out, eps: _integer_group(arrays, types, out, arrays[0].shape[1], eps), quant=_OWN,
    samples=_group_samples(),
))
