"""fold-pad: a border of zeros before a convolution becomes the convolution's own padding.

    conv(pad(x, p), padding=q) = conv(x, padding=p + q), since both borders hold real zero

Before: `%p = pad(%x) {padding=((0, 0), (0, 0), (0, 1), (0, 1))}`, `%y = conv(%p, @w) {padding=((0, 0), (0, 0))}`
After:  `%y = conv(%x, @w) {padding=((0, 1), (0, 1))}`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph, Node


@dataclass(frozen=True)
class FoldPad:
    name: ClassVar[str] = "fold-pad"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            if node.op == "conv" and self.check(node) is None:
                pad = node.operands[0].producer
                padding = tuple((own[0] + more[0], own[1] + more[1]) for own, more in zip(node.attrs["padding"], pad.attrs["padding"][2:]))
                graph.set_attr(node, "padding", padding)
                graph.set_operand(node, 0, pad.operands[0])
                if not pad.result.uses and not graph.is_output(pad.result):
                    graph.erase(pad)
        return graph

    def check(self, node: Node) -> str | None:
        """Why the operand of this convolution is no border to fold, or None."""
        pad = node.operands[0].producer
        if pad is None or pad.op != "pad":
            return "its operand is not made by pad"
        if pad.attrs["mode"] != "constant" or pad.attrs["value"] != 0.0:
            return "the border does not hold zeros"
        if any(pair != (0, 0) for pair in pad.attrs["padding"][:2]):
            return "the batch or the channels are padded"
        if any(before < 0 or after < 0 for before, after in pad.attrs["padding"]):
            return "the border is cut away, not added"
        return None
