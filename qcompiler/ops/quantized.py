"""Ops between real and quantized tensors: quantize, dequantize, requantize, lookup, observe, fake_quantize."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.errors import ShapeError
from qcompiler.opdef import REQUIRED, AttrSpec, OperandSpec, QuantKind, QuantRule, Role, Sample, Trait
from qcompiler.ops.legacy import legacy_op as OpDef
from qcompiler.ops.legacy import register
from qcompiler.quantization import qmath
from qcompiler.types import TensorType, tensor

_FLOAT_ONLY = QuantRule(QuantKind.FLOAT_ONLY)


def _same(x: TensorType, **attrs: object) -> TensorType:
    return x


def _pass_through(x: np.ndarray, **attrs: object) -> np.ndarray:
    return x


def _samples() -> list[Sample]:
    return [Sample((tensor("f32", *shape),)) for shape in ((4,), (2, 3), (1, 3, 5, 5), (33,), (1, 1))]


register(
    OpDef(
        name="quantize",
        doc="Real to quantized, rule (2) of qmath; the parameters are those of the result type. ONNX QuantizeLinear.",
        family="quantized",
        operands=(OperandSpec("x"),),
        infer=_same,
        reference=_pass_through,
        integer=lambda arrays, types, out: qmath.quantize(arrays[0], out.quant, out.dtype),
        quant=_FLOAT_ONLY,
        samples=_samples,
    )
)
register(
    OpDef(
        name="dequantize",
        doc="Quantized to real: f32(q - zero_point) * scale. ONNX DequantizeLinear.",
        family="quantized",
        operands=(OperandSpec("x"),),
        infer=_same,
        reference=_pass_through,
        integer=lambda arrays, types, out: qmath.dequantize(arrays[0], types[0].quant),
        quant=_FLOAT_ONLY,
        samples=_samples,
    )
)


def _requantize(arrays: Sequence[np.ndarray], types: Sequence[TensorType], out: TensorType) -> np.ndarray:
    source = types[0].quant
    real = qmath.centered(arrays[0], source).astype(np.float32)
    return qmath.requantize(real * qmath.multiplier(source.scales, over=out.quant.scales), out)


register(
    OpDef(
        name="requantize",
        doc="Quantized to quantized with other parameters: rne(f32(q - zp) * f32(s_in / s_out)) + zp_out. Per tensor.",
        family="quantized",
        operands=(OperandSpec("x"),),
        infer=_same,
        reference=_pass_through,
        integer=_requantize,
        quant=_FLOAT_ONLY,
        samples=_samples,
    )
)


def _infer_lookup(x: TensorType, table: TensorType) -> TensorType:
    if table.rank != 1 or table.shape[0] != 256:
        raise ShapeError("table of lookup", expected="[256]", got=str(table))
    return x


register(
    OpDef(
        name="lookup",
        doc="8-bit table lookup: result = table[q - dtype.min]. Made by integerize from chains of unary ops; the "
        "table holds the "
        "composed function, evaluated in float64 and quantized once.",
        family="quantized",
        operands=(OperandSpec("x"), OperandSpec("table", Role.PARAMETER)),
        infer=_infer_lookup,
        reference=lambda x, table: x,
        integer=lambda arrays, types, out: arrays[1][arrays[0].astype(np.int32) - types[0].dtype.min],
        quant=_FLOAT_ONLY,
        samples=lambda: [],
    )
)
register(
    OpDef(
        name="observe",
        doc="Marks a value whose range is collected; the identity. `spec` is the text of a QuantSpec; values with "
        "the same "
        "`group` share one observer.",
        family="quantized",
        operands=(OperandSpec("x"),),
        attrs=(AttrSpec("spec", "str", REQUIRED), AttrSpec("group", "str", REQUIRED)),
        infer=_same,
        reference=_pass_through,
        quant=_FLOAT_ONLY,
        samples=lambda: [],
        traits=frozenset({Trait.MOVES_DATA}),
    )
)
