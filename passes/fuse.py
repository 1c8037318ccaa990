"""fuse: residual adds and activations move into the op before them.

Before: `%c = conv(%x, @w, @b)`, `%a = add(%c, %r)`, `%y = relu(%a)`
After:  `%y = conv(%x, @w, @b, %r) {activation="relu"}`

Only where nobody else reads the value between, and where both parts resolved to the same qconfig.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph, Node, Value

_TAKES_ACTIVATION = ("conv", "conv_transpose", "linear", "add", "mul")
_TAKES_RESIDUAL = ("conv", "linear")


def _always(first: Node, second: Node) -> bool:
    return True


@dataclass(frozen=True)
class Fuse:
    """agree: whether two nodes may become one (equal qconfig); decided by the resolution table."""

    agree: Callable[[Node, Node], bool] = _always
    name: ClassVar[str] = "fuse"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            if node.op == "add":
                self._fuse_residual(graph, node)
        for node in graph.nodes:
            if node.op in ("relu", "relu6"):
                self._fuse_activation(graph, node)
        return graph

    def _alone(self, graph: Graph, value: Value | None, user: Node) -> bool:
        return (value is not None and value.producer is not None and len(value.uses) == 1 and not graph.is_output(value)
                and self.agree(value.producer, user))

    def _fuse_residual(self, graph: Graph, node: Node) -> None:
        order = {id(n): i for i, n in enumerate(graph.node_list)}
        candidates = [
            (order[id(value.producer)], index)
            for index, value in enumerate(node.operands)
            if self._alone(graph, value, node) and value.producer.op in _TAKES_RESIDUAL
            and value.producer.operand("residual") is None and value.producer.attrs["activation"] == "none"
        ]
        if not candidates or node.operands[0].type.shape != node.operands[1].type.shape:
            return
        _, index = max(candidates)
        producer, other = node.operands[index].producer, node.operands[1 - index]
        if other.is_const or other is node.operands[index]:
            return
        operands = [*producer.operands[:2], producer.operand("bias"), other]
        attrs = {**producer.attrs, "activation": node.attrs["activation"]}
        graph.replace(node, producer.op, operands, attrs, origin=(*producer.origin, *node.origin))
        graph.erase(producer)

    def _fuse_activation(self, graph: Graph, node: Node) -> None:
        value = node.operands[0]
        if not self._alone(graph, value, node) or value.producer.op not in _TAKES_ACTIVATION:
            return
        producer = value.producer
        if producer.attrs["activation"] != "none":
            return
        graph.replace(node, producer.op, producer.operands, {**producer.attrs, "activation": node.op},
                      origin=(*producer.origin, *node.origin))
        graph.erase(producer)
