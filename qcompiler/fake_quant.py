"""Fake quantization of torch tensors by rules (1) and (2) of qmath, with gradients that pass through the rounding.

Owns the two rules of training: ranges that are given, and scales and zero points that are learned. Does not own where
they are applied (`qat_simulation.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qcompiler.quantization.choose_qparams import symmetric_zero_point
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import MAX_SCALE, MIN_SCALE, QuantParams

Bound = torch.Tensor | float


def _clamped(units: torch.Tensor, low: Bound, high: Bound) -> torch.Tensor:
    """clamp(rne(units), low, high) in a new tensor. The bounds are integers, so the order of the two is free."""
    rounded = torch.round(units)
    if isinstance(low, float):
        return rounded.clamp_(low, float(high))
    return torch.minimum(torch.maximum(rounded, low), torch.as_tensor(high))


def _inside(gradient: torch.Tensor, units: torch.Tensor, low: Bound, high: Bound) -> torch.Tensor:
    """The gradient where x lies within half a step of the range, 0 elsewhere."""
    if isinstance(low, float):  # one pass over memory
        return torch.ops.aten.hardtanh_backward(gradient, units, low - 0.5, float(high) + 0.5)
    return gradient * ((units > low - 0.5) & (units < high + 0.5))


class _Rounded(torch.autograd.Function):
    """dequantize(quantize(x)) by rules (1) and (2) of qmath. The gradient passes where x lies within the range."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, low: Bound, high: Bound) -> torch.Tensor:
        units = x / scale
        ctx.save_for_backward(units)
        ctx.bounds = low, high
        return _clamped(units, low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (units,) = ctx.saved_tensors
        return _inside(gradients[0], units, *ctx.bounds), None, None, None


class _Learned(torch.autograd.Function):
    """The same with gradients of the scale and of the real zero point."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, ends: tuple[int, int], factor: float
    ) -> torch.Tensor:
        zero = torch.round(zero_point).clamp_(*ends)
        low, high = ends[0] - zero, ends[1] - zero
        bounds = (float(low), float(high)) if zero.numel() == 1 else (low, high)
        units = x / scale
        centered = _clamped(units, *bounds)
        ctx.save_for_backward(units, centered, scale)
        ctx.bounds, ctx.factor = bounds, factor
        return centered * scale

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        units, centered, scale = ctx.saved_tensors
        (gradient,) = gradients
        inside = _inside(gradient, units, *ctx.bounds)
        of_scale = gradient * centered - inside * units
        of_zero = (inside - gradient) * scale
        axes = [axis for axis in range(units.dim()) if scale.dim() == 0 or scale.shape[axis] == 1]
        of_scale, of_zero = (each.sum(axes).reshape(scale.shape) * ctx.factor for each in (of_scale, of_zero))
        return inside, of_scale, of_zero, None, None


def fake_quantize(x: torch.Tensor, params: QuantParams) -> torch.Tensor:
    """`qmath.fake_quantize` of a float32 tensor of any shape, in the same shape, with a straight-through gradient: 1
    within half a step of the range, 0 outside (Bengio et al. 2013; Jacob et al. 2018). NaN stays NaN."""
    scale, points = (np.asarray(each) for each in params.along(x.dim()))
    return by_scale(x, torch.from_numpy(scale.copy()).to(x.device), points, params.qmin, params.qmax)


def by_scale(x: torch.Tensor, scale: torch.Tensor, points: np.ndarray | int, qmin: int, qmax: int) -> torch.Tensor:
    """`fake_quantize` with scales that broadcast against x, and zero points, one or one per channel."""
    points = np.asarray(points)
    bounds: tuple[Bound, Bound]
    if (points == points.flat[0]).all():
        bounds = float(qmin - int(points.flat[0])), float(qmax - int(points.flat[0]))
    else:
        low, high = (torch.from_numpy((end - points).astype(np.float32)).to(x.device) for end in (qmin, qmax))
        bounds = low, high
    return _Rounded.apply(x, scale, *bounds)  # type: ignore[no-untyped-call]


def learned_fake_quantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, qmin: int, qmax: int, factor: float = 1.0
) -> torch.Tensor:
    """Fake quantization whose scale and zero point are learned (LSQ, Esser et al. 2020; LSQ+, Bhalgat et al. 2020).

    With u = x / scale, z = clamp(rne(zero_point), qmin, qmax) and c = clamp(rne(u), qmin - z, qmax - z), the result is
    c * scale. Its gradients, where rne(u) lies within the range and outside:

        x           1                   0
        scale       c - u               c
        zero_point  0                   -scale

    Args:
        x: floats of any shape.
        scale, zero_point: floats of one shape, [] or one that broadcasts against x, with a scale for each channel.
        factor: multiplies the gradients of scale and zero point. LSQ takes 1 / sqrt(elements * qmax).
    """
    return _Learned.apply(x, scale, zero_point, (qmin, qmax), factor)  # type: ignore[no-untyped-call]


def symmetric_scale(weight: torch.Tensor, spec: QuantSpec, axis: int | None) -> torch.Tensor:
    """`choose_qparams` of the minima and maxima of a weight for a symmetric spec, to the bit: [] or one for each
    channel, shaped to broadcast."""
    weight = weight.detach()
    others = tuple(index for index in range(weight.dim()) if index != axis)
    low, high = weight.amin(others, keepdim=axis is not None), weight.amax(others, keepdim=axis is not None)
    half = np.float32(spec.qmax - spec.qmin) / np.float32(2)
    most = torch.maximum(torch.maximum(-low, high), torch.zeros_like(high))
    return (most / torch.full_like(most, float(half))).clamp_(float(np.float32(max(spec.eps, MIN_SCALE))), MAX_SCALE)


def first_weight_scale(weight: torch.Tensor, spec: QuantSpec, axis: int | None) -> torch.Tensor:
    """The scale of a symmetric weight that learning begins with: three deviations from the mean reach the end of the
    range (LSQ+, Bhalgat et al. 2020, section 3.3). [] or one for each channel, shaped to broadcast."""
    weight = weight.detach()
    others = tuple(index for index in range(weight.dim()) if index != axis)
    keep = axis is not None
    mean = weight.mean(others, keepdim=keep)
    deviation = (weight - weight.mean(others, keepdim=True)).square().mean(others, keepdim=keep).sqrt()
    most = torch.maximum((mean - 3 * deviation).abs(), (mean + 3 * deviation).abs())
    return (most / (spec.qmax - symmetric_zero_point(spec))).clamp_(max(spec.eps, MIN_SCALE), MAX_SCALE)
