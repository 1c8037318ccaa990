"""How far the outputs of a graph that conversion tries lie from those of the float graph, on the items that calibration
kept.

Errors of single products say little about the outputs: later layers may hardly read what was lost, or average over it.

Both graphs run as compiled programs of this machine, whatever the target is, or on the interpreter where no kernels can
run. Programs have the same bits on every level, and errors are summed as integers, so that the sums have too.

Does not own what is tried (`passes/real_parts.py`) nor which items are kept (`kept_items.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qcompiler.cpus import thread_count
from qcompiler.errors import LoweringError
from qcompiler.ir import Graph
from qcompiler.ops.quantized import Observe
from qcompiler.quantization.kept_items import Item
from qcompiler.signature import bind_inputs

BITS = 16
"""Errors are counted in units of 2^-BITS of the largest element of an output: finer than any error of codes."""

_Run = Callable[[Item], Sequence[np.ndarray]]


class OutputErrors:
    """The outputs of the float graph on some items, and the errors of other graphs with these inputs.

    Args:
        observed: the graph at stage observed. Without its observers it is the float graph.
        items: the inputs of some calls, which fit the graph; at least one.
    """

    def __init__(self, observed: Graph, items: Sequence[Item]) -> None:
        self._items = items
        self._wanted = _outputs(float_graph(observed), items)

    def of(self, graph: Graph) -> float:
        """The largest error of an output: the energy of the difference as a share of the output's energy, summed over
        the items. Of outputs that are not real it is the share of elements that differ. It is inf where an element is
        not finite in one graph alone, or an output of zeros alone has an error."""
        outputs = _outputs(graph, self._items)
        return max(
            _error([item[index] for item in self._wanted], [item[index] for item in outputs])
            for index in range(len(graph.outputs))
        )


def float_graph(observed: Graph) -> Graph:
    """The float graph that an observed graph was made of."""
    graph = observed.clone(stage="float")
    for node in graph.node_list:
        observe = Observe.of(node)
        if observe is not None:
            graph.replace_uses(node.result, observe.x)
            graph.erase(node)
    return graph


def _outputs(graph: Graph, items: Sequence[Item]) -> list[Sequence[np.ndarray]]:
    run = _runner(graph)
    return [run(item) for item in items]


def _runner(graph: Graph) -> _Run:
    """What runs a float or integer graph here."""
    from qcompiler.interpreter import run

    try:
        from qcompiler.backends.lower import lower_graph
        from qcompiler.backends.target import native_target

        program = lower_graph(graph, native_target())
    except (ModuleNotFoundError, LoweringError):
        return lambda item: run(graph, list(item))
    threads = thread_count(None)
    return lambda item: program.run(*bind_inputs(graph, item), threads)


def _error(wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    if wanted[0].dtype.kind != "f":
        size = sum(each.size for each in wanted)
        return sum(int((a != b).sum()) for a, b in zip(wanted, got)) / max(1, size)
    largest = max(
        float(np.abs(each, where=np.isfinite(each), out=np.zeros_like(each)).max(initial=0)) for each in wanted
    )
    noise = signal = 0
    for a, b in zip(wanted, got):
        finite = np.isfinite(a) & np.isfinite(b)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return float("inf")
        real, other = a[finite].astype(np.float64), b[finite].astype(np.float64)
        if not largest:
            if other.any():
                return float("inf")
            continue
        noise += _energy((real - other) / largest)
        signal += _energy(real / largest)
    return noise / signal if signal else 0.0


def _energy(shares: np.ndarray) -> int:
    """The sum of squares of numbers, rounded to units of 2^-BITS. Those above 4 count as 4."""
    units = np.rint(np.clip(shares, -4, 4) * 2**BITS).astype(np.int64)
    return int(np.sum(units * units))
