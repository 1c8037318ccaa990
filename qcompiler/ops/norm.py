"""Normalisations.

batch_norm at inference is one multiply-add a channel; on codes
    y = f32(q - zx) * A + B,   A = f32(sx * g / sy),  B = f32((bias - mean * g) / sy)
with g = weight / sqrt(var + eps) in float64.

layer_norm, group_norm and instance_norm take mean and variance over n elements of a group. On codes, with c = q - zx,
    s1 = sum c (i32)    s2 = sum c^2 (i64)    both exact
    mean = f32(s1) / f32(n)
    var  = f32(n * s2 - s1 * s1) / f32(n * n)              exact but for two conversions and the quotient
    inv  = f32(1) / sqrt(var + f32(eps / sx^2))
    y    = ((f32(c) - mean) * inv) * f32(weight / sy) + f32(bias / sy)
all in units of sx, which cancels. Bounds: |c| <= D, so |s1| <= n * D < 2^31 is asked for (n <= 8,421,504 for 8 bits,
32,768 for 16); then n * s2 <= (n * D)^2 < 2^62 fits i64, and 0 <= n * s2 - s1^2 (Cauchy-Schwarz). |y| * sy differs
from the real value by the f32 roundings alone: about 10 units of 2^-24 relative to |(c - mean) * inv * weight| +
|bias|, where |(c - mean) * inv| < sqrt(n).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.errors import ShapeError
from qcompiler.opdef import REQUIRED, AttrSpec, OperandSpec, QuantKind, QuantRule, Role, Sample
from qcompiler.ops.legacy import legacy_op as OpDef
from qcompiler.ops.legacy import register
from qcompiler.ops.reduce import check_sum_fits
from qcompiler.quantization import qmath
from qcompiler.types import TensorType, tensor

F32 = np.float32
_OWN = QuantRule(QuantKind.OWN_RANGE)
_EPS = AttrSpec("eps", "float", 1e-5, "added to the variance")
_AFFINE = (OperandSpec("weight", Role.PARAMETER, optional=True), OperandSpec("bias", Role.PARAMETER, optional=True))


def _check(op: str, x: TensorType, least_rank: int, eps: float) -> None:
    if x.rank < least_rank or not x.dtype.is_float:
        raise ShapeError(f"operand of {op}", expected=f"float, rank {least_rank} or more", got=str(x))
    if not eps >= 0 or math.isinf(eps):
        raise ShapeError(f"eps of {op}", expected="0 or more, finite", got=eps)


def _check_parameters(op: str, shape: tuple[DimLike, ...], **parameters: TensorType | None) -> None:
    for name, type in parameters.items():
        if type is not None and (type.shape != shape or not type.dtype.is_float):
            raise ShapeError(f"{name} of {op}", expected=f"f32[{','.join(map(str, shape))}]", got=str(type))


def per_channel(parameter: np.ndarray, rank: int) -> np.ndarray:
    """[C] shaped to broadcast along axis 1."""
    return parameter.reshape(1, -1, *([1] * (rank - 2)))


# batch_norm


def _infer_batch(
    x: TensorType, mean: TensorType, var: TensorType, weight: TensorType | None, bias: TensorType | None, *, eps: float
) -> TensorType:
    _check("batch_norm", x, 2, eps)
    _check_parameters("batch_norm", (x.shape[1],), mean=mean, var=var, weight=weight, bias=bias)
    return x


def batch_norm_terms(
    mean: np.ndarray,
    var: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    eps: float,
    input_scale: float = 1.0,
    output_scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """float64 [C]: (factor, shift) such that y = x * factor + shift, for x and y in units of the scales."""
    gain = 1.0 / np.sqrt(var.astype(np.float64) + eps)
    if weight is not None:
        gain = gain * weight.astype(np.float64)
    shift = -mean.astype(np.float64) * gain
    if bias is not None:
        shift = shift + bias.astype(np.float64)
    return np.float64(input_scale) * gain / np.float64(output_scale), shift / np.float64(output_scale)


def _batch(
    x: np.ndarray, mean: np.ndarray, var: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, *, eps: float
) -> np.ndarray:
    rank = x.ndim
    y = (x.astype(np.float64) - per_channel(mean, rank)) / np.sqrt(per_channel(var, rank).astype(np.float64) + eps)
    return _affine(y, weight, bias, lambda p: per_channel(p, rank)).astype(x.dtype)


def _affine(
    y: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, along: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    if weight is not None:
        y = y * along(weight)
    return y if bias is None else y + along(bias)


def _batch_integer(
    arrays: Sequence[np.ndarray | None], types: Sequence[TensorType | None], out: TensorType, *, eps: float
) -> np.ndarray:
    q, mean, var, weight, bias = arrays
    factor, shift = batch_norm_terms(mean, var, weight, bias, eps, types[0].quant.scale[0], out.quant.scale[0])
    real = qmath.centered(q, types[0].quant).astype(F32) * per_channel(factor.astype(F32), q.ndim)
    return qmath.requantize(real + per_channel(shift.astype(F32), q.ndim), out)


def _parameters(channels: int, variance: float = 1.5) -> tuple[np.ndarray, ...]:
    """(mean, var, weight, bias) of a sample."""
    ramp = np.linspace(-1, 1, channels, dtype=F32)
    return ramp * F32(0.5), np.abs(ramp) + F32(variance), F32(1) + ramp * F32(0.5), ramp * F32(0.25)


register(
    OpDef(
        name="batch_norm",
        doc="(x - mean) / sqrt(var + eps) * weight + bias with the running statistics, one a channel (axis 1). "
        "torch.nn.functional.batch_norm(training=False); ONNX BatchNormalization.",
        family="norm",
        operands=(OperandSpec("x"), OperandSpec("mean", Role.PARAMETER), OperandSpec("var", Role.PARAMETER), *_AFFINE),
        attrs=(_EPS,),
        infer=_infer_batch,
        reference=_batch,
        integer=_batch_integer,
        quant=_OWN,
        samples=lambda: [
            Sample((tensor("f32", 2, 3, 5, 5), *_parameters(3))),
            Sample((tensor("f32", 4, 33), *_parameters(33)[:2])),
            Sample((tensor("f32", 1, 16, 9), *_parameters(16)[:3]), {"eps": 1e-3}),
            Sample((tensor("f32", 1, 2, 3, 4, 5), *_parameters(2, 0.0)[:2], None, _parameters(2)[3])),
            Sample((tensor("f32", 3, 1, 7, 1), *_parameters(1))),
        ],
    )
)


# normalisation by the operand's own statistics


def _normalise(x: np.ndarray, eps: float) -> np.ndarray:
    """float64 x normalised over its last axis."""
    centered = x - x.mean(axis=-1, keepdims=True)
    return centered / np.sqrt(np.square(centered).mean(axis=-1, keepdims=True) + eps)


def _normalise_codes(op: str, q: np.ndarray, source: TensorType, eps: float) -> np.ndarray:
    """f32 (c - mean) * inv over the last axis of q, as the module's docstring writes it."""
    n = q.shape[-1]
    check_sum_fits(op, source, n)
    c = qmath.centered(q, source.quant).astype(np.int64)
    s1 = c.sum(axis=-1, keepdims=True)
    s2 = np.square(c).sum(axis=-1, keepdims=True)
    mean = s1.astype(F32) / F32(n)
    var = (n * s2 - s1 * s1).astype(F32) / F32(n * n)
    inv = F32(1) / np.sqrt(var + normalised_eps(eps, source))
    return (c.astype(F32) - mean) * inv


def normalised_eps(eps: float, source: TensorType) -> np.ndarray:
    """f32(eps / sx^2): eps in squared units of the operand's scale."""
    scale = np.float64(source.quant.scale[0])
    return np.asarray(np.float64(eps) / (scale * scale), F32)


def _scale_and_shift(
    y: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    out: TensorType,
    along: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    scale = out.quant.scale[0]
    y = y * (qmath.multiplier(1.0, over=scale) if weight is None else along(qmath.multiplier(weight, over=scale)))
    if bias is not None:
        y = y + along(qmath.multiplier(bias, over=scale))
    return qmath.requantize(y, out)


def _register(
    name: str,
    doc: str,
    attrs: tuple[AttrSpec, ...],
    infer: Callable[..., TensorType],
    grouped: Callable[..., tuple[int, ...]],
    channels: bool,
    samples: Callable[[], list[Sample]],
) -> None:
    """Declare a norm. grouped(shape, **attrs) is the shape with the elements of a group on its last axis; the
    parameters lie along axis 1 (channels) or on the last axes."""

    def along(rank: int) -> Callable[[np.ndarray], np.ndarray]:
        return (lambda p: per_channel(p, rank)) if channels else (lambda p: p)

    def reference(
        x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, *, eps: float, **given: int
    ) -> np.ndarray:
        y = _normalise(x.astype(np.float64).reshape(grouped(x.shape, **given)), eps).reshape(x.shape)
        return _affine(y, weight, bias, along(x.ndim)).astype(x.dtype)

    def integer(
        arrays: Sequence[np.ndarray | None],
        types: Sequence[TensorType | None],
        out: TensorType,
        *,
        eps: float,
        **given: int,
    ) -> np.ndarray:
        q, weight, bias = arrays
        y = _normalise_codes(name, q.reshape(grouped(q.shape, **given)), types[0], eps).reshape(q.shape)
        return _scale_and_shift(y, weight, bias, out, along(q.ndim))

    register(
        OpDef(
            name=name,
            doc=doc,
            family="norm",
            operands=(OperandSpec("x"), *_AFFINE),
            attrs=(*attrs, _EPS),
            infer=infer,
            reference=reference,
            integer=integer,
            quant=_OWN,
            samples=samples,
        )
    )


def _infer_layer(
    x: TensorType, weight: TensorType | None, bias: TensorType | None, *, normalized_rank: int, eps: float
) -> TensorType:
    _check("layer_norm", x, 1, eps)
    if not 1 <= normalized_rank <= x.rank:
        raise ShapeError("normalized_rank of layer_norm", expected=f"1 to {x.rank}", got=normalized_rank)
    _check_parameters("layer_norm", x.shape[-normalized_rank:], weight=weight, bias=bias)
    _check_not_empty("layer_norm", x.shape[-normalized_rank:], x)
    return x


def _infer_group(
    x: TensorType, weight: TensorType | None, bias: TensorType | None, *, groups: int, eps: float
) -> TensorType:
    _check("group_norm", x, 2, eps)
    if groups < 1 or x.shape[1] % groups != 0:
        raise ShapeError("groups of group_norm", expected=f"a divisor of the {x.shape[1]} channels", got=groups)
    _check_parameters("group_norm", (x.shape[1],), weight=weight, bias=bias)
    _check_not_empty("group_norm", x.shape[1:], x)
    return x


def _infer_instance(x: TensorType, weight: TensorType | None, bias: TensorType | None, *, eps: float) -> TensorType:
    _check("instance_norm", x, 3, eps)
    _check_parameters("instance_norm", (x.shape[1],), weight=weight, bias=bias)
    _check_not_empty("instance_norm", x.shape[2:], x)
    return x


def _check_not_empty(op: str, sizes: Sequence[DimLike], x: TensorType) -> None:
    if any(not isinstance(size, Dim) and size == 0 for size in sizes):
        raise ShapeError(f"{op} of no elements", expected="sizes above 0", got=str(x))


_register(
    "layer_norm",
    "Normalised over the last `normalized_rank` axes, then * weight + bias (shape of these axes). "
    "torch.nn.functional.layer_norm; ONNX LayerNormalization.",
    (AttrSpec("normalized_rank", "int", REQUIRED, "how many trailing axes are normalised"),),
    _infer_layer,
    lambda shape, normalized_rank: (
        *shape[: len(shape) - normalized_rank],
        math.prod(shape[len(shape) - normalized_rank :]),
    ),
    False,
    lambda: [
        Sample((tensor("f32", 2, 7, 33), *_parameters(33)[2:]), {"normalized_rank": 1}),
        Sample((tensor("f32", 4, 16),), {"normalized_rank": 1, "eps": 1e-6}),
        Sample((tensor("f32", 2, 3, 4, 5), tensor("f32", 4, 5), tensor("f32", 4, 5)), {"normalized_rank": 2}),
        Sample((tensor("f32", 129), _parameters(129)[2]), {"normalized_rank": 1}),
        Sample((tensor("f32", 3, 1), None, _parameters(1)[3]), {"normalized_rank": 1, "eps": 1e-3}),
    ],
)
_register(
    "group_norm",
    "Normalised over groups of channels (axis 1) and all spatial axes, then * weight + bias a channel. "
    "torch.nn.functional.group_norm; ONNX GroupNormalization.",
    (AttrSpec("groups", "int", REQUIRED, "into how many parts the channels are divided"),),
    _infer_group,
    lambda shape, groups: (shape[0], groups, shape[1] // groups * math.prod(shape[2:])),
    True,
    lambda: [
        Sample((tensor("f32", 2, 6, 5, 5), *_parameters(6)[2:]), {"groups": 3}),
        Sample((tensor("f32", 1, 33, 7),), {"groups": 1}),
        Sample((tensor("f32", 3, 8), *_parameters(8)[2:]), {"groups": 2, "eps": 1e-3}),
        Sample((tensor("f32", 1, 4, 2, 3, 3), _parameters(4)[2]), {"groups": 4}),
        Sample((tensor("f32", 2, 32, 4, 4), None, _parameters(32)[3]), {"groups": 8}),
    ],
)
_register(
    "instance_norm",
    "Each channel of each sample normalised over its spatial axes, then * weight + bias a channel. "
    "torch.nn.functional.instance_norm; ONNX InstanceNormalization.",
    (),
    _infer_instance,
    lambda shape: (*shape[:2], math.prod(shape[2:])),
    True,
    lambda: [
        Sample((tensor("f32", 2, 3, 5, 7), *_parameters(3)[2:])),
        Sample((tensor("f32", 1, 17, 33),), {"eps": 1e-3}),
        Sample((tensor("f32", 1, 2, 3, 4, 5), _parameters(2)[2])),
        Sample((tensor("f32", 2, 4, 16), None, _parameters(4)[3])),
        Sample((tensor("f32", 1, 1, 8, 16), *_parameters(1)[2:])),
    ],
)
