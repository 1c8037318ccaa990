"""Random networks: the interpreter and every level give the same bits for an integer graph; every level gives the same
bits for a float graph."""

from __future__ import annotations

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.metrics import sqnr
from qcompiler.verify import verify
from tests.backends.levels import programs
from tests.random_graphs import RandomGraph

SEEDS = 200


@pytest.mark.sampled(20)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_integer_networks(seed: int) -> None:
    made = RandomGraph(seed)
    graph = made.build()
    verify(graph)
    quantized = qc.compile(
        graph,
        "int8:plain",
        calibration_data=[tuple(made.arrays(seed + 1000 * i)) for i in (1, 2)],
        target="reference",
        io="float",
    )
    inputs = made.arrays(seed)
    expected = quantized(*inputs)
    wanted = list(expected) if isinstance(expected, (tuple, list)) else [expected]
    assert all(np.isfinite(want).all() for want in wanted)
    _is_alive(quantized.graph, wanted[0])
    for level, program in programs(quantized.graph):
        for threads in (1, 3):
            got = program.run(inputs, threads=threads)
            assert all(np.array_equal(a, b) for a, b in zip(wanted, got)), (level, threads)


def _is_alive(graph: qc.Graph, output: np.ndarray) -> None:
    """Whether a network can prove something, being neither dead nor saturated: at least 30% of the first output's
    elements are not zero, and at most 20% are at the ends of the range."""
    assert (output != 0).mean() >= 0.3
    producer = graph.outputs[0].producer
    if producer is not None and producer.op == "dequantize":
        quant = producer.operands[0].type.quant
        codes = np.rint(output / quant.scale[0]) + quant.zero_point[0]
        assert ((codes >= quant.qmax) | (codes <= quant.qmin)).mean() <= 0.2


@pytest.mark.sampled(12)
@pytest.mark.parametrize("seed", range(0, SEEDS, 4))
def test_mixed_networks(seed: int) -> None:
    """Integer nodes, with float ones behind the last product and around norms: the same bits on every level, and the
    numbers of the interpreter but for float roundings, which may move a code by one where a quantize follows."""
    made = RandomGraph(seed)
    data = [tuple(made.arrays(seed + 1000 * i)) for i in (1, 2)]
    quantized = qc.compile(made.build(), "int8", calibration_data=data, target="reference")
    inputs = made.arrays(seed)
    expected = quantized(*inputs)
    wanted = list(expected) if isinstance(expected, (tuple, list)) else [expected]
    found = [program.run(inputs, threads=2) for _, program in programs(quantized.graph)]
    assert all(np.array_equal(a, b, equal_nan=True) for other in found[1:] for a, b in zip(found[0], other))
    assert all(sqnr(a, b) > 40 for a, b in zip(wanted, found[0]))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("seed", range(0, SEEDS, 4))
def test_float_networks(seed: int) -> None:
    made = RandomGraph(seed)
    graph, inputs = qc.fuse(made.build()), made.arrays(seed)
    found = [program.run(inputs, threads=2) for _, program in programs(graph)]
    for other in found[1:]:
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found[0], other))
