"""Random networks that are exported: images and rows, recurrent layers and embeddings, static and dynamic."""

from __future__ import annotations

import numpy as np

import qcompiler as qc
from qcompiler.ir import Graph
from tests.random_graphs import RECURRENT_STEPS, RandomGraph

QCONFIGS = ("int8:plain", "int8", "dynamic", "dynamic:per_tensor")
"""One for each seed, in turn."""


class _Network(RandomGraph):
    more_rows = RECURRENT_STEPS


def network(seed: int, qconfig: str | None = None) -> tuple[Graph, list[np.ndarray]]:
    """The integer graph of a random network, by default with the seed's own qconfig, and arrays for its inputs."""
    qconfig = qconfig or QCONFIGS[seed % len(QCONFIGS)]
    is_dynamic = qconfig.startswith("dynamic")
    made = _Network(seed)
    graph = made.build()
    data = None if is_dynamic else [tuple(made.arrays(seed + 1000 * i)) for i in (1, 2)]
    return qc.compile(graph, qconfig, calibration_data=data, target="reference").graph, made.arrays(seed)


def with_all_values(graph: Graph) -> Graph:
    """A copy whose outputs are the results of all nodes."""
    copy = graph.clone()
    copy.set_outputs([value for node in copy.nodes for value in node.results])
    return copy
