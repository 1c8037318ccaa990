"""Normalization layers. Batch norm uses its running statistics, or those of the batch if it tracks none. In training
mode it is an error."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import functional as F
from qcompiler.frontend.argument_kinds import check_sizes
from qcompiler.frontend.nn.module import Module, Parameter
from qcompiler.frontend.source import user_place


class _Normalization(Module):
    """A normalization with optional gain and offset per channel, and optional running statistics."""

    def __init__(self, features: int, eps: float, momentum: float | None, affine: bool, track: bool) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = features, eps, momentum
        self.affine, self.track_running_stats = affine, track
        self.register_parameter("weight", Parameter(np.ones(features)) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(features)) if affine else None)
        self.register_buffer("running_mean", np.zeros(features, np.float32) if track else None)
        self.register_buffer("running_var", np.ones(features, np.float32) if track else None)
        self.register_buffer("num_batches_tracked", np.array(0, np.int64) if track else None)

    def _check_rank(self, x: Any, ranks: tuple[int, ...]) -> None:
        if ops.rank(x) not in ranks:
            raise TraceError(
                f"{type(self).__name__}: wrong number of axes",
                where=user_place(),
                expected=" or ".join(map(str, ranks)),
                got=repr(x),
            )

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}"


class _BatchNorm(_Normalization):
    ranks: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)

    def forward(self, x: Any) -> Any:
        self._check_rank(x, self.ranks)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, eps=self.eps)


class BatchNorm1d(_BatchNorm):
    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    ranks = (5,)


class _InstanceNorm(_Normalization):
    ranks: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)

    def forward(self, x: Any) -> Any:
        self._check_rank(x, self.ranks)
        return F.instance_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            use_input_stats=not self.track_running_stats,
            eps=self.eps,
        )


class InstanceNorm1d(_InstanceNorm):
    ranks = (3,)


class InstanceNorm2d(_InstanceNorm):
    ranks = (4,)


class InstanceNorm3d(_InstanceNorm):
    ranks = (5,)


class LayerNorm(Module):
    """Layer norm over the last axes, whose sizes are `normalized_shape`."""

    def __init__(
        self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        self.register_parameter("weight", Parameter(np.ones(self.normalized_shape)) if elementwise_affine else None)
        self.register_parameter(
            "bias", Parameter(np.zeros(self.normalized_shape)) if elementwise_affine and bias else None
        )

    def forward(self, x: Any) -> Any:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


def _shape(normalized_shape: Any) -> tuple[int, ...]:
    shape = tuple(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    check_sizes("normalized_shape", shape)
    return shape


class RMSNorm(Module):
    def __init__(self, normalized_shape: Any, eps: float | None = None, elementwise_affine: bool = True) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        self.register_parameter("weight", Parameter(np.ones(self.normalized_shape)) if elementwise_affine else None)

    def forward(self, x: Any) -> Any:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(Module):
    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise TraceError(
                "GroupNorm: groups must divide the channels",
                where=user_place(),
                got=f"num_groups={num_groups}, num_channels={num_channels}",
            )
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.register_parameter("weight", Parameter(np.ones(num_channels)) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(num_channels)) if affine else None)

    def forward(self, x: Any) -> Any:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}"
