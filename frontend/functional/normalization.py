"""Dropout, which does nothing at inference, and normalizations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, dims, lift, rank, trace_of, unary
from qcompiler.frontend.functional.calling import emit, no_training, traceable
from qcompiler.frontend.source import user_place
from qcompiler.types import DType


@traceable
def dropout(x: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """The identity at inference. The graph records the rate."""
    no_training("dropout", training)
    return emit("dropout", x, rate=float(p))


@traceable
def batch_norm(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """torch.nn.functional.batch_norm at inference. Without running statistics those of the batch normalize it, as in
    torch; then `training` changes nothing."""
    if running_mean is None and running_var is None:
        return _by_batch(x, weight, bias, float(eps))
    no_training("batch_norm", training)
    _check_statistics("batch_norm", running_mean, running_var)
    return emit("batch_norm", x, running_mean, running_var, weight, bias, eps=float(eps))


def _by_batch(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    """Each channel normalized by its mean and variance over the batch: one sample [1, C, N * S] of an instance norm."""
    x = lift(x, trace_of(x), dtype=DType.F32)
    batch, channels, *spatial = dims(x)
    if batch * math.prod(spatial) == 1:
        raise TraceError(
            "batch_norm without running statistics: one value per channel has no variance",
            where=user_place(),
            got=repr(x),
        )
    shape = (channels, batch, *spatial)
    channels_first = ops.swapaxes(x, 0, 1)
    y = emit("instance_norm", ops.reshape(channels_first, (1, channels, -1)), weight, bias, eps=eps)
    return ops.swapaxes(ops.reshape(y, shape), 0, 1)


def _check_statistics(what: str, running_mean: Any, running_var: Any) -> None:
    if running_mean is None or running_var is None:
        raise TraceError(
            f"{what} needs both running statistics",
            where=user_place(),
            expected="running_mean and running_var",
            got="None",
        )


def _normalized_rank(what: str, x: Any, normalized_shape: Any) -> int:
    """How many last axes of x `normalized_shape` names; TraceError if they have other sizes."""
    shape = tuple(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if tuple(dims(lift(x))[-len(shape) :]) != shape:
        raise TraceError(
            f"{what}: the last axes don't fit normalized_shape",
            where=user_place(),
            expected=list(shape),
            got=repr(x),
        )
    return len(shape)


@traceable
def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    count = _normalized_rank("layer_norm", x, normalized_shape)
    return emit("layer_norm", x, weight, bias, normalized_rank=count, eps=float(eps))


@traceable
def rms_norm(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """x / sqrt(mean(x^2) + eps) * weight; eps is by default the machine epsilon of x's type."""
    count = _normalized_rank("rms_norm", x, normalized_shape)
    if eps is None:
        dtype = ops.kind_of(lift(x))
        eps = np.finfo(dtype.numpy if dtype.is_float else np.float32).eps
    return emit("rms_norm", x, weight, normalized_rank=count, eps=float(eps))


@traceable
def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    return emit("group_norm", x, weight, bias, groups=int(num_groups), eps=float(eps))


@traceable
def instance_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not use_input_stats:
        _check_statistics("instance_norm with use_input_stats=False", running_mean, running_var)
        return emit("batch_norm", x, running_mean, running_var, weight, bias, eps=float(eps))
    return emit("instance_norm", x, weight, bias, eps=float(eps))


@traceable
def normalize(x: Any, p: float = 2.0, dim: int | Sequence[int] = 1, eps: float = 1e-12) -> Any:
    """x / max(|x|_p, eps) along an axis, or along several; p is 1 or 2."""
    if p not in (1, 2):
        raise TraceError("normalize: only p = 1 or 2", where=user_place(), got=p)
    if p == 2 and isinstance(dim, int):
        return emit("l2_normalize", x, axis=ops.check_axis(dim, rank(lift(x)), "normalize"), eps=float(eps))
    if p == 1:
        norm = ops.reduce("sum", unary("abs", x), dim, True)
    else:
        norm = unary("sqrt", ops.reduce("sum", unary("square", x), dim, True))
    return binary("div", x, binary("maximum", norm, float(eps)))
