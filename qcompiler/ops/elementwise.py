"""Elementwise arithmetic, comparison and selection with numpy broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from qcompiler.errors import ShapeError
from qcompiler.opdef import (
    FLOAT_ONLY,
    OWN_RANGE,
    Op,
    Sample,
    Trait,
    TypedArray,
    dtype_attr,
    fused_activation,
    index_operand,
    no_accumulator,
    operand,
)
from qcompiler.ops.activations import Unary, erf
from qcompiler.ops.interfaces import Arithmetic, TakesActivation
from qcompiler.ops.linear import apply_activation, broadcast_shapes
from qcompiler.ops.rescale import rescaled
from qcompiler.quantization import qmath
from qcompiler.types import DType, TensorType, tensor


def check_types(op: Op, x: TensorType, y: TensorType) -> None:
    if x.dtype is not y.dtype:
        raise ShapeError(
            f"operands of {op.name} differ in type", expected=str(x.dtype), got=str(y.dtype), hint="insert a cast"
        )


def _check_float(op: Op, x: TensorType) -> None:
    if not x.dtype.is_float:
        raise ShapeError(f"operands of {op.name}", expected="a float type", got=str(x.dtype), hint="insert a cast")


def check_number(op: Op, x: TensorType) -> None:
    if not (x.dtype.is_float or x.dtype.is_integer):
        raise ShapeError(
            f"operands of {op.name}", expected="a float or integer type", got=str(x.dtype), hint="insert a cast"
        )


def binary_samples() -> Sequence[Sample]:
    shapes = (
        ((2, 3, 4, 4), (2, 3, 4, 4)),
        ((2, 3, 4, 4), (1, 3, 1, 1)),
        ((33,), (33,)),
        ((2, 7), ()),
        ((4, 1), (1, 9)),
        ((), ()),
    )
    return [Sample((tensor("f32", *a), tensor("f32", *b)), low=0.5, high=3.0) for a, b in shapes]


class Binary(Arithmetic):
    """Two operands of one dtype, which is that of the result.

    An op gives `real` (f32), and `rescaled` if it has an integer meaning: f32 values in units of the result's scale.
    """

    quant = OWN_RANGE
    traits = frozenset({Trait.ELEMENTWISE})
    samples = staticmethod(binary_samples)
    x = operand()
    y = operand()

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        check_types(self, x, y)
        return TensorType(x.dtype, broadcast_shapes(x.shape, y.shape, self.name))

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError(self.name)

    def reference(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(self.real(x, y))


class _Exact(Binary):
    """An op whose integer meaning rounds once, at the end."""

    chooses_params = True
    terms = no_accumulator

    def rescaled(self, x: TypedArray, y: TypedArray, out: TensorType) -> np.ndarray:
        """The real function of both operands in units of the result's scale."""
        return self.real(rescaled(x, out), rescaled(y, out))

    def integer(self, x: TypedArray, y: TypedArray, *, out: TensorType) -> np.ndarray:
        return qmath.requantize(self.rescaled(x, y, out), out)


class _Fusing(_Exact, TakesActivation):
    """A commutative op that a following activation may be fused into."""

    traits = frozenset({Trait.ELEMENTWISE, Trait.COMMUTATIVE})
    activation = fused_activation()

    def reference(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return apply_activation(np.asarray(self.real(x, y)), self.activation)

    def integer(self, x: TypedArray, y: TypedArray, *, out: TensorType) -> np.ndarray:
        return qmath.requantize(self.rescaled(x, y, out), out, self.activation)


def _scale(x: TypedArray) -> np.ndarray:
    """The scale, shaped to broadcast against the operand (a scalar stays one)."""
    return x.quant.along(x.type.rank)[0]


class Add(_Fusing):
    """x + y, then the fused activation."""

    name = "add"
    carries_masks = True
    element_cost = (0.054, 0.099)

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.add(x, y)


class Sub(_Exact):
    """x - y."""

    name = "sub"
    carries_masks = True
    element_cost = (0.052, 0.103)

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.subtract(x, y)


class Mul(_Fusing):
    """x * y, then the fused activation."""

    name = "mul"
    carries_masks = True
    neutral = 1.0
    element_cost = (0.051, 0.112)

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.multiply(x, y)

    def rescaled(self, x: TypedArray, y: TypedArray, out: TensorType) -> np.ndarray:
        product = x.centered().astype(np.int64) * y.centered().astype(np.int64)
        return product.astype(np.float32) * qmath.multiplier(_scale(x), _scale(y), over=out.params.scale[0])


class Div(_Exact):
    """x / y."""

    name = "div"
    carries_masks = True
    neutral = 1.0
    element_cost = (0.058, 0.091)

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        result = super().infer(x, y)
        _check_float(self, x)
        return result

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.divide(x, y)

    def rescaled(self, x: TypedArray, y: TypedArray, out: TensorType) -> np.ndarray:
        over = _scale(y).astype(np.float64) * np.float64(out.params.scale[0])  # exact: two 24-bit factors
        quotient = x.centered().astype(np.float32) / y.centered().astype(np.float32)
        return quotient * qmath.multiplier(_scale(x), over=over)


class Minimum(_Exact):
    """The smaller of both."""

    name = "minimum"
    traits = frozenset({Trait.ELEMENTWISE, Trait.COMMUTATIVE})
    carries_masks = True
    element_cost = (0.073, 0.112)

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.minimum(x, y)


class Maximum(_Exact):
    """The larger of both."""

    name = "maximum"
    traits = frozenset({Trait.ELEMENTWISE, Trait.COMMUTATIVE})
    carries_masks = True
    element_cost = (0.070, 0.112)

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.maximum(x, y)


class Pow(Binary):
    """x to the power y. Integers wrap; a negative power of 1 or -1 is 1 or -1, of any other integer 0. torch.pow;
    numpy.power, which refuses negative powers of integers; ONNX Pow."""

    name = "pow"
    quant = FLOAT_ONLY

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        check_number(self, x)
        return super().infer(x, y)

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.dtype.kind in "iu":
            power = np.power(x, np.where(y < 0, 0, y).astype(x.dtype))
            unit = np.where(x == 1, 1, np.where(x == -1, np.where(y % 2 == 0, 1, -1), 0))
            return np.where(y < 0, unit, power).astype(x.dtype)
        kind = np.result_type(x, y)
        # numpy takes the root for one exponent of 0.5 that serves several elements: NaN for -inf, -0 for -0
        base, exponent = (np.atleast_1d(z).astype(np.float64) for z in np.broadcast_arrays(x, y))
        return np.power(base, exponent).astype(kind).reshape(np.broadcast_shapes(x.shape, y.shape))


class Comparison(Op):
    """Two operands of one dtype to bools, by a numpy function."""

    quant = FLOAT_ONLY
    traits = frozenset({Trait.ELEMENTWISE})
    samples = staticmethod(binary_samples)
    compare: ClassVar[np.ufunc]
    x = operand()
    y = operand()

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        check_types(self, x, y)
        return TensorType(DType.BOOL, broadcast_shapes(x.shape, y.shape, self.name))

    def reference(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(self.compare(x, y))


class Equal(Comparison):
    """x == y, bool."""

    name = "equal"
    traits = frozenset({Trait.ELEMENTWISE, Trait.COMMUTATIVE})
    compare = np.equal


class NotEqual(Comparison):
    """x != y, bool."""

    name = "not_equal"
    traits = frozenset({Trait.ELEMENTWISE, Trait.COMMUTATIVE})
    compare = np.not_equal


class Less(Comparison):
    """x < y, bool."""

    name = "less"
    compare = np.less


class LessEqual(Comparison):
    """x <= y, bool."""

    name = "less_equal"
    compare = np.less_equal


class Greater(Comparison):
    """x > y, bool."""

    name = "greater"
    compare = np.greater


class GreaterEqual(Comparison):
    """x >= y, bool."""

    name = "greater_equal"
    compare = np.greater_equal


class Where(Op):
    """x where condition, else y; numpy broadcasting."""

    name = "where"
    quant = FLOAT_ONLY
    traits = frozenset({Trait.ELEMENTWISE})
    carries_masks = True
    condition = index_operand()
    x = operand()
    y = operand()

    def infer(self, condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
        if condition.dtype is not DType.BOOL:
            raise ShapeError("condition of where", expected="bool", got=str(condition), hint="compare with not_equal")
        check_types(self, x, y)
        shape = broadcast_shapes(condition.shape, broadcast_shapes(x.shape, y.shape, "where"), "where")
        return TensorType(x.dtype, shape)

    def reference(self, condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(np.where(condition, x, y))

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [Sample((np.arange(n) % 3 == 0, tensor("f32", n), tensor("f32", n))) for n in (1, 4, 7, 16, 33)]


def converted(x: np.ndarray, dtype: DType) -> np.ndarray:
    """x in another element type, by the rules of `Cast`."""
    if not (dtype.is_integer and x.dtype.kind == "f"):
        with np.errstate(over="ignore"):
            return x.astype(dtype.numpy)
    whole = np.trunc(x.astype(np.float64))
    above, below = whole >= float(dtype.max + 1), whole < float(dtype.min)  # both bounds are exact
    inside = np.where(above | below | np.isnan(whole), 0.0, whole).astype(np.int64)
    return np.where(above, dtype.max, np.where(below, dtype.min, inside)).astype(dtype.numpy)


class Cast(Op):
    """Another element type. Float to integer truncates, saturates and takes NaN to 0; integer to integer keeps the low
    bits; to bool: not equal to 0."""

    name = "cast"
    quant = FLOAT_ONLY
    traits = frozenset({Trait.ELEMENTWISE})
    carries_masks = True
    x = operand()
    dtype = dtype_attr()

    def infer(self, x: TensorType) -> TensorType:
        if self.dtype.bits < 8 or x.dtype.bits < 8:
            raise ShapeError("types of cast", expected="8 bits or more", got=f"{x.dtype} to {self.dtype}")
        return TensorType(self.dtype, x.shape)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return converted(np.asarray(x), self.dtype)

    def is_identity(self) -> bool:
        return True

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", n),), {"dtype": d})
            for n, d in ((4, DType.I32), (7, DType.I64), (3, DType.F32), (5, DType.BOOL), (33, DType.U8))
        ]


class Neg(Unary):
    """The negative, -x."""

    name = "neg"
    exact = True
    takes_integers = True
    carries_masks = True
    element_cost = (0.015, 0.066)

    def function(self, x: np.ndarray) -> np.ndarray:
        return -x


class Abs(Unary):
    """Magnitude, |x|."""

    name = "abs"
    exact = True
    takes_integers = True
    element_cost = (0.015, 0.066)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.abs(x)


class Sqrt(Unary):
    """Square root."""

    name = "sqrt"
    exact = True
    sampled = (0.1, 4.0)
    element_cost = (0.015, 0.066)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.sqrt(x)


class Rsqrt(Unary):
    """1 / sqrt(x)."""

    name = "rsqrt"
    exact = True
    sampled = (0.1, 4.0)
    element_cost = (0.015, 0.125)

    def function(self, x: np.ndarray) -> np.ndarray:
        return 1 / np.sqrt(x)


class Reciprocal(Unary):
    """1 / x."""

    name = "reciprocal"
    exact = True
    sampled = (0.1, 4.0)
    element_cost = (0.015, 0.066)

    def function(self, x: np.ndarray) -> np.ndarray:
        return 1 / x


class Exp(Unary):
    """e to the x."""

    name = "exp"
    element_cost = (0.015, 0.39)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.exp(x)


class Expm1(Unary):
    """e to the x, minus 1, without cancellation near 0. torch.expm1; numpy.expm1."""

    name = "expm1"
    element_cost = (0.015, 0.42)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.expm1(x)


class Log(Unary):
    """Natural logarithm."""

    name = "log"
    sampled = (0.1, 4.0)
    element_cost = (0.015, 0.53)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.log(x)


class Log1p(Unary):
    """Natural logarithm of 1 + x, without cancellation near 0. torch.log1p; numpy.log1p."""

    name = "log1p"
    sampled = (-0.9, 4.0)
    element_cost = (0.015, 0.65)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.log1p(x)


class Sin(Unary):
    """Sine."""

    name = "sin"
    element_cost = (0.015, 5.7)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.sin(x)


class Cos(Unary):
    """Cosine."""

    name = "cos"
    element_cost = (0.015, 5.5)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.cos(x)


class Atan(Unary):
    """Arc tangent."""

    name = "atan"

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.arctan(x)


class Erf(Unary):
    """Error function."""

    name = "erf"
    element_cost = (0.015, 1.21)

    def function(self, x: np.ndarray) -> np.ndarray:
        return erf(x)


class Floor(Unary):
    """Round down."""

    name = "floor"
    exact = True
    element_cost = (0.015, 0.066)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.floor(x)


class Ceil(Unary):
    """Round up."""

    name = "ceil"
    exact = True
    element_cost = (0.015, 0.066)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.ceil(x)


class Round(Unary):
    """Round half to even."""

    name = "round"
    exact = True
    element_cost = (0.015, 0.066)

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.rint(x)


class Sign(Unary):
    """-1, 0 or 1; 0 for NaN."""

    name = "sign"
    exact = True
    takes_integers = True
    element_cost = (0.015, 0.066)

    def function(self, x: np.ndarray) -> np.ndarray:
        return (x > 0).astype(x.dtype) - (x < 0).astype(x.dtype)


class Square(Unary):
    """x * x."""

    name = "square"
    exact = True
    takes_integers = True
    element_cost = (0.015, 0.066)

    def function(self, x: np.ndarray) -> np.ndarray:
        return x * x
