"""linear and matmul: dot products over the last axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.errors import ShapeError
from qcompiler.opdef import AttrSpec, OpDef, OperandSpec, QuantKind, QuantRule, Role, Sample, register
from qcompiler.quantization import qmath
from qcompiler.types import DType, TensorType, tensor

ACTIVATIONS = ("none", "relu", "relu6")
ACTIVATION_ATTR = AttrSpec("activation", "str", "none", "fused clamp of the result", ACTIVATIONS)


def apply_activation(y: np.ndarray, activation: str) -> np.ndarray:
    """The float meaning of a fused activation. NaN passes through, as in torch."""
    if activation in ("relu", "relu6"):
        y = np.where(y < 0, np.float32(0), y)
    if activation == "relu6":
        y = np.where(y > 6, np.float32(6), y)
    return y


def requantize_accumulator(
    acc: np.ndarray,
    types: Sequence[TensorType | None],
    out: TensorType,
    activation: str,
    channel_axis: int,
    residual: np.ndarray | None,
) -> np.ndarray:
    """Rules (3) to (5) of qmath for (x, weight, bias, residual). acc: i32, channels along `channel_axis`."""
    x, weight = types[0].quant, types[1].quant
    shape = [1] * acc.ndim
    if weight.axis is not None:
        shape[channel_axis] = -1
    scale = qmath.multiplier(x.scales, weight.scales, over=out.quant.scales).reshape(shape)
    real = acc.astype(np.float32) * scale
    if residual is not None:
        other = types[3].quant
        real = real + qmath.centered(residual, other).astype(np.float32) * qmath.multiplier(
            other.scales, over=out.quant.scales
        )
    return qmath.requantize(real, out, activation)


def _infer_linear(
    x: TensorType, weight: TensorType, bias: TensorType | None, residual: TensorType | None, *, activation: str
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


def _linear(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, residual: np.ndarray | None, *, activation: str
) -> np.ndarray:
    y = np.matmul(x, weight.T)
    if bias is not None:
        y = y + bias
    if residual is not None:
        y = y + residual
    return apply_activation(y, activation)


def _linear_integer(
    arrays: Sequence[np.ndarray | None], types: Sequence[TensorType | None], out: TensorType, *, activation: str
) -> np.ndarray:
    x, weight, bias, residual = arrays
    acc = qmath.exact_dot(qmath.centered(x, types[0].quant), qmath.centered(weight, types[1].quant).T)
    if bias is not None:
        acc = acc + bias
    return requantize_accumulator(acc, types, out, activation, acc.ndim - 1, residual)


register(
    OpDef(
        name="linear",
        doc="y = x @ weight.T + bias (+ residual), then the fused activation. x: [..., in], weight: [out, in], "
        "bias: [out], "
        "residual: shape of y. torch.nn.functional.linear; ONNX Gemm(transB=1).",
        family="linear",
        operands=(
            OperandSpec("x"),
            OperandSpec("weight", Role.WEIGHT),
            OperandSpec("bias", Role.BIAS, optional=True),
            OperandSpec("residual", optional=True),
        ),
        attrs=(ACTIVATION_ATTR,),
        infer=_infer_linear,
        reference=_linear,
        integer=_linear_integer,
        quant=QuantRule(QuantKind.WEIGHTED, weight_axis=0),
        samples=lambda: [
            Sample((tensor("f32", 3, 8), tensor("f32", 5, 8), tensor("f32", 5))),
            Sample((tensor("f32", 1, 33), tensor("f32", 17, 33)), {"activation": "relu"}),
            Sample((tensor("f32", 2, 3, 7), tensor("f32", 31, 7), tensor("f32", 31)), {"activation": "relu6"}),
            Sample((tensor("f32", 9, 129), tensor("f32", 33, 129), tensor("f32", 33))),
            Sample(
                (tensor("f32", 4, 6), tensor("f32", 6, 6), tensor("f32", 6), tensor("f32", 4, 6)),
                {"activation": "relu"},
            ),
        ],
    )
)


def broadcast_shapes(a: tuple, b: tuple, what: str) -> tuple:
    """numpy broadcasting of two shapes with symbolic sizes; ShapeError if they differ."""
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b)
    result = []
    for left, right in zip(a, b):
        if left != right and left != 1 and right != 1:
            raise ShapeError(
                f"shapes of {what} do not broadcast",
                expected=f"[{','.join(map(str, a))}]",
                got=f"[{','.join(map(str, b))}]",
            )
        result.append(right if left == 1 else left)
    return tuple(result)


def _infer_matmul(x: TensorType, y: TensorType) -> TensorType:
    if x.rank < 2 or y.rank < 2:
        raise ShapeError("operands of matmul", expected="rank 2 or more", got=f"{x}, {y}")
    if x.shape[-1] != y.shape[-2]:
        raise ShapeError("inner sizes of matmul differ", expected=f"f32[...,{x.shape[-1]},n]", got=str(y))
    batch = broadcast_shapes(x.shape[:-2], y.shape[:-2], "matmul")
    return TensorType(DType.F32, (*batch, x.shape[-2], y.shape[-1]))


def _matmul_integer(arrays: Sequence[np.ndarray], types: Sequence[TensorType], out: TensorType) -> np.ndarray:
    x, y = types[0].quant, types[1].quant
    acc = qmath.exact_dot(qmath.centered(arrays[0], x), qmath.centered(arrays[1], y))
    return qmath.requantize(acc.astype(np.float32) * qmath.multiplier(x.scales, y.scales, over=out.quant.scales), out)


register(
    OpDef(
        name="matmul",
        doc="Batched matrix product of two activations, numpy's broadcasting of leading axes: [..., m, k] @ [..., "
        "k, n]. Operands "
        "of rank 1 are reshaped by the frontends. torch.matmul; ONNX MatMul.",
        family="linear",
        operands=(OperandSpec("x"), OperandSpec("y")),
        infer=_infer_matmul,
        reference=lambda x, y: np.matmul(x, y),
        integer=_matmul_integer,
        quant=QuantRule(QuantKind.OWN_RANGE),
        samples=lambda: [
            Sample((tensor("f32", 3, 8), tensor("f32", 8, 5))),
            Sample((tensor("f32", 2, 3, 9), tensor("f32", 2, 9, 7))),
            Sample((tensor("f32", 2, 1, 3, 9), tensor("f32", 4, 9, 33))),
            Sample((tensor("f32", 1, 65), tensor("f32", 65, 1))),
            Sample((tensor("f32", 5, 4, 6), tensor("f32", 6, 2))),
        ],
    )
)
