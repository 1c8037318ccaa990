"""What all elementwise ops of one operand share: their types, their rounding and how they are declared."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qcompiler.errors import ShapeError
from qcompiler.ir import AttrValue
from qcompiler.opdef import AttrSpec, OpDef, OperandSpec, QuantKind, QuantRule, Sample, Trait, register
from qcompiler.types import TensorType, tensor

Function = Callable[..., np.ndarray]
OWN_RANGE = QuantRule(QuantKind.OWN_RANGE)
SHARES_INPUT = QuantRule(QuantKind.SHARES_INPUT)
FLOAT_ONLY = QuantRule(QuantKind.FLOAT_ONLY)
UNARY = frozenset({Trait.UNARY, Trait.ELEMENTWISE})


def in_float64(function: Function) -> Function:
    """`function` evaluated in float64 and rounded once to the element type of x: within half an ulp of the real value, and
    the same on every machine."""

    @functools.wraps(function)
    def rounded(x: np.ndarray, **attrs: AttrValue) -> np.ndarray:
        return np.asarray(function(x.astype(np.float64), **attrs)).astype(x.dtype)

    return rounded


def in_own_type(function: Function) -> Function:
    """`function` evaluated step by step in the element type of x, as kernels do; scalars must be of that type (`scalar`)."""

    @functools.wraps(function)
    def kept(x: np.ndarray, **attrs: AttrValue) -> np.ndarray:
        return np.asarray(function(x, **attrs), x.dtype)

    return kept


def scalar(x: np.ndarray, value: float) -> np.generic:
    """`value` rounded once to the element type of x."""
    return x.dtype.type(value)


def infer_unary(x: TensorType, op: str, integers: bool = False) -> TensorType:
    """The type of x; ShapeError unless it is float (or an integer type, where the op takes these)."""
    if not (x.dtype.is_float or integers and x.dtype.is_integer):
        raise ShapeError(f"operand of {op}", expected="a float type" + (" or plain integers" if integers else ""),
                         got=str(x), hint="insert a cast")
    return x


def unary_samples(attrs: Mapping[str, AttrValue] | Sequence[Mapping[str, AttrValue]] = (), low: float = -4.0,
                  high: float = 4.0) -> list[Sample]:
    """Five shapes around vector widths and ranks; `attrs` of the samples are taken in turn."""
    turns = [attrs] if isinstance(attrs, Mapping) else list(attrs) or [{}]
    shapes = ((1,), (2, 33), (3, 5, 7, 2), (1, 1, 129), (2, 16))
    return [Sample((tensor("f32", *shape),), turns[i % len(turns)], low, high) for i, shape in enumerate(shapes)]


def register_unary(name: str, doc: str, family: str, function: Function, *, attrs: Sequence[AttrSpec] = (),
                   check: Callable[..., None] | None = None, quant: QuantRule = OWN_RANGE, integers: bool = False,
                   integer: Callable[..., np.ndarray] | None = None, samples: Sequence[Mapping[str, AttrValue]] = (),
                   low: float = -4.0, high: float = 4.0) -> OpDef:
    """Declare an op of one operand x whose result has the type of x.

    Args:
        function: made by in_float64 or in_own_type.
        check: check(**attrs) raises ShapeError for attrs that make no sense.
        integers: plain integers are legal too.
        integer: meaning on codes; None: integerize makes a 256-entry table.
        samples: attrs of the samples in turn.
        low, high: range of the samples' data.
    """

    def infer(x: TensorType, **given: AttrValue) -> TensorType:
        if check is not None:
            check(**given)
        return infer_unary(x, name, integers)

    return register(OpDef(
        name=name, doc=doc, family=family, operands=(OperandSpec("x"),), attrs=tuple(attrs), infer=infer,
        reference=function, integer=integer, quant=quant, traits=UNARY,
        samples=lambda: unary_samples(samples, low, high),
    ))
