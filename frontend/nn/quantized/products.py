"""Quantized linear layers and convolutions, and those with a ReLU behind them."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from qcompiler.errors import QuantizationError
from qcompiler.frontend import functional as F
from qcompiler.frontend.nn import conv, linear
from qcompiler.frontend.nn.activation import ReLU
from qcompiler.frontend.nn.conv import PAD_MODES
from qcompiler.frontend.nn.module import Module, Sequential
from qcompiler.frontend.nn.quantized.base import (
    CodeModule,
    bias_parameter,
    check_float,
    check_weight,
    dequantized,
    weight_codes,
    weight_of,
)
from qcompiler.quantization.qconfig import QConfig
from qcompiler.quantization.quantized_tensor import QuantizedTensor


class _Product(CodeModule):
    """A product of codes and a weight of codes, plus a bias, rounded to the result's parameters."""

    relu: ClassVar[bool] = False
    weight_axis: ClassVar[int] = 0
    float_class: ClassVar[type[Module]]
    weight: QuantizedTensor

    def forward(self, x: Any) -> Any:
        real = dequantized(x, type(self).__name__)
        weight = weight_codes(self.weight, "weight")
        y = self._apply(real, weight.trace.emit("dequantize", (weight,)))
        return self._result(F.relu(y) if self.relu else y, x)

    def _apply(self, x: Any, weight: Any) -> Any:
        """The float op, with `self.bias`."""
        raise NotImplementedError

    @classmethod
    def _source(cls, module: Any) -> Any:
        """The float layer that has the weight. A form with a ReLU takes a Sequential of the layer and a ReLU, too."""
        if cls.relu and isinstance(module, Sequential) and len(module) == 2 and isinstance(module[1], ReLU):
            module = module[0]
        check_float(module, cls.float_class, cls)
        return module

    def extra_repr(self) -> str:
        return f"weight={self.weight}, scale={self.scale:g}, zero_point={self.zero_point}"


class Linear(_Product):
    """[..., in] codes to [..., out] codes; weight: i8 [out, in]; bias: f32 [out]. torch.ao.nn.quantized.Linear.

    Args:
        weight: a quantized tensor, with one scale or one for each output; zero points are 0.
        bias: f32 [out], or None.
        scale, zero_point: of the result, whose element type is that of x.

    Raises:
        ArgumentError: an argument of another type.
        QuantizationError: a weight or bias of another shape, or an illegal scale.
    """

    float_class = linear.Linear

    def __init__(self, weight: QuantizedTensor, bias: Any, scale: float, zero_point: int) -> None:
        super().__init__()
        self.weight = check_weight(weight, 2, type(self).__name__)
        self.out_features, self.in_features = weight.shape
        self.register_parameter("bias", bias_parameter(bias, self.out_features, type(self).__name__))
        self._set_result(scale, zero_point)

    def _apply(self, x: Any, weight: Any) -> Any:
        return F.linear(x, weight, self.bias)

    @classmethod
    def from_float(cls, module: Module, scale: float, zero_point: int, qconfig: QConfig | str = "torch:x86") -> Self:
        """The quantized form of a float layer. Its weight is quantized as the weight spec of `qconfig` says."""
        source = cls._source(module)
        return cls(weight_of(source, qconfig), source.bias, scale, zero_point)


class LinearReLU(Linear):
    """A quantized linear layer with a ReLU behind it. torch.ao.nn.intrinsic.quantized.LinearReLU."""

    relu = True


class _Convolution(_Product):
    """A convolution. Its options are those of the float layer."""

    spatial: ClassVar[int]
    transposed: ClassVar[bool] = False

    def __init__(
        self,
        weight: QuantizedTensor,
        bias: Any,
        scale: float,
        zero_point: int,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        output_padding: Any = 0,
    ) -> None:
        super().__init__()
        name, rank = type(self).__name__, self.spatial
        self.weight = check_weight(weight, rank + 2, name)
        first, second, *kernel = weight.shape
        if not isinstance(groups, int) or groups < 1 or first % groups:
            raise QuantizationError(f"groups of {name}", expected=f"a divisor of {first}", got=groups)
        modes = ("zeros",) if self.transposed else PAD_MODES
        if padding_mode not in modes:
            raise QuantizationError(f"padding_mode of {name}", expected=" | ".join(modes), got=padding_mode)
        self.out_channels = second * groups if self.transposed else first
        self.in_channels = first if self.transposed else second * groups
        self.kernel_size, self.groups, self.padding_mode = tuple(kernel), groups, padding_mode
        self.stride, self.dilation = F.ints(stride, rank, "stride"), F.ints(dilation, rank, "dilation")
        self.padding = padding if isinstance(padding, str) else F.ints(padding, rank, "padding")
        self.output_padding = F.ints(output_padding, rank, "output_padding")
        self.register_parameter("bias", bias_parameter(bias, self.out_channels, name))
        self._set_result(scale, zero_point)

    def _apply(self, x: Any, weight: Any) -> Any:
        return conv.convolve(self, x, weight, self.bias)

    @classmethod
    def from_float(cls, module: Module, scale: float, zero_point: int, qconfig: QConfig | str | None = None) -> Self:
        """The quantized form of a float layer. Its weight is quantized as the weight spec of `qconfig` says, which is
        torch's for x86 unless given: a scale for each output, or one of a transposed convolution."""
        source = cls._source(module)
        config = qconfig or ("torch:default" if cls.transposed else "torch:x86")
        geometry = (source.stride, source.padding, source.dilation, source.groups, source.padding_mode)
        more = (source.output_padding,) if cls.transposed else ()
        weight = weight_of(source, config, 1 if cls.transposed else 0)
        return cls(weight, source.bias, scale, zero_point, *geometry, *more)


class Conv1d(_Convolution):
    """[n, in, l] codes to [n, out, l'] codes; weight: i8 [out, in/groups, k]. torch.ao.nn.quantized.Conv1d."""

    spatial, float_class = 1, conv.Conv1d


class Conv2d(_Convolution):
    """[n, in, h, w] codes to [n, out, h', w'] codes; weight: i8 [out, in/groups, kh, kw], with one scale or one for
    each output; bias: f32 [out], or None. torch.ao.nn.quantized.Conv2d. Raises as `Linear`."""

    spatial, float_class = 2, conv.Conv2d


class Conv3d(_Convolution):
    """[n, in, d, h, w] codes to [n, out, d', h', w'] codes; weight: i8 [out, in/groups, kd, kh, kw].
    torch.ao.nn.quantized.Conv3d."""

    spatial, float_class = 3, conv.Conv3d


class ConvReLU1d(Conv1d):
    """`Conv1d` with a ReLU behind it. torch.ao.nn.intrinsic.quantized.ConvReLU1d."""

    relu = True


class ConvReLU2d(Conv2d):
    """`Conv2d` with a ReLU behind it. torch.ao.nn.intrinsic.quantized.ConvReLU2d."""

    relu = True


class ConvReLU3d(Conv3d):
    """`Conv3d` with a ReLU behind it. torch.ao.nn.intrinsic.quantized.ConvReLU3d."""

    relu = True


class ConvTranspose1d(_Convolution):
    """Weight: i8 [in, out/groups, k], with one scale. torch.ao.nn.quantized.ConvTranspose1d."""

    spatial, transposed, float_class = 1, True, conv.ConvTranspose1d


class ConvTranspose2d(_Convolution):
    """Weight: i8 [in, out/groups, kh, kw], with one scale. torch.ao.nn.quantized.ConvTranspose2d."""

    spatial, transposed, float_class = 2, True, conv.ConvTranspose2d


class ConvTranspose3d(_Convolution):
    """Weight: i8 [in, out/groups, kd, kh, kw], with one scale. torch.ao.nn.quantized.ConvTranspose3d."""

    spatial, transposed, float_class = 3, True, conv.ConvTranspose3d
