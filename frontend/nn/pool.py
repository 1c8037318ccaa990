"""Pooling layers."""

from __future__ import annotations

from typing import Any

from qcompiler.frontend import functional as F
from qcompiler.frontend.nn.module import Module


class _MaxPool(Module):
    spatial: int

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, x: Any) -> Any:
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[self.spatial - 1]
        return pool(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool1d(_MaxPool):
    spatial = 1


class MaxPool2d(_MaxPool):
    spatial = 2


class MaxPool3d(_MaxPool):
    spatial = 3


class _AvgPool(Module):
    spatial: int

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding, self.ceil_mode = kernel_size, stride, padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def forward(self, x: Any) -> Any:
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[self.spatial - 1]
        return pool(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    spatial = 1


class AvgPool2d(_AvgPool):
    spatial = 2


class AvgPool3d(_AvgPool):
    spatial = 3


class _AdaptivePool(Module):
    """An adaptive pool. None in `output_size` means the axis' own size."""

    spatial: int

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class _AdaptiveAvgPool(_AdaptivePool):
    def forward(self, x: Any) -> Any:
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[self.spatial - 1]
        return pool(x, self.output_size)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    spatial = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    spatial = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    spatial = 3


class _AdaptiveMaxPool(_AdaptivePool):
    def forward(self, x: Any) -> Any:
        pool = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[self.spatial - 1]
        return pool(x, self.output_size)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    spatial = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    spatial = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    spatial = 3
