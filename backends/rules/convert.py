"""quantize, dequantize, requantize and lookup."""

from __future__ import annotations

import math

from qcompiler.backends.kernels import convert as kernels
from qcompiler.backends.kernels.code_range import CodeRange
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView, storage_bytes
from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.quantization import qmath
from qcompiler.types import DType, TensorType


def bounds(type: TensorType, activation: str = "none") -> dict[str, float]:
    """`low` and `high`: codes less the zero point, as kernels clamp them in float."""
    low, high = qmath.activation_range(activation, type.quant)
    zero = type.quant.zero_point[0]
    return {"low": float(low - zero), "high": float(high - zero)}


def code_range(type: TensorType, activation: str = "none") -> CodeRange[int, float]:
    """The codes of a quantized result after its fused activation."""
    assert type.quant is not None
    low, high = qmath.activation_range(activation, type.quant)
    zero = type.quant.zero_point[0]
    return CodeRange(zero=zero, low=float(low - zero), high=float(high - zero))


def zero_point(type: TensorType) -> int:
    """The zero point of a type that is quantized per tensor."""
    assert type.quant is not None
    return type.quant.zero_point[0]


def in_result_layout(s: NodeLowering, index: int) -> TensorView:
    """An operand in the layout of the result, so that both can be gone through as one run."""
    layout = s.out.layout
    if layout is None or layout.order == "row_major":
        return s.row_major(index)
    return s.channels_last(index, layout.channel_stride)


def run_length(s: NodeLowering) -> int:
    """Elements of the result's storage, gaps included."""
    return storage_bytes(s.result().shape, 1, s.out.layout)


def _per_tensor_u8(node: Node, target: Target) -> str | None:
    for value in (node.operands[0], node.result):
        if value.type.is_quantized and (value.type.dtype is not DType.U8 or value.type.quant.axis is not None):
            return f"{value.type} is not u8 with per-tensor parameters"
        if not value.type.is_quantized and value.type.dtype is not DType.F32:
            return f"{value.type} is not f32"
    return None


@lowers("quantize", unless=_per_tensor_u8)
def quantize(s: NodeLowering) -> None:
    layout, common = s.out.layout, {"zero": zero_point(s.out), "scale": s.out.quant.scale[0], **bounds(s.out)}
    y = s.result()
    if layout is not None and s.operand(0).is_row_major and layout.channel_stride % 4 == 0:
        images, channels, *spatial = y.shape
        s.call(
            kernels.quantize_channels_last,
            {"packed": layout.channel_stride == 4},
            x=s.operand(0),
            y=y,
            images=images,
            channels=channels,
            pixels=math.prod(spatial),
            stride=layout.channel_stride,
            writes=("y",),
            bytes=5 * y.elements,
            **common,
        )
        return
    x = s.operand(0)
    if x.strides == tuple(4 * stride for stride in y.strides):
        s.call(kernels.quantize_flat, x=x, y=y, count=run_length(s), writes=("y",), bytes=5 * y.elements, **common)
        return
    flat = s.lowering.new(s.out, f"{s.node.name}.row_major", None)
    s.call(
        kernels.quantize_flat, x=s.row_major(0), y=flat, count=y.elements, writes=("y",), bytes=5 * y.elements, **common
    )
    s.copy(flat, y)


@lowers("dequantize", unless=_per_tensor_u8)
def dequantize(s: NodeLowering) -> None:
    quant, y = s.type(0).quant, s.result()
    x = s.operand(0)
    if y.strides != tuple(4 * stride for stride in x.strides):
        if s.out.layout is not None:
            flat = s.lowering.new(s.out, f"{s.node.name}.row_major", None)
            s.call(
                kernels.dequantize_flat,
                x=s.row_major(0),
                y=flat,
                count=y.elements,
                zero=quant.zero_point[0],
                scale=quant.scale[0],
                writes=("y",),
            )
            s.copy(flat, y)
            return
        x = s.row_major(0)
    s.call(
        kernels.dequantize_flat,
        x=x,
        y=y,
        count=run_length(s),
        zero=quant.zero_point[0],
        scale=quant.scale[0],
        writes=("y",),
        bytes=5 * y.elements,
    )


@lowers("requantize", unless=_per_tensor_u8)
def requantize(s: NodeLowering) -> None:
    requantize_run(s, in_result_layout(s, 0))


def requantize_run(s: NodeLowering, x: TensorView) -> None:
    """The result from codes with the first operand's parameters that lie as the result does."""
    source = s.type(0).quant
    s.call(
        kernels.requantize_flat,
        x=x,
        y=s.result(),
        count=run_length(s),
        in_zero=source.zero_point[0],
        zero=zero_point(s.out),
        scale=float(qmath.multiplier(source.scales, over=s.out.quant.scales)[0]),
        writes=("y",),
        bytes=2 * x.elements,
        **bounds(s.out),
    )


@lowers("lookup", unless=_per_tensor_u8)
def lookup(s: NodeLowering) -> None:
    x = in_result_layout(s, 0)
    s.call(
        kernels.lookup_flat,
        x=x,
        table=s.table(s.constant(1)),
        y=s.result(),
        count=run_length(s),
        writes=("y",),
        bytes=2 * x.elements,
    )
