"""The program of a calibration: the compiled float program, which also computes what observers take of its values."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from qcompiler.backends.lower import Program, check_runs
from qcompiler.backends.runtime.executable import PythonFunction
from qcompiler.backends.target import Target
from qcompiler.errors import LoweringError
from qcompiler.ir import Graph, Node
from qcompiler.opdef import opdef
from qcompiler.ops.interfaces import Weighted
from qcompiler.ops.quantized import Observe
from qcompiler.passes.expose_statistics import ExposeStatistics, counted_part, statistic_of
from qcompiler.passes.pipelines import lower_pipeline
from qcompiler.passmanager import PassManager
from qcompiler.quantization.collect import Taken, channel_axes, layers_by_observer
from qcompiler.quantization.product_inputs import sample_seeds
from qcompiler.quantization.value_counts import channel_range
from qcompiler.signature import bind_inputs
from qcompiler.types import DType

Take = Callable[[str, np.ndarray], None]
"""Takes a value: (name of its observer, the value)."""


class CalibrationProgram:
    """Runs calibration items. Thread-safe; every call brings its own observers.

    Ranges and counts are outputs of the program, so an item needs memory for these, and for the values that are alive
    at one time. An observer that takes whole values gets each when it is computed, row major. The rows of a product's
    input are taken where it lies.

    Args:
        observed: a graph of stage observed.
        sampled: the products whose inputs are kept, by key.

    Raises:
        LoweringError: this machine can't run the target.
    """

    interpreted = ""

    def __init__(self, observed: Graph, target: Target, sampled: Mapping[str, Weighted] = MappingProxyType({})) -> None:
        check_runs(target)
        observers = [observe for node in observed.node_list if (observe := Observe.of(node)) is not None]
        self._group_of = {observe.node.name: observe.group for observe in observers}
        self._value_of = {observe.node.name: observe.x.name for observe in observers}
        self._statistics = {observe.node.name: statistic_of(observe) for observe in observers}
        self._layers = layers_by_observer(sampled)
        self._steps = {observe.node.name: counted_part(observe)[1] for observe in observers}
        self._channels = {
            observe.node.name: channel_axes(self._layers[observe.node.name])
            for observe in observers
            if observe.node.name in self._layers and observe.x.type.dtype is DType.F32
        }
        inputs = {name: self._channels.get(name, ()) for name in self._layers}
        graph = PassManager([ExposeStatistics(inputs), *lower_pipeline()]).run(observed)
        self._observed = observed
        self._current = threading.local()
        self._program = _Program(graph, target, self._take)

    def observe(self, item: Sequence[np.ndarray], taken: Taken, threads: int) -> None:
        """Run the inputs of one call.

        Raises:
            InputError: sizes that do not fit each other or the model.
        """
        arrays, sizes = bind_inputs(self._observed, item)
        self._current.taken, self._current.seeds = taken, sample_seeds(arrays)
        try:
            outputs = iter(self._program.run(arrays, sizes, threads))
        finally:
            del self._current.taken, self._current.seeds
        for name, wanted in self._statistics.items():
            if wanted == "range":
                bounds = next(outputs)
                self._observe(taken, name, lambda each: each.observe_range(bounds, name))  # noqa: B023
            elif wanted == "counts":
                bounds, counts, step = next(outputs), next(outputs), self._steps[name]
                self._observe(taken, name, lambda each: each.observe_counts(bounds, counts, name, step))  # noqa: B023
        for name, axes in self._channels.items():
            taken.take_channels(self._layers[name], {axis: next(outputs) for axis in axes})

    def _observe(self, taken: Taken, name: str, observe: Callable[[Any], object]) -> None:
        taken.observe(self._group_of[name], self._value_of[name], observe)

    def _take(self, name: str, array: np.ndarray) -> None:
        """Take a whole value, in the call that runs on this thread."""
        taken: Taken = self._current.taken
        if self._statistics[name] == "values":
            self._observe(taken, name, lambda each: each.observe(np.ascontiguousarray(array), name))
        layers = self._layers.get(name, ())
        if layers and name not in self._channels:
            taken.take_channels(layers, {axis: channel_range(array, axis) for axis in channel_axes(layers)})
        taken.take_rows(layers, array, self._current.seeds)


class _Program(Program):
    """A program whose Python steps of observers call `take`."""

    def __init__(self, graph: Graph, target: Target, take: Take) -> None:
        super().__init__(graph, target)
        self._take = take

    def _why_python(self, node: Node) -> str | None:
        """Calibration refuses what no deployed model should be given."""
        return "its reference checks values" if opdef(node.op).checks_values else None

    def _python_function(self, node: Node, sizes: Mapping[str, int]) -> PythonFunction:
        if Observe.of(node) is None:
            return super()._python_function(node, sizes)
        return lambda reads, writes: self._take(node.name, reads[0])


def native_program(observed: Graph, sampled: Mapping[str, Weighted]) -> CalibrationProgram | str:
    """The program for this machine, or why it has none."""
    from qcompiler.backends.target import native_target

    try:
        target = native_target()
        check_runs(target)
    except LoweringError as error:
        return error.message
    return CalibrationProgram(observed, target, sampled)
