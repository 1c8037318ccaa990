"""canonicalize: drop what does nothing, merge what moves data twice, and give clamps their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.opdef import Trait, opdef
from qcompiler.passes.rewrite import Rewrite, RewritePass

_CLAMPS = {(0.0, 6.0): "relu6", (0.0, float("inf")): "relu"}


class _Identity:
    """Nodes that give their operand back."""

    rule = "identity"
    ops = (
        "reshape",
        "expand",
        "cast",
        "dropout",
        "transpose",
        "pad",
        "slice",
        "tile",
        "concat",
        "resize",
        "mul",
        "div",
        "relu",
        "relu6",
    )

    def check(self, graph: Graph, node: Node) -> str | None:
        return None if self._same(node) else "it changes its operand"

    def rewrite(self, graph: Graph, node: Node) -> None:
        graph.replace_uses(node.result, node.operands[0])
        graph.erase(node)

    @staticmethod
    def _same(node: Node) -> bool:
        source = node.operands[0]
        if source is None or source.type != node.result.type:
            return False
        if Trait.IDENTITY_AT_INFERENCE in opdef(node.op).traits:
            return True
        if node.op in ("reshape", "expand", "cast"):
            return True
        if node.op == "transpose":
            return node.attrs["perm"] == tuple(range(source.type.rank))
        if node.op == "pad":
            return all(pair == (0, 0) for pair in node.attrs["padding"])
        if node.op == "slice":  # of a static type the same shape means all elements in order
            return source.type.is_static
        if node.op == "resize":
            return node.attrs["mode"] == "nearest" and all(scale == 1.0 for scale in node.attrs["scales"] or ())
        if node.op == "tile":
            return all(count == 1 for count in node.attrs["repeats"])
        if node.op == "concat":
            return len(node.operands) == 1
        if node.op in ("mul", "div"):
            return node.attrs.get("activation", "none") == "none" and _is_one(node.operands[1])
        if node.op in ("relu", "relu6"):
            return source.producer is not None and source.producer.op == node.op
        return False


def _is_one(value: object) -> bool:
    return isinstance(value, Const) and value.type.dtype.is_float and bool(np.all(value.data == 1.0))


class _Clamp:
    """`hardtanh(%x) {min_value=0.0, max_value=6.0}` is relu6."""

    rule = "named clamp"
    ops = ("hardtanh",)

    def check(self, graph: Graph, node: Node) -> str | None:
        return None if self._name(node) is not None else "its bounds are not those of relu or relu6"

    def rewrite(self, graph: Graph, node: Node) -> None:
        graph.replace(node, self._name(node), node.operands)

    @staticmethod
    def _name(node: Node) -> str | None:
        return _CLAMPS.get((node.attrs["min_value"], node.attrs["max_value"]))


class _Maximum:
    """`maximum(%x, 0)` is relu, as plain numpy writes it. NaN passes through both."""

    rule = "maximum with zero"
    ops = ("maximum",)

    def check(self, graph: Graph, node: Node) -> str | None:
        return None if self._other(node) is not None else "neither operand is the scalar 0"

    def rewrite(self, graph: Graph, node: Node) -> None:
        graph.replace(node, "relu", [self._other(node)])

    @staticmethod
    def _other(node: Node) -> Value | None:
        for zero, other in (node.operands, node.operands[::-1]):
            if (
                isinstance(zero, Const)
                and zero.data.size == 1
                and zero.data.reshape(()) == 0
                and other.type == node.result.type
            ):
                return other
        return None


class _MovedTwice:
    """reshape of reshape, transpose of transpose: the second alone."""

    rule = "merge of moves"
    ops = ("reshape", "transpose")

    def check(self, graph: Graph, node: Node) -> str | None:
        producer = node.operands[0].producer
        return None if producer is not None and producer.op == node.op else f"its operand is not made by {node.op}"

    def rewrite(self, graph: Graph, node: Node) -> None:
        first = node.operands[0].producer
        attrs = dict(node.attrs)
        if node.op == "transpose":
            attrs["perm"] = tuple(first.attrs["perm"][axis] for axis in node.attrs["perm"])
        elif -1 in attrs["shape"]:
            attrs["shape"] = tuple(s if isinstance(s, int) else str(s) for s in node.result.type.shape)
        graph.replace(node, node.op, first.operands, attrs, types=node.result.type)
        if not first.result.uses and not graph.is_output(first.result):
            graph.erase(first)


@dataclass(frozen=True)
class Canonicalize(RewritePass):
    """Merge moves of moves, name clamps, erase identities.

    transpose(transpose(x, p), q) = transpose(x, p[q]);  reshape(reshape(x)) = reshape(x);  clamp(x, 0, 6) = relu6(x);
    max(x, 0) = relu(x); x * 1 = x;  relu(relu(x)) = relu(x);  a reshape, expand or cast to the operand's own type is
    the identity.

    Before:
        %a = reshape(%x) {shape=(2, 12)} : f32[2,12]
        %b = reshape(%a) {shape=(24,)} : f32[24]
        %y = hardtanh(%b) {min_value=0.0, max_value=6.0} : f32[24]
    After:
        %b = reshape(%x) {shape=(24,)} : f32[24]
        %y = relu6(%b) : f32[24]
    """

    name: ClassVar[str] = "canonicalize"

    def rules(self, graph: Graph) -> Sequence[Rewrite]:
        return _MovedTwice(), _Clamp(), _Maximum(), _Identity()
