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
all in units of sx, which cancels. rms_norm divides by the root of the mean square: s1 = 0 in all of this. Bounds: |c|
<= D, so |s1| <= n * D < 2^31 is asked for (n <= 8,421,504 for 8 bits, 32,768 for 16); then n * s2 <= (n * D)^2 < 2^62
fits i64, and 0 <= n * s2 - s1^2 (Cauchy-Schwarz). |y| * sy differs from the real value by the f32 roundings alone:
about 10 units of 2^-24 relative to |(c - mean) * inv * weight| + |bias|, where |(c - mean) * inv| < sqrt(n).

l2_normalize divides by the length instead:
    inv = f32(1) / max(sqrt(f32(s2)), f32(eps / sx), 2^-126)
    y   = (f32(c) * inv) * f32(1 / sy)
The last term of the maximum only matters where all c are 0: such a row gives 0, whatever eps is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.errors import ShapeError
from qcompiler.opdef import (
    OWN_RANGE,
    AttrSpec,
    LayoutRule,
    Op,
    Sample,
    TypedArray,
    float_attr,
    int_attr,
    no_accumulator,
    operand,
    optional_parameter,
    parameter,
)
from qcompiler.ops.axes import check_axis
from qcompiler.ops.interfaces import AffineNorm
from qcompiler.ops.reduce import check_sum_fits
from qcompiler.quantization import qmath
from qcompiler.types import TensorType, tensor

F32 = np.float32


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


def _check_not_empty(op: str, sizes: Sequence[DimLike], x: TensorType) -> None:
    if any(not isinstance(size, Dim) and size == 0 for size in sizes):
        raise ShapeError(f"{op} of no elements", expected="sizes above 0", got=str(x))


def _affine(
    y: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, along: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    if weight is not None:
        y = y * along(weight)
    return y if bias is None else y + along(bias)


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


def _parameters(channels: int, variance: float = 1.5) -> tuple[np.ndarray, ...]:
    """(mean, var, weight, bias) of a sample."""
    ramp = np.linspace(-1, 1, channels, dtype=F32)
    return ramp * F32(0.5), np.abs(ramp) + F32(variance), F32(1) + ramp * F32(0.5), ramp * F32(0.25)


class BatchNorm(AffineNorm):
    """(x - mean) / sqrt(var + eps) * weight + bias with the running statistics, one a channel (axis 1).
    torch.nn.functional.batch_norm(training=False); ONNX BatchNormalization."""

    name = "batch_norm"
    quant = OWN_RANGE
    layout = LayoutRule.CHANNELS_LAST
    chooses_params = True
    element_cost = (0.085, 0.117)
    terms = no_accumulator
    x = operand()
    mean = parameter()
    var = parameter()
    weight = optional_parameter()
    bias = optional_parameter()
    eps = float_attr(default=1e-5, doc="added to the variance")

    def infer(
        self, x: TensorType, mean: TensorType, var: TensorType, weight: TensorType | None, bias: TensorType | None
    ) -> TensorType:
        _check("batch_norm", x, 2, self.eps)
        _check_parameters("batch_norm", (x.shape[1],), mean=mean, var=var, weight=weight, bias=bias)
        return x

    def reference(
        self, x: np.ndarray, mean: np.ndarray, var: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None
    ) -> np.ndarray:
        rank = x.ndim
        deviation = np.sqrt(per_channel(var, rank).astype(np.float64) + self.eps)
        y = (x.astype(np.float64) - per_channel(mean, rank)) / deviation
        return _affine(y, weight, bias, lambda p: per_channel(p, rank)).astype(x.dtype)

    def integer(
        self,
        x: TypedArray,
        mean: TypedArray,
        var: TypedArray,
        weight: TypedArray | None,
        bias: TypedArray | None,
        *,
        out: TensorType,
    ) -> np.ndarray:
        factor, shift = batch_norm_terms(
            mean.array,
            var.array,
            None if weight is None else weight.array,
            None if bias is None else bias.array,
            self.eps,
            x.quant.scale[0],
            out.params.scale[0],
        )
        rank = x.array.ndim
        real = x.centered().astype(F32) * per_channel(factor.astype(F32), rank)
        return qmath.requantize(real + per_channel(shift.astype(F32), rank), out)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 2, 3, 5, 5), *_parameters(3))),
            Sample((tensor("f32", 4, 33), *_parameters(33)[:2])),
            Sample((tensor("f32", 1, 16, 9), *_parameters(16)[:3]), {"eps": 1e-3}),
            Sample((tensor("f32", 1, 2, 3, 4, 5), *_parameters(2, 0.0)[:2], None, _parameters(2)[3])),
            Sample((tensor("f32", 3, 1, 7, 1), *_parameters(1))),
        ]


# normalisation by the operand's own statistics


def _normalise(x: np.ndarray, eps: float, centers: bool) -> np.ndarray:
    """float64 x normalised over its last axis."""
    centered = x - x.mean(axis=-1, keepdims=True) if centers else x
    return centered / np.sqrt(np.square(centered).mean(axis=-1, keepdims=True) + eps)


def _normalise_codes(op: str, codes: np.ndarray, source: TensorType, eps: float, centers: bool) -> np.ndarray:
    """f32 (c - mean) * inv over the last axis of the codes, as the module's docstring writes it."""
    n = codes.shape[-1]
    check_sum_fits(op, source, n)
    c = qmath.centered(codes, source.params).astype(np.int64)
    s1 = c.sum(axis=-1, keepdims=True) if centers else np.zeros_like(c[..., :1])
    s2 = np.square(c).sum(axis=-1, keepdims=True)
    mean = s1.astype(F32) / F32(n)
    var = (n * s2 - s1 * s1).astype(F32) / F32(n * n)
    inv = F32(1) / np.sqrt(var + normalised_eps(eps, source))
    return (c.astype(F32) - mean) * inv


def normalised_eps(eps: float, source: TensorType) -> np.ndarray:
    """f32(eps / sx^2): eps in squared units of the operand's scale."""
    scale = np.float64(source.params.scale[0])
    return np.asarray(np.float64(eps) / (scale * scale), F32)


class Normalised(AffineNorm):
    """Normalised over groups of elements by their own mean and variance, then * weight + bias.

    An op gives `group_sizes`, the trailing sizes that one group consists of. The parameters lie along axis 1. Without
    `centers` the mean is taken for 0.
    """

    centers: ClassVar[bool] = True

    quant = OWN_RANGE
    wants_real = True
    chooses_params = True
    element_cost = (0.096, 0.226)
    x = operand()
    weight = optional_parameter()
    bias = optional_parameter()
    eps: AttrSpec[float]

    def group_sizes(self, shape: Sequence[DimLike]) -> Sequence[DimLike]:
        """The sizes whose product is the number of elements of one group, in an operand of this shape."""
        raise NotImplementedError(self.name)

    def terms(self) -> Sequence[DimLike]:
        return self.group_sizes(self.x.type.shape)

    def along(self, parameter: np.ndarray, rank: int) -> np.ndarray:
        """A parameter, shaped to broadcast against the operand."""
        return per_channel(parameter, rank)

    def _groups(self, x: np.ndarray) -> np.ndarray:
        """x with the elements of a group on its last axis."""
        sizes = [size for size in self.group_sizes(x.shape) if isinstance(size, int)]
        return x.reshape(-1, math.prod(sizes))

    def reference(self, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None) -> np.ndarray:
        y = _normalise(self._groups(x.astype(np.float64)), self.eps, self.centers).reshape(x.shape)
        return _affine(y, weight, bias, lambda p: self.along(p, x.ndim)).astype(x.dtype)

    def integer(
        self, x: TypedArray, weight: TypedArray | None, bias: TypedArray | None, *, out: TensorType
    ) -> np.ndarray:
        shape, rank, scale = x.array.shape, x.array.ndim, out.params.scale[0]
        y = _normalise_codes(self.name, self._groups(x.array), x.type, self.eps, self.centers).reshape(shape)
        factor = qmath.multiplier(1.0 if weight is None else weight.array, over=scale)
        y = y * (factor if weight is None else self.along(factor, rank))
        if bias is not None:
            y = y + self.along(qmath.multiplier(bias.array, over=scale), rank)
        return qmath.requantize(y, out)


class LastAxesNorm(Normalised):
    """Normalised over the last `normalized_rank` axes, then * weight + bias (shape of these axes)."""

    element_cost = (0.109, 0.250)
    normalized_rank = int_attr(doc="how many trailing axes are normalised")
    eps = float_attr(default=1e-5, doc="added to the variance")

    def infer(self, x: TensorType, weight: TensorType | None, bias: TensorType | None) -> TensorType:
        _check(self.name, x, 1, self.eps)
        if not 1 <= self.normalized_rank <= x.rank:
            raise ShapeError(f"normalized_rank of {self.name}", expected=f"1 to {x.rank}", got=self.normalized_rank)
        _check_parameters(self.name, x.shape[-self.normalized_rank :], weight=weight, bias=bias)
        _check_not_empty(self.name, x.shape[-self.normalized_rank :], x)
        return x

    @property
    def affine_axis(self) -> int | None:
        return self.node.result.type.rank - 1 if self.normalized_rank == 1 else None

    def group_sizes(self, shape: Sequence[DimLike]) -> Sequence[DimLike]:
        return shape[len(shape) - self.normalized_rank :]

    def along(self, parameter: np.ndarray, rank: int) -> np.ndarray:
        return parameter

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 2, 7, 33), *_parameters(33)[2:]), {"normalized_rank": 1}),
            Sample((tensor("f32", 4, 16),), {"normalized_rank": 1, "eps": 1e-6}),
            Sample((tensor("f32", 2, 3, 4, 5), tensor("f32", 4, 5), tensor("f32", 4, 5)), {"normalized_rank": 2}),
            Sample((tensor("f32", 129), _parameters(129)[2]), {"normalized_rank": 1}),
            Sample((tensor("f32", 3, 1), None, _parameters(1)[3]), {"normalized_rank": 1, "eps": 1e-3}),
        ]


class LayerNorm(LastAxesNorm):
    """Normalised over the last `normalized_rank` axes by mean and variance, then * weight + bias (shape of these axes).
    torch.nn.functional.layer_norm; ONNX LayerNormalization."""

    name = "layer_norm"


class RmsNorm(LastAxesNorm):
    """x / sqrt(mean(x^2) + eps) over the last `normalized_rank` axes, then * weight + bias (shape of these axes).
    torch.nn.functional.rms_norm; ONNX RMSNormalization; Zhang and Sennrich, Root Mean Square Layer Normalization."""

    name = "rms_norm"
    centers = False


class GroupNorm(Normalised):
    """Normalised over groups of channels (axis 1) and all spatial axes, then * weight + bias a channel.
    torch.nn.functional.group_norm; ONNX GroupNormalization."""

    name = "group_norm"
    groups = int_attr(doc="into how many parts the channels are divided")
    eps = float_attr(default=1e-5, doc="added to the variance")

    def infer(self, x: TensorType, weight: TensorType | None, bias: TensorType | None) -> TensorType:
        _check("group_norm", x, 2, self.eps)
        if self.groups < 1 or x.shape[1] % self.groups != 0:
            raise ShapeError(
                "groups of group_norm", expected=f"a divisor of the {x.shape[1]} channels", got=self.groups
            )
        _check_parameters("group_norm", (x.shape[1],), weight=weight, bias=bias)
        _check_not_empty("group_norm", x.shape[1:], x)
        return x

    def group_sizes(self, shape: Sequence[DimLike]) -> Sequence[DimLike]:
        return (shape[1] // self.groups, *shape[2:])

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 2, 6, 5, 5), *_parameters(6)[2:]), {"groups": 3}),
            Sample((tensor("f32", 1, 33, 7),), {"groups": 1}),
            Sample((tensor("f32", 3, 8), *_parameters(8)[2:]), {"groups": 2, "eps": 1e-3}),
            Sample((tensor("f32", 1, 4, 2, 3, 3), _parameters(4)[2]), {"groups": 4}),
            Sample((tensor("f32", 2, 32, 4, 4), None, _parameters(32)[3]), {"groups": 8}),
        ]


class InstanceNorm(Normalised):
    """Each channel of each sample normalised over its spatial axes, then * weight + bias a channel.
    torch.nn.functional.instance_norm; ONNX InstanceNormalization."""

    name = "instance_norm"
    eps = float_attr(default=1e-5, doc="added to the variance")

    def infer(self, x: TensorType, weight: TensorType | None, bias: TensorType | None) -> TensorType:
        _check("instance_norm", x, 3, self.eps)
        _check_parameters("instance_norm", (x.shape[1],), weight=weight, bias=bias)
        _check_not_empty("instance_norm", x.shape[2:], x)
        return x

    def group_sizes(self, shape: Sequence[DimLike]) -> Sequence[DimLike]:
        return shape[2:]

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 2, 3, 5, 7), *_parameters(3)[2:])),
            Sample((tensor("f32", 1, 17, 33),), {"eps": 1e-3}),
            Sample((tensor("f32", 1, 2, 3, 4, 5), _parameters(2)[2])),
            Sample((tensor("f32", 2, 4, 16), None, _parameters(4)[3])),
            Sample((tensor("f32", 1, 1, 8, 16), *_parameters(1)[2:])),
        ]


LEAST_LENGTH = F32(2.0**-126)
"""The smallest normal number: see the module's docstring."""


def length_floor(eps: float, source: TensorType) -> np.ndarray:
    """f32 max(eps / sx, 2^-126): what an integer l2_normalize divides by at least."""
    return np.maximum(F32(np.float64(eps) / np.float64(source.params.scale[0])), LEAST_LENGTH)


class L2Normalize(Op):
    """x / max(|x|, eps), where |x| is the square root of the sum of squares along an axis. In float, a row of zeros
    gives 0, but NaN if eps is 0. torch.nn.functional.normalize; ONNX LpNormalization(p=2)."""

    name = "l2_normalize"
    quant = OWN_RANGE
    wants_real = True
    chooses_params = True
    element_cost = LastAxesNorm.element_cost
    x = operand()
    axis = int_attr()
    eps = float_attr(default=1e-12, doc="the least number that is divided by")

    def infer(self, x: TensorType) -> TensorType:
        _check("l2_normalize", x, 1, self.eps)
        check_axis("l2_normalize", self.axis, x)
        _check_not_empty("l2_normalize", (x.shape[self.axis],), x)
        return x

    def terms(self) -> Sequence[DimLike]:
        return (self.x.type.shape[self.axis],)

    def reference(self, x: np.ndarray) -> np.ndarray:
        wide = x.astype(np.float64)
        length = np.sqrt(np.square(wide).sum(axis=self.axis, keepdims=True))
        return (wide / np.maximum(length, self.eps)).astype(x.dtype)

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        check_sum_fits(self.name, x.type, x.array.shape[self.axis])
        c = x.centered().astype(np.int64)
        s2 = np.square(c).sum(axis=self.axis, keepdims=True)
        inv = F32(1) / np.maximum(np.sqrt(s2.astype(F32)), length_floor(self.eps, x.type))
        return qmath.requantize(c.astype(F32) * inv * qmath.multiplier(1.0, over=out.params.scale[0]), out)

    @staticmethod
    def samples() -> Sequence[Sample]:
        cases = (
            ((2, 7, 33), 2, 1e-12),
            ((4, 16), 1, 1e-6),
            ((2, 6, 5, 5), 1, 1e-12),
            ((129,), 0, 3.0),
            ((3, 1), 1, 0.0),
        )
        return [Sample((tensor("f32", *shape),), {"axis": axis, "eps": eps}) for shape, axis, eps in cases]
