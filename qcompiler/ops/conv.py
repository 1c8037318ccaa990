"""conv and conv_transpose over 1, 2 or 3 spatial axes."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.errors import ShapeError
from qcompiler.ir import AttrValue
from qcompiler.opdef import (
    LayoutRule,
    Sample,
    TypedArray,
    bias_operand,
    fused_activation,
    int_attr,
    ints_attr,
    operand,
    optional_operand,
    pairs_attr,
    weight_operand,
    weighted,
)
from qcompiler.ops.interfaces import TakesResidual, Weighted
from qcompiler.ops.linear import apply_activation, requantize_accumulator
from qcompiler.ops.norm import per_channel
from qcompiler.ops.windows import Pairs, check_geometry, output_size, output_sizes, windows, windows_at
from qcompiler.quantization import qmath
from qcompiler.types import DType, TensorType, tensor

_COLUMN_BYTES = 32 << 20
"""About how large a matrix of window contents the reference builds at a time."""


def _check_conv(op: str, x: TensorType, weight: TensorType, channels: DimLike, groups: int) -> None:
    if not 3 <= x.rank <= 5 or weight.rank != x.rank:
        raise ShapeError(
            f"operands of {op}", expected="x [N,C,*spatial], weight of the same rank", got=f"{x}, {weight}"
        )
    if groups < 1 or x.shape[1] != channels:
        raise ShapeError(f"channels of {op}", expected=f"{channels} (weight {weight}, groups={groups})", got=str(x))


def _kernel(op: str, weight: TensorType) -> tuple[int, ...]:
    """The sizes of the windows; ShapeError if one is symbolic."""
    sizes = tuple(size for size in weight.shape[2:] if isinstance(size, int))
    if len(sizes) != weight.rank - 2:
        raise ShapeError(f"weight of {op}", expected="windows of known sizes", got=str(weight))
    return sizes


def _dot(
    x: np.ndarray, weight: np.ndarray, stride: Sequence[int], padding: Pairs, dilation: Sequence[int], groups: int
) -> np.ndarray:
    """Convolution by windows and matmul, in the dtype of its operands. Padding is zero.

    Goes sample by sample, and by as many output rows at a time as fit _COLUMN_BYTES, so memory is bounded and a
    sample's result does not depend on its batch.
    """
    out_channels, kernel = weight.shape[0], weight.shape[2:]
    outputs = output_sizes(x.shape, kernel, stride, padding, dilation)
    view = windows(x, kernel, stride, padding, dilation, outputs, 0)
    spatial = len(kernel)
    depth = weight.shape[1] * math.prod(kernel)
    result = np.empty((x.shape[0], out_channels, *outputs), np.result_type(x, weight))
    matrix = weight.reshape(groups, out_channels // groups, depth)
    row_bytes = groups * depth * math.prod(outputs[1:]) * x.itemsize
    rows = max(1, _COLUMN_BYTES // max(row_bytes, 1))
    order = (0, *range(1 + spatial, 1 + 2 * spatial), *range(1, 1 + spatial))
    for n, start in itertools.product(range(x.shape[0]), range(0, outputs[0], rows)):
        columns = view[n, :, start : start + rows].transpose(order).reshape(groups, depth, -1)
        result[n, :, start : start + rows] = np.matmul(matrix, columns).reshape(out_channels, -1, *outputs[1:])
    return result


@functools.lru_cache(maxsize=1024)
def _row_counts(
    x_shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Pairs,
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """The samples of x, and the sizes of the result along the spatial axes."""
    return x_shape[0], *output_sizes(x_shape, kernel, stride, padding, dilation)


def _attrs(spatial: int, **given: AttrValue) -> dict[str, AttrValue]:
    """The attributes of a sample: those of a plain convolution, unless given."""
    return {"stride": (1,) * spatial, "padding": ((0, 0),) * spatial, "dilation": (1,) * spatial, **given}


class Conv(TakesResidual):
    """Cross-correlation. x: [N, C, *S], weight: [O, C/groups, *K], bias: [O], residual: shape of the result, added
    before the fused activation; padding is real zero. torch.nn.functional.conv1d/2d/3d; ONNX Conv."""

    name = "conv"
    quant = weighted(axis=0)
    x = operand()
    weight = weight_operand()
    bias = bias_operand()
    residual = optional_operand()
    stride = ints_attr(doc="one a spatial axis")
    padding = pairs_attr(doc="(before, after) a spatial axis")
    dilation = ints_attr(doc="one a spatial axis")
    groups = int_attr(default=1)
    activation = fused_activation()
    layout = LayoutRule.CHANNELS_LAST
    reads_halo = (x, residual)
    reads_real = (residual,)

    @property
    def weight_groups(self) -> int:
        return self.groups

    @property
    def is_depthwise(self) -> bool:
        """Whether each filter reads one channel, and there are several."""
        return self.groups > 1 and self.weight.type.shape[1] == 1

    @property
    def has_border(self) -> bool:
        return any(size for sizes in self.padding for size in sizes)

    @property
    def row_form(self) -> str:
        return (
            f"windows {self.weight.type.shape[2:]}, stride {self.stride}, padding {self.padding}, "
            f"dilation {self.dilation}, groups {self.groups}"
        )

    def row_counts(self, x_shape: tuple[int, ...]) -> tuple[int, ...]:
        return _row_counts(x_shape, self.weight.type.shape[2:], self.stride, self.padding, self.dilation)

    def rows(self, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
        picked = np.unravel_index(positions, self.row_counts(x.shape))
        kernel = _kernel("conv", self.weight.type)
        found = windows_at(x, picked, kernel, self.stride, self.padding, self.dilation)
        return found.reshape(len(positions), self.groups, x.shape[1] // self.groups, -1)

    def keeps_halo(self) -> bool:
        return True

    def wanted_halo(self) -> tuple[tuple[int, int], ...] | None:
        return None if self.is_depthwise else self.padding

    def infer(
        self, x: TensorType, weight: TensorType, bias: TensorType | None, residual: TensorType | None
    ) -> TensorType:
        stride, padding, dilation, groups = self.stride, self.padding, self.dilation, self.groups
        _check_conv("conv", x, weight, weight.shape[1] * groups if weight.rank > 1 else -1, groups)
        if weight.shape[0] % groups:
            raise ShapeError("output channels of conv", expected=f"a multiple of groups={groups}", got=weight.shape[0])
        check_geometry("conv", x.rank - 2, stride=stride, padding=padding, dilation=dilation)
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ShapeError("bias of conv", expected=f"[{weight.shape[0]}]", got=str(bias))
        spatial = [output_size(*axis) for axis in zip(x.shape[2:], _kernel("conv", weight), stride, padding, dilation)]
        result = TensorType(DType.F32, (x.shape[0], weight.shape[0], *spatial))
        if residual is not None and residual.shape != result.shape:
            raise ShapeError("residual of conv", expected=str(result), got=str(residual))
        return result

    def _dot(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return _dot(x, weight, self.stride, self.padding, self.dilation, self.groups)

    def reference(
        self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, residual: np.ndarray | None
    ) -> np.ndarray:
        y = self._dot(x, weight)
        if bias is not None:
            y = y + per_channel(bias, y.ndim)
        if residual is not None:
            y = y + residual
        return apply_activation(y, self.activation)

    def integer(
        self,
        x: TypedArray,
        weight: TypedArray,
        bias: TypedArray | None,
        residual: TypedArray | None,
        *,
        out: TensorType,
    ) -> np.ndarray:
        acc = self._dot(x.centered().astype(np.float64), weight.centered().astype(np.float64)).astype(np.int64)
        if bias is not None:
            acc = acc + per_channel(bias.array, acc.ndim)
        return requantize_accumulator(acc.astype(np.int32), x, weight, residual, out, self.activation, 1)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample(
                (tensor("f32", 2, 3, 7, 8), tensor("f32", 5, 3, 3, 3), tensor("f32", 5)),
                _attrs(2, padding=((1, 1), (1, 1))),
            ),
            Sample(
                (tensor("f32", 1, 8, 9, 9), tensor("f32", 16, 8, 3, 3)), _attrs(2, stride=(2, 2), activation="relu")
            ),
            Sample(
                (tensor("f32", 1, 6, 8, 5), tensor("f32", 6, 1, 3, 3), tensor("f32", 6)),
                _attrs(2, groups=6, padding=((1, 1), (1, 1)), activation="relu6"),
            ),
            Sample(
                (tensor("f32", 2, 4, 11), tensor("f32", 4, 2, 3), tensor("f32", 4)),
                _attrs(1, groups=2, dilation=(2,), padding=((2, 1),)),
            ),
            Sample((tensor("f32", 1, 2, 4, 5, 6), tensor("f32", 3, 2, 2, 3, 3), tensor("f32", 3)), _attrs(3)),
            Sample(
                (
                    tensor("f32", 1, 33, 5, 5),
                    tensor("f32", 33, 33, 1, 1),
                    tensor("f32", 33),
                    tensor("f32", 1, 33, 5, 5),
                ),
                _attrs(2, activation="relu"),
            ),
            Sample(
                (tensor("f32", 1, 1, 12, 12), tensor("f32", 16, 1, 7, 7), tensor("f32", 16)),
                _attrs(2, stride=(2, 2), padding=((3, 3), (3, 3))),
            ),
        ]


def _transposed_size(
    size: DimLike, kernel: int, stride: int, padding: tuple[int, int], dilation: int, extra: int
) -> DimLike:
    if stride < 1 or dilation < 1 or min(padding) < 0:
        raise ShapeError(
            "stride and dilation of conv_transpose are positive, padding is not negative",
            got=f"{stride}, {dilation}, {padding}",
        )
    if not 0 <= extra < max(stride, dilation):
        raise ShapeError("output_padding of conv_transpose", expected=f"0 to {max(stride, dilation) - 1}", got=extra)
    result = (size - 1) * stride - padding[0] - padding[1] + dilation * (kernel - 1) + extra + 1
    if not isinstance(result, Dim) and result < 1:
        raise ShapeError("conv_transpose without output", expected="a size of at least 1", got=result)
    return result


def stuffed_input(x: np.ndarray, stride: Sequence[int], fill: float | int = 0) -> np.ndarray:
    """x with stride-1 zeros between neighbours along every spatial axis."""
    shape = [*x.shape[:2], *((size - 1) * s + 1 for size, s in zip(x.shape[2:], stride))]
    stuffed = np.full(shape, fill, x.dtype)
    stuffed[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = x
    return stuffed


def mirrored_weight(weight: np.ndarray) -> np.ndarray:
    """Weight [C/g, O, *K] of a conv_transpose as [O, C/g, *K] of the convolution over the stuffed input."""
    return np.ascontiguousarray(np.flip(weight, axis=tuple(range(2, weight.ndim))).swapaxes(0, 1))


def outputs_side_by_side(weight: np.ndarray, groups: int) -> np.ndarray:
    """torch's and ONNX's weight [C, O/g, *K] of a transposed convolution as the IR's [C/g, O, *K]."""
    inputs, outputs, *kernel = weight.shape
    grouped = weight.reshape(groups, inputs // groups, outputs, *kernel).swapaxes(0, 1)
    return np.ascontiguousarray(grouped).reshape(inputs // groups, groups * outputs, *kernel)


def transposed_padding(
    kernel: Sequence[int], padding: Pairs, dilation: Sequence[int], output_padding: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """The padding of the convolution over the stuffed input. A negative one crops."""
    return tuple(
        (d * (k - 1) - p[0], d * (k - 1) - p[1] + extra)
        for k, p, d, extra in zip(kernel, padding, dilation, output_padding)
    )


class ConvTranspose(Weighted):
    """Transposed convolution. x: [N, C, *S], weight: [C/groups, O, *K], bias: [O]. torch and ONNX have the weight as
    [C, O/groups, *K], where an output channel is no index of one axis; here axis 1 is the output channel.
    torch.nn.functional.conv_transpose1d/2d/3d; ONNX ConvTranspose."""

    name = "conv_transpose"
    quant = weighted(axis=1)
    x = operand()
    weight = weight_operand()
    bias = bias_operand()
    stride = ints_attr(doc="one a spatial axis")
    padding = pairs_attr(doc="(before, after) a spatial axis")
    dilation = ints_attr(doc="one a spatial axis")
    groups = int_attr(default=1)
    output_padding = ints_attr()
    activation = fused_activation()
    layout = LayoutRule.CHANNELS_LAST

    @property
    def weight_groups(self) -> int:
        return self.groups

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has filters of its own, and there are several."""
        return self.groups > 1 and self.weight.type.shape[0] == 1

    def grouped(self, weight: np.ndarray) -> np.ndarray:
        inputs, outputs = weight.shape[:2]
        return weight.reshape(inputs, self.groups, outputs // self.groups, -1).transpose(1, 2, 0, 3)

    def ungrouped(self, grouped: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return grouped.transpose(2, 0, 1, 3).reshape(shape)

    @property
    def row_form(self) -> str:
        return f"pixels, groups {self.groups}"

    def row_counts(self, x_shape: tuple[int, ...]) -> tuple[int, ...]:
        return x_shape[0], *x_shape[2:]

    def rows(self, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Pixels of x: each is multiplied with all taps, whose products go to different positions of the result."""
        pixels = np.moveaxis(x, 1, -1).reshape(-1, self.groups, x.shape[1] // self.groups)
        return pixels[positions][..., None]

    def row_weight(self, weight: np.ndarray) -> np.ndarray:
        grouped = self.grouped(weight)
        groups, outputs, inputs, taps = grouped.shape
        return np.moveaxis(grouped, 3, 2).reshape(groups, outputs * taps, inputs, 1)

    def products(self) -> tuple[DimLike, ...]:
        batch, _, *spatial = self.x.type.shape
        return (batch, *spatial, *self.weight.type.shape)

    def terms(self) -> tuple[DimLike, ...]:
        return (self.weight.type.shape[0], *self.weight.type.shape[2:])

    def infer(self, x: TensorType, weight: TensorType, bias: TensorType | None) -> TensorType:
        stride, padding, dilation, groups = self.stride, self.padding, self.dilation, self.groups
        _check_conv("conv_transpose", x, weight, weight.shape[0] * groups if weight.rank else -1, groups)
        check_geometry(
            "conv_transpose",
            x.rank - 2,
            stride=stride,
            padding=padding,
            dilation=dilation,
            output_padding=self.output_padding,
        )
        channels = weight.shape[1]
        if channels % groups:
            raise ShapeError(
                "output channels of conv_transpose", expected=f"a multiple of groups={groups}", got=channels
            )
        if bias is not None and bias.shape != (channels,):
            raise ShapeError("bias of conv_transpose", expected=f"[{channels}]", got=str(bias))
        spatial = [
            _transposed_size(*axis)
            for axis in zip(
                x.shape[2:], _kernel("conv_transpose", weight), stride, padding, dilation, self.output_padding
            )
        ]
        return TensorType(DType.F32, (x.shape[0], channels, *spatial))

    def _dot(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The convolution of the stuffed input, cropped where its padding is negative, with the mirrored weight."""
        pads = transposed_padding(weight.shape[2:], self.padding, self.dilation, self.output_padding)
        stuffed = stuffed_input(x, self.stride)
        crop = tuple(slice(max(0, -b), stuffed.shape[i + 2] - max(0, -a)) for i, (b, a) in enumerate(pads))
        return _dot(
            stuffed[(slice(None), slice(None), *crop)],
            mirrored_weight(weight),
            (1,) * len(self.stride),
            tuple((max(0, before), max(0, after)) for before, after in pads),
            self.dilation,
            self.groups,
        )

    def reference(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        y = self._dot(x, weight)
        if bias is not None:
            y = y + per_channel(bias, y.ndim)
        return apply_activation(y, self.activation)

    def integer(self, x: TypedArray, weight: TypedArray, bias: TypedArray | None, *, out: TensorType) -> np.ndarray:
        acc = self._dot(x.centered().astype(np.float64), weight.centered().astype(np.float64)).astype(np.int64)
        if bias is not None:
            acc = acc + per_channel(bias.array, acc.ndim)
        over = out.params.scales if out.is_quantized else 1.0
        multiplier = per_channel(qmath.multiplier(x.scales, weight.scales, over=over), acc.ndim)
        real = acc.astype(np.int32).astype(np.float32) * multiplier
        return (
            qmath.requantize(real, out, self.activation)
            if out.is_quantized
            else apply_activation(real, self.activation)
        )

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample(
                (tensor("f32", 1, 3, 4, 5), tensor("f32", 3, 4, 3, 3), tensor("f32", 4)),
                _attrs(2, stride=(2, 2), padding=((1, 1), (1, 1)), output_padding=(1, 1)),
            ),
            Sample((tensor("f32", 2, 4, 6), tensor("f32", 2, 4, 4)), _attrs(1, groups=2, output_padding=(0,))),
            Sample(
                (tensor("f32", 1, 2, 3, 3), tensor("f32", 2, 3, 2, 2), tensor("f32", 3)),
                _attrs(2, stride=(2, 2), output_padding=(0, 0), activation="relu"),
            ),
            Sample(
                (tensor("f32", 1, 2, 3, 3), tensor("f32", 2, 2, 3, 3)),
                _attrs(2, dilation=(2, 1), output_padding=(0, 0)),
            ),
            Sample(
                (tensor("f32", 1, 2, 2, 3, 3), tensor("f32", 2, 3, 2, 2, 2)),
                _attrs(3, stride=(2, 2, 2), output_padding=(0, 0, 0)),
            ),
        ]
