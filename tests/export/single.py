"""Graphs of one node: of an op's sample on codes, or cut out of a graph, which is what a test of "each node on
identical inputs" runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qcompiler.interpreter import run
from qcompiler.ir import Const, Graph, Node
from qcompiler.opdef import OpDef, all_ops
from tests.backends.rules.harness import is_quantizable, one_node, random_array

ON_CODES = [
    (op, index)
    for op in all_ops()
    if is_quantizable(op) and op.family not in ("quantized", "dynamic")
    for index in range(len(op.samples()))
]
"""The samples that `coded_sample` takes."""
ON_CODES_IDS = [f"{op.name}-{index}" for op, index in ON_CODES]


def coded_sample(op: OpDef, index: int) -> tuple[Graph, list[np.ndarray]]:
    """A graph of one node on codes, of an op's sample, and arrays for its inputs."""
    sample, rng = op.samples()[index], np.random.default_rng(2)
    arrays = [
        given if given is None or isinstance(given, np.ndarray) else random_array(given, rng, sample.low, sample.high)
        for given in sample.operands
    ]
    return one_node(op.name, arrays, sample.attrs, quantized=True)


def single(node: Node) -> Graph:
    """A graph of this node alone. Its operands are inputs, but for constants."""
    assert node.graph is not None
    graph, copies = Graph("single", node.graph.stage), {}
    for value in node.operands:
        if value is None or id(value) in copies:
            continue
        if isinstance(value, Const):
            copies[id(value)] = graph.add_const(value.name, value.data, value.type)
        else:
            copies[id(value)] = graph.add_input(value.name, value.type)
    operands = [None if value is None else copies[id(value)] for value in node.operands]
    types, names = [value.type for value in node.results], [value.name for value in node.results]
    graph.set_outputs(graph.create(node.op, operands, node.attrs, types=types, names=names).results)
    return graph


def each_node(
    graph: Graph, inputs: Sequence[np.ndarray]
) -> Iterator[tuple[Node, Graph, list[np.ndarray], list[np.ndarray]]]:
    """Each node of a graph, its graph of one node, what it reads in a run of the whole graph, and what it makes."""
    values = {value.name: array for value, array in zip(graph.inputs, inputs)}
    run(graph, inputs, keep=values)
    for node in graph.nodes:
        alone = single(node)
        yield node, alone, [values[v.name] for v in alone.inputs], [values[v.name] for v in node.results]
