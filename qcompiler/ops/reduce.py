"""Reductions over axes, and softmax.

Integer meanings. With x = sx * (q - zx), n elements reduced, D = max(qmax - zx, zx - qmin) the largest |q - zx|:

    sum, mean   S = sum of (q - zx), exact;  y = f32(S) * M.   |S| <= n * D must stay below 2^31, so that S fits i32:
                n <= 8,421,504 for any 8-bit x, n <= 32,768 for any 16-bit x. Beyond, QuantizationError.
    max, min    of the codes: x -> q is monotone. Requantized if x and the result differ in parameters.
    softmax     exp(x - max x) depends on d = max q - q alone, so it is a table over d:
                e[d] = rne(exp(-d * sx) * 2^22), made in float64;   y = (f32(e) / f32(sum of e)) * f32(1 / sy)

Why 2^22: e[0] = 2^22 is exact in f32, and a kernel may add up 511 entries in one i32 lane before it widens (511 *
2^22 < 2^31), so 16 lanes serve rows of 8,176 elements with i32 sums alone. The sum itself is exact, in i64: n * 2^22
< 2^53 for every legal n. Each e is off by at most 1/2, and the sum is at least 2^22, so the probability p is off by
at most (1 + n * p) / 2^23 before the two roundings of f32: under 1/8 of a code of 1/256 for rows up to 4,000
elements. The table does not depend on n, so a softmax over a symbolic axis needs one table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from qcompiler.dims import Dim
from qcompiler.errors import QuantizationError, ShapeError
from qcompiler.opdef import REQUIRED, AttrSpec, OperandSpec, QuantKind, QuantRule, Sample
from qcompiler.ops.axes import check_axes, check_axis, reduced_shape
from qcompiler.ops.legacy import legacy_op as OpDef
from qcompiler.ops.legacy import register
from qcompiler.ops.rescale import mean_multiplier, share_or_requantize
from qcompiler.quantization import qmath
from qcompiler.types import DType, TensorType, tensor

SOFTMAX_BITS = 22  # a softmax table holds exp(-d * scale) in units of 2^-22

_X = (OperandSpec("x"),)
_KEEPDIMS = AttrSpec("keepdims", "bool", False, "keep reduced axes with size 1")
_AXES = (AttrSpec("axes", "ints", REQUIRED, "axes to reduce, from 0"), _KEEPDIMS)


def count_of(shape: Sequence[int], axes: Sequence[int]) -> int:
    """How many elements are reduced to one."""
    return math.prod(shape[axis] for axis in axes)


def check_sum_fits(op: str, source: TensorType, count: int) -> None:
    """QuantizationError unless every sum of `count` centered codes of `source` fits i32."""
    quant = source.quant
    largest = max(quant.qmax - quant.zero_point[0], quant.zero_point[0] - quant.qmin)
    if count * largest >= 2**31:
        raise QuantizationError(
            f"the integer sum of {op} may overflow",
            expected=f"at most {(2**31 - 1) // largest} elements",
            got=count,
            hint="keep the node float",
        )


def centered_sum(op: str, q: np.ndarray, source: TensorType, axes: Sequence[int], keepdims: bool) -> np.ndarray:
    """The exact sum of (q - zero_point) as i32."""
    check_sum_fits(op, source, count_of(q.shape, axes))
    return qmath.centered(q, source.quant).sum(axis=tuple(axes), keepdims=keepdims, dtype=np.int64).astype(np.int32)


def _infer(op: str, x: TensorType, axes: Sequence[int], keepdims: bool) -> TensorType:
    if x.dtype is DType.BOOL or (op in ("mean", "prod") and not x.dtype.is_float):
        raise ShapeError(
            f"operand of {op}",
            expected="f32[...]" if op in ("mean", "prod") else "f32[...] or integers",
            got=str(x),
            hint="insert cast",
        )
    check_axes(op, axes, x)
    if op in ("max", "min") and any(x.shape[axis] == 0 for axis in axes):
        raise ShapeError(f"{op} of no elements", expected="sizes above 0", got=str(x))
    return TensorType(x.dtype, reduced_shape(x.shape, axes, keepdims))


def _wide(x: np.ndarray) -> type[np.generic]:
    """What sums are taken in: float64 for floats, rounded once at the end; the type itself for integers."""
    return np.float64 if np.issubdtype(x.dtype, np.floating) else x.dtype.type


def _sum(x: np.ndarray, *, axes: Sequence[int], keepdims: bool) -> np.ndarray:
    return np.asarray(np.sum(x, axis=tuple(axes), keepdims=keepdims, dtype=_wide(x))).astype(x.dtype)


def _mean(x: np.ndarray, *, axes: Sequence[int], keepdims: bool) -> np.ndarray:
    return np.asarray(np.mean(x, axis=tuple(axes), keepdims=keepdims, dtype=np.float64)).astype(x.dtype)


def _prod(x: np.ndarray, *, axes: Sequence[int], keepdims: bool) -> np.ndarray:
    return np.asarray(np.prod(x, axis=tuple(axes), keepdims=keepdims, dtype=np.float64)).astype(x.dtype)


def _max(x: np.ndarray, *, axes: Sequence[int], keepdims: bool) -> np.ndarray:
    return np.asarray(np.max(x, axis=tuple(axes), keepdims=keepdims))


def _min(x: np.ndarray, *, axes: Sequence[int], keepdims: bool) -> np.ndarray:
    return np.asarray(np.min(x, axis=tuple(axes), keepdims=keepdims))


def _sum_integer(
    arrays: Sequence[np.ndarray], types: Sequence[TensorType], out: TensorType, *, axes: Sequence[int], keepdims: bool
) -> np.ndarray:
    sums = centered_sum("sum", arrays[0], types[0], axes, keepdims)
    return qmath.requantize(
        sums.astype(np.float32) * qmath.multiplier(types[0].quant.scale[0], over=out.quant.scale[0]), out
    )


def _mean_integer(
    arrays: Sequence[np.ndarray], types: Sequence[TensorType], out: TensorType, *, axes: Sequence[int], keepdims: bool
) -> np.ndarray:
    sums = centered_sum("mean", arrays[0], types[0], axes, keepdims)
    count = count_of(arrays[0].shape, axes)
    return qmath.requantize(sums.astype(np.float32) * mean_multiplier(types[0], out, count), out)


def _of_codes(reference: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda arrays, types, out, **attrs: share_or_requantize(reference(arrays[0], **attrs), types[0], out)


def _samples() -> list[Sample]:
    cases = (
        ((2, 3, 5, 7), (2, 3), False),
        ((2, 33), (1,), True),
        ((4, 17, 3), (0, 2), False),
        ((129,), (0,), False),
        ((3, 1, 8), (1,), False),
        ((2, 16, 4, 4), (1,), True),
    )
    return [Sample((tensor("f32", *shape),), {"axes": axes, "keepdims": keepdims}) for shape, axes, keepdims in cases]


def _register(
    name: str,
    doc: str,
    reference: Callable[..., np.ndarray],
    kind: QuantKind,
    integer: Callable[..., np.ndarray] | None,
) -> None:
    register(
        OpDef(
            name=name,
            doc=doc,
            family="reduce",
            operands=_X,
            attrs=_AXES,
            infer=lambda x, axes, keepdims: _infer(name, x, axes, keepdims),
            reference=reference,
            integer=integer,
            quant=QuantRule(kind),
            samples=_samples,
        )
    )


_register("mean", "Mean over axes. torch.mean; ONNX ReduceMean.", _mean, QuantKind.SHARES_INPUT, _mean_integer)
_register(
    "sum",
    "Sum over axes; integers keep their type and wrap. torch.sum; ONNX ReduceSum.",
    _sum,
    QuantKind.OWN_RANGE,
    _sum_integer,
)
_register(
    "max", "Maximum over axes; NaN wins. torch.amax; ONNX ReduceMax.", _max, QuantKind.SHARES_INPUT, _of_codes(_max)
)
_register(
    "min", "Minimum over axes; NaN wins. torch.amin; ONNX ReduceMin.", _min, QuantKind.SHARES_INPUT, _of_codes(_min)
)
_register("prod", "Product over axes, float only. torch.prod; ONNX ReduceProd.", _prod, QuantKind.FLOAT_ONLY, None)


def _infer_argmax(x: TensorType, *, axis: int, keepdims: bool) -> TensorType:
    check_axis("argmax", axis, x)
    if x.shape[axis] == 0:
        raise ShapeError("argmax of no elements", expected="a size above 0", got=str(x))
    return TensorType(DType.I64, reduced_shape(x.shape, (axis,), keepdims))


register(
    OpDef(
        name="argmax",
        doc="Index of the maximum along an axis, i64; the first of equal ones, the first NaN if there is one. "
        "torch.argmax; ONNX "
        "ArgMax(select_last_index=0).",
        family="reduce",
        operands=_X,
        attrs=(AttrSpec("axis", "int", REQUIRED), _KEEPDIMS),
        infer=_infer_argmax,
        reference=lambda x, axis, keepdims: np.asarray(np.argmax(x, axis=axis, keepdims=keepdims)).astype(np.int64),
        quant=QuantRule(QuantKind.FLOAT_ONLY),
        samples=lambda: [
            Sample((tensor("f32", *shape),), {"axis": axis, "keepdims": keepdims})
            for shape, axis, keepdims in (
                ((3, 10), 1, False),
                ((33,), 0, True),
                ((2, 5, 4), 1, True),
                ((1, 1), 0, False),
                ((2, 3, 129), 2, False),
            )
        ],
    )
)


def softmax_table(source: TensorType) -> np.ndarray:
    """i32[codes of the dtype]: exp(-d * scale) in units of 2^-22, for d = max - q from 0 on.

    Raises:
        QuantizationError: per-channel parameters, or codes wider than 16 bits.
    """
    if source.quant is None or source.quant.axis is not None or source.dtype.bits > 16:
        raise QuantizationError("operand of an integer softmax", expected="8 or 16 bits, per tensor", got=str(source))
    d = np.arange(source.dtype.max - source.dtype.min + 1, dtype=np.float64)
    return np.rint(np.exp(-d * np.float64(source.quant.scale[0])) * 2.0**SOFTMAX_BITS).astype(np.int32)


def _infer_softmax(op: str, x: TensorType, axis: int) -> TensorType:
    if not x.dtype.is_float:
        raise ShapeError(f"operand of {op}", expected="f32[...]", got=str(x), hint="insert cast")
    check_axis(op, axis, x)
    if not isinstance(x.shape[axis], Dim) and x.shape[axis] == 0:
        raise ShapeError(f"{op} of no elements", expected="a size above 0", got=str(x))
    return x


def _softmax(x: np.ndarray, *, axis: int) -> np.ndarray:
    wide = x.astype(np.float64)
    e = np.exp(wide - wide.max(axis=axis, keepdims=True))
    return (e / e.sum(axis=axis, keepdims=True)).astype(x.dtype)


def _log_softmax(x: np.ndarray, *, axis: int) -> np.ndarray:
    wide = x.astype(np.float64)
    shifted = wide - wide.max(axis=axis, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))).astype(x.dtype)


def _softmax_integer(
    arrays: Sequence[np.ndarray], types: Sequence[TensorType], out: TensorType, *, axis: int
) -> np.ndarray:
    q = arrays[0].astype(np.int32)
    e = softmax_table(types[0])[q.max(axis=axis, keepdims=True) - q]
    total = e.sum(axis=axis, keepdims=True, dtype=np.int64)
    p = e.astype(np.float32) / total.astype(np.float32)
    return qmath.requantize(p * qmath.multiplier(1.0, over=out.quant.scale[0]), out)


def _softmax_samples() -> list[Sample]:
    cases = (((3, 10), 1), ((2, 4, 33), 2), ((2, 5, 4), 1), ((129,), 0), ((2, 3, 7, 7), 3))
    return [Sample((tensor("f32", *shape),), {"axis": axis}, -6.0, 6.0) for shape, axis in cases]


register(
    OpDef(
        name="softmax",
        doc="exp(x - max) / sum of exp(x - max) along an axis. torch.softmax; ONNX Softmax.",
        family="reduce",
        operands=_X,
        attrs=(AttrSpec("axis", "int", REQUIRED),),
        infer=lambda x, axis: _infer_softmax("softmax", x, axis),
        reference=_softmax,
        integer=_softmax_integer,
        quant=QuantRule(QuantKind.FIXED, fixed=(1 / 256, 0)),
        samples=_softmax_samples,
    )
)
register(
    OpDef(
        name="log_softmax",
        doc="x - max - log(sum of exp(x - max)) along an axis. Stays float inside a quantized graph: it has no "
        "integer meaning. "
        "torch.log_softmax; ONNX LogSoftmax.",
        family="reduce",
        operands=_X,
        attrs=(AttrSpec("axis", "int", REQUIRED),),
        infer=lambda x, axis: _infer_softmax("log_softmax", x, axis),
        reference=_log_softmax,
        quant=QuantRule(QuantKind.FLOAT_ONLY),
        samples=_softmax_samples,
    )
)
