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
from typing import ClassVar

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.errors import QuantizationError, ShapeError
from qcompiler.opdef import (
    FLOAT_ONLY,
    OWN_RANGE,
    SHARES_INPUT,
    LayoutRule,
    Op,
    Sample,
    TypedArray,
    bool_attr,
    fixed,
    int_attr,
    ints_attr,
    no_accumulator,
    operand,
)
from qcompiler.ops.axes import check_axes, check_axis, reduced_shape
from qcompiler.ops.rescale import mean_multiplier, share_or_requantize
from qcompiler.quantization import qmath
from qcompiler.types import DType, TensorType, tensor

SOFTMAX_BITS = 22  # a softmax table holds exp(-d * scale) in units of 2^-22


def count_of(shape: Sequence[int], axes: Sequence[int]) -> int:
    """How many elements are reduced to one."""
    return math.prod(shape[axis] for axis in axes)


def check_sum_fits(op: str, source: TensorType, count: int) -> None:
    """QuantizationError unless every sum of `count` centered codes of `source` fits i32."""
    quant = source.params
    largest = max(quant.qmax - quant.zero_point[0], quant.zero_point[0] - quant.qmin)
    if count * largest >= 2**31:
        raise QuantizationError(
            f"the integer sum of {op} may overflow",
            expected=f"at most {(2**31 - 1) // largest} elements",
            got=count,
            hint="keep the node float",
        )


def _wide(x: np.ndarray) -> type[np.generic]:
    """The element type in which elements are summed and multiplied: float64, or their own if they are integers."""
    return np.float64 if np.issubdtype(x.dtype, np.floating) else x.dtype.type


class Reduction(Op):
    """One result for all elements along some axes."""

    takes_integers: ClassVar[bool] = True
    takes_none: ClassVar[bool] = True
    x = operand()
    axes = ints_attr(doc="axes to reduce, from 0")
    keepdims = bool_attr(default=False, doc="keep reduced axes with size 1")

    def infer(self, x: TensorType) -> TensorType:
        if x.dtype is DType.BOOL or not (self.takes_integers or x.dtype.is_float):
            raise ShapeError(
                f"operand of {self.name}",
                expected="f32[...] or integers" if self.takes_integers else "f32[...]",
                got=str(x),
                hint="insert cast",
            )
        check_axes(self.name, self.axes, x)
        if not self.takes_none and any(x.shape[axis] == 0 for axis in self.axes):
            raise ShapeError(f"{self.name} of no elements", expected="sizes above 0", got=str(x))
        return TensorType(x.dtype, reduced_shape(x.shape, self.axes, self.keepdims))

    @staticmethod
    def samples() -> Sequence[Sample]:
        cases = (
            ((2, 3, 5, 7), (2, 3), False),
            ((2, 33), (1,), True),
            ((4, 17, 3), (0, 2), False),
            ((129,), (0,), False),
            ((3, 1, 8), (1,), False),
            ((2, 16, 4, 4), (1,), True),
        )
        return [
            Sample((tensor("f32", *shape),), {"axes": axes, "keepdims": keepdims}) for shape, axes, keepdims in cases
        ]


class _Summing(Reduction):
    """A reduction whose integer meaning is a sum of centered codes, times a number."""

    chooses_params = True
    element_cost = (0.010, 0.039)

    def terms(self) -> Sequence[DimLike]:
        return [self.x.type.shape[axis] for axis in self.axes]

    def centered_sum(self, x: TypedArray) -> np.ndarray:
        """i32: the exact sum of (q - zero_point); QuantizationError if it may not fit."""
        check_sum_fits(self.name, x.type, count_of(x.array.shape, self.axes))
        return x.centered().sum(axis=self.axes, keepdims=self.keepdims, dtype=np.int64).astype(np.int32)


class Mean(_Summing):
    """Mean over axes. torch.mean; ONNX ReduceMean."""

    name = "mean"
    quant = SHARES_INPUT
    takes_integers = False

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.mean(x, axis=self.axes, keepdims=self.keepdims, dtype=np.float64)).astype(x.dtype)

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        count = count_of(x.array.shape, self.axes)
        return qmath.requantize(self.centered_sum(x).astype(np.float32) * mean_multiplier(x.type, out, count), out)


class Sum(_Summing):
    """Sum over axes; integers keep their type and wrap. torch.sum; ONNX ReduceSum."""

    name = "sum"
    quant = OWN_RANGE

    def reference(self, x: np.ndarray) -> np.ndarray:
        """Floats are summed in float64 and rounded once."""
        return np.asarray(np.sum(x, axis=self.axes, keepdims=self.keepdims, dtype=_wide(x))).astype(x.dtype)

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        multiplier = qmath.multiplier(x.quant.scale[0], over=out.params.scale[0])
        return qmath.requantize(self.centered_sum(x).astype(np.float32) * multiplier, out)


class _Extreme(Reduction):
    """A reduction that selects one of the elements, so it may compare codes instead."""

    quant = SHARES_INPUT
    takes_none = False
    keeps_dtype = True
    chooses_params = True
    element_cost = (0.010, 0.039)
    terms = no_accumulator
    combine: ClassVar[np.ufunc]

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.combine.reduce(x, axis=self.axes, keepdims=self.keepdims))

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        return share_or_requantize(self.reference(x.array), x.type, out)


class Max(_Extreme):
    """Maximum over axes; NaN wins. torch.amax; ONNX ReduceMax."""

    name = "max"
    combine = np.maximum


class Min(_Extreme):
    """Minimum over axes; NaN wins. torch.amin; ONNX ReduceMin."""

    name = "min"
    combine = np.minimum


class Prod(Reduction):
    """Product over axes; integers keep their type and wrap. torch.prod; ONNX ReduceProd."""

    name = "prod"
    quant = FLOAT_ONLY

    def reference(self, x: np.ndarray) -> np.ndarray:
        """Floats are multiplied in float64 and rounded once."""
        return np.asarray(np.prod(x, axis=self.axes, keepdims=self.keepdims, dtype=_wide(x))).astype(x.dtype)


class Cumsum(Op):
    """Sums along an axis of each element and all before it. Integers of every width keep their type and wrap; torch and
    numpy sum them as i64, so their frontends insert a cast. torch.cumsum, numpy.cumsum; ONNX CumSum."""

    name = "cumsum"
    quant = FLOAT_ONLY
    layout = LayoutRule.ROW_MAJOR
    x = operand()
    axis = int_attr()
    exclusive = bool_attr(default=False, doc="leave the element itself out of its sum, so the first one is 0")
    reverse = bool_attr(default=False, doc="sum from the end of the axis")

    def infer(self, x: TensorType) -> TensorType:
        if x.dtype is DType.BOOL:
            raise ShapeError("operand of cumsum", expected="f32[...] or integers", got=str(x), hint="insert cast")
        check_axis("cumsum", self.axis, x)
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        """Floats are summed in float64, and each sum is rounded once."""
        along = np.moveaxis(x, self.axis, -1)
        along = along[..., ::-1] if self.reverse else along
        if self.exclusive and along.shape[-1]:
            along = np.concatenate([np.zeros_like(along[..., :1]), along[..., :-1]], -1)
        total = np.cumsum(along, axis=-1, dtype=_wide(x)).astype(x.dtype)
        return np.ascontiguousarray(np.moveaxis(total[..., ::-1] if self.reverse else total, -1, self.axis))

    @staticmethod
    def samples() -> Sequence[Sample]:
        cases = (
            ((7,), 0, False, False),
            ((2, 33), 1, True, False),
            ((4, 17, 3), 1, False, True),
            ((1, 1), 0, True, True),
            ((2, 3, 5, 5), 2, False, False),
        )
        return [
            Sample((tensor("f32", *shape),), {"axis": axis, "exclusive": exclusive, "reverse": reverse})
            for shape, axis, exclusive, reverse in cases
        ]


class ArgExtreme(Op):
    """The index, i64, of an extreme element along an axis: the first of equal ones, the first NaN if there is one."""

    quant = FLOAT_ONLY
    find: ClassVar[Callable[..., np.ndarray]]
    x = operand()
    axis = int_attr()
    keepdims = bool_attr(default=False, doc="keep reduced axes with size 1")

    def infer(self, x: TensorType) -> TensorType:
        check_axis(self.name, self.axis, x)
        if x.shape[self.axis] == 0:
            raise ShapeError(f"{self.name} of no elements", expected="a size above 0", got=str(x))
        return TensorType(DType.I64, reduced_shape(x.shape, (self.axis,), self.keepdims))

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(type(self).find(x, axis=self.axis, keepdims=self.keepdims)).astype(np.int64)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", *shape),), {"axis": axis, "keepdims": keepdims})
            for shape, axis, keepdims in (
                ((3, 10), 1, False),
                ((33,), 0, True),
                ((2, 5, 4), 1, True),
                ((1, 1), 0, False),
                ((2, 3, 129), 2, False),
            )
        ]


class Argmax(ArgExtreme):
    """Index of the maximum along an axis, i64; the first of equal ones, the first NaN if there is one. torch.argmax;
    ONNX ArgMax(select_last_index=0)."""

    name = "argmax"
    find = np.argmax


class Argmin(ArgExtreme):
    """Index of the minimum along an axis, i64; the first of equal ones, the first NaN if there is one. torch.argmin;
    ONNX ArgMin(select_last_index=0)."""

    name = "argmin"
    find = np.argmin


def softmax_table(source: TensorType) -> np.ndarray:
    """i32[codes of the dtype]: exp(-d * scale) in units of 2^-22, for d = max - q from 0 on.

    Raises:
        QuantizationError: per-channel parameters, or codes wider than 16 bits.
    """
    if source.quant is None or source.quant.axis is not None or source.dtype.bits > 16:
        raise QuantizationError("operand of an integer softmax", expected="8 or 16 bits, per tensor", got=str(source))
    d = np.arange(source.dtype.max - source.dtype.min + 1, dtype=np.float64)
    return np.rint(np.exp(-d * np.float64(source.quant.scale[0])) * 2.0**SOFTMAX_BITS).astype(np.int32)


class _Softmax(Op):
    """softmax and log_softmax: a function of the elements along one axis."""

    wants_real = True
    x = operand()
    axis = int_attr()

    def infer(self, x: TensorType) -> TensorType:
        if not x.dtype.is_float:
            raise ShapeError(f"operand of {self.name}", expected="f32[...]", got=str(x), hint="insert cast")
        check_axis(self.name, self.axis, x)
        if not isinstance(x.shape[self.axis], Dim) and x.shape[self.axis] == 0:
            raise ShapeError(f"{self.name} of no elements", expected="a size above 0", got=str(x))
        return x

    @staticmethod
    def samples() -> Sequence[Sample]:
        cases = (((3, 10), 1), ((2, 4, 33), 2), ((2, 5, 4), 1), ((129,), 0), ((2, 3, 7, 7), 3))
        return [Sample((tensor("f32", *shape),), {"axis": axis}, -6.0, 6.0) for shape, axis in cases]


class Softmax(_Softmax):
    """exp(x - max) / sum of exp(x - max) along an axis. A line of nothing but -inf gives NaN, or 0 with
    `masked_is_zero`, as in torch's scaled_dot_product_attention. torch.softmax; ONNX Softmax."""

    name = "softmax"
    masked_is_zero = bool_attr(default=False, doc="lines of nothing but -inf give 0")
    quant = fixed(1 / 256, 0)
    chooses_params = True
    element_cost = (0.067, 1.04)
    terms = no_accumulator

    def reference(self, x: np.ndarray) -> np.ndarray:
        wide = x.astype(np.float64)
        top = wide.max(axis=self.axis, keepdims=True)
        is_zero = self.masked_is_zero & (top == -math.inf)
        e = np.exp(wide - np.where(is_zero, 0, top))
        return (e / np.where(is_zero, 1, e.sum(axis=self.axis, keepdims=True))).astype(x.dtype)

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        q = x.array.astype(np.int32)
        e = softmax_table(x.type)[q.max(axis=self.axis, keepdims=True) - q]
        total = e.sum(axis=self.axis, keepdims=True, dtype=np.int64)
        p = e.astype(np.float32) / total.astype(np.float32)
        return qmath.requantize(p * qmath.multiplier(1.0, over=out.params.scale[0]), out)


class LogSoftmax(_Softmax):
    """x - max - log(sum of exp(x - max)) along an axis. Stays float inside a quantized graph: it has no integer
    meaning. torch.log_softmax; ONNX LogSoftmax."""

    name = "log_softmax"
    quant = FLOAT_ONLY

    def reference(self, x: np.ndarray) -> np.ndarray:
        wide = x.astype(np.float64)
        shifted = wide - wide.max(axis=self.axis, keepdims=True)
        return (shifted - np.log(np.exp(shifted).sum(axis=self.axis, keepdims=True))).astype(x.dtype)
