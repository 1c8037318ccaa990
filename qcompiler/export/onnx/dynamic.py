"""Dynamic quantization as ONNX's ops on codes."""

from __future__ import annotations

import numpy as np

from qcompiler.export.onnx.builder import ELEMENTS
from qcompiler.export.onnx.node import NodeWriter, Refusal, writes
from qcompiler.ir import Const
from qcompiler.ops.dynamic import DynamicLinear, DynamicQuantize
from qcompiler.quantization.qmath import LEAST_DYNAMIC_SCALE, centered
from qcompiler.types import DType


@writes(DynamicQuantize)
def dynamic_quantize(w: NodeWriter) -> list[str]:
    """Rule (7). All of x in the whole range of u8 is DynamicQuantizeLinear; rows are written out."""
    op, x = w.op, w.x()
    if not op.by_row and (op.qmin, op.qmax) == (0, 255):
        return w.emits(3, "DynamicQuantizeLinear", x)
    axes = w.ints([-1]) if op.by_row else ""
    low, high = (w.emit(kind, x, axes, keepdims=int(op.by_row)) for kind in ("ReduceMin", "ReduceMax"))
    low, high = w.emit("Min", low, w.number(0.0)), w.emit("Max", high, w.number(0.0))
    step = w.emit("Div", w.emit("Sub", high, low), w.number(float(op.qmax - op.qmin)))
    is_small = w.emit("Less", step, w.number(LEAST_DYNAMIC_SCALE))
    scale = w.emit("Where", is_small, w.number(1.0), step)
    ends = w.number(float(op.qmin)), w.number(float(op.qmax))
    zero = w.emit("Round", w.emit("Clip", w.emit("Sub", ends[0], w.emit("Div", low, scale)), *ends))
    codes = w.emit("Add", w.emit("Round", w.emit("Div", x, scale)), zero)
    u8 = int(ELEMENTS[DType.U8])
    return [w.emit("Cast", w.emit("Clip", codes, *ends), to=u8), scale, w.emit("Cast", zero, to=u8)]


@writes(DynamicLinear)
def dynamic_linear(w: NodeWriter) -> str:
    """Rule (8): the sum of q * (qw - zw) less zp times the sum of (qw - zw), both exact."""
    weight = w.value(3)
    if not isinstance(weight, Const):
        raise Refusal("a weight that is no constant")
    if not weight.data.shape[1]:
        raise Refusal("a sum of no products, which ONNX Runtime leaves unset")
    quant = weight.type.params
    turned, _, zero_points = w.model.unsigned(weight, weight.data.T)
    sums = centered(weight.data, quant).sum(axis=1, dtype=np.int64).astype(np.int32)
    i32 = int(ELEMENTS[DType.I32])
    products = w.emit("MatMulInteger", w.x(0), turned, "", zero_points)
    shift = w.emit("Mul", w.emit("Cast", w.x(2), to=i32), w.constant(sums, "sums"))
    total = w.emit("Cast", w.emit("Sub", products, shift), to=int(ELEMENTS[DType.F32]))
    y = w.emit("Mul", total, w.emit("Mul", w.x(1), w.constant(quant.scales, "weight_scale")))
    return w.activated(w.emit("Add", y, w.x(4)) if w.has(4) else y)
