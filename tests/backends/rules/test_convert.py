"""quantize on every level: results at exact ties and beside them, for scales over the whole exponent range."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.ir import Graph
from qcompiler.types import DType, QuantParams, tensor
from tests.backends.rules.harness import check_graph

SCALES = [2.0**-59, 1e-12, 0.017, 1 / 3, 1 / 255, 0.1, 1.0, 1.1, 7.3, 1e15, 2.0**59]


@pytest.mark.parametrize("scale,zero_point", zip(map(np.float32, SCALES), [0, 128, 255, 3] * 3))
def test_quantize_divides_at_ties(scale: np.float32, zero_point: int) -> None:
    """The quotients x / scale at the numbers nearest to each tie, and at their neighbours on both sides.

    A product with 1 / scale rounds twice, so some of these would land on the other side of the tie.
    """
    ties = np.arange(-130, 130, dtype=np.float64) + 0.5
    nearest = (ties * np.float64(scale)).astype(np.float32)
    x = np.stack([np.nextafter(nearest, np.float32(-np.inf)), nearest, np.nextafter(nearest, np.float32(np.inf))])
    is_power = np.log2(np.float64(scale)) % 1 == 0
    assert (x / scale != x * (np.float32(1) / scale)).any() or is_power
    graph = Graph("test", "integer")
    value = graph.add_input("x", tensor("f32", *x.shape))
    params = QuantParams.per_tensor(float(scale), zero_point, DType.U8)
    node = graph.create("quantize", [value], types=value.type.quantized(DType.U8, params))
    graph.set_outputs(node.results)
    check_graph(graph, [x])
