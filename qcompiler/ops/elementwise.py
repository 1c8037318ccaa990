"""Elementwise arithmetic, comparison and selection with numpy broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcompiler.errors import ShapeError
from qcompiler.opdef import REQUIRED, AttrSpec, OperandSpec, QuantKind, QuantRule, Role, Sample, Trait, fused_activation
from qcompiler.ops.activations import erf, unary
from qcompiler.ops.legacy import legacy_op as OpDef
from qcompiler.ops.legacy import register
from qcompiler.ops.linear import apply_activation, broadcast_shapes
from qcompiler.ops.rescale import rescaled
from qcompiler.quantization import qmath
from qcompiler.types import DType, TensorType, tensor

_OWN = QuantRule(QuantKind.OWN_RANGE)
_FLOAT = QuantRule(QuantKind.FLOAT_ONLY)


def _binary_samples() -> list[Sample]:
    shapes = (
        ((2, 3, 4, 4), (2, 3, 4, 4)),
        ((2, 3, 4, 4), (1, 3, 1, 1)),
        ((33,), (33,)),
        ((2, 7), ()),
        ((4, 1), (1, 9)),
        ((), ()),
    )
    return [Sample((tensor("f32", *a), tensor("f32", *b)), low=0.5, high=3.0) for a, b in shapes]


_FLOAT_OPS = frozenset({"div", "pow"})
_BOOL_OPS = frozenset({"logical_and", "logical_or", "logical_not"})


def _check_types(name: str, x: TensorType, y: TensorType) -> None:
    if x.dtype is not y.dtype:
        raise ShapeError(
            f"operands of {name} differ in type", expected=str(x.dtype), got=str(y.dtype), hint="insert a cast"
        )
    if name in _FLOAT_OPS and not x.dtype.is_float:
        raise ShapeError(f"operands of {name}", expected="a float type", got=str(x.dtype), hint="insert a cast")
    if name in _BOOL_OPS and x.dtype is not DType.BOOL:
        raise ShapeError(f"operands of {name}", expected="bool", got=str(x.dtype), hint="compare with not_equal")


def _infer_binary(name: str, dtype: DType | None = None) -> Callable[..., TensorType]:
    def infer(x: TensorType, y: TensorType, **attrs: object) -> TensorType:
        _check_types(name, x, y)
        return TensorType(dtype or x.dtype, broadcast_shapes(x.shape, y.shape, name))

    return infer


def _binary(
    name: str,
    doc: str,
    function: Callable[..., np.ndarray],
    integer: Callable[..., np.ndarray] | None,
    commutative: bool = False,
    fuses: bool = False,
) -> None:
    def reference(x: np.ndarray, y: np.ndarray, activation: str = "none") -> np.ndarray:
        return apply_activation(np.asarray(function(x, y)), activation)

    def quantized(arrays, types, out: TensorType, activation: str = "none") -> np.ndarray:
        return qmath.requantize(integer(arrays, types, out), out, activation)

    traits = {Trait.ELEMENTWISE} | ({Trait.COMMUTATIVE} if commutative else set())
    register(
        OpDef(
            name=name,
            doc=doc,
            family="elementwise",
            operands=(OperandSpec("x"), OperandSpec("y")),
            attrs=(fused_activation(),) if fuses else (),
            infer=_infer_binary(name),
            reference=reference,
            integer=quantized if integer is not None else None,
            quant=_OWN if integer is not None else _FLOAT,
            samples=_binary_samples,
            traits=frozenset(traits),
        )
    )


def _terms(arrays, types, out: TensorType) -> tuple[np.ndarray, np.ndarray]:
    return rescaled(arrays[0], types[0], out), rescaled(arrays[1], types[1], out)


def _scale(type: TensorType) -> np.ndarray:
    """The scale, shaped to broadcast against the operand (a scalar stays one)."""
    return type.quant.along(type.rank)[0]


def _product(arrays, types, out: TensorType) -> np.ndarray:
    x, y = (qmath.centered(a, t.quant).astype(np.int64) for a, t in zip(arrays, types))
    return (x * y).astype(np.float32) * qmath.multiplier(_scale(types[0]), _scale(types[1]), over=out.quant.scale[0])


def _quotient(arrays, types, out: TensorType) -> np.ndarray:
    x, y = (qmath.centered(a, t.quant).astype(np.float32) for a, t in zip(arrays, types))
    over = _scale(types[1]).astype(np.float64) * np.float64(out.quant.scale[0])  # exact: two 24-bit factors
    with np.errstate(all="ignore"):
        return x / y * qmath.multiplier(_scale(types[0]), over=over)


_binary("add", "x + y, then the fused activation.", np.add, lambda a, t, o: np.add(*_terms(a, t, o)), True, True)
_binary("sub", "x - y.", np.subtract, lambda a, t, o: np.subtract(*_terms(a, t, o)))
_binary("mul", "x * y, then the fused activation.", np.multiply, _product, True, True)
_binary("div", "x / y.", np.divide, _quotient)
_binary("minimum", "The smaller of both.", np.minimum, lambda a, t, o: np.minimum(*_terms(a, t, o)), True)
_binary("maximum", "The larger of both.", np.maximum, lambda a, t, o: np.maximum(*_terms(a, t, o)), True)
_binary(
    "pow",
    "x to the power y.",
    lambda x, y: np.power(np.asarray(x, np.float64), np.asarray(y, np.float64)).astype(np.result_type(x, y)),
    None,
)


def _comparison(name: str, doc: str, function: Callable[..., np.ndarray], commutative: bool = False) -> None:
    traits = {Trait.ELEMENTWISE} | ({Trait.COMMUTATIVE} if commutative else set())
    register(
        OpDef(
            name=name,
            doc=doc,
            family="elementwise",
            operands=(OperandSpec("x"), OperandSpec("y")),
            infer=_infer_binary(name, DType.BOOL),
            reference=lambda x, y: np.asarray(function(x, y)),
            quant=_FLOAT,
            samples=_binary_samples,
            traits=frozenset(traits),
        )
    )


_comparison("equal", "x == y, bool.", np.equal, True)
_comparison("not_equal", "x != y, bool.", np.not_equal, True)
_comparison("less", "x < y, bool.", np.less)
_comparison("less_equal", "x <= y, bool.", np.less_equal)
_comparison("greater", "x > y, bool.", np.greater)
_comparison("greater_equal", "x >= y, bool.", np.greater_equal)


def _infer_not(x: TensorType) -> TensorType:
    _check_types("logical_not", x, x)
    return x


def _logical(name: str, doc: str, function: Callable[..., np.ndarray], count: int) -> None:
    register(
        OpDef(
            name=name,
            doc=doc,
            family="elementwise",
            operands=tuple(OperandSpec(n, Role.INDEX) for n in ("x", "y")[:count]),
            infer=_infer_binary(name, DType.BOOL) if count == 2 else _infer_not,
            reference=lambda *arrays: np.asarray(function(*arrays)),
            quant=_FLOAT,
            traits=frozenset({Trait.ELEMENTWISE} | ({Trait.COMMUTATIVE} if count == 2 else set())),
            samples=lambda: [
                Sample(tuple(np.arange(n) % divisor == 0 for divisor in (2, 3)[:count])) for n in (1, 2, 7, 16, 33)
            ],
        )
    )


_logical("logical_and", "x and y, bools.", np.logical_and, 2)
_logical("logical_or", "x or y, bools.", np.logical_or, 2)
_logical("logical_not", "not x, bool.", np.logical_not, 1)


def _infer_where(condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
    if condition.dtype is not DType.BOOL:
        raise ShapeError("condition of where", expected="bool", got=str(condition), hint="compare with not_equal")
    _check_types("where", x, y)
    shape = broadcast_shapes(condition.shape, broadcast_shapes(x.shape, y.shape, "where"), "where")
    return TensorType(x.dtype, shape)


register(
    OpDef(
        name="where",
        doc="x where condition, else y; numpy broadcasting.",
        family="elementwise",
        operands=(OperandSpec("condition", Role.INDEX), OperandSpec("x"), OperandSpec("y")),
        infer=_infer_where,
        reference=lambda condition, x, y: np.asarray(np.where(condition, x, y)),
        quant=_FLOAT,
        traits=frozenset({Trait.ELEMENTWISE}),
        samples=lambda: [
            Sample((np.arange(n) % 3 == 0, tensor("f32", n), tensor("f32", n))) for n in (1, 4, 7, 16, 33)
        ],
    )
)


def _infer_cast(x: TensorType, *, dtype: DType) -> TensorType:
    if dtype.bits < 8 or x.dtype.bits < 8:
        raise ShapeError("types of cast", expected="8 bits or more", got=f"{x.dtype} to {dtype}")
    return TensorType(dtype, x.shape)


def _cast(x: np.ndarray, *, dtype: DType) -> np.ndarray:
    x = np.asarray(x)
    if not (dtype.is_integer and x.dtype.kind == "f"):
        return x.astype(dtype.numpy)
    whole = np.trunc(x.astype(np.float64))
    above, below = whole >= float(dtype.max + 1), whole < float(dtype.min)  # both bounds are exact
    inside = np.where(above | below | np.isnan(whole), 0.0, whole).astype(np.int64)
    return np.where(above, dtype.max, np.where(below, dtype.min, inside)).astype(dtype.numpy)


register(
    OpDef(
        name="cast",
        doc="Another element type. Float to integer truncates, saturates and takes NaN to 0; integer to integer "
        "keeps the "
        "low bits; to bool: not equal to 0.",
        family="elementwise",
        operands=(OperandSpec("x"),),
        attrs=(AttrSpec("dtype", "dtype", REQUIRED),),
        infer=_infer_cast,
        reference=_cast,
        quant=_FLOAT,
        traits=frozenset({Trait.ELEMENTWISE}),
        samples=lambda: [
            Sample((tensor("f32", n),), {"dtype": d})
            for n, d in ((4, DType.I32), (7, DType.I64), (3, DType.F32), (5, DType.BOOL), (33, DType.U8))
        ],
    )
)

unary("neg", "The negative, -x.", lambda x: -x, family="elementwise", exact=True)
unary("abs", "Magnitude, |x|.", np.abs, family="elementwise", exact=True)
unary("sqrt", "Square root.", np.sqrt, family="elementwise", exact=True, low=0.1)
unary("rsqrt", "1 / sqrt(x).", lambda x: 1 / np.sqrt(x), family="elementwise", exact=True, low=0.1)
unary("reciprocal", "1 / x.", lambda x: 1 / x, family="elementwise", exact=True, low=0.1)
unary("exp", "e to the x.", np.exp, family="elementwise")
unary("log", "Natural logarithm.", np.log, family="elementwise", low=0.1)
unary("sin", "Sine.", np.sin, family="elementwise")
unary("cos", "Cosine.", np.cos, family="elementwise")
unary("erf", "Error function.", erf, family="elementwise")
unary("floor", "Round down.", np.floor, family="elementwise", exact=True)
unary("ceil", "Round up.", np.ceil, family="elementwise", exact=True)
unary("round", "Round half to even.", np.rint, family="elementwise", exact=True)
unary(
    "sign",
    "-1, 0 or 1; 0 for NaN.",
    lambda x: (x > 0).astype(x.dtype) - (x < 0).astype(x.dtype),
    family="elementwise",
    exact=True,
)
unary("square", "x * x.", lambda x: x * x, family="elementwise", exact=True)
