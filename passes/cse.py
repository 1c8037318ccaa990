"""cse: merge equal nodes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Const, Graph, Node
from qcompiler.opdef import Trait, opdef
from qcompiler.passes.agreement import agree
from qcompiler.quantization.qconfig import QConfig

_LARGEST_COMPARED = 4096  # bytes of a constant whose data is compared


@dataclass(frozen=True)
class Cse:
    """Merge nodes of the same op, operands, attrs and types: users of the later ones read the first one.

    Equal small constants count as the same operand, and the order of a commutative op's operands does not matter. Nodes
    that resolved to different qconfigs are not merged.

    Before:
        %a = exp(%x) : f32[4]
        %b = exp(%x) : f32[4]
        %y = mul(%a, %b) : f32[4]
    After:
        %a = exp(%x) : f32[4]
        %y = mul(%a, %a) : f32[4]
    """

    configs: Mapping[str, QConfig | None] | None = None
    name: ClassVar[str] = "cse"

    def run(self, graph: Graph) -> Graph:
        self._merge_consts(graph)
        seen: dict[Hashable, Node] = {}
        for node in graph.nodes:
            first = seen.setdefault(_key(node), node)
            if first is not node and agree(self.configs, first, node):
                for value, kept in zip(node.results, first.results):
                    graph.replace_uses(value, kept)
                graph.erase(node)
        graph.erase_unused_consts()
        return graph

    @staticmethod
    def _merge_consts(graph: Graph) -> None:
        seen: dict[Hashable, Const] = {}
        for const in graph.consts.values():
            if const.data.nbytes <= _LARGEST_COMPARED and not const.type.is_quantized:
                first = seen.setdefault((const.type, const.data.tobytes()), const)
                if first is not const:
                    graph.replace_uses(const, first)


def _key(node: Node) -> Hashable:
    operands = [0 if value is None else id(value) for value in node.operands]
    if Trait.COMMUTATIVE in opdef(node.op).traits:
        operands.sort()
    return node.op, tuple(operands), repr(dict(node.attrs)), tuple(value.type for value in node.results)
