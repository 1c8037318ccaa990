"""Base classes that several ops share. Passes and lowering rules recognise what an op offers by them.

`Weighted.of(node)` is the view of any op with a weight, or None. The fields are declared by each op, at the position
that its signature gives them.
"""

from __future__ import annotations

from qcompiler.ir import Value
from qcompiler.opdef import AttrSpec, Op, OperandSpec


class TakesActivation(Op):
    """A following relu or relu6 may become part of the op."""

    __slots__ = ()
    activation: AttrSpec[str]


class Weighted(TakesActivation):
    """Dot products of x with a weight, plus a bias with one number per output channel."""

    __slots__ = ()
    x: OperandSpec[Value]
    weight: OperandSpec[Value]
    bias: OperandSpec[Value | None]


class TakesResidual(Weighted):
    """Another activation may be added to the dot products, before the fused activation."""

    __slots__ = ()
    residual: OperandSpec[Value | None]
