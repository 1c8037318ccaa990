"""Lowers quantize, dequantize, requantize and lookup."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.kernels import convert as kernels
from qcompiler.backends.kernels.code_range import CodeRange
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView, storage_bytes
from qcompiler.backends.lowering.why_not import operand_types, why_not_codes
from qcompiler.backends.target import Target
from qcompiler.ir import Node, Value
from qcompiler.ops.quantized import Dequantize, Lookup, Quantize, Requantize
from qcompiler.quantization import qmath
from qcompiler.quantization.tables import interpolation_bits, interpolation_shift
from qcompiler.types import DType, TensorType


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


def _lie_alike(x: TensorView, y: TensorView) -> bool:
    """Whether the elements of two tensors lie in the same order and with the same gaps, counted in elements."""
    sizes = x.dtype.itemsize, y.dtype.itemsize
    return all(mine * sizes[1] == its * sizes[0] for mine, its in zip(x.strides, y.strides, strict=True))


def run_length(s: NodeLowering) -> int:
    """The number of elements in the result's storage, including gaps."""
    return storage_bytes(s.result().shape, 1, s.out.layout)


def _why_not_converted(node: Node, target: Target) -> str | None:
    """Why a node's first operand or result is neither f32 nor codes of u8 or i16, or None."""
    for type in (*operand_types(node)[:1], node.result.type):
        if type.quant is None and type.dtype is not DType.F32:
            return f"{type} is not f32"
        if type.quant is not None and (reason := why_not_codes(type)) is not None:
            return reason
    return None


@lowers("quantize", unless=_why_not_converted)
def quantize(s: NodeLowering) -> None:
    layout, scale, codes = s.out.layout, s.out.params.scale[0], code_range(s.out)
    value = Quantize(s.node).x
    x, y = s.view(value), s.result()
    nbytes = (4 + y.dtype.itemsize) * y.elements
    if layout is not None and x.is_row_major and layout.channel_stride % 4 == 0 and s.out.dtype is DType.U8:
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
    kernel = kernels.quantize_flat(to=str(s.out.dtype))
    if _lie_alike(x, y):
        s.call(kernel, kernels.Quantize(x=x, y=y, count=run_length(s), scale=scale, codes=codes), bytes=nbytes)
        return
    flat = s.new(s.out, f"{s.node.name}.row_major")
    row = s.row_major(value)
    s.call(kernel, kernels.Quantize(x=row, y=flat, count=y.elements, scale=scale, codes=codes), bytes=nbytes)
    s.copy(flat, y)


@lowers("dequantize", unless=_why_not_converted)
def dequantize(s: NodeLowering) -> None:
    value = Dequantize(s.node).x
    x, y, kernel = s.view(value), s.result(), kernels.dequantize_flat(source=str(value.type.dtype))
    scale, zero = value.type.params.scale[0], zero_point(value.type)
    if not _lie_alike(x, y):
        if s.out.layout is not None:
            flat = s.new(s.out, f"{s.node.name}.row_major")
            row = s.row_major(value)
            s.call(kernel, kernels.Dequantize(x=row, y=flat, count=y.elements, scale=scale, zero=zero))
            s.copy(flat, y)
            return
        x = s.row_major(value)
    s.call(
        kernel,
        kernels.Dequantize(x=x, y=y, count=run_length(s), scale=scale, zero=zero),
        bytes=(4 + x.dtype.itemsize) * y.elements,
    )


@lowers("requantize", unless=_why_not_converted)
def requantize(s: NodeLowering) -> None:
    value = Requantize(s.node).x
    requantize_run(s, in_result_layout(s, value), value.type)


def requantize_run(s: NodeLowering, x: TensorView, source: TensorType) -> None:
    """Append the requantization of codes that lie as the result does. source: their type."""
    y = s.result()
    s.call(
        kernels.requantize_flat(source=str(source.dtype), to=str(s.out.dtype)),
        kernels.Requantize(
            x=x,
            y=y,
            count=run_length(s),
            scale=float(qmath.multiplier(source.params.scales, over=s.out.params.scales)[0]),
            in_zero=zero_point(source),
            codes=code_range(s.out),
        ),
        bytes=x.elements * (x.dtype.itemsize + y.dtype.itemsize),
    )


def why_no_table(source: TensorType) -> str | None:
    """Why kernels look up no codes of this type, or None."""
    return None if source.dtype is DType.U8 else f"a table of 256 entries is looked up by u8, not by {source}"


@lowers("lookup", unless=_why_not_converted)
def lookup(s: NodeLowering) -> None:
    op = Lookup(s.node)
    table = s.constant(op.table)
    if op.x.type.dtype is DType.U8:
        look_up(s, op.x, table)
        return
    shift, quant = interpolation_shift(len(table)), s.out.params
    x, y = in_result_layout(s, op.x), s.result()
    s.call(
        kernels.interpolate_flat(shift=shift, bits=interpolation_bits(shift), to=str(s.out.dtype)),
        kernels.Interpolate(x=x, knots=s.stored(table), y=y, count=run_length(s), low=quant.qmin, high=quant.qmax),
        bytes=x.elements * (2 + y.dtype.itemsize),
    )


def look_up(s: NodeLowering, value: Value, table: np.ndarray) -> None:
    """Append table[x] for codes of u8. table: [256], of the result's dtype."""
    x, y = in_result_layout(s, value), s.result()
    is_wide = table.dtype.itemsize == 2
    planes = table.astype("<i2").view(np.uint8).reshape(-1, 2).T if is_wide else table
    s.call(
        kernels.lookup_words_flat() if is_wide else kernels.lookup_flat(),
        kernels.Lookup(x=x, table=s.stored(planes), y=y, count=run_length(s)),
        bytes=x.elements * (1 + y.dtype.itemsize),
    )
