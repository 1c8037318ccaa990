"""QuantizeLinear, DequantizeLinear and the operator-oriented forms (QLinear*).

The latter are recorded as dequantize, float op, quantize. The bias of QLinearConv and QGemm is i32 with
scale(x) * scale(weight), as in the IR. What codes are is in `codes.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, unary
from qcompiler.frontend.onnx_ops.codes import (
    CODE_TYPES,
    UINT8,
    Codes,
    CodeType,
    as_reals,
    code_type,
    element_of,
    real,
    reinterpreted,
)
from qcompiler.frontend.onnx_ops.layers import conv_geometry
from qcompiler.frontend.onnx_ops.node import OnnxNode, onnx
from qcompiler.ir import Const
from qcompiler.quantization import qmath
from qcompiler.types import DType, QuantParams


class Quantization(NamedTuple):
    """What a scale and a zero point of a node say: the IR's parameters, and the type of the codes."""

    params: QuantParams
    element: CodeType


def _quantization(
    n: OnnxNode, scale: int, zero_point: int, axis: int, rank: int, element: CodeType | None
) -> Quantization:
    """The quantization of two operands, of a tensor of this rank. `element`: of the codes; None: the zero point's type,
    or uint8 without one.

    Raises:
        TraceError: blocked scales, an axis outside of the rank, a zero point of another type or size than the codes
            and the scale have, codes of a type that is not supported.
    """
    scales = np.asarray(n.known(scale), np.float32)
    points = n.known(zero_point) if n.has(zero_point) else None
    if points is not None:
        given = code_type(points.dtype.name)
        if given is None or (element is not None and given != element):
            expected = " | ".join(found.name for found in CODE_TYPES) if element is None else element.name
            raise n.refuse("the type of the zero point", expected=expected, got=str(points.dtype))
        element = given
        if points.size != scales.size:
            raise n.refuse("a zero point for each scale", expected=scales.size, got=points.size)
    element = element or UINT8
    zeros = np.zeros(scales.size, np.int64) if points is None else points.ravel().astype(np.int64)
    if scales.ndim > 1 and scales.size != 1:
        raise n.refuse(
            "scales are one number, or one a channel",
            got=f"{scales.shape}",
            hint="blocked quantization is not supported",
        )
    if scales.size == 1:
        return Quantization(element.params(scales.ravel(), zeros, None), element)
    if not -rank <= axis < rank:
        raise n.refuse("the axis of the scales is outside of the tensor", expected=f"{-rank} to {rank - 1}", got=axis)
    return Quantization(element.params(scales, zeros, axis % rank), element)


def _rank(value: Any) -> int:
    return value.ndim if isinstance(value, np.ndarray) else len(value.value.type.shape)


def dequantized(n: OnnxNode, index: int, scale: int, zero_point: int, axis: int = 1) -> Any:
    """The dequantized operand `index`, which may be a constant, an input, codes, or plain integers."""
    value = n.raw(index)
    if value is None:
        raise n.refuse(f"operand {index} is missing")
    element = element_of(value)
    if element is None:
        got = value.dtype if isinstance(value, np.ndarray) else value.value.type.dtype
        raise n.refuse("the type of the codes", expected=" | ".join(found.name for found in CODE_TYPES), got=str(got))
    params, element = _quantization(n, scale, zero_point, axis, _rank(value), element)
    if element.dtype is DType.I32 and any(params.zero_point):
        raise n.refuse("the zero point of int32 codes is 0", got=params.zero_point[0])
    n.trace.graph.stage = "qdq"
    if not isinstance(value, np.ndarray) and isinstance(value.value, Const) and not value.value.type.is_quantized:
        value = value.value.data
    if isinstance(value, np.ndarray):
        return real(n.constant_codes(value, element, params))
    type = value.value.type
    if isinstance(value, Codes) or type.is_quantized:
        same = (type.dtype, type.quant) == (element.dtype, params)
        return real(value) if same else reinterpreted(Codes(value, element), params)
    if value.value in n.trace.graph.inputs and not value.value.uses and type.dtype.bits <= 16:
        n.trace.graph.set_type(value.value, type.quantized(element.dtype, params))
        return real(value)
    return as_reals(value, element, params)


@onnx("QuantizeLinear", "com.microsoft.QuantizeLinear")
def _quantize(n: OnnxNode) -> Any:
    n.only("block_size", 0)
    n.only("precision", 0, 1)
    number, element = n.attr("output_dtype", 0), None
    if number:
        element = next((found for found in CODE_TYPES if found.number == number), None)
    if number and (element is None or element.dtype is DType.I32):
        raise n.refuse("the type of the codes is not supported", expected="8 or 16 bits, int4, uint4", got=number)
    x = n.x(0)
    if x.value.type.dtype is not DType.F32:
        raise n.refuse("codes of real numbers alone", expected="f32", got=str(x.value.type), hint="insert Cast")
    params, element = _quantization(n, 1, 2, n.attr("axis", 1), _rank(x), element)
    if element.dtype is DType.I32:
        raise n.refuse("the type of the codes is not supported", expected="8 or 16 bits, int4, uint4", got="int32")
    if isinstance(n.raw(0), np.ndarray):
        return element.filed(qmath.quantize(n.raw(0), params, element.dtype))
    return n.quantize(x, params, element)


@onnx("DequantizeLinear", "com.microsoft.DequantizeLinear")
def _dequantize(n: OnnxNode) -> Any:
    n.only("block_size", 0)
    n.only("output_dtype", 0, 1)
    return dequantized(n, 0, 1, 2, n.attr("axis", 1))


def _bias(n: OnnxNode, index: int, x_scale: int, w_scale: int, channels: int) -> Any:
    if not n.has(index):
        return None
    data = n.known(index)
    if data.size not in (1, channels) or data.shape not in ((), (1,), (1, 1), (channels,), (1, channels)):
        raise n.refuse("the shape of the bias", expected=f"[{channels}], or one number", got=f"{list(data.shape)}")
    scales = np.float32(n.known(x_scale).ravel()[0]) * np.asarray(n.known(w_scale), np.float32).ravel()
    quant = QuantParams.per_channel(np.broadcast_to(scales, (channels,)).tolist(), 0, 0, DType.I32)
    codes = np.broadcast_to(data.astype(np.int32).ravel(), (channels,))
    return n.trace.emit("dequantize", (n.quantized_constant(np.array(codes), quant, DType.I32),))


def _quantized(n: OnnxNode, value: Any, scale: int, zero_point: int) -> Any:
    if np.size(n.known(scale)) != 1:
        raise n.refuse("the result has one scale", got=f"{np.size(n.known(scale))} scales")
    return n.quantize(value, *_quantization(n, scale, zero_point, 0, 1, None))


def _linear_weight(n: OnnxNode, index: int, scale: int, zero_point: int, outputs_first: bool) -> Any:
    """A constant matrix of codes as the weight [out, in] of a linear layer; its scales are one for each output."""
    data = n.known(index)
    element = element_of(data)
    params, element = _quantization(n, scale, zero_point, 0 if outputs_first else 1, 2, element)
    params = params if params.axis is None else params.moved(0)
    n.trace.graph.stage = "qdq"
    return real(n.constant_codes(data if outputs_first else data.T, element, params))


@onnx("QLinearConv")
def _conv(n: OnnxNode) -> Any:
    x, weight = dequantized(n, 0, 1, 2), dequantized(n, 3, 4, 5, axis=0)
    shape = weight.value.type.shape
    value = n.emit("conv", (x, weight, _bias(n, 8, 1, 4, shape[0])), **conv_geometry(n, x, shape))
    return _quantized(n, value, 6, 7)


@onnx("QLinearMatMul")
def _matmul(n: OnnxNode) -> Any:
    a, b = dequantized(n, 0, 1, 2, axis=-2), n.raw(3)
    if isinstance(b, np.ndarray) and b.ndim == 2:  # a layer: the weight transposed, channels along axis 0
        value = n.emit("linear", (a, _linear_weight(n, 3, 4, 5, outputs_first=False)))
    else:
        value = ops.matmul(a, dequantized(n, 3, 4, 5, axis=-1))
    return _quantized(n, value, 6, 7)


@onnx("com.microsoft.QGemm")
def _gemm(n: OnnxNode) -> Any:
    n.only("alpha", 1.0)
    n.only("transA", 0)
    weight = _linear_weight(n, 3, 4, 5, bool(n.attr("transB", 0)))
    bias = _bias(n, 6, 1, 4, weight.value.type.shape[0])
    value = n.emit("linear", (dequantized(n, 0, 1, 2), weight, bias))
    return _quantized(n, value, 7, 8) if n.has(7) else value


@onnx("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul")
def _binary(n: OnnxNode) -> Any:
    value = binary("add" if n.op.endswith("Add") else "mul", dequantized(n, 0, 1, 2), dequantized(n, 3, 4, 5))
    return _quantized(n, value, 6, 7)


@onnx("com.microsoft.QLinearSigmoid", "com.microsoft.QLinearLeakyRelu")
def _unary(n: OnnxNode) -> Any:
    x = dequantized(n, 0, 1, 2)
    value = (
        unary("sigmoid", x)
        if n.op.endswith("Sigmoid")
        else unary("leaky_relu", x, negative_slope=float(n.attr("alpha", 0.01)))
    )
    return _quantized(n, value, 3, 4)


@onnx("com.microsoft.QLinearGlobalAveragePool")
def _global_pool(n: OnnxNode) -> Any:
    n.only("channels_last", 0)
    x = dequantized(n, 0, 1, 2)
    return _quantized(n, n.emit("adaptive_avg_pool", (x,), output_size=(1,) * (_rank(x) - 2)), 3, 4)


@onnx("com.microsoft.QLinearSoftmax")
def _softmax(n: OnnxNode) -> Any:
    return _quantized(n, ops.softmax(dequantized(n, 0, 1, 2), n.attr("axis", -1)), 3, 4)


@onnx("com.microsoft.QLinearConcat")
def _concat(n: OnnxNode) -> Any:
    parts = [dequantized(n, i, i + 1, i + 2) for i in range(2, len(n.values), 3)]
    return _quantized(n, ops.concat(parts, n.attr("axis")), 0, 1)
