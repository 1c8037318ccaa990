"""Ops between real and quantized tensors: quantize, dequantize, requantize, lookup, observe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.errors import ShapeError
from qcompiler.opdef import (
    LayoutRule,
    Op,
    Sample,
    Trait,
    TypedArray,
    no_accumulator,
    operand,
    parameter,
    str_attr,
)
from qcompiler.ops.interfaces import Conversion
from qcompiler.quantization import qmath
from qcompiler.quantization.tables import INTERVALS, interpolate
from qcompiler.types import DType, TensorType, tensor

_QUANTIZED_STAGES = frozenset({"qdq", "integer", "lowered"})


class _Conversion(Conversion):
    """A conversion. On real numbers it is the identity."""

    stages = _QUANTIZED_STAGES
    terms = no_accumulator
    x = operand()

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [Sample((tensor("f32", *shape),)) for shape in ((4,), (2, 3), (1, 3, 5, 5), (33,), (1, 1))]


class Quantize(_Conversion):
    """Real to quantized, rule (2) of qmath; the parameters are those of the result type. ONNX QuantizeLinear."""

    name = "quantize"
    layout = LayoutRule.AS_READ
    reads_codes = False
    chooses_params = True

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        return qmath.quantize(x.array, out.params, out.dtype)


class Dequantize(_Conversion):
    """Quantized to real: f32(q - zero_point) * scale. ONNX DequantizeLinear."""

    name = "dequantize"
    layout = LayoutRule.ROW_MAJOR_AT_OUTPUTS
    gives_codes = False

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        return qmath.dequantize(x.array, x.quant)


class Requantize(_Conversion):
    """Quantized to quantized with other parameters: rne(f32(q - zp) * f32(s_in / s_out)) + zp_out. Per tensor."""

    name = "requantize"
    chooses_params = True

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        real = x.centered().astype(np.float32)
        return qmath.requantize(real * qmath.multiplier(x.scales, over=out.params.scales), out)


class Lookup(Op):
    """Table lookup: result = table[q - dtype.min] for codes of 8 bits. Codes of i16 are interpolated between knots,
    which `qcompiler/quantization/tables.py` describes. Made by integerize from chains of unary ops; the table holds the
    composed function, evaluated in float64 and quantized once."""

    name = "lookup"
    stages = frozenset({"integer", "lowered"})
    terms = no_accumulator
    x = operand()
    table = parameter()

    def infer(self, x: TensorType, table: TensorType) -> TensorType:
        sizes = (256, *(intervals + 1 for intervals in INTERVALS))
        if table.rank != 1 or table.shape[0] not in sizes:
            raise ShapeError("table of lookup", expected=", ".join(f"[{size}]" for size in sizes), got=str(table))
        return x

    def reference(self, x: np.ndarray, table: np.ndarray) -> np.ndarray:
        return x

    def integer(self, x: TypedArray, table: TypedArray, *, out: TensorType) -> np.ndarray:
        if x.type.dtype is DType.I16:
            return interpolate(x.array, table.array, out)
        return table.array[x.array.astype(np.int32) - x.type.dtype.min]


class Observe(Op):
    """Marks a value whose range is collected; the identity. `spec` is the text of a QuantSpec; values with the same
    `group` share one observer. In a program of calibration it stands for an observer that takes whole values."""

    name = "observe"
    traits = frozenset({Trait.MOVES_DATA})
    stages = frozenset({"observed", "lowered"})
    element_cost = (0.017, 0.071)
    x = operand()
    spec_text = str_attr(name="spec")
    group = str_attr()

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x
