"""Patterns that exporters write in small ops: as a torch function, and directly in the ops of the graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qcompiler.frontend import functional as F

T = torch.nn.functional
SHAPE = (6, 5, 24)
IMAGE = (2, 24, 4, 5)
GAIN, SHIFT = np.linspace(0.5, 1.5, 24, dtype=np.float32), np.linspace(-1, 1, 24, dtype=np.float32)
MASK = np.triu(np.full((5, 5), -10000.0, np.float32), 1)
KEYS = np.random.default_rng(5).normal(size=(2, 6, 5, 24)).astype(np.float32)
GAIN_T, SHIFT_T, MASK_T = (torch.from_numpy(array) for array in (GAIN, SHIFT, MASK))


@dataclass(frozen=True)
class Pattern:
    """written: a torch function of one tensor, as models write it. direct: the op itself, in our functions."""

    written: Callable[[Any], Any]
    direct: Callable[[Any], Any]
    shape: tuple[int, ...] = SHAPE


def _centered(x: Any) -> Any:
    return x - x.mean(-1, keepdim=True)


def _rms(x: Any, eps: float) -> Any:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def _norm_of_channels(x: Any) -> Any:
    """LayerNorm2d, as ConvNeXt and SAM write it."""
    mean = x.mean(1, keepdim=True)
    normal = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
    return GAIN_T[:, None, None] * normal + SHIFT_T[:, None, None]


def _direct_norm_of_channels(x: Any) -> Any:
    return F.layer_norm(x.transpose(0, 2, 3, 1), (24,), GAIN, SHIFT, 1e-6).transpose(0, 3, 1, 2)


PATTERNS: dict[str, Pattern] = {
    "layer_norm": Pattern(
        lambda x: T.layer_norm(x, (24,), GAIN_T, SHIFT_T), lambda x: F.layer_norm(x, (24,), GAIN, SHIFT)
    ),
    "layer_norm of two axes": Pattern(lambda x: T.layer_norm(x, (5, 24)), lambda x: F.layer_norm(x, (5, 24))),
    "layer_norm, pow(2)": Pattern(
        lambda x: _centered(x) / torch.sqrt(_centered(x).pow(2).mean(-1, keepdim=True) + 1e-6) * GAIN_T + SHIFT_T,
        lambda x: F.layer_norm(x, (24,), GAIN, SHIFT, 1e-6),
    ),
    "layer_norm, x * x": Pattern(
        lambda x: GAIN_T * (_centered(x) * torch.rsqrt((_centered(x) * _centered(x)).mean(-1, keepdim=True) + 1e-6)),
        lambda x: F.layer_norm(x, (24,), GAIN, eps=1e-6),
    ),
    "layer_norm, square - mean^2": Pattern(
        lambda x: (
            _centered(x)
            / torch.sqrt(torch.square(x).mean(-1, keepdim=True) - torch.square(x.mean(-1, keepdim=True)) + 1e-3)
            * GAIN_T
        ),
        lambda x: F.layer_norm(x, (24,), GAIN, eps=1e-3),
    ),
    "layer_norm by var": Pattern(
        lambda x: _centered(x) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) * GAIN_T + SHIFT_T,
        lambda x: F.layer_norm(x, (24,), GAIN, SHIFT),
    ),
    "rms_norm": Pattern(lambda x: T.rms_norm(x, (24,), GAIN_T, 1e-6), lambda x: F.rms_norm(x, (24,), GAIN, 1e-6)),
    "rms_norm, pow(2)": Pattern(lambda x: GAIN_T * _rms(x, 1e-6), lambda x: F.rms_norm(x, (24,), GAIN, 1e-6)),
    "rms_norm, x * x": Pattern(
        lambda x: x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5), lambda x: F.rms_norm(x, (24,), eps=1e-5)
    ),
    "gelu": Pattern(T.gelu, F.gelu),
    "gelu, tanh": Pattern(lambda x: T.gelu(x, approximate="tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "gelu of GPT-2": Pattern(
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "silu": Pattern(T.silu, F.silu),
    "silu, x * sigmoid(x)": Pattern(lambda x: x * torch.sigmoid(x), F.silu),
    "hardswish": Pattern(T.hardswish, F.hardswish),
    "hardswish by relu6": Pattern(lambda x: x * T.relu6(x + 3) / 6, F.hardswish),
    "hardswish by hardsigmoid": Pattern(lambda x: x * T.hardsigmoid(x), F.hardswish),
    "hardsigmoid": Pattern(T.hardsigmoid, F.hardsigmoid),
    "hardsigmoid by relu6": Pattern(lambda x: T.relu6(x + 3) / 6, F.hardsigmoid),
    "mish": Pattern(T.mish, F.mish),
    "mish by softplus": Pattern(lambda x: x * torch.tanh(T.softplus(x)), F.mish),
    "softplus": Pattern(lambda x: T.softplus(x), lambda x: F.softplus(x)),
    "elu": Pattern(T.elu, F.elu),
    "leaky_relu": Pattern(T.leaky_relu, F.leaky_relu),
    "hardshrink": Pattern(T.hardshrink, F.hardshrink),
    "softshrink": Pattern(T.softshrink, F.softshrink),
    "tanhshrink": Pattern(T.tanhshrink, F.tanhshrink),
    "logsigmoid": Pattern(T.logsigmoid, F.logsigmoid),
    "l2_normalize": Pattern(lambda x: T.normalize(x, dim=-1), lambda x: F.normalize(x, dim=-1)),
    "l2_normalize, second axis": Pattern(
        lambda x: T.normalize(x, dim=1, eps=1e-6), lambda x: F.normalize(x, 2, 1, 1e-6)
    ),
    "l2_normalize by a length alone": Pattern(
        lambda x: x / x.norm(dim=-1, keepdim=True), lambda x: F.normalize(x, dim=-1, eps=0.0)
    ),
    "softmax": Pattern(lambda x: torch.softmax(x / 8, -1), lambda x: F.softmax(x / 8, -1)),
    "softmax, exp and sum": Pattern(
        lambda x: torch.exp(x - x.amax(1, keepdim=True)) / torch.exp(x - x.amax(1, keepdim=True)).sum(1, keepdim=True),
        lambda x: F.softmax(x, 1),
    ),
    "softmax with scale and mask": Pattern(
        lambda x: torch.softmax((x[..., :5] * 0.125) + MASK_T, -1), lambda x: F.softmax((x[..., :5] * 0.125) + MASK, -1)
    ),
    "log_softmax": Pattern(lambda x: torch.log_softmax(x, -1), lambda x: F.log_softmax(x, -1)),
    "group_norm": Pattern(
        lambda x: T.group_norm(x, 3, GAIN_T, SHIFT_T), lambda x: F.group_norm(x, 3, GAIN, SHIFT), IMAGE
    ),
    "group_norm without parameters": Pattern(lambda x: T.group_norm(x, 3), lambda x: F.group_norm(x, 3), IMAGE),
    "layer_norm of channels": Pattern(_norm_of_channels, _direct_norm_of_channels, IMAGE),
    "instance_norm": Pattern(
        lambda x: T.instance_norm(x, weight=GAIN_T, bias=SHIFT_T),
        lambda x: F.instance_norm(x, weight=GAIN, bias=SHIFT),
        IMAGE,
    ),
    "norm, gelu, norm": Pattern(
        lambda x: _rms(T.gelu(T.layer_norm(x, (24,), GAIN_T, SHIFT_T)), 1e-6),
        lambda x: F.rms_norm(F.gelu(F.layer_norm(x, (24,), GAIN, SHIFT)), (24,), eps=1e-6),
    ),
    "norm of a residual sum": Pattern(
        lambda x: T.layer_norm(x + T.silu(x) * 0.5, (24,), GAIN_T, SHIFT_T),
        lambda x: F.layer_norm(x + F.silu(x) * 0.5, (24,), GAIN, SHIFT),
    ),
}
