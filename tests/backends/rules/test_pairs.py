"""With seven-bit activations (torch:fbgemm), levels without VNNI add products in pairs of i16, exactly; where codes may
be larger they do not."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.backends.target import parse_target
from qcompiler.ir import Graph
from qcompiler.types import DType, QuantParams, TensorType
from tests.backends.levels import lower_for
from tests.backends.rules.harness import check_graph

K = 4612


def network(weight: int, *, given: bool) -> Graph:
    """A linear layer [3, K] x [9, K] on codes 0 to 127, which come from a quantize or, if `given`, from the caller."""
    x = QuantParams.per_tensor(1.0, 64, DType.U8, 0, 127)
    out = QuantParams.per_tensor(4.0 * K, 128, DType.U8)
    graph = Graph("pairs", stage="integer")
    type = TensorType(DType.U8, (3, K), x)
    value = graph.add_input("x", type if given else TensorType(DType.F32, (3, K)))
    if not given:
        value = graph.create("quantize", [value], types=type).result
    scales = QuantParams.per_channel([1.0] * 9, 0, 0, DType.I8, -128, 127)
    w = graph.add_const("w", np.full((9, K), weight, np.int8), TensorType(DType.I8, (9, K), scales))
    graph.set_outputs(graph.create("linear", [value, w, None], types=TensorType(DType.U8, (3, 9), out)).results)
    return graph


def in_pairs(graph: Graph, level: str) -> bool:
    steps = lower_for(graph, parse_target(level)).image({}).steps
    return any("pairs" in step.kernel for step in steps)


@pytest.mark.parametrize("weight", [-128, -127, 127])
@pytest.mark.parametrize("real", [-64.0, 63.0])
def test_extremes_of_seven_bits(weight: int, real: float) -> None:
    graph = network(weight, given=False)
    check_graph(graph, [np.full((3, K), real, np.float32)])
    assert in_pairs(graph, "x86-64+avx2") and not in_pairs(graph, "x86-64+avx512vnni")
    assert in_pairs(graph, "aarch64-linux+neon") == (weight != -128)


@pytest.mark.parametrize("weight", [-128, 127])
def test_a_callers_codes_may_be_larger(weight: int) -> None:
    graph = network(weight, given=True)
    check_graph(graph, [np.full((3, K), 255, np.uint8)])
    assert not in_pairs(graph, "x86-64+avx2")
