"""Nodes that are functions of one activation, element by element: they can become a table.

Besides unary ops these are arithmetic ops with a scalar constant, such as x * 0.5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qcompiler.ir import Const, Node, Value
from qcompiler.opdef import Role, Trait, op_of, opdef
from qcompiler.ops.interfaces import Arithmetic, TakesActivation


class UnaryForm(NamedTuple):
    """`node` as a function of `x`. Of an arithmetic op, `scalar` is the constant, first or second."""

    node: Node
    x: Value
    scalar: Const | None = None
    scalar_first: bool = False

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The function of a float64 array."""
        operands = [x]
        if self.scalar is not None:
            constant = self.scalar.data.astype(np.float64).reshape(())
            operands = [constant, x] if self.scalar_first else [x, constant]
        return opdef(self.node.op).run_reference(operands, self.node.attrs)[0]


def unary_form(node: Node) -> UnaryForm | None:
    """The node as a function of one activation; None if it is not one."""
    definition = opdef(node.op)
    if issubclass(definition, Arithmetic):
        op = definition(node)
        if _is_scalar(op.x):
            return _with_scalar(op, op.y, op.x, True)
        return _with_scalar(op, op.x, op.y, False) if _is_scalar(op.y) else None
    return UnaryForm(node, definition(node).first) if Trait.UNARY in definition.traits else None


def _is_scalar(value: Value) -> bool:
    return isinstance(value, Const) and value.type.elements == 1 and not value.type.is_quantized


def _with_scalar(op: Arithmetic, x: Value, scalar: Value, first: bool) -> UnaryForm | None:
    fused = isinstance(op, TakesActivation) and op.activation != "none"
    if x.type.shape != op.node.result.type.shape or fused or not isinstance(scalar, Const) or x.is_const:
        return None
    return UnaryForm(op.node, x, scalar, first)


def is_unary(node: Node) -> bool:
    return unary_form(node) is not None


def activations(node: Node) -> list[tuple[int, Value]]:
    """(position, value) of the operands that carry activations: all but the scalar of a unary form."""
    form = unary_form(node)
    scalar = None if form is None else form.scalar
    return [
        (index, value)
        for spec, index, value in op_of(node).present_operands()
        if spec.role is Role.ACTIVATION and value is not scalar
    ]
