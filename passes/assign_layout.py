"""assign-layout: integer or float -> lowered. Chooses the physical layout of every value; the ops stay as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from qcompiler.ir import Graph, Node, Value
from qcompiler.types import Layout, TensorType

_SPATIAL = frozenset(
    {
        "conv",
        "conv_transpose",
        "max_pool",
        "avg_pool",
        "adaptive_avg_pool",
        "adaptive_max_pool",
        "global_avg_pool",
        "global_max_pool",
        "batch_norm",
        "resize",
        "pixel_shuffle",
        "pixel_unshuffle",
    }
)
_OWN = frozenset({"reshape", "transpose", "matmul", "linear", "gather", "gather_elements", "expand", "tile", "stack"})

_READERS = {"conv": (0, 3), "max_pool": (0,), "avg_pool": (0,)}
"""Ops that can read a value with a halo, and as which operands."""


def _steps_over(value: Value) -> bool:
    """Whether its producer can write around a halo."""
    node = value.producer
    return node.op == "conv" or node.op == "max_pool" and node.operands[0].type.quant == value.type.quant


def _copies_padding(node: Node) -> bool:
    """Whether a kernel wants the border of its operand in memory: a convolution that is not depthwise."""
    return node.op == "conv" and (node.attrs["groups"] == 1 or node.operands[1].type.shape[1] != 1)


@dataclass(frozen=True)
class AssignLayout:
    """Values of rank 3 to 5 that convolutions and pools make lie channels last, with the channel stride rounded up to
    `channel_multiple` for bytes; what follows element by element keeps that; all else is row major. Inputs are row
    major.

    Before:  %y = conv(%x, @w, @b) {...} : u8[1,10,8,8]{scale=0.1, zero_point=3}
    After:   %y = conv(%x, @w, @b) {...} : u8[1,10,8,8]{scale=0.1, zero_point=3, layout=channels_last(12)}

    A value that a convolution with padding reads gets a halo, in which its producer writes, so that nothing is copied
    into a border, if it
    is made by a convolution or a max pool and read by such and average pools only: these can step over it.
    """

    channel_multiple: int = 4
    name: ClassVar[str] = "assign-layout"

    def run(self, graph: Graph) -> Graph:
        for node in graph.node_list:
            for value in node.results:
                if self._is_channels_last(node, value.type):
                    value.type = value.type.with_layout(Layout("channels_last", self._stride(value.type)))
        for node in graph.node_list:
            for value in node.results:
                halo = self._halo(value)
                if any(map(any, halo)):
                    value.type = value.type.with_layout(replace(value.type.layout, halo=halo))
        graph.stage = "lowered"
        return graph

    def _halo(self, value: Value) -> tuple[tuple[int, int], ...]:
        """The border that its readers want, or nothing."""
        if value.type.layout is None or not _steps_over(value) or value.producer.graph.is_output(value):
            return ()
        if not all(use.index in _READERS.get(use.node.op, ()) for use in value.uses):
            return ()
        wanted = [use.node.attrs["padding"] for use in value.uses if use.index == 0 and _copies_padding(use.node)]
        return tuple((max(p[0] for p in axis), max(p[1] for p in axis)) for axis in zip(*wanted))

    def _stride(self, type: TensorType) -> int:
        multiple = self.channel_multiple if type.dtype.numpy.itemsize == 1 else 1
        return -(-type.shape[1] // multiple) * multiple

    def _is_channels_last(self, node: Node, type: TensorType) -> bool:
        if not 3 <= type.rank <= 5 or not isinstance(type.shape[1], int) or node.op in _OWN:
            return False
        if node.op in _SPATIAL:
            return True
        if node.op == "quantize" and any(use.node.op in _SPATIAL for value in node.results for use in value.uses):
            return True
        if node.op == "dequantize" and all(node.graph.is_output(value) for value in node.results):
            return False
        return any(v is not None and v.type.rank == type.rank and v.type.layout is not None for v in node.operands)
