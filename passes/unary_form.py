"""Finds nodes that are elementwise functions of one activation, which can become a table.

These are unary ops, and arithmetic ops with a scalar constant, such as x * 0.5.
"""

from __future__ import annotations

from qcompiler.ir import Const, Node, Value
from qcompiler.opdef import Role, Trait, op_of, opdef
from qcompiler.ops.interfaces import Arithmetic, TakesActivation
from qcompiler.passes.channel_constants import variable_and_const


def is_unary(node: Node) -> bool:
    """Whether the node is a function of one activation."""
    return Trait.UNARY in opdef(node.op).traits or _scalar(node) is not None


def activations(node: Node) -> list[tuple[int, Value]]:
    """(position, value) of each operand that is an activation: all except the scalar of a unary arithmetic node."""
    scalar = _scalar(node)
    return [
        (index, value)
        for spec, index, value in op_of(node).present_operands()
        if spec.role is Role.ACTIVATION and value is not scalar
    ]


def _scalar(node: Node) -> Const | None:
    """The scalar constant of an arithmetic node that is a function of its other operand; None for other nodes."""
    op = Arithmetic.of(node)
    if op is None or (isinstance(op, TakesActivation) and op.activation != "none"):
        return None
    value, const = variable_and_const(op)
    if value is None or const is None or const.type.elements != 1 or const.type.is_quantized:
        return None
    return const if value.type.shape == node.result.type.shape else None
