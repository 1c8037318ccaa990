"""Regions with one input: nodes that together are a function of one value, and that nothing outside reads into.

A region ends in one value. It grows from the node that makes this value towards the inputs: it takes in the producer of
any value that only the region reads. Whenever all that it reads from outside is one value (beside constants), it is a
function of that value.

Does not own what regions are good for: `recognize` looks for ops that they spell out, `integerize` makes tables of
those that are pointwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from qcompiler.binding import bound_attrs
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.opdef import Trait, op_of, opdef
from qcompiler.types import DType

MOST_NODES = 32
"""Regions stop growing here: the longest function in use that is written in small ops has fewer nodes."""

MOST_POINTWISE = 1024
"""Pointwise regions stop growing here. They become tables whatever they compute: np.interp of 200 points, say."""


@dataclass(frozen=True)
class Region:
    """Nodes in execution order that make the last one's result of `source` and constants."""

    source: Value
    nodes: tuple[Node, ...]

    def __call__(self, x: np.ndarray, sizes: Mapping[str, int] | None = None) -> np.ndarray:
        """The region as a function, in the floating type of x: floating constants are converted to it.

        sizes: of symbolic dimensions in attributes.
        """
        return self.evaluate({self.source: x}, sizes)

    def evaluate(self, found: dict[Value, np.ndarray], sizes: Mapping[str, int] | None = None) -> np.ndarray:
        """The region's result where its source is `found[source]`. What `found` holds of other values of the region is
        taken from there, and what it lacks is added."""
        dtype = found[self.source].dtype
        for node in self.nodes:
            if node.result not in found:
                arrays = [None if value is None else _array(value, found, dtype) for value in node.operands]
                definition = opdef(node.op)
                [result] = definition.run_reference(arrays, bound_attrs(definition, node.attrs, sizes or {}))
                found[node.result] = result
        return found[self.nodes[-1].result]


def _array(value: Value, found: Mapping[Value, np.ndarray], dtype: np.dtype) -> np.ndarray:
    if not isinstance(value, Const):
        return found[value]
    data = value.data.astype(dtype) if value.type.dtype.is_float else value.data
    return data.reshape(()) if data.size == 1 else data


def regions_to(
    graph: Graph, end: Node, takes: Callable[[Node], bool], most_nodes: int = MOST_NODES
) -> Iterator[Region]:
    """The regions that end in a node, from the smallest to the largest; `takes`: whether a node may belong to one."""
    if len(end.results) != 1 or not takes(end):
        return
    nodes = [end]
    inside = {id(end)}
    outside = {id(value): value for value in _read(end)}
    while True:
        if len(outside) == 1:
            [source] = outside.values()
            yield Region(source, tuple(nodes[::-1]))
        taken = next((value for value in outside.values() if _is_takeable(graph, value, inside, takes)), None)
        if taken is None or taken.producer is None or len(nodes) == most_nodes:
            return
        nodes.append(taken.producer)
        inside.add(id(taken.producer))
        del outside[id(taken)]
        outside.update((id(value), value) for value in _read(taken.producer))


def is_pointwise(node: Node, end: Node) -> bool:
    """Whether a node maps each element to one of `end`'s f32 result, with scalar constants alone."""
    if Trait.ELEMENTWISE not in opdef(node.op).traits or end.result.type.dtype is not DType.F32:
        return False
    shape = end.result.type.shape
    values = [value for value in (*node.operands, *node.results) if value is not None]
    return all(
        (value.type.elements == 1 if value.is_const else value.type.shape == shape)
        and value.type.dtype in (DType.F32, DType.BOOL)
        for value in values
    )


def pointwise_region(graph: Graph, end: Node, agree: Callable[[Node, Node], bool] | None = None) -> Region | None:
    """The largest region that ends in a node and maps each element of a value to one, or None.

    agree: whether a node may belong to a region with this end; None: any may.
    """
    regions = regions_to(
        graph, end, lambda node: is_pointwise(node, end) and (agree is None or agree(node, end)), MOST_POINTWISE
    )
    return max(regions, key=lambda region: len(region.nodes), default=None)


def pointwise_regions(graph: Graph, agree: Callable[[Node, Node], bool]) -> Iterator[Region]:
    """Regions of several nodes that map each element of an f32 value to one: as large as they can be, none within
    another. agree: whether two nodes may belong to one."""
    inside: set[int] = set()
    for end in reversed(graph.node_list):
        if id(end) in inside:
            continue
        region = pointwise_region(graph, end, agree)
        if region is not None and len(region.nodes) > 1 and region.source.type.dtype is DType.F32:
            inside.update(id(node) for node in region.nodes)
            yield region


def _read(node: Node) -> list[Value]:
    return [value for _, _, value in op_of(node).present_operands() if not value.is_const]


def _is_takeable(graph: Graph, value: Value, inside: set[int], takes: Callable[[Node], bool]) -> bool:
    """Whether only the region reads a value, and its producer may belong to it."""
    producer = value.producer
    if producer is None or len(producer.results) != 1 or graph.is_output(value) or not takes(producer):
        return False
    return all(id(use.node) in inside for use in value.uses)
