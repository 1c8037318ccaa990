"""integerize: dequantize - op - quantize becomes the integer op.

Before: `%x.dq = dequantize(%x.q)`, `%y = conv(%x.dq, %w.dq, %b.dq)`, `%y.q = quantize(%y)`
After:  `%y = conv(%x.q, @w.q, @b.q) : u8[...]{scale=..., zero_point=...}`

A chain of unary ops between a dequantize and a quantize becomes one `lookup` in a 256-entry table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Graph, Node, Value
from qcompiler.opdef import Role, Trait, opdef
from qcompiler.passes.insert_observers import is_unary, scalar_operand
from qcompiler.quantization.tables import build_table


@dataclass(frozen=True)
class Integerize:
    name: ClassVar[str] = "integerize"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            if node.op == "quantize":
                self._fuse_quantize(graph, node)
        for node in reversed(graph.node_list):
            if not any(value.uses or graph.is_output(value) for value in node.results):
                graph.erase(node)
        graph.erase_unused_consts()
        graph.stage = "integer"
        return graph

    def _fuse_quantize(self, graph: Graph, quantize: Node) -> None:
        node = quantize.operands[0].producer
        if node is None:
            return
        if node.op == "dequantize" and not node.operands[0].is_const:
            self._requantize(graph, quantize, node.operands[0])
        elif is_unary(node):
            self._tabulate(graph, quantize)
        elif self.check(graph, node) is None:
            operands = [_quantized_source(node, i) for i in range(len(node.operands))]
            self._become(graph, quantize, node, node.op, operands, dict(node.attrs))

    def check(self, graph: Graph, node: Node) -> str | None:
        """Why a node cannot become an integer op, or None."""
        definition = opdef(node.op)
        if definition.integer is None and Trait.MOVES_DATA not in definition.traits:
            return f"{node.op} has no integer meaning"
        if len(node.result.users) != 1 or graph.is_output(node.result):
            return "its float result has other users"
        for index, value in enumerate(node.operands):
            role = definition.spec(index).role
            if value is not None and role in (Role.ACTIVATION, Role.WEIGHT, Role.BIAS) and (
                    value.producer is None or value.producer.op != "dequantize"):
                return f"operand {definition.spec(index).name} is float"
        return None

    def _requantize(self, graph: Graph, quantize: Node, source: Value) -> None:
        if source.type == quantize.result.type:
            graph.replace_uses(quantize.result, source)
            graph.erase(quantize)
        else:
            graph.replace(quantize, "requantize", [source], types=quantize.result.type)

    def _tabulate(self, graph: Graph, quantize: Node) -> None:
        chain: list[Node] = []
        value = quantize.operands[0]
        while value.producer is not None and is_unary(value.producer) and len(value.users) == 1 and not graph.is_output(value):
            chain.append(value.producer)
            value = value.producer.operands[1 if scalar_operand(value.producer) == 0 else 0]
        if not chain or value.producer is None or value.producer.op != "dequantize":
            return
        source = value.producer.operands[0]
        if source.type.quant.axis is not None or source.type.dtype.bits != 8:
            return
        table = build_table(_composed(chain[::-1]), source.type, quantize.result.type)
        const = graph.add_const(f"{chain[0].name}.table", table)
        self._become(graph, quantize, chain[0], "lookup", [source, const], {})

    def _become(self, graph: Graph, quantize: Node, node: Node, op: str, operands: list, attrs: dict) -> None:
        """Put the integer op in the place of `quantize`; the value keeps the name that it had in the float graph."""
        name = node.name
        new = graph.replace(quantize, op, operands, attrs, types=quantize.result.type, origin=node.origin)
        new.loc = node.loc
        if node.result.uses or graph.is_output(node.result):
            return
        graph.erase(node)
        graph.rename(new.result, name)


def _quantized_source(node: Node, index: int) -> Value | None:
    value = node.operands[index]
    role = opdef(node.op).spec(index).role
    return value.producer.operands[0] if value is not None and role in (Role.ACTIVATION, Role.WEIGHT, Role.BIAS) else value


def _composed(chain: list[Node]) -> Callable[[np.ndarray], np.ndarray]:
    """The chain as one function of a float64 array."""

    def function(x: np.ndarray) -> np.ndarray:
        for node in chain:
            scalar = scalar_operand(node)
            if scalar is None:
                x = opdef(node.op).run_reference([x], node.attrs)[0]
            else:
                constant = node.operands[scalar].data.astype(np.float64).reshape(())
                pair = [constant, x] if scalar == 0 else [x, constant]
                x = opdef(node.op).run_reference(pair, node.attrs)[0]
        return x

    return function
