"""Rules (7) and (8) of qmath in torch ops: codes and products of numbers that are quantized by their range."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from qcompiler.export.torch.node import NodeWriter, Tensor
from qcompiler.quantization.qmath import LEAST_DYNAMIC_SCALE


def dynamic_codes(
    w: NodeWriter, x: Tensor, axes: Sequence[int], keep: bool, qmin: int, qmax: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rule (7): codes, scales and zero points of f32 x, all of them f32. axes: those that share parameters, which
    `keep` keeps as axes of one element."""
    low, high = (function(x, list(axes), keep) for function in (torch.amin, torch.amax))
    low, high = torch.where(low > 0, 0.0, low), torch.where(high < 0, 0.0, high)
    scale = (high - low) / w.buffer(np.float32(qmax - qmin))
    is_finite = torch.abs(scale) < math.inf
    scale = torch.where(scale < LEAST_DYNAMIC_SCALE, 1.0, scale)
    scale = torch.where(is_finite, scale, w.buffer(np.float32(np.nan)))

    def clamp(y: Tensor, least: Tensor, most: Tensor) -> Tensor:
        y = torch.where(y > least, y, least)
        return torch.where(y < most, y, most)

    ends = w.buffer(np.float32(qmin)), w.buffer(np.float32(qmax))
    zero = torch.round(clamp(ends[0] - low / scale, *ends))
    return torch.round(clamp(x / scale, ends[0] - zero, ends[1] - zero)) + zero, scale, zero


def dynamic_product(codes: Tensor, scale: Tensor, zero: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """Rule (8) without the bias: f32 [..., outputs]. codes: [..., inputs], integers of any type, with their scales and
    zero points. weight: f64 [outputs, inputs], less its zero points. weight_scale: f32 [outputs] or [1]."""
    centered = codes.to(torch.float64) - zero.to(torch.float64)
    total = torch.matmul(centered, torch.transpose(weight, 0, 1)).to(torch.float32)
    return total * (scale * weight_scale)
