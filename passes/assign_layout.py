"""assign-layout: integer or float -> lowered. Chooses the physical layout of every value; the ops stay as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from qcompiler.ir import Graph, Node, Value
from qcompiler.opdef import LayoutRule, op_of, opdef
from qcompiler.types import Layout, TensorType


@dataclass(frozen=True)
class AssignLayout:
    """Choose the layout of each result by what its op declares (`Op.layout`, see `LayoutRule`).

    Results of convolutions and pools, of rank 3 to 5, are channels last; for bytes the channel stride is rounded up to
    `channel_multiple`. Elementwise ops keep the layout of their operand. All other results are row major, and so are
    inputs and constants.

    Before:  %y = conv(%x, @w, @b) {...} : u8[1,10,8,8]{scale=0.1, zero_point=3}
    After:   %y = conv(%x, @w, @b) {...} : u8[1,10,8,8]{scale=0.1, zero_point=3, layout=channels_last(12)}

    A value that a convolution with padding reads gets a halo, a border of real zero, unless the convolution is
    depthwise (`Op.wanted_halo`). Its producer writes only the inside and lowering fills the border, so no copy is
    needed to pad the value. The producer must keep a halo (`Op.keeps_halo`), and all readers must be able to skip one
    (`Op.reads_halo`).
    """

    channel_multiple: int = 4
    name: ClassVar[str] = "assign-layout"

    def run(self, graph: Graph) -> Graph:
        for node in graph.node_list:
            for value in node.results:
                if self._is_channels_last(graph, node, value.type):
                    value.type = value.type.with_layout(Layout("channels_last", self._stride(value.type)))
        for node in graph.node_list:
            for value in node.results:
                halo = self._halo(graph, value)
                if value.type.layout is not None and any(map(any, halo)):
                    value.type = value.type.with_layout(replace(value.type.layout, halo=halo))
        graph.stage = "lowered"
        return graph

    def _halo(self, graph: Graph, value: Value) -> tuple[tuple[int, int], ...]:
        """The halo of a value: the widest border that any reader wants. () if the producer or a reader allows none."""
        maker = value.producer
        if value.type.layout is None or maker is None or not op_of(maker).keeps_halo() or graph.is_output(value):
            return ()
        wanted = []
        for use in value.uses:
            reader = op_of(use.node)
            if all(spec.index != use.index for spec in reader.reads_halo):
                return ()
            halo = reader.wanted_halo()
            if halo is not None and use.index == 0:  # only the first operand is padded
                wanted.append(halo)
        return tuple((max(p[0] for p in axis), max(p[1] for p in axis)) for axis in zip(*wanted))

    def _stride(self, type: TensorType) -> int:
        """The channel stride: the distance of neighbouring pixels, in elements."""
        multiple = self.channel_multiple if type.dtype.numpy.itemsize == 1 else 1
        channels = type.shape[1]
        assert isinstance(channels, int)  # as `_is_channels_last` has checked
        return -(-channels // multiple) * multiple

    def _is_channels_last(self, graph: Graph, node: Node, type: TensorType) -> bool:
        rule = opdef(node.op).layout
        if not 3 <= type.rank <= 5 or not isinstance(type.shape[1], int) or rule is LayoutRule.ROW_MAJOR:
            return False
        if rule is LayoutRule.CHANNELS_LAST:
            return True
        if rule is LayoutRule.AS_READ and any(
            opdef(use.node.op).layout is LayoutRule.CHANNELS_LAST for value in node.results for use in value.uses
        ):
            return True
        if rule is LayoutRule.ROW_MAJOR_AT_OUTPUTS and all(graph.is_output(value) for value in node.results):
            return False
        return any(v is not None and v.type.rank == type.rank and v.type.layout is not None for v in node.operands)
