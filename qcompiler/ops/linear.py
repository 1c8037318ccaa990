"""linear and matmul: dot products over the last axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.dims import DimLike
from qcompiler.errors import ShapeError
from qcompiler.opdef import (
    OWN_RANGE,
    LayoutRule,
    Op,
    Sample,
    TypedArray,
    bias_operand,
    fused_activation,
    operand,
    optional_operand,
    weight_operand,
    weighted,
)
from qcompiler.ops.interfaces import TakesResidual
from qcompiler.quantization import qmath
from qcompiler.traced_size import is_traced
from qcompiler.types import DType, TensorType, tensor


def apply_activation(y: np.ndarray, activation: str) -> np.ndarray:
    """The float meaning of a fused activation. NaN passes through, as in torch."""
    if activation in ("relu", "relu6"):
        y = np.where(y < 0, np.float32(0), y)
    if activation == "relu6":
        y = np.where(y > 6, np.float32(6), y)
    return y


def requantize_accumulator(
    acc: np.ndarray,
    x: TypedArray,
    weight: TypedArray,
    residual: TypedArray | None,
    out: TensorType,
    activation: str,
    channel_axis: int,
) -> np.ndarray:
    """Rules (3) to (6) of qmath. acc: i32, channels along `channel_axis`."""
    shape = [1] * acc.ndim
    if weight.quant.axis is not None:
        shape[channel_axis] = -1
    if not out.is_quantized:
        real = acc.astype(np.float32) * qmath.multiplier(x.scales, weight.scales).reshape(shape)
        return apply_activation(real if residual is None else real + residual.real(), activation)
    result = out.params
    real = acc.astype(np.float32) * qmath.multiplier(x.scales, weight.scales, over=result.scales).reshape(shape)
    if residual is not None:
        real = real + residual.centered().astype(np.float32) * qmath.multiplier(residual.scales, over=result.scales)
    return qmath.requantize(real, out, activation)


class Linear(TakesResidual):
    """y = x @ weight.T + bias (+ residual), then the fused activation. x: [..., in], weight: [out, in], bias: [out],
    residual: shape of y. torch.nn.functional.linear; ONNX Gemm(transB=1)."""

    name = "linear"
    quant = weighted(axis=0)
    layout = LayoutRule.ROW_MAJOR
    x = operand()
    weight = weight_operand()
    bias = bias_operand()
    residual = optional_operand()
    activation = fused_activation()
    reads_real = (residual,)

    @property
    def channel_axis(self) -> int:
        return self.node.result.type.rank - 1

    @property
    def input_axis(self) -> int:
        return self.x.type.rank - 1

    @property
    def has_border(self) -> bool:
        return False

    @property
    def row_form(self) -> str:
        return "last axis"

    def row_counts(self, x_shape: tuple[int, ...]) -> tuple[int, ...]:
        return x_shape[:-1] or (1,)

    def rows(self, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return x.reshape(-1, x.shape[-1])[positions][:, None, :, None]

    def infer(
        self, x: TensorType, weight: TensorType, bias: TensorType | None, residual: TensorType | None
    ) -> TensorType:
        if weight.rank != 2:
            raise ShapeError("weight of linear", expected="[out_features,in_features]", got=str(weight))
        if x.rank < 1 or x.shape[-1] != weight.shape[1]:
            raise ShapeError("operands of linear", expected=f"f32[...,{weight.shape[1]}]", got=str(x))
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ShapeError("bias of linear", expected=f"[{weight.shape[0]}]", got=str(bias))
        result = TensorType(DType.F32, (*x.shape[:-1], weight.shape[0]))
        if residual is not None and residual.shape != result.shape:
            raise ShapeError("residual of linear", expected=str(result), got=str(residual))
        return result

    def reference(
        self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, residual: np.ndarray | None
    ) -> np.ndarray:
        y = np.matmul(x, weight.T)
        if bias is not None:
            y = y + bias
        if residual is not None:
            y = y + residual
        return apply_activation(y, self.activation)

    def integer(
        self,
        x: TypedArray,
        weight: TypedArray,
        bias: TypedArray | None,
        residual: TypedArray | None,
        *,
        out: TensorType,
    ) -> np.ndarray:
        acc = qmath.exact_dot(x.centered(), weight.centered().T)
        if bias is not None:
            acc = acc + bias.array
        return requantize_accumulator(acc, x, weight, residual, out, self.activation, acc.ndim - 1)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 3, 8), tensor("f32", 5, 8), tensor("f32", 5))),
            Sample((tensor("f32", 1, 33), tensor("f32", 17, 33)), {"activation": "relu"}),
            Sample((tensor("f32", 2, 3, 7), tensor("f32", 31, 7), tensor("f32", 31)), {"activation": "relu6"}),
            Sample((tensor("f32", 9, 129), tensor("f32", 33, 129), tensor("f32", 33))),
            Sample(
                (tensor("f32", 4, 6), tensor("f32", 6, 6), tensor("f32", 6), tensor("f32", 4, 6)),
                {"activation": "relu"},
            ),
        ]


def broadcast_shapes(a: Sequence[DimLike], b: Sequence[DimLike], what: str) -> tuple[DimLike, ...]:
    """numpy broadcasting of two shapes with symbolic sizes; ShapeError if they differ."""
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b)
    result = []
    for left, right in zip(a, b):
        # An open size of a call is asked last: what holds for any size of it serves them all.
        known, other = (right, left) if is_traced(left) else (left, right)
        if is_traced(known) and left == right or known == 1:
            result.append(other)
        elif known == other or other == 1:
            result.append(known)
        else:
            raise ShapeError(
                f"shapes of {what} do not broadcast",
                expected=f"[{','.join(map(str, a))}]",
                got=f"[{','.join(map(str, b))}]",
            )
    return tuple(result)


class Matmul(Op):
    """Batched matrix product of two activations, numpy's broadcasting of leading axes: [..., m, k] @ [..., k, n].
    Operands of rank 1 are reshaped by the frontends. torch.matmul; ONNX MatMul."""

    name = "matmul"
    quant = OWN_RANGE
    layout = LayoutRule.ROW_MAJOR
    chooses_params = True
    gives_real = True
    x = operand()
    y = operand()

    def products(self) -> tuple[DimLike, ...]:
        return (*self.node.result.type.shape, self.x.type.shape[-1])

    def terms(self) -> tuple[DimLike, ...]:
        return (self.x.type.shape[-1],)

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        if x.rank < 2 or y.rank < 2:
            raise ShapeError("operands of matmul", expected="rank 2 or more", got=f"{x}, {y}")
        if x.shape[-1] != y.shape[-2]:
            raise ShapeError("inner sizes of matmul differ", expected=f"f32[...,{x.shape[-1]},n]", got=str(y))
        batch = broadcast_shapes(x.shape[:-2], y.shape[:-2], "matmul")
        return TensorType(DType.F32, (*batch, x.shape[-2], y.shape[-1]))

    def reference(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.matmul(x, y)

    def integer(self, x: TypedArray, y: TypedArray, *, out: TensorType) -> np.ndarray:
        acc = qmath.exact_dot(x.centered(), y.centered())
        if not out.is_quantized:
            return acc.astype(np.float32) * qmath.multiplier(x.scales, y.scales)
        multiplier = qmath.multiplier(x.scales, y.scales, over=out.params.scales)
        return qmath.requantize(acc.astype(np.float32) * multiplier, out)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 3, 8), tensor("f32", 8, 5))),
            Sample((tensor("f32", 2, 3, 9), tensor("f32", 2, 9, 7))),
            Sample((tensor("f32", 2, 1, 3, 9), tensor("f32", 4, 9, 33))),
            Sample((tensor("f32", 1, 65), tensor("f32", 65, 1))),
            Sample((tensor("f32", 5, 4, 6), tensor("f32", 6, 2))),
        ]
