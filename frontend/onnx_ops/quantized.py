"""QuantizeLinear, DequantizeLinear and the operator-oriented forms (QLinear*).

The latter are recorded as dequantize, float op, quantize. The bias of QLinearConv and QGemm is i32 with
scale(x) * scale(weight), as in the IR.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, unary
from qcompiler.frontend.onnx_ops.layers import conv_geometry
from qcompiler.frontend.onnx_ops.node import OnnxNode, onnx
from qcompiler.types import DType, QuantParams


def params(n: OnnxNode, scale: int, zero_point: int, axis: int, rank: int) -> tuple[QuantParams, DType]:
    """Quantization parameters from two operands. The element type is the zero point's, or u8 without one."""
    scales = np.asarray(n.known(scale), np.float32)
    points = n.known(zero_point, None) if n.has(zero_point) else None
    dtype = DType.U8 if points is None else DType.from_numpy(points.dtype)
    if scales.size == 1:
        return QuantParams.per_tensor(
            float(scales.ravel()[0]), 0 if points is None else int(points.ravel()[0]), dtype
        ), dtype
    if scales.ndim != 1:
        raise n.refuse(
            "scales are one number, or one a channel",
            got=f"{scales.shape}",
            hint="blocked quantization is not supported",
        )
    zeros = [0] * scales.size if points is None else [int(z) for z in points.ravel()]
    return QuantParams.per_channel(scales.tolist(), zeros, axis % rank, dtype), dtype


def _rank(value: Any) -> int:
    return value.ndim if isinstance(value, np.ndarray) else len(value.value.type.shape)


def dequantized(n: OnnxNode, index: int, scale: int, zero_point: int, axis: int = 1) -> Any:
    """The dequantized operand `index`, which may be a constant, an input or a quantized value."""
    value = n.raw(index)
    if value is None:
        raise n.refuse(f"operand {index} is missing")
    quant, dtype = params(n, scale, zero_point, axis, max(_rank(value), 1))
    n.trace.graph.stage = "qdq"
    if isinstance(value, np.ndarray):
        if not n.has(zero_point):
            dtype = DType.from_numpy(value.dtype)
            quant = QuantParams(quant.scale, quant.zero_point, quant.axis, dtype.min, dtype.max)
        traced = n.quantized_constant(value, quant, dtype)
    else:
        traced = value
        type = traced.value.type
        if (
            not type.is_quantized
            and traced.value in n.trace.graph.inputs
            and not traced.value.uses
            and type.dtype is dtype
        ):
            n.trace.graph.set_type(traced.value, type.quantized(dtype, quant))
        elif type.quant != quant or type.dtype is not dtype:
            raise n.refuse("the codes were made with other parameters", expected=str(type), got=f"{dtype}, {quant}")
    return n.trace.emit("dequantize", (traced,))


@onnx("QuantizeLinear")
def _quantize(n: OnnxNode) -> Any:
    x = n.x(0)
    quant, dtype = params(n, 1, 2, n.attr("axis", 1), max(_rank(x), 1))
    return n.quantize(x, quant, dtype)


@onnx("DequantizeLinear")
def _dequantize(n: OnnxNode) -> Any:
    n.only("block_size", 0)
    return dequantized(n, 0, 1, 2, n.attr("axis", 1))


def _bias(n: OnnxNode, index: int, x_scale: int, w_scale: int) -> Any:
    if not n.has(index):
        return None
    data = n.known(index)
    scales = np.float32(n.known(x_scale).ravel()[0]) * np.asarray(n.known(w_scale), np.float32).ravel()
    quant = QuantParams.per_channel(np.broadcast_to(scales, data.shape).tolist(), 0, 0, DType.I32)
    return n.trace.emit("dequantize", (n.quantized_constant(data.astype(np.int32), quant, DType.I32),))


def _quantized(n: OnnxNode, real: Any, scale: int, zero_point: int) -> Any:
    return n.quantize(real, *params(n, scale, zero_point, 0, 1))


@onnx("QLinearConv")
def _conv(n: OnnxNode) -> Any:
    x, weight = dequantized(n, 0, 1, 2), dequantized(n, 3, 4, 5, axis=0)
    real = n.emit("conv", (x, weight, _bias(n, 8, 1, 4)), **conv_geometry(n, x, weight.value.type.shape))
    return _quantized(n, real, 6, 7)


@onnx("QLinearMatMul")
def _matmul(n: OnnxNode) -> Any:
    b = n.raw(3)
    if isinstance(b, np.ndarray) and b.ndim == 2:  # a layer: the weight transposed, channels along axis 0
        quant, dtype = params(n, 4, 5, 1, 2)
        quant = quant if quant.axis is None else quant.moved(0)
        weight = n.trace.emit("dequantize", (n.quantized_constant(np.ascontiguousarray(b.T), quant, dtype),))
        real = n.emit("linear", (dequantized(n, 0, 1, 2), weight))
    else:
        real = ops.matmul(dequantized(n, 0, 1, 2), dequantized(n, 3, 4, 5))
    return _quantized(n, real, 6, 7)


@onnx("com.microsoft.QGemm")
def _gemm(n: OnnxNode) -> Any:
    n.only("alpha", 1.0)
    n.only("transA", 0)
    b = n.known(3)
    quant, dtype = params(n, 4, 5, 0 if n.attr("transB", 0) else 1, 2)
    quant = quant if quant.axis is None else quant.moved(0)
    codes = np.ascontiguousarray(b if n.attr("transB", 0) else b.T)
    weight = n.trace.emit("dequantize", (n.quantized_constant(codes, quant, dtype),))
    real = n.emit("linear", (dequantized(n, 0, 1, 2), weight, _bias(n, 6, 1, 4)))
    return _quantized(n, real, 7, 8) if n.has(7) else real


@onnx("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul")
def _binary(n: OnnxNode) -> Any:
    real = binary("add" if n.op.endswith("Add") else "mul", dequantized(n, 0, 1, 2), dequantized(n, 3, 4, 5))
    return _quantized(n, real, 6, 7)


@onnx("com.microsoft.QLinearSigmoid", "com.microsoft.QLinearLeakyRelu")
def _unary(n: OnnxNode) -> Any:
    x = dequantized(n, 0, 1, 2)
    real = (
        unary("sigmoid", x)
        if n.op.endswith("Sigmoid")
        else unary("leaky_relu", x, negative_slope=float(n.attr("alpha", 0.01)))
    )
    return _quantized(n, real, 3, 4)


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
