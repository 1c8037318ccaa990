"""Dynamic quantization as ONNX's ops on codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.export.onnx.builder import ELEMENTS
from qcompiler.export.onnx.node import NodeWriter, Refusal, writes
from qcompiler.ir import Const
from qcompiler.ops.dynamic import DynamicLinear, DynamicQuantize
from qcompiler.quantization.qmath import LEAST_DYNAMIC_SCALE, centered
from qcompiler.types import DType


@writes(DynamicQuantize)
def dynamic_quantize(w: NodeWriter) -> list[str]:
    """Rule (7)."""
    return dynamic_codes(w, w.x(), w.op.by_row, w.op.qmin, w.op.qmax)


def dynamic_codes(w: NodeWriter, x: str, by_row: bool, qmin: int, qmax: int) -> list[str]:
    """Rule (7): the codes, scales and zero points of f32 x. All of x in the whole range of u8 is
    DynamicQuantizeLinear; rows are written out."""
    if not by_row and (qmin, qmax) == (0, 255):
        return w.emits(3, "DynamicQuantizeLinear", x)

    def real(value: float) -> str:
        return w.constant(np.float32(value), "number")

    axes = w.ints([-1]) if by_row else ""
    low, high = (w.emit(kind, x, axes, keepdims=int(by_row)) for kind in ("ReduceMin", "ReduceMax"))
    low, high = w.emit("Min", low, real(0.0)), w.emit("Max", high, real(0.0))
    step = w.emit("Div", w.emit("Sub", high, low), real(qmax - qmin))
    scale = w.emit("Where", w.emit("Less", step, real(LEAST_DYNAMIC_SCALE)), real(1.0), step)
    ends = real(qmin), real(qmax)
    zero = w.emit("Round", w.emit("Clip", w.emit("Sub", ends[0], w.emit("Div", low, scale)), *ends))
    codes = w.emit("Add", w.emit("Round", w.emit("Div", x, scale)), zero)
    u8 = int(ELEMENTS[DType.U8])
    return [w.emit("Cast", w.emit("Clip", codes, *ends), to=u8), scale, w.emit("Cast", zero, to=u8)]


def product_of_codes(
    w: NodeWriter, given: Sequence[str], weight: str, zero_points: str, sums: np.ndarray, scales: str
) -> str:
    """Rule (8) without the bias: the sum of q * (qw - zw) less zp times the sum of (qw - zw), both exact.

    given: codes, scales and zero points of the rows. weight: [inputs, outputs], with its zero points. sums: i32
    [outputs], those of the centered weight. scales: the tensor f32 [outputs] or [1] of the weight's.
    """
    codes, scale, zero = given
    i32 = int(ELEMENTS[DType.I32])
    products = w.emit("MatMulInteger", codes, weight, w.constant(np.uint8(0), "no_zero_point"), zero_points)
    shift = w.emit("Mul", w.emit("Cast", zero, to=i32), w.constant(sums, "sums"))
    total = w.emit("Cast", w.emit("Sub", products, shift), to=int(ELEMENTS[DType.F32]))
    return w.emit("Mul", total, w.emit("Mul", scale, scales))


@writes(DynamicLinear)
def dynamic_linear(w: NodeWriter) -> str:
    """Rule (8)."""
    weight = w.value(3)
    if not isinstance(weight, Const):
        raise Refusal("a weight that is no constant")
    if not weight.data.shape[1]:
        raise Refusal("a sum of no products, which ONNX Runtime leaves unset")
    quant = weight.type.params
    turned, _, zero_points = w.model.unsigned(weight, weight.data.T)
    sums = centered(weight.data, quant).sum(axis=1, dtype=np.int64).astype(np.int32)
    y = product_of_codes(
        w, [w.x(0), w.x(1), w.x(2)], turned, zero_points, sums, w.constant(quant.scales, "weight_scale")
    )
    return w.activated(w.emit("Add", y, w.x(4)) if w.has(4) else y)
