"""What runs calibration items: the compiled float program, or the interpreter where no kernels can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qcompiler.ir import Graph, Node
from qcompiler.quantization.observers import Observer


class Collector(Protocol):
    """Runs items, whose values observers take. Thread-safe; every call brings its own observers.

    Attributes:
        interpreted: why the interpreter runs, "" for compiled code.
    """

    @property
    def interpreted(self) -> str: ...

    def observe(self, item: Sequence[np.ndarray], observers: Mapping[str, Observer], threads: int) -> None:
        """Run the inputs of one call. observers: group of values -> its observer."""
        ...


@dataclass(frozen=True)
class GraphInterpreter:
    """The interpreter of an observed graph."""

    graph: Graph
    interpreted: str

    def observe(self, item: Sequence[np.ndarray], observers: Mapping[str, Observer], threads: int) -> None:
        from qcompiler.interpreter import run
        from qcompiler.ops.quantized import Observe

        def take(node: Node, results: Sequence[np.ndarray]) -> None:
            observe = Observe.of(node)
            if observe is not None:
                observers[observe.group].observe(results[0], node.name)

        run(self.graph, item, hook=take)


def collector(observed: Graph) -> Collector:
    """What runs the items of an observed graph.

    It does not depend on the target of the model: so all targets get the same integer graph.
    """
    try:
        from qcompiler.backends.calibration_program import native_program
    except ModuleNotFoundError:
        return GraphInterpreter(observed, "no native backend is installed")
    found = native_program(observed)
    return GraphInterpreter(observed, found) if isinstance(found, str) else found
