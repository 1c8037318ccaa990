"""expose-statistics: make a graph that computes the ranges and counts that observers need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from qcompiler.ir import Graph, Node, Value
from qcompiler.notes import OutputStructure
from qcompiler.ops.quantized import Observe
from qcompiler.ops.statistics import ValueCounts, ValueRange
from qcompiler.quantization.observers import Statistic, make_observer, statistic
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import DType


@dataclass(frozen=True)
class ExposeStatistics:
    """observed -> observed. The outputs become the ranges and counts of the observed values, in the order of their
    observers, for those observers that take ranges or counts. whole: the names of observers that stay, since their
    values are taken whole as well -> by what.

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

    whole: Mapping[str, str] = field(default_factory=dict)
    name: ClassVar[str] = "expose-statistics"

    def run(self, graph: Graph) -> Graph:
        outputs: list[Value] = []
        whole: set[Node] = set()
        for node in graph.node_list:
            observe = Observe.of(node)
            if observe is None:
                continue
            graph.replace_uses(node.result, observe.x)
            wanted = statistic_of(observe)
            if wanted == "values" or node.name in self.whole:
                whole.add(node)
            if wanted != "values":
                outputs += _computed(graph, observe, wanted)
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


def _computed(graph: Graph, observe: Observe, wanted: Statistic) -> list[Value]:
    """Add the nodes that compute the range of a value, and its counts if they are wanted."""
    name = observe.node.name
    bounds = graph.create(
        ValueRange.name, [observe.x], names=graph.fresh_name(f"{name}.range"), loc=observe.node.loc, after=observe.node
    )
    if wanted == "range":
        return [bounds.result]
    counts = graph.create(
        ValueCounts.name,
        [observe.x, bounds.result],
        names=graph.fresh_name(f"{name}.counts"),
        loc=observe.node.loc,
        after=bounds,
    )
    return [bounds.result, counts.result]
