"""canonicalize: drop what does nothing, and give clamps their names. constant-fold, cse and dce clean up after every other pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.interpreter import evaluate_node
from qcompiler.ir import Graph, Node
from qcompiler.opdef import Trait, opdef

MAX_FOLDED_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Canonicalize:
    """Erase identities; call a clamp to [0, inf) relu, and one to [0, 6] relu6.

    Before: `%y = dropout(%x) {rate=0.5}`; After: users of %y read %x. Likewise reshape, expand and cast to the type that the
    operand has already.
    Before: `%y = hardtanh(%x) {min_value=0.0, max_value=6.0}`; After: `%y = relu6(%x)`.
    """

    name: ClassVar[str] = "canonicalize"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            same = node.op in ("reshape", "expand", "cast") and node.operands[0].type == node.result.type
            if same or Trait.IDENTITY_AT_INFERENCE in opdef(node.op).traits:
                graph.replace_uses(node.result, node.operands[0])
                graph.erase(node)
            elif node.op == "hardtanh":
                named = _CLAMPS.get((node.attrs["min_value"], node.attrs["max_value"]))
                if named is not None:
                    graph.replace(node, named, node.operands)
        return graph


_CLAMPS = {(0.0, 6.0): "relu6", (0.0, float("inf")): "relu"}


@dataclass(frozen=True)
class ConstantFold:
    """Evaluate nodes whose operands are all constants, in the interpreter; results up to 64 MiB."""

    name: ClassVar[str] = "constant-fold"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            if node.op == "dequantize" or not all(v is None or v.is_const for v in node.operands):
                continue
            if not all(v.type.is_static and v.type.nbytes <= MAX_FOLDED_BYTES for v in node.results):
                continue
            results = evaluate_node(node, [None if v is None else v.data for v in node.operands])
            for value, array in zip(node.results, results):
                graph.replace_uses(value, graph.add_const(f"{value.name}.folded", array, value.type))
            graph.erase(node)
        graph.erase_unused_consts()
        return graph


@dataclass(frozen=True)
class Cse:
    """Merge nodes of the same op, operands, attrs and types: the later ones' users read the first one."""

    name: ClassVar[str] = "cse"

    def run(self, graph: Graph) -> Graph:
        seen: dict[tuple, Node] = {}
        for node in graph.nodes:
            key = (node.op, tuple(id(v) for v in node.operands), tuple(node.attrs.items()), tuple(v.type for v in node.results))
            first = seen.setdefault(key, node)
            if first is not node:
                for value, kept in zip(node.results, first.results):
                    graph.replace_uses(value, kept)
                graph.erase(node)
        return graph


@dataclass(frozen=True)
class Dce:
    """Erase nodes and constants that no output depends on."""

    name: ClassVar[str] = "dce"

    def run(self, graph: Graph) -> Graph:
        for node in reversed(graph.node_list):
            if not any(value.uses or graph.is_output(value) for value in node.results):
                graph.erase(node)
        graph.erase_unused_consts()
        return graph
