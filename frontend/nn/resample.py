"""Resampling, channel rearrangement and padding layers."""

from __future__ import annotations

from typing import Any

from qcompiler.frontend import functional as F
from qcompiler.frontend.nn.module import Module


class Upsample(Module):
    def __init__(
        self,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.recompute_scale_factor = align_corners, recompute_scale_factor

    def forward(self, x: Any) -> Any:
        return F.interpolate(
            x, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        return f"size={self.size}, scale_factor={self.scale_factor}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, "bilinear", True)


class PixelShuffle(Module):
    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, x: Any) -> Any:
        return F.pixel_shuffle(x, self.upscale_factor)


class PixelUnshuffle(Module):
    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, x: Any) -> Any:
        return F.pixel_unshuffle(x, self.downscale_factor)


class ChannelShuffle(Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Any) -> Any:
        return F.channel_shuffle(x, self.groups)


class _Pad(Module):
    """A padding layer. `padding` is one amount for all sides, or pairs (before, after) from the last axis on."""

    spatial: int
    mode: str

    def __init__(self, padding: Any, value: float = 0.0) -> None:
        super().__init__()
        self.padding = F.ints(padding, 2 * self.spatial, "padding")
        self.value = value

    def forward(self, x: Any) -> Any:
        return F.pad(x, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        return str(self.padding)


class ConstantPad1d(_Pad):
    spatial, mode = 1, "constant"


class ConstantPad2d(_Pad):
    spatial, mode = 2, "constant"


class ConstantPad3d(_Pad):
    spatial, mode = 3, "constant"


class _UnvaluedPad(_Pad):
    def __init__(self, padding: Any) -> None:
        super().__init__(padding)


class ZeroPad1d(_UnvaluedPad):
    spatial, mode = 1, "constant"


class ZeroPad2d(_UnvaluedPad):
    spatial, mode = 2, "constant"


class ZeroPad3d(_UnvaluedPad):
    spatial, mode = 3, "constant"


class ReflectionPad1d(_UnvaluedPad):
    spatial, mode = 1, "reflect"


class ReflectionPad2d(_UnvaluedPad):
    spatial, mode = 2, "reflect"


class ReflectionPad3d(_UnvaluedPad):
    spatial, mode = 3, "reflect"


class ReplicationPad1d(_UnvaluedPad):
    spatial, mode = 1, "replicate"


class ReplicationPad2d(_UnvaluedPad):
    spatial, mode = 2, "replicate"


class ReplicationPad3d(_UnvaluedPad):
    spatial, mode = 3, "replicate"


class CircularPad1d(_UnvaluedPad):
    spatial, mode = 1, "circular"


class CircularPad2d(_UnvaluedPad):
    spatial, mode = 2, "circular"


class CircularPad3d(_UnvaluedPad):
    spatial, mode = 3, "circular"
