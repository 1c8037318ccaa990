"""fold-pad: a border of zeros before a convolution becomes the convolution's own padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph, Node
from qcompiler.passes.rewrite import Rewrite, RewritePass


class _FoldPad:
    rule = "folding of pad"
    ops = ("conv",)

    def check(self, graph: Graph, node: Node) -> str | None:
        pad = node.operands[0].producer
        if pad is None or pad.op != "pad":
            return "its operand is not made by pad"
        if pad.attrs["mode"] != "constant" or pad.attrs["value"] != 0.0:
            return "the border does not hold zeros"
        if any(pair != (0, 0) for pair in pad.attrs["padding"][:2]):
            return "the batch or the channels are padded"
        return None

    def rewrite(self, graph: Graph, node: Node) -> None:
        pad = node.operands[0].producer
        border = pad.attrs["padding"][2:]
        padding = tuple((own[0] + more[0], own[1] + more[1]) for own, more in zip(node.attrs["padding"], border))
        graph.set_attr(node, "padding", padding)
        graph.set_operand(node, 0, pad.operands[0])
        if not pad.result.uses and not graph.is_output(pad.result):
            graph.erase(pad)


@dataclass(frozen=True)
class FoldPad(RewritePass):
    """conv(pad(x, p), padding=q) = conv(x, padding=p + q), since both borders hold real zero.

    Before:
        %p = pad(%x) {padding=((0, 0), (0, 0), (0, 1), (0, 1))} : f32[1,3,9,9]
        %y = conv(%p, @w) {stride=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1)} : f32[1,4,4,4]
    After:
        %y = conv(%x, @w) {stride=(2, 2), padding=((0, 1), (0, 1)), dilation=(1, 1)} : f32[1,4,4,4]
    """

    name: ClassVar[str] = "fold-pad"

    def rules(self, graph: Graph) -> Sequence[Rewrite]:
        return (_FoldPad(),)
