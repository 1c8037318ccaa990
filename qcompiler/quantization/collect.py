"""What runs calibration items: the compiled float program, or the interpreter where no kernels can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from qcompiler.ir import Graph, Node
from qcompiler.ops.interfaces import Weighted
from qcompiler.quantization.minmax import NotFinite
from qcompiler.quantization.observers import Observer
from qcompiler.quantization.product_inputs import ProductInput, sample_seeds
from qcompiler.quantization.value_counts import channel_range


@dataclass(frozen=True)
class Taken:
    """What takes the values of a calibration run.

    Attributes:
        observers: group of values -> its observer.
        inputs: the key of a product's input -> what is kept of it; the products are those of `sampled_products`.
        not_finite: the names of values that held NaN or Inf.
    """

    observers: Mapping[str, Observer]
    inputs: Mapping[str, ProductInput] = field(default_factory=dict)
    not_finite: set[str] = field(default_factory=set)

    def observe(self, group: str, value: str, observe: Callable[[Any], object]) -> None:
        """Let the observer of a group take a value, unless it is not finite, which is noted."""
        try:
            observe(self.observers[group])
        except NotFinite:
            self.not_finite.add(value)

    def take_rows(self, layers: Sequence[tuple[str, Weighted]], array: np.ndarray, seeds: np.ndarray) -> None:
        """Keep rows of a value that products read, for those that this run keeps. seeds: of the call's samples."""
        for key, layer in layers:
            if key in self.inputs:
                self.inputs[key].observe_rows(layer, array, seeds)

    def take_channels(self, layers: Sequence[tuple[str, Weighted]], ranges: Mapping[int, np.ndarray]) -> None:
        """Keep the ranges of the channels of a value that products read. ranges: by the axis of the channels."""
        for key, layer in layers:
            if key in self.inputs:
                self.inputs[key].observe_channels(ranges[layer.input_axis])


def layers_by_observer(sampled: Mapping[str, Weighted]) -> dict[str, list[tuple[str, Weighted]]]:
    """The name of an observer's node -> (key, product) for each form in which products read its value."""
    found: dict[str, list[tuple[str, Weighted]]] = {}
    for key, layer in sampled.items():
        found.setdefault(layer.x.name, []).append((key, layer))
    return found


def channel_axes(layers: Sequence[tuple[str, Weighted]]) -> tuple[int, ...]:
    """The axes along which the products that read a value find its channels."""
    return tuple(sorted({layer.input_axis for _, layer in layers}))


class Collector(Protocol):
    """Runs items, whose values observers take. Thread-safe; every call brings its own observers.

    Attributes:
        interpreted: why the interpreter runs, "" for compiled code.
    """

    @property
    def interpreted(self) -> str: ...

    def observe(self, item: Sequence[np.ndarray], taken: Taken, threads: int) -> None:
        """Run the inputs of one call."""
        ...


@dataclass(frozen=True)
class GraphInterpreter:
    """The interpreter of an observed graph. sampled: the products whose inputs are kept."""

    graph: Graph
    sampled: Mapping[str, Weighted]
    interpreted: str

    def observe(self, item: Sequence[np.ndarray], taken: Taken, threads: int) -> None:
        from qcompiler.interpreter import run
        from qcompiler.ops.quantized import Observe

        layers, seeds = layers_by_observer(self.sampled), sample_seeds(item)

        def take(node: Node, results: Sequence[np.ndarray]) -> None:
            observe = Observe.of(node)
            if observe is not None:
                taken.observe(observe.group, observe.x.name, lambda each: each.observe(results[0], node.name))
                read = layers.get(node.name, ())
                taken.take_channels(read, {axis: channel_range(results[0], axis) for axis in channel_axes(read)})
                taken.take_rows(read, results[0], seeds)

        run(self.graph, item, hook=take)


def collector(observed: Graph, sampled: Mapping[str, Weighted]) -> Collector:
    """What runs the items of an observed graph. sampled: the products whose inputs are kept, by key.

    It does not depend on the target of the model: so all targets get the same integer graph.
    """
    try:
        from qcompiler.backends.calibration_program import native_program
    except ModuleNotFoundError:
        return GraphInterpreter(observed, sampled, "no native backend is installed")
    found = native_program(observed, sampled)
    return GraphInterpreter(observed, sampled, found) if isinstance(found, str) else found
