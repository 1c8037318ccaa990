"""Elementwise arithmetic, comparison and selection with numpy broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcompiler.opdef import REQUIRED, AttrSpec, OpDef, OperandSpec, QuantKind, QuantRule, Role, Sample, Trait, register
from qcompiler.ops.activations import erf, unary
from qcompiler.ops.linear import ACTIVATION_ATTR, apply_activation, broadcast_shapes
from qcompiler.ops.rescale import rescaled
from qcompiler.quantization import qmath
from qcompiler.types import DType, TensorType, tensor

_OWN = QuantRule(QuantKind.OWN_RANGE)
_FLOAT = QuantRule(QuantKind.FLOAT_ONLY)


def _binary_samples() -> list[Sample]:
    shapes = (((2, 3, 4, 4), (2, 3, 4, 4)), ((2, 3, 4, 4), (1, 3, 1, 1)), ((33,), (33,)), ((2, 7), ()), ((4, 1), (1, 9)))
    return [Sample((tensor("f32", *a), tensor("f32", *b)), low=0.5, high=3.0) for a, b in shapes]


def _infer_binary(name: str, dtype: DType | None = None) -> Callable[..., TensorType]:
    def infer(x: TensorType, y: TensorType, **attrs: object) -> TensorType:
        return TensorType(dtype or x.dtype, broadcast_shapes(x.shape, y.shape, name))

    return infer


def _binary(name: str, doc: str, function: Callable[..., np.ndarray], integer: Callable[..., np.ndarray] | None,
            commutative: bool = False, fuses: bool = False) -> None:
    def reference(x: np.ndarray, y: np.ndarray, activation: str = "none") -> np.ndarray:
        return apply_activation(function(x, y), activation)

    def quantized(arrays, types, out: TensorType, activation: str = "none") -> np.ndarray:
        return qmath.requantize(integer(arrays, types, out), out, activation)

    traits = {Trait.ELEMENTWISE} | ({Trait.COMMUTATIVE} if commutative else set())
    register(OpDef(
        name=name, doc=doc, family="elementwise", operands=(OperandSpec("x"), OperandSpec("y")),
        attrs=(ACTIVATION_ATTR,) if fuses else (), infer=_infer_binary(name), reference=reference,
        integer=quantized if integer is not None else None, quant=_OWN if integer is not None else _FLOAT,
        samples=_binary_samples, traits=frozenset(traits),
    ))


def _terms(arrays, types, out: TensorType) -> tuple[np.ndarray, np.ndarray]:
    return rescaled(arrays[0], types[0], out), rescaled(arrays[1], types[1], out)


def _product(arrays, types, out: TensorType) -> np.ndarray:
    product = qmath.centered(arrays[0], types[0].quant) * qmath.centered(arrays[1], types[1].quant)
    return product.astype(np.float32) * qmath.multiplier(types[0].quant.scales, types[1].quant.scales, over=out.quant.scales)


def _quotient(arrays, types, out: TensorType) -> np.ndarray:
    x, y = (qmath.centered(a, t.quant).astype(np.float32) for a, t in zip(arrays, types))
    return x / y * qmath.multiplier(types[0].quant.scales, over=np.multiply(types[1].quant.scales, out.quant.scales, dtype=np.float64))


_binary("add", "x + y, then the fused activation.", np.add, lambda a, t, o: np.add(*_terms(a, t, o)), True, True)
_binary("sub", "x - y.", np.subtract, lambda a, t, o: np.subtract(*_terms(a, t, o)))
_binary("mul", "x * y, then the fused activation.", np.multiply, _product, True, True)
_binary("div", "x / y.", np.divide, _quotient)
_binary("minimum", "The smaller of both.", np.minimum, lambda a, t, o: np.minimum(*_terms(a, t, o)), True)
_binary("maximum", "The larger of both.", np.maximum, lambda a, t, o: np.maximum(*_terms(a, t, o)), True)
_binary("pow", "x to the power y.",
        lambda x, y: np.power(np.asarray(x, np.float64), np.asarray(y, np.float64)).astype(np.result_type(x, y)), None)


def _comparison(name: str, doc: str, function: Callable[..., np.ndarray]) -> None:
    register(OpDef(
        name=name, doc=doc, family="elementwise", operands=(OperandSpec("x"), OperandSpec("y")),
        infer=_infer_binary(name, DType.BOOL), reference=function, quant=_FLOAT, samples=_binary_samples,
        traits=frozenset({Trait.ELEMENTWISE}),
    ))


_comparison("equal", "x == y, bool.", np.equal)
_comparison("not_equal", "x != y, bool.", np.not_equal)
_comparison("less", "x < y, bool.", np.less)
_comparison("less_equal", "x <= y, bool.", np.less_equal)
_comparison("greater", "x > y, bool.", np.greater)
_comparison("greater_equal", "x >= y, bool.", np.greater_equal)


def _logical(name: str, doc: str, function: Callable[..., np.ndarray], count: int) -> None:
    register(OpDef(
        name=name, doc=doc, family="elementwise", operands=tuple(OperandSpec(n, Role.INDEX) for n in ("x", "y")[:count]),
        infer=_infer_binary(name, DType.BOOL) if count == 2 else lambda x: x, reference=function, quant=_FLOAT,
        traits=frozenset({Trait.ELEMENTWISE}),
        samples=lambda: [Sample(tuple(np.arange(n * (k + 1)) % (k + 2) == 0 for k in range(1)) * count) for n in (1, 2, 7, 16, 33)],
    ))


_logical("logical_and", "x and y, bools.", np.logical_and, 2)
_logical("logical_or", "x or y, bools.", np.logical_or, 2)
_logical("logical_not", "not x, bool.", np.logical_not, 1)


def _infer_where(condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
    shape = broadcast_shapes(condition.shape, broadcast_shapes(x.shape, y.shape, "where"), "where")
    return TensorType(x.dtype, shape)


register(OpDef(
    name="where", doc="x where condition, else y; numpy broadcasting.", family="elementwise",
    operands=(OperandSpec("condition", Role.INDEX), OperandSpec("x"), OperandSpec("y")), infer=_infer_where,
    reference=lambda condition, x, y: np.where(condition, x, y), quant=_FLOAT, traits=frozenset({Trait.ELEMENTWISE}),
    samples=lambda: [Sample((np.arange(n) % 3 == 0, tensor("f32", n), tensor("f32", n))) for n in (1, 4, 7, 16, 33)],
))
register(OpDef(
    name="cast", doc="Another element type; float to integer truncates.", family="elementwise", operands=(OperandSpec("x"),),
    attrs=(AttrSpec("dtype", "dtype", REQUIRED),), infer=lambda x, dtype: TensorType(dtype, x.shape),
    reference=lambda x, dtype: np.asarray(x).astype(dtype.numpy), quant=_FLOAT, traits=frozenset({Trait.ELEMENTWISE}),
    samples=lambda: [Sample((tensor("f32", n),), {"dtype": d}) for n, d in
                     ((4, DType.I32), (7, DType.I64), (3, DType.F32), (5, DType.BOOL), (33, DType.U8))],
))

unary("neg", "-x.", lambda x: -x, family="elementwise", exact=True)
unary("abs", "|x|.", np.abs, family="elementwise", exact=True)
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
unary("sign", "-1, 0 or 1.", np.sign, family="elementwise", exact=True)
unary("square", "x * x.", lambda x: x * x, family="elementwise", exact=True)
