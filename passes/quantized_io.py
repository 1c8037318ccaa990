"""quantized-io: let the graph take and give codes, so that the caller does the conversions at its inputs and
outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph, Value
from qcompiler.ops.quantized import Dequantize, Quantize
from qcompiler.passes.dequantized import codes_behind
from qcompiler.passes.rewrite import erase_if_unread


@dataclass(frozen=True)
class QuantizedIo:
    """integer -> integer. An input stays real if a node reads it as a real number, or if it is quantized in two ways.
    An output stays real if no dequantize makes it. Inputs and outputs keep their names.

    Before: `graph main(%x: f32[4])`, `%x.q = quantize(%x) : u8[4]{scale=0.1}`, ..., `%y = dequantize(%y.q)`, `return
    %y`
    After:  `graph main(%x: u8[4]{scale=0.1})`, ..., `return %y.q`
    """

    name: ClassVar[str] = "quantized-io"

    def run(self, graph: Graph) -> Graph:
        for value in graph.inputs:
            if self.why_not_codes(graph, value) is None:
                first, *others = value.users
                type, results = first.result.type, [node.result for node in (first, *others)]
                for node, result in zip((first, *others), results):
                    graph.replace_uses(result, value)
                    graph.erase(node)
                graph.set_type(value, type)
        for index, value in enumerate(graph.outputs):
            codes = codes_behind(value)
            if codes is not None:
                graph.set_output(index, codes)
        for node in reversed(graph.node_list):
            if node.op == Dequantize.name:
                erase_if_unread(graph, node)
        return graph

    def why_not_codes(self, graph: Graph, value: Value) -> str | None:
        """Why an input stays real, or None."""
        if not value.users or any(node.op != Quantize.name for node in value.users):
            return "something else than quantize reads it"
        if len({node.result.type for node in value.users}) != 1:
            return "it is quantized in two ways"
        return "it is an output too" if graph.is_output(value) else None
