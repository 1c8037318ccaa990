"""Convolutions and transposed convolutions with torch's arguments and weight shapes."""

from __future__ import annotations

from typing import Any

from qcompiler.errors import TraceError
from qcompiler.frontend import functional as F
from qcompiler.frontend.argument_kinds import check_sizes
from qcompiler.frontend.nn import init
from qcompiler.frontend.nn.module import Module
from qcompiler.frontend.source import user_place

PAD_MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(Module):
    spatial: int
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
    ) -> None:
        super().__init__()
        if padding_mode not in PAD_MODES or (self.transposed and padding_mode != "zeros"):
            raise TraceError(
                f"{type(self).__name__}: padding_mode",
                where=user_place(),
                got=padding_mode,
                expected="zeros" if self.transposed else " | ".join(PAD_MODES),
            )
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise TraceError(
                f"{type(self).__name__}: groups must divide the channels",
                where=user_place(),
                got=f"groups={groups}, in_channels={in_channels}, out_channels={out_channels}",
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = F.ints(kernel_size, self.spatial, "kernel_size")
        check_sizes("kernel_size", self.kernel_size)
        self.stride = F.ints(stride, self.spatial, "stride")
        self.dilation = F.ints(dilation, self.spatial, "dilation")
        self.padding = padding if isinstance(padding, str) else F.ints(padding, self.spatial, "padding")
        self.padding_mode = padding_mode
        channels = (in_channels, out_channels // groups) if self.transposed else (out_channels, in_channels // groups)
        shape = (*channels, *self.kernel_size)
        self.weight = init.kaiming_uniform(shape)
        self.register_parameter("bias", init.bias_for(shape, out_channels) if bias else None)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )


class _Conv(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)

    def forward(self, x: Any) -> Any:
        return convolve(self, x, self.weight, self.bias)


class Conv1d(_Conv):
    """[n, in, l] to [n, out, l']; weight [out, in/groups, k]."""

    spatial = 1


class Conv2d(_Conv):
    """[n, in, h, w] to [n, out, h', w']; weight [out, in/groups, kh, kw]."""

    spatial = 2


class Conv3d(_Conv):
    """[n, in, d, h, w] to [n, out, d', h', w']; weight [out, in/groups, kd, kh, kw]."""

    spatial = 3


class _ConvTranspose(_Convolution):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        self.output_padding = F.ints(output_padding, self.spatial, "output_padding")

    def forward(self, x: Any) -> Any:
        return convolve(self, x, self.weight, self.bias)


class ConvTranspose1d(_ConvTranspose):
    """weight [in, out/groups, k]."""

    spatial = 1


class ConvTranspose2d(_ConvTranspose):
    """weight [in, out/groups, kh, kw]."""

    spatial = 2


class ConvTranspose3d(_ConvTranspose):
    """weight [in, out/groups, kd, kh, kw]."""

    spatial = 3


def convolve(layer: Any, x: Any, weight: Any, bias: Any) -> Any:
    """x convolved with a weight, by the geometry of a layer, whose weight and bias are not read."""
    if layer.transposed:
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[layer.spatial - 1]
        sizes = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        return transposed(x, weight, bias, *sizes)
    padding: str | int | tuple[int, ...] = layer.padding
    if layer.padding_mode != "zeros":
        pairs = F.conv_padding(padding, layer.kernel_size, layer.stride, layer.dilation)
        x = F.pad(x, [amount for pair in reversed(pairs) for amount in pair], layer.padding_mode)
        padding = 0
    plain = (F.conv1d, F.conv2d, F.conv3d)[layer.spatial - 1]
    return plain(x, weight, bias, layer.stride, padding, layer.dilation, layer.groups)
