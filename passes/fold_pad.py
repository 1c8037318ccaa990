"""fold-pad: turn a border of zeros before a convolution into the convolution's padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from qcompiler.ir import Graph, Node
from qcompiler.ops.conv import Conv
from qcompiler.ops.shape import Pad
from qcompiler.passes.rewrite import Refusal, Rewrite, RewritePass, erase_if_unread


@dataclass(frozen=True)
class _Padded:
    conv: Conv
    pad: Pad


class _FoldPad(Rewrite[_Padded]):
    rule = "folding of pad"
    ops = (Conv,)

    def match(self, graph: Graph, node: Node) -> _Padded | Refusal:
        conv = Conv(node)
        pad = Pad.of(conv.x.producer)
        if pad is None:
            return self.refuse(node, "its operand is not made by pad")
        if pad.mode != "constant" or pad.value != 0.0:
            return self.refuse(node, "the border does not hold zeros")
        if any(pair != (0, 0) for pair in pad.padding[:2]):
            return self.refuse(node, "the batch or the channels are padded")
        return _Padded(conv, pad)

    def rewrite(self, graph: Graph, match: _Padded) -> None:
        conv, pad = match.conv, match.pad
        padding = tuple((own[0] + border[0], own[1] + border[1]) for own, border in zip(conv.padding, pad.padding[2:]))
        graph.set_attr(conv.node, Conv.padding.name, padding)
        graph.set_operand(conv.node, Conv.x.index, pad.x)
        erase_if_unread(graph, pad.node)


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

    def rules(self, graph: Graph) -> Sequence[Rewrite[Any]]:
        return (_FoldPad(),)
