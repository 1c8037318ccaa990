"""expose-statistics: make a graph that computes the ranges and counts that observers need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from qcompiler.ir import Graph, Node, Value
from qcompiler.notes import OutputStructure
from qcompiler.ops.interfaces import Weighted
from qcompiler.ops.quantized import Observe
from qcompiler.ops.statistics import ChannelRange, ValueCounts, ValueRange
from qcompiler.quantization.observers import Statistic, make_observer, statistic
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import DType

LEAST_COUNTED = 2**14
"""How many elements of a sample are counted at least, of those that it has."""

LEAST_INDICES = 4
"""At how many indices of an axis elements are counted at least."""


@dataclass(frozen=True)
class ExposeStatistics:
    """observed -> observed. The outputs become the ranges and counts of the observed values, in the order of their
    observers, for those observers that take ranges or counts; then the ranges of the channels of what products read.

    Of large values only a part is counted (`counted_part`).

    inputs: the names of observers whose values products read -> the axes along which these find channels. The
    observers stay, since rows of their values are taken as well. The range of such a value is that of its channels'
    ranges, which are few numbers.

    Readers of an observed value read the value itself, so the graph computes what the float graph computes. Nodes on
    which no observed value depends are erased. An observer that takes whole values stays, though nobody reads its
    result. If all observers are such, the outputs stay too, since a graph must have an output.

    Before:
        %x.obs = observe(%x) {spec="u8 [0,255] affine per_tensor histogram eps=1e-07", group="x"} : f32[4]
        %y = relu(%x.obs) : f32[4]
        return %y
    After:
        %x.obs.range = value_range(%x) : f32[2]
        %x.obs.counts = value_counts(%x, %x.obs.range) : i32[4096]
        return %x.obs.range, %x.obs.counts
    """

    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    name: ClassVar[str] = "expose-statistics"

    def run(self, graph: Graph) -> Graph:
        outputs: list[Value] = []
        ranges: list[Value] = []
        whole: set[Node] = set()
        observers = [observe for node in graph.node_list if (observe := Observe.of(node)) is not None]
        parts = [counted_part(observe) for observe in observers]
        for observe, part in zip(observers, parts):
            node, wanted = observe.node, statistic_of(observe)
            graph.replace_uses(node.result, observe.x)
            if wanted == "values" or node.name in self.inputs:
                whole.add(node)
            channels = [_channel_range(graph, observe, axis) for axis in self.inputs.get(node.name, ())]
            if wanted != "values":
                outputs += _computed(graph, observe, wanted, part, channels)
            ranges += channels
        outputs += ranges
        if outputs:
            graph.set_outputs(outputs)
            graph.notes = [note for note in graph.notes if not isinstance(note, OutputStructure)]
        for node in reversed(graph.node_list):
            if node not in whole and not any(value.uses or graph.is_output(value) for value in node.results):
                graph.erase(node)
        graph.erase_unused_consts()
        return graph


def statistic_of(observe: Observe) -> Statistic:
    """What an observer takes: the range of its value, its range and counts, or the whole value."""
    if observe.x.type.dtype is not DType.F32:
        return "values"
    return statistic(make_observer(QuantSpec.parse(observe.spec_text)))


def counted_part(observe: Observe) -> tuple[int, int]:
    """(axis, step): of an observed value every step-th index of the axis is counted; (0, 1) if all are.

    Counting takes several times as long as any other use of an element, and a part of many shows the same distribution.
    So of each sample only LEAST_COUNTED elements or some more are counted, at LEAST_INDICES indices or more of its
    longest axis that is no axis of channels. Products say which axes are such; without one all elements count.
    """
    value = observe.x
    shape = value.type.shape
    layers = [
        (layer, layer.x is observe.node.result)
        for user in (*observe.node.result.users, value.producer)
        if user is not None and (layer := Weighted.of(user)) is not None
    ]
    channels = {layer.input_axis if reads else layer.channel_axis for layer, reads in layers}
    axes = [axis for axis in range(1, len(shape)) if axis not in channels]
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    if not channels or not axes or len(sizes) < len(shape) - 1:
        return 0, 1
    axis = max(axes, key=lambda axis: (shape[axis], -axis))
    step = min(math.prod(sizes) // LEAST_COUNTED, sizes[axis - 1] // LEAST_INDICES)
    return (axis, step) if step > 1 else (0, 1)


def _channel_range(graph: Graph, observe: Observe, axis: int) -> Value:
    """Add the node that computes the range of each channel of a value."""
    name = graph.fresh_name(f"{observe.node.name}.channels")
    made = graph.create(
        ChannelRange.name,
        [observe.x],
        {ChannelRange.axis.name: axis},
        names=name,
        loc=observe.node.loc,
        after=observe.node,
    )
    return made.result


def _computed(
    graph: Graph, observe: Observe, wanted: Statistic, part: tuple[int, int], channels: Sequence[Value]
) -> list[Value]:
    """Add the nodes that compute the range of a value, and its counts if they are wanted.

    channels: the ranges of its channels. The range of these numbers is that of the value, unless it has no elements.
    """
    name = observe.node.name
    has_elements = all(isinstance(size, int) and size > 0 for size in observe.x.type.shape)
    source, after = (channels[0], channels[0].producer) if channels and has_elements else (observe.x, observe.node)
    bounds = graph.create(
        ValueRange.name, [source], names=graph.fresh_name(f"{name}.range"), loc=observe.node.loc, after=after
    )
    if wanted == "range":
        return [bounds.result]
    counts = graph.create(
        ValueCounts.name,
        [observe.x, bounds.result],
        {ValueCounts.axis.name: part[0], ValueCounts.step.name: part[1]} if part[1] > 1 else {},
        names=graph.fresh_name(f"{name}.counts"),
        loc=observe.node.loc,
        after=bounds,
    )
    return [bounds.result, counts.result]
