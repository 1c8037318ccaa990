"""The end of a weighted node: when sums may be rounded before they are clamped."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.ir import Graph
from qcompiler.types import DType, QuantParams, TensorType
from tests.backends.rules.harness import check_graph


def _linear(weights: np.ndarray, bias: np.ndarray, zero_point: int, multiplier: float) -> Graph:
    """A layer of u8 codes whose requantize multiplies its sums by `multiplier`."""
    graph = Graph("layer")
    graph.stage = "integer"
    rows = len(weights)
    x = graph.add_input(
        "x", TensorType(DType.U8, (2, weights.shape[1]), QuantParams.per_tensor(1, zero_point, DType.U8))
    )
    weight = graph.add_const("w", weights, TensorType(DType.I8, weights.shape, QuantParams.per_tensor(1, 0, DType.I8)))
    start = graph.add_const("b", bias, TensorType(DType.I32, (rows,), QuantParams.per_tensor(1, 0, DType.I32)))
    out = TensorType(DType.U8, (2, rows), QuantParams.per_tensor(1 / multiplier, 128, DType.U8))
    graph.set_outputs(graph.create("linear", [x, weight, start], {}, types=out).results)
    return graph


@pytest.mark.parametrize("zero_point", [0, 128, 255])
@pytest.mark.parametrize("exponent", [-12, 0, 8, 12, 14, 16, 18, 24])
def test_sums_beyond_i32_are_clamped_first(exponent: int, zero_point: int) -> None:
    """|sum * M| reaches 2^30, 2^31 and far more, from the dot product alone and from the bias alone, with both
    signs."""
    signs = np.array([1, -1, 1, -1, 1, -1, 1, -1, 1])
    weights = np.zeros((9, 64), np.int8)
    weights[0:2], weights[2:4, :7], weights[4:6, 0] = 127, 127, 1
    weights = (weights * signs[:, None]).astype(np.int8)
    bias = np.zeros(9, np.int32)
    bias[6:8] = 2**30
    bias[8] = 2**19 + 1
    x = np.zeros((2, 64), np.uint8)
    x[0], x[1] = 255, np.arange(64) * 4
    check_graph(_linear(weights, (bias * signs).astype(np.int32), zero_point, 2.0**exponent), [x])
