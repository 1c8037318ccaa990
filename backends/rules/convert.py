"""Lowers quantize, dequantize, requantize and lookup."""

from __future__ import annotations

import math

from qcompiler.backends.kernels import convert as kernels
from qcompiler.backends.kernels.code_range import CodeRange
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView, storage_bytes
from qcompiler.backends.lowering.why_not import operand_types
from qcompiler.backends.target import Target
from qcompiler.ir import Node, Value
from qcompiler.ops.quantized import Dequantize, Lookup, Quantize, Requantize
from qcompiler.quantization import qmath
from qcompiler.types import DType, QuantParams, TensorType


def code_range(type: TensorType, activation: str = "none") -> CodeRange[int, float]:
    """The codes of a quantized result after its fused activation."""
    low, high = qmath.activation_range(activation, type.params)
    zero = type.params.zero_point[0]
    return CodeRange(zero=zero, low=float(low - zero), high=float(high - zero))


def zero_point(type: TensorType) -> int:
    """The zero point of a type that is quantized per tensor."""
    return type.params.zero_point[0]


def in_result_layout(s: NodeLowering, value: Value) -> TensorView:
    """An operand in the layout of the result, so that a kernel can take the storage of both as one row."""
    layout = s.out.layout
    if layout is None or layout.order == "row_major":
        return s.row_major(value)
    return s.channels_last(value, layout.channel_stride)


def run_length(s: NodeLowering) -> int:
    """The number of elements in the result's storage, including gaps."""
    return storage_bytes(s.result().shape, 1, s.out.layout)


def _why_not_per_tensor_u8(node: Node, target: Target) -> str | None:
    """Why a node's first operand or result is neither f32 nor u8 with per-tensor parameters, or None."""
    for type in (*operand_types(node)[:1], node.result.type):
        if type.quant is None and type.dtype is not DType.F32:
            return f"{type} is not f32"
        if type.quant is not None and (type.dtype is not DType.U8 or type.quant.axis is not None):
            return f"{type} is not u8 with per-tensor parameters"
    return None


@lowers("quantize", unless=_why_not_per_tensor_u8)
def quantize(s: NodeLowering) -> None:
    layout, scale, codes = s.out.layout, s.out.params.scale[0], code_range(s.out)
    value = Quantize(s.node).x
    x, y = s.view(value), s.result()
    nbytes = 5 * y.elements
    if layout is not None and x.is_row_major and layout.channel_stride % 4 == 0:
        images, channels, *spatial = y.shape
        s.call(
            kernels.quantize_channels_last(packed=layout.channel_stride == 4),
            kernels.QuantizeImages(
                x=x,
                y=y,
                images=images,
                channels=channels,
                pixels=math.prod(spatial),
                channel_stride=layout.channel_stride,
                scale=scale,
                codes=codes,
            ),
            bytes=nbytes,
        )
        return
    kernel = kernels.quantize_flat()
    if x.strides == tuple(4 * stride for stride in y.strides):
        s.call(kernel, kernels.Quantize(x=x, y=y, count=run_length(s), scale=scale, codes=codes), bytes=nbytes)
        return
    flat = s.new(s.out, f"{s.node.name}.row_major")
    row = s.row_major(value)
    s.call(kernel, kernels.Quantize(x=row, y=flat, count=y.elements, scale=scale, codes=codes), bytes=nbytes)
    s.copy(flat, y)


@lowers("dequantize", unless=_why_not_per_tensor_u8)
def dequantize(s: NodeLowering) -> None:
    value = Dequantize(s.node).x
    x, y, kernel = s.view(value), s.result(), kernels.dequantize_flat()
    scale, zero = value.type.params.scale[0], zero_point(value.type)
    if y.strides != tuple(4 * stride for stride in x.strides):
        if s.out.layout is not None:
            flat = s.new(s.out, f"{s.node.name}.row_major")
            row = s.row_major(value)
            s.call(kernel, kernels.Dequantize(x=row, y=flat, count=y.elements, scale=scale, zero=zero))
            s.copy(flat, y)
            return
        x = s.row_major(value)
    s.call(kernel, kernels.Dequantize(x=x, y=y, count=run_length(s), scale=scale, zero=zero), bytes=5 * y.elements)


@lowers("requantize", unless=_why_not_per_tensor_u8)
def requantize(s: NodeLowering) -> None:
    value = Requantize(s.node).x
    requantize_run(s, in_result_layout(s, value), value.type.params)


def requantize_run(s: NodeLowering, x: TensorView, source: QuantParams) -> None:
    """Append the requantization of codes that lie as the result does. source: their parameters."""
    s.call(
        kernels.requantize_flat(),
        kernels.Requantize(
            x=x,
            y=s.result(),
            count=run_length(s),
            scale=float(qmath.multiplier(source.scales, over=s.out.params.scales)[0]),
            in_zero=source.zero_point[0],
            codes=code_range(s.out),
        ),
        bytes=2 * x.elements,
    )


@lowers("lookup", unless=_why_not_per_tensor_u8)
def lookup(s: NodeLowering) -> None:
    op = Lookup(s.node)
    x = in_result_layout(s, op.x)
    s.call(
        kernels.lookup_flat(),
        kernels.Lookup(x=x, table=s.table(s.constant(op.table)), y=s.result(), count=run_length(s)),
        bytes=2 * x.elements,
    )
