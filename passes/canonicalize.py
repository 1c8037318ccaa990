"""canonicalize: erase identities, merge two data movements into one, drop neutral parameters, and name clamps after the
activation they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompiler.ir import AttrValue, Const, Graph, Node, Value
from qcompiler.opdef import Op, op_of
from qcompiler.ops.activations import Hardtanh, Relu, Relu6
from qcompiler.ops.elementwise import Maximum
from qcompiler.ops.interfaces import Arithmetic, TakesActivation
from qcompiler.ops.norm import Normalised
from qcompiler.ops.shape import Reshape, Transpose
from qcompiler.passes.rewrite import Refusal, Rewrite, RewritePass, erase_if_unread


class _Identity(Rewrite[Op]):
    """A node that gives its operand back is erased."""

    rule = "identity"

    def starts_at(self, op: type[Op]) -> bool:
        return op.is_identity is not Op.is_identity or op.neutral is not None

    def match(self, graph: Graph, node: Node) -> Op | Refusal:
        op = op_of(node)
        same = op.first.type == node.result.type and (op.is_identity() or _is_neutral(op))
        return op if same else self.refuse(node, "it changes its operand")

    def rewrite(self, graph: Graph, match: Op) -> None:
        graph.replace_uses(match.node.result, match.first)
        graph.erase(match.node)


def _is_neutral(op: Op) -> bool:
    """Whether the second operand is the op's neutral element."""
    if not isinstance(op, Arithmetic) or (isinstance(op, TakesActivation) and op.activation != "none"):
        return False
    y = op.y
    return isinstance(y, Const) and y.type.dtype.is_float and bool(np.all(y.data == op.neutral))


@dataclass(frozen=True)
class _Renamed:
    """A node that computes `op` of `x`."""

    node: Node
    op: type[Op]
    x: Value


class _Rename(Rewrite[_Renamed]):
    """Base of the rewrites that replace a node by another op of one operand."""

    def rewrite(self, graph: Graph, match: _Renamed) -> None:
        graph.replace(match.node, match.op.name, [match.x])


class _Clamp(_Rename):
    """`hardtanh(%x) {min_value=0.0, max_value=6.0}` is relu6."""

    rule = "named clamp"
    ops = (Hardtanh,)

    def match(self, graph: Graph, node: Node) -> _Renamed | Refusal:
        clamp = Hardtanh(node)
        bounds = (clamp.min_value, clamp.max_value)
        if bounds == (0.0, 6.0):
            return _Renamed(node, Relu6, clamp.x)
        if bounds == (0.0, float("inf")):
            return _Renamed(node, Relu, clamp.x)
        return self.refuse(node, "its bounds are not those of relu or relu6")


class _Maximum(_Rename):
    """`maximum(%x, 0)`, as plain numpy code writes relu, is relu. NaN passes through both."""

    rule = "maximum with zero"
    ops = (Maximum,)

    def match(self, graph: Graph, node: Node) -> _Renamed | Refusal:
        maximum = Maximum(node)
        for zero, other in ((maximum.x, maximum.y), (maximum.y, maximum.x)):
            if _is_zero(zero) and other.type == node.result.type:
                return _Renamed(node, Relu, other)
        return self.refuse(node, "neither operand is the scalar 0")


def _is_zero(value: Value) -> bool:
    return isinstance(value, Const) and value.data.size == 1 and bool(value.data.reshape(()) == 0)


class _NeutralParameters(Rewrite[Normalised]):
    """A weight of ones and a bias of zeros, which exporters write where a norm has no parameters, are dropped."""

    rule = "dropping of neutral parameters"
    ops = (Normalised,)

    def match(self, graph: Graph, node: Node) -> Normalised | Refusal:
        norm = Normalised.of(node)
        if norm is not None and (_holds(norm.weight, 1) or _holds(norm.bias, 0)):
            return norm
        return self.refuse(node, "it has no weight of ones or bias of zeros")

    def rewrite(self, graph: Graph, match: Normalised) -> None:
        weight = None if _holds(match.weight, 1) else match.weight
        bias = None if _holds(match.bias, 0) else match.bias
        graph.replace(match.node, match.node.op, [match.x, weight, bias], match.node.attrs)


def _holds(value: Value | None, number: float) -> bool:
    """Whether a value is a constant that holds one number alone."""
    return isinstance(value, Const) and not value.type.is_quantized and bool(np.all(value.data == number))


@dataclass(frozen=True)
class _Merged:
    """Two data movements in a row: `node` can read the operand of `first` directly, with `attrs`."""

    node: Node
    first: Op
    attrs: dict[str, AttrValue]


class _MovedTwice(Rewrite[_Merged]):
    """reshape of reshape, or transpose of transpose, becomes one."""

    rule = "merge of moves"
    ops = (Reshape, Transpose)

    def match(self, graph: Graph, node: Node) -> _Merged | Refusal:
        op = op_of(node)
        first = type(op).of(op.first.producer)
        if first is None:
            return self.refuse(node, f"its operand is not made by {node.op}")
        attrs = dict(node.attrs)
        if isinstance(op, Transpose) and isinstance(first, Transpose):
            attrs[Transpose.perm.name] = tuple(first.perm[axis] for axis in op.perm)
        elif isinstance(op, Reshape) and -1 in op.shape:
            sizes = node.result.type.shape
            attrs[Reshape.shape.name] = tuple(size if isinstance(size, int) else str(size) for size in sizes)
        return _Merged(node, first, attrs)

    def rewrite(self, graph: Graph, match: _Merged) -> None:
        node, first = match.node, match.first
        graph.replace(node, node.op, [first.first], match.attrs, types=node.result.type)
        erase_if_unread(graph, first.node)


@dataclass(frozen=True)
class Canonicalize(RewritePass):
    """Merge two data movements into one, name clamps, erase identities.

    transpose(transpose(x, p), q) = transpose(x, p[q]);  reshape(reshape(x)) = reshape(x);  clamp(x, 0, 6) = relu6(x);
    max(x, 0) = relu(x); x * 1 = x;  relu(relu(x)) = relu(x);  a reshape, expand or cast to the operand's own type is
    the identity;  layer_norm(x, 1, 0) = layer_norm(x), and so for all norms.

    Before:
        %a = reshape(%x) {shape=(2, 12)} : f32[2,12]
        %b = reshape(%a) {shape=(24,)} : f32[24]
        %y = hardtanh(%b) {min_value=0.0, max_value=6.0} : f32[24]
    After:
        %b = reshape(%x) {shape=(24,)} : f32[24]
        %y = relu6(%b) : f32[24]
    """

    name: ClassVar[str] = "canonicalize"

    def rules(self, graph: Graph) -> Sequence[Rewrite[Any]]:
        return _MovedTwice(), _Clamp(), _Maximum(), _NeutralParameters(), _Identity()
