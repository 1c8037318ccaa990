"""Dynamic quantization: activations become codes at run time, by the range that they turn out to have.

Their codes are plain u8, without parameters in the type, since nobody knows these before. Weights are quantized
constants as in static quantization. The arithmetic is rules (7) and (8) of `quantization/qmath.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.errors import ShapeError
from qcompiler.opdef import (
    FLOAT_ONLY,
    LayoutRule,
    Sample,
    TypedArray,
    fused_activation,
    index_operand,
    int_attr,
    operand,
    optional_parameter,
    parameter,
    str_attr,
    weight_operand,
)
from qcompiler.ops.interfaces import RangeConversion, Weighted
from qcompiler.ops.linear import apply_activation
from qcompiler.quantization import qmath
from qcompiler.types import DType, QuantParams, TensorType, tensor

BY_ROW, BY_TENSOR = "row", "tensor"
"""What shares one scale: a row of the last axis, or all of x."""


def range_shape(shape: Sequence[DimLike], axis: str) -> tuple[DimLike, ...]:
    """The shape of scale and zero point of codes of a shape."""
    return (*shape[:-1], 1) if axis == BY_ROW else ()


def check_range(q: TensorType, scale: TensorType, zero_point: TensorType, what: str) -> None:
    """Raise ShapeError unless these are the types of what dynamic_quantize gives."""
    if q.rank < 1 or q.dtype is not DType.U8:
        raise ShapeError(f"codes of {what}", expected="u8[...,K]", got=str(q))
    shapes = [range_shape(q.shape, axis) for axis in (BY_ROW, BY_TENSOR)]
    if scale.dtype is not DType.F32 or scale.shape not in shapes:
        expected = " or ".join(str(TensorType(DType.F32, shape)) for shape in shapes)
        raise ShapeError(f"scale of {what}", expected=expected, got=str(scale))
    if zero_point != TensorType(DType.U8, scale.shape):
        expected = str(TensorType(DType.U8, scale.shape))
        raise ShapeError(f"zero point of {what}", expected=expected, got=str(zero_point))


class DynamicQuantize(RangeConversion):
    """Codes of x by the range of each row of its last axis, or of all of x, with 0 in it: u8 codes in [qmin, qmax] in
    the shape of x, f32 scales and u8 zero points, [..., 1] or []. Rule (7) of qmath: ONNX DynamicQuantizeLinear."""

    name = "dynamic_quantize"
    quant = FLOAT_ONLY
    layout = LayoutRule.ROW_MAJOR
    results: ClassVar[tuple[str, ...]] = ("q", "scale", "zero_point")
    x = operand()
    axis = str_attr(default=BY_ROW, doc="what has a scale of its own", choices=(BY_ROW, BY_TENSOR))
    qmin = int_attr(default=0)
    qmax = int_attr(default=255)

    @property
    def by_row(self) -> bool:
        return self.axis == BY_ROW

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        if x.dtype is not DType.F32 or (self.by_row and x.rank < 1):
            raise ShapeError("operand of dynamic_quantize", expected="f32[...,K]", got=str(x))
        if not 0 <= self.qmin < self.qmax <= 255:
            got = f"[{self.qmin}, {self.qmax}]"
            raise ShapeError("codes of dynamic_quantize", expected="0 <= qmin < qmax <= 255", got=got)
        shape = range_shape(x.shape, self.axis)
        return TensorType(DType.U8, x.shape), TensorType(DType.F32, shape), TensorType(DType.U8, shape)

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        return qmath.dynamic_quantize(x, by_row=self.by_row, qmin=self.qmin, qmax=self.qmax)

    @staticmethod
    def samples() -> Sequence[Sample]:
        shapes = ((7,), (2, 33), (3, 1), (2, 5, 64), (4, 129), (0, 5), (3, 0))
        rows = [Sample((tensor("f32", *shape),)) for shape in shapes]
        some = [Sample((tensor("f32", *shape),), {"axis": BY_TENSOR}) for shape in ((2, 33), (1, 5, 700), ())]
        odd = [Sample((_odd_rows(),)), Sample((_odd_rows()[:4],), {"axis": BY_TENSOR})]
        reduced = [Sample((tensor("f32", 3, 40),), {"qmax": 127, "axis": axis}) for axis in (BY_ROW, BY_TENSOR)]
        return [*rows, *some, *odd, *reduced, Sample((tensor("f32", 3, 40),), {"qmin": 3, "qmax": 200})]


class DynamicLinear(Weighted):
    """y = x @ weight.T + bias, then the fused activation, for codes whose parameters come at run time: x is
    scale * (q - zero_point). q: u8 [..., in]; scale, zero_point: [..., 1] or []; weight: quantized [out, in] with one
    scale, or one for each output; bias: f32 [out]. Rule (8) of qmath: ONNX MatMulInteger, Cast, Mul and Add."""

    name = "dynamic_linear"
    quant = FLOAT_ONLY
    layout = LayoutRule.ROW_MAJOR
    stages = frozenset({"integer", "lowered"})
    x = index_operand()
    scale = parameter()
    zero_point = index_operand()
    weight = weight_operand()
    bias = optional_parameter()
    activation = fused_activation()
    always_codes = (weight,)
    chooses_params = False

    @property
    def channel_axis(self) -> int:
        return self.node.result.type.rank - 1

    @property
    def input_axis(self) -> int:
        return self.x.type.rank - 1

    @property
    def has_border(self) -> bool:
        return False

    def infer(
        self, x: TensorType, scale: TensorType, zero_point: TensorType, weight: TensorType, bias: TensorType | None
    ) -> TensorType:
        check_range(x, scale, zero_point, self.name)
        if weight.rank != 2 or weight.shape[1] != x.shape[-1]:
            raise ShapeError("weight of dynamic_linear", expected=f"[out_features,{x.shape[-1]}]", got=str(weight))
        depth = weight.shape[1]
        if isinstance(depth, Dim) or depth > qmath.MOST_DYNAMIC_TERMS:
            raise ShapeError(
                "weight of dynamic_linear: its i32 accumulator could overflow",
                expected=f"at most {qmath.MOST_DYNAMIC_TERMS} inputs",
                got=str(weight),
            )
        if bias is not None and bias != TensorType(DType.F32, weight.shape[:1]):
            raise ShapeError("bias of dynamic_linear", expected=f"f32[{weight.shape[0]}]", got=str(bias))
        return TensorType(DType.F32, (*x.shape[:-1], weight.shape[0]))

    def reference(
        self, x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
    ) -> np.ndarray:
        real = (x.astype(np.float32) - zero_point.astype(np.float32)) * scale
        y = np.matmul(real, weight.T.astype(np.float32))
        return apply_activation(y if bias is None else y + bias, self.activation)

    def integer(
        self,
        x: TypedArray,
        scale: TypedArray,
        zero_point: TypedArray,
        weight: TypedArray,
        bias: TypedArray | None,
        *,
        out: TensorType,
    ) -> np.ndarray:
        y = qmath.dynamic_product(x.array, scale.array, zero_point.array, weight.centered(), weight.scales)
        return apply_activation(y if bias is None else y + bias.array, self.activation)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            _product((3, 8), 5, bias=True),
            _product((1, 33), 17, activation="relu"),
            _product((2, 3, 7), 31, bias=True, activation="relu6", by_row=False),
            _product((9, 129), 33, bias=True, per_channel=False),
            _product((2, 0), 3, bias=True),
            _product((0, 4), 3),
        ]


def _product(
    shape: tuple[int, ...],
    outputs: int,
    *,
    bias: bool = False,
    by_row: bool = True,
    per_channel: bool = True,
    activation: str = "none",
) -> Sample:
    rng = np.random.default_rng(outputs)
    ranges = (*shape[:-1], 1) if by_row else ()
    scales = tuple(float(s) for s in rng.uniform(0.01, 0.1, outputs if per_channel else 1).astype(np.float32))
    params = QuantParams(scales, (0,) * len(scales), 0 if per_channel else None, -128, 127)
    return Sample(
        (
            rng.integers(0, 256, shape).astype(np.uint8),
            rng.uniform(0.01, 0.1, ranges).astype(np.float32),
            rng.integers(0, 256, ranges).astype(np.uint8),
            TensorType(DType.I8, (outputs, shape[-1]), params),
            rng.uniform(-1, 1, outputs).astype(np.float32) if bias else None,
        ),
        {"activation": activation},
    )


def _odd_rows() -> np.ndarray:
    """Rows of 20: zeros, one sign only, tiny and huge numbers, then some with inf or NaN."""
    rows = np.random.default_rng(0).uniform(-2, 2, (11, 20)).astype(np.float32)
    rows[0], rows[1], rows[2], rows[3] = 0, np.abs(rows[1]), -np.abs(rows[2]), 3e38
    rows[4, 3], rows[5, 7], rows[6, 19], rows[7, 0] = np.inf, -np.inf, np.nan, -3e38
    rows[7, 1], rows[8], rows[9] = 3e38, 1e-45, rows[9] * np.float32(1e-37)
    return rows
