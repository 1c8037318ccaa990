"""The float meaning of each op in torch ops. Results agree with the reference within float roundings."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from qcompiler.export.torch.codes import activated, adaptive, pool_counts, resized
from qcompiler.export.torch.dynamic import dynamic_codes
from qcompiler.export.torch.node import (
    DTYPES,
    REALS,
    NodeWriter,
    Refusal,
    Tensor,
    Writer,
    convolved,
    padded,
    torch_weight,
    window_pads,
    windows,
    writes,
)
from qcompiler.opdef import Op
from qcompiler.ops.activations import (
    Celu,
    Elu,
    Gelu,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyRelu,
    Logsigmoid,
    Mish,
    Prelu,
    Relu,
    Relu6,
    Selu,
    Sigmoid,
    Silu,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
    Threshold,
)
from qcompiler.ops.conv import Conv, ConvTranspose
from qcompiler.ops.division import FloorDivide, Fmod, Remainder, TruncDivide
from qcompiler.ops.dynamic import DynamicLinear, DynamicQuantize
from qcompiler.ops.elementwise import (
    Abs,
    Add,
    Atan,
    Cast,
    Ceil,
    Cos,
    Div,
    Equal,
    Erf,
    Exp,
    Expm1,
    Floor,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    Log,
    Log1p,
    Maximum,
    Minimum,
    Mul,
    Neg,
    NotEqual,
    Pow,
    Reciprocal,
    Round,
    Rsqrt,
    Sign,
    Sin,
    Sqrt,
    Square,
    Sub,
    Where,
)
from qcompiler.ops.linear import Linear, Matmul
from qcompiler.ops.logic import (
    BitwiseAnd,
    BitwiseNot,
    BitwiseOr,
    BitwiseXor,
    LogicalAnd,
    LogicalNot,
    LogicalOr,
    ShiftLeft,
    ShiftRight,
)
from qcompiler.ops.norm import BatchNorm, GroupNorm, InstanceNorm, L2Normalize, LayerNorm, RmsNorm
from qcompiler.ops.pool import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool, MaxPoolIndices
from qcompiler.ops.reduce import Argmax, Argmin, Cumsum, LogSoftmax, Max, Mean, Min, Prod, Softmax, Sum
from qcompiler.ops.resize import Resize
from qcompiler.ops.sort import Argsort
from qcompiler.types import DType

F = torch.nn.functional
_SAME: dict[type[Op], Callable[..., Tensor]] = {
    Matmul: torch.matmul, Sub: torch.sub, Minimum: torch.minimum, Maximum: torch.maximum, Equal: torch.eq,
    NotEqual: torch.ne, Less: torch.lt, LessEqual: torch.le, Greater: torch.gt, GreaterEqual: torch.ge,
    Where: torch.where, Neg: torch.neg, Abs: torch.abs, Sqrt: torch.sqrt, Rsqrt: torch.rsqrt,
    Exp: torch.exp, Expm1: torch.expm1, Log: torch.log, Log1p: torch.log1p, Sin: torch.sin,
    Cos: torch.cos, Erf: torch.erf, Atan: torch.atan, Floor: torch.floor, Ceil: torch.ceil,
    Round: torch.round, Sign: torch.sign,
    Square: torch.square, Div: torch.div, Reciprocal: torch.reciprocal,
    LogicalAnd: torch.logical_and, LogicalOr: torch.logical_or, LogicalNot: torch.logical_not,
    BitwiseAnd: torch.bitwise_and, BitwiseOr: torch.bitwise_or, BitwiseXor: torch.bitwise_xor,
    BitwiseNot: torch.bitwise_not, Relu: torch.relu, Sigmoid: torch.sigmoid, Tanh: torch.tanh,
    Hardswish: F.hardswish, Silu: F.silu, Mish: F.mish, Selu: torch.selu, Logsigmoid: F.logsigmoid,
    Hardsigmoid: F.hardsigmoid, Relu6: F.relu6, Remainder: torch.remainder, Fmod: torch.fmod,
}  # fmt: skip
"""Ops that are one function of torch with the same operands and no attributes."""
_ATTRS: dict[type[Op], tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    Hardtanh: (F.hardtanh, ("min_value", "max_value")),
    Elu: (F.elu, ("alpha",)),
    Celu: (torch.celu, ("alpha",)),
    Softplus: (F.softplus, ("beta", "threshold")),
    Softshrink: (F.softshrink, ("lambd",)),
    Hardshrink: (torch.hardshrink, ("lambd",)),
    LeakyRelu: (F.leaky_relu, ("negative_slope",)),
    Threshold: (torch.threshold, ("threshold", "value")),
    LogSoftmax: (torch.log_softmax, ("axis",)),
}
"""Ops that are one function of torch with these attributes in order."""


def _same(function: Callable[..., Tensor]) -> Writer:
    return lambda w: function(*w.xs())


for _op, _function in _SAME.items():
    writes(REALS, _op)(_same(_function))


@writes(REALS, *_ATTRS)
def with_attributes(w: NodeWriter) -> Tensor:
    function, names = _ATTRS[type(w.op)]
    return function(w.x(), *(getattr(w.op, name) for name in names))


@writes(REALS, Add, Mul)
def fusing(w: NodeWriter) -> Tensor:
    function = torch.add if isinstance(w.op, Add) else torch.mul
    return activated(function(w.x(), w.x(1)), w.op.activation)


@writes(REALS, Pow)
def power(w: NodeWriter) -> Tensor:
    if not w.type().dtype.is_float:
        raise Refusal("a power of integers")
    return torch.pow(w.x().to(torch.float64), w.x(1).to(torch.float64)).to(DTYPES[w.out.dtype])


@writes(REALS, FloorDivide)
def floor_divide(w: NodeWriter) -> Tensor:
    return torch.floor_divide(w.x(), w.x(1))


@writes(REALS, TruncDivide)
def trunc_divide(w: NodeWriter) -> Tensor:
    return torch.div(w.x(), w.x(1), rounding_mode="trunc")


@writes(REALS, ShiftLeft, ShiftRight)
def shift(w: NodeWriter) -> Tensor:
    function = torch.bitwise_left_shift if isinstance(w.op, ShiftLeft) else torch.bitwise_right_shift
    return function(w.x(), w.x(1))


@writes(REALS, Cast)
def cast(w: NodeWriter) -> Tensor:
    """Float to integer saturates, and takes NaN to 0."""
    dtype = w.op.dtype
    if not (w.type().dtype.is_float and dtype.is_integer):
        return w.x().to(DTYPES[dtype])
    whole = torch.trunc(w.x().to(torch.float64))
    whole = torch.where(whole != whole, 0.0, whole)
    most = float(np.nextafter(2.0**63, 0)) if dtype is DType.I64 else float(dtype.max)
    found = torch.clamp(whole, float(dtype.min), most).to(DTYPES[dtype])
    return torch.where(whole > most, dtype.max, found) if dtype is DType.I64 else found


@writes(REALS, Gelu)
def gelu(w: NodeWriter) -> Tensor:
    return F.gelu(w.x(), approximate=w.op.approximate)


@writes(REALS, Softsign)
def softsign(w: NodeWriter) -> Tensor:
    return w.x() / (torch.abs(w.x()) + 1)


@writes(REALS, Tanhshrink)
def tanhshrink(w: NodeWriter) -> Tensor:
    return w.x() - torch.tanh(w.x())


@writes(REALS, Prelu)
def prelu(w: NodeWriter) -> Tensor:
    slope = w.x(1)
    if w.type(1).shape[0] != 1:
        slope = slope.reshape([1, -1, *[1] * (w.type().rank - 2)])
    return torch.where(w.x() > 0, w.x(), slope * w.x())


# -- products


def _finish(w: NodeWriter, y: Tensor, residual: int) -> Tensor:
    return activated(y + w.x(residual) if w.has(residual) else y, w.op.activation)


@writes(REALS, Linear)
def linear(w: NodeWriter) -> Tensor:
    return _finish(w, F.linear(w.x(), w.x(1), w.x(2) if w.has(2) else None), 3)


@writes(REALS, Conv, ConvTranspose)
def conv(w: NodeWriter) -> Tensor:
    transposed = isinstance(w.op, ConvTranspose)
    weight = torch_weight(w, w.x(1)) if transposed else w.x(1)
    y = convolved(w.x(), weight, w.op, transposed)
    if w.has(2):
        y = y + w.x(2).reshape([1, -1, *[1] * (w.out.rank - 2)])
    return activated(y, w.op.activation) if transposed else _finish(w, y, 3)


@writes(REALS, DynamicLinear)
def dynamic_linear(w: NodeWriter) -> Tensor:
    real = (w.x(0).to(torch.float32) - w.x(2).to(torch.float32)) * w.x(1)
    y = torch.matmul(real, torch.transpose(w.x(3).to(torch.float32), 0, 1))
    return activated(y + w.x(4) if w.has(4) else y, w.op.activation)


@writes(REALS, DynamicQuantize)
def dynamic_quantize(w: NodeWriter) -> tuple[Tensor, ...]:
    op = w.op
    if op.by_row and w.type().shape[-1] == 0 or not op.by_row and 0 in w.type().shape:
        raise Refusal("the range of no elements")
    axes = [-1] if op.by_row else list(range(w.type().rank))
    codes, scale, zero = dynamic_codes(w, w.x(), axes, op.by_row, op.qmin, op.qmax)
    return codes.to(torch.uint8), scale, zero.to(torch.uint8)


# -- pools and reductions


@writes(REALS, MaxPool)
def max_pool(w: NodeWriter) -> Tensor:
    op = w.op
    least = -math.inf if w.type().dtype.is_float else w.type().dtype.min
    seen, axes = windows(padded(w.x(), window_pads(w), least), op.kernel, op.stride, op.dilation)
    return torch.amax(seen, axes)


@writes(REALS, MaxPoolIndices)
def max_pool_indices(w: NodeWriter) -> Tensor:
    """By a window's first tap whose element is its largest."""
    op = w.op
    sizes = w.known(w.type().shape[2:], "indices of a pool")
    padding = window_pads(w)
    least = -math.inf if w.type().dtype.is_float else w.type().dtype.min
    seen, axes = windows(padded(w.x(), padding, least), op.kernel, op.stride, op.dilation)
    places = np.pad(np.arange(math.prod(sizes)).reshape(sizes), padding, constant_values=-1)
    found, _ = windows(w.buffer(places[None, None]), op.kernel, op.stride, op.dilation)
    batch, channels = w.type().shape[:2]
    outputs = w.known(w.out.shape[2:], "indices of a pool")
    taps = math.prod(op.kernel)
    best = torch.argmax(seen.reshape([*w.sizes((batch, channels)), *outputs, taps]), -1, True)
    spread = found.reshape([1, 1, *outputs, taps]).expand([*w.sizes((batch, channels)), *outputs, taps])
    return torch.squeeze(torch.gather(spread, -1, best), -1)


@writes(REALS, AvgPool)
def avg_pool(w: NodeWriter) -> Tensor:
    op = w.op
    seen, axes = windows(padded(w.x(), window_pads(w)), op.kernel, op.stride, (1,) * len(op.kernel))
    return torch.sum(seen, axes) / w.buffer(pool_counts(w).astype(w.type().dtype.numpy))


@writes(REALS, AdaptiveAvgPool)
def adaptive_avg_pool(w: NodeWriter) -> Tensor:
    return adaptive(w, w.x(), torch.mean)[0]


@writes(REALS, AdaptiveMaxPool)
def adaptive_max_pool(w: NodeWriter) -> Tensor:
    return adaptive(w, w.x(), torch.amax)[0]


@writes(REALS, Mean, Sum)
def mean(w: NodeWriter) -> Tensor:
    function = torch.mean if isinstance(w.op, Mean) else torch.sum
    wide = torch.float64 if w.type().dtype.is_float else DTYPES[w.type().dtype]
    return function(w.x(), list(w.op.axes), w.op.keepdims, dtype=wide).to(DTYPES[w.out.dtype])


@writes(REALS, Max, Min)
def extreme(w: NodeWriter) -> Tensor:
    return (torch.amax if isinstance(w.op, Max) else torch.amin)(w.x(), list(w.op.axes), w.op.keepdims)


@writes(REALS, Prod)
def prod(w: NodeWriter) -> Tensor:
    x = w.x().to(torch.float64) if w.type().dtype.is_float else w.x()
    for axis in sorted(w.op.axes, reverse=True):
        x = torch.prod(x, axis, w.op.keepdims, dtype=torch.float64 if w.type().dtype.is_float else torch.int64)
    return x.to(DTYPES[w.out.dtype])


@writes(REALS, Cumsum)
def cumsum(w: NodeWriter) -> Tensor:
    op, wide = w.op, torch.float64 if w.type().dtype.is_float else torch.int64
    x = torch.flip(w.x(), [op.axis]) if op.reverse else w.x()
    total = torch.cumsum(x, op.axis, dtype=wide)
    if op.exclusive:
        total = total - x.to(wide)
    return (torch.flip(total, [op.axis]) if op.reverse else total).to(DTYPES[w.out.dtype])


@writes(REALS, Argmax, Argmin)
def arg_extreme(w: NodeWriter) -> Tensor:
    return (torch.argmax if isinstance(w.op, Argmax) else torch.argmin)(w.x(), w.op.axis, w.op.keepdims)


@writes(REALS, Argsort)
def argsort(w: NodeWriter) -> Tensor:
    return torch.argsort(w.x(), stable=True, dim=w.op.axis, descending=w.op.descending)


@writes(REALS, Softmax)
def softmax(w: NodeWriter) -> Tensor:
    y = torch.softmax(w.x(), w.op.axis)
    if w.op.masked_is_zero:
        y = torch.where(torch.amax(w.x(), [w.op.axis], True) == -math.inf, 0.0, y)
    return y


# -- norms


def _parameter(w: NodeWriter, index: int) -> Tensor:
    return w.x(index) if w.has(index) else None


@writes(REALS, BatchNorm)
def batch_norm(w: NodeWriter) -> Tensor:
    given = (w.x(1), w.x(2), _parameter(w, 3), _parameter(w, 4))
    return F.batch_norm(w.x(), *given, False, 0.0, w.op.eps)


@writes(REALS, LayerNorm, RmsNorm, GroupNorm, InstanceNorm)
def norm(w: NodeWriter) -> Tensor:
    """In float64, as the reference."""
    op, rank = w.op, w.type().rank
    n = math.prod(w.known(op.group_sizes(w.type().shape), "a norm over groups"))
    x = w.x().to(torch.float64).reshape([-1, n])
    if op.centers:
        x = x - torch.mean(x, [-1], True)
    y = x / torch.sqrt(torch.mean(x * x, [-1], True) + op.eps)
    y = y.reshape(w.sizes(w.type().shape))
    shape = w.type().shape[rank - op.normalized_rank :] if hasattr(op, "normalized_rank") else None
    for index, function in ((1, torch.mul), (2, torch.add)):
        if w.has(index):
            sizes = [1, -1, *[1] * (rank - 2)] if shape is None else w.sizes(shape)
            y = function(y, w.x(index).reshape(sizes))
    return y.to(DTYPES[w.out.dtype])


@writes(REALS, L2Normalize)
def l2_normalize(w: NodeWriter) -> Tensor:
    x = w.x().to(torch.float64)
    length = torch.sqrt(torch.sum(x * x, [w.op.axis], True))
    return (x / torch.clamp(length, w.op.eps)).to(DTYPES[w.out.dtype])


@writes(REALS, Resize)
def resize(w: NodeWriter) -> Tensor:
    return resized(w, w.x())
