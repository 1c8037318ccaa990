"""Convolutions and products as ops on codes, for the form "qoperator".

    conv             QLinearConv, with its i32 bias
    matmul           QLinearMatMul
    linear           QLinearMatMul without a bias; with one, MatMulInteger, the i32 sum, and one multiplication

A relu is the clamp of the codes where their lowest stands for 0. What does not fit (a residual, real results, 16-bit
codes, other activations) is written as in the form "qdq".
"""

from __future__ import annotations

from qcompiler.export.onnx.node import NodeWriter, pads
from qcompiler.ir import Const, Value
from qcompiler.ops.conv import Conv
from qcompiler.ops.linear import Linear, Matmul
from qcompiler.quantization import qmath
from qcompiler.types import DType

_BYTES = (DType.U8, DType.I8)


def write_on_codes(w: NodeWriter) -> str | None:
    """The codes of a node that computes on codes in ONNX too, or None."""
    node, out = w.node, w.node.results[0].type
    if not isinstance(w.op, (Conv, Linear, Matmul)) or not out.is_quantized or out.dtype not in _BYTES:
        return None
    if any(not value.type.is_quantized for value in node.operands if value is not None):
        return None
    if w.value(0).type.dtype not in _BYTES or w.value(1).type.dtype not in _BYTES:
        return None
    if (out.params.qmin, out.params.qmax) != (out.dtype.min, out.dtype.max):
        return None
    if isinstance(w.op, Matmul):
        return w.emit("QLinearMatMul", *_codes(w, w.value(0)), *_codes(w, w.value(1)), *w.model.params(node.result))
    is_relu = w.op.activation == "relu" and out.params.zero_point[0] == out.params.qmin
    if w.has(3) or not (w.op.activation == "none" or is_relu):
        return None
    return _conv(w) if isinstance(w.op, Conv) else _linear(w)


def _codes(w: NodeWriter, value: Value) -> list[str]:
    return [w.model.names[id(value)], *w.model.params(value)]


def _conv(w: NodeWriter) -> str | None:
    op, weight = w.op, w.value(1)
    if not isinstance(weight, Const):
        return None
    return w.emit(
        "QLinearConv",
        *_codes(w, w.value(0)),
        *w.model.unsigned(weight, weight.data),
        *w.model.params(w.node.result),
        w.model.names[id(w.value(2))] if w.has(2) else "",
        strides=op.stride,
        pads=pads(op.padding),
        dilations=op.dilation,
        group=op.groups,
        kernel_shape=w.type(1).sizes[2:],
    )


def _linear(w: NodeWriter) -> str | None:
    weight = w.value(1)
    if not isinstance(weight, Const):
        return None
    turned, scale, zero_point = w.model.unsigned(weight, weight.data.T)
    if not w.has(2):
        given = (*_codes(w, w.value(0)), turned, scale, zero_point)
        return w.emit("QLinearMatMul", *given, *w.model.params(w.node.result))
    x, _, x_zero = _codes(w, w.value(0))
    products = w.emit("MatMulInteger", x, turned, x_zero, zero_point)
    total = w.emit("Cast", w.emit("Add", products, w.model.names[id(w.value(2))]), to=1)
    scales = qmath.multiplier(w.value(0).type.params.scales, weight.type.params.scales)
    real = w.emit("Mul", total, w.constant(scales, "scale"))
    return w.model.quantized(real, w.node.result)
