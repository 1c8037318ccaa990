"""dynamic_quantize and dynamic_linear on every level: extremes, tiles, threads, and codes that share a scale."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.ir import Graph
from qcompiler.ops.dynamic import DynamicQuantize
from qcompiler.types import DType, QuantParams, TensorType, tensor
from tests.backends.rules.harness import check_graph, check_op

ROWS = (1, 2, 4, 5, 13, 40)


def product(
    rows: int,
    inputs: int,
    outputs: int,
    *,
    attrs: dict | None = None,
    weight: np.ndarray | None = None,
    zero: int = 0,
    dtype: DType = DType.I8,
    batch: tuple[int | str, ...] | None = None,
    products: int = 1,
) -> Graph:
    """A dynamic_quantize of f32 [rows, inputs], and products that read it."""
    rng = np.random.default_rng(rows + inputs)
    graph = Graph("g", "integer")
    x = graph.add_input("x", tensor("f32", *(batch or (rows,)), inputs))
    codes = graph.create("dynamic_quantize", [x], DynamicQuantize.complete_attrs(attrs or {}))
    low = -127 if zero == 0 else dtype.min
    params = QuantParams.per_channel(rng.uniform(0.001, 0.1, outputs), zero, 0, dtype, low, dtype.max)
    type = TensorType(dtype, (outputs, inputs), params)
    results = []
    for number in range(products):
        data = rng.integers(low, dtype.max, (outputs, inputs), endpoint=True) if weight is None else weight
        w = graph.add_const(f"w{number}", data.astype(dtype.numpy), type)
        bias = graph.add_const(f"b{number}", rng.normal(0, 1, outputs).astype(np.float32))
        results += graph.create("dynamic_linear", [*codes.results, w, bias], {"activation": "none"}).results
    graph.set_outputs([*results, *codes.results])
    return graph


@pytest.mark.sampled(4)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("inputs, outputs", [(1, 1), (7, 9), (33, 17), (128, 70)])
def test_sizes_around_the_tiles(rows: int, inputs: int, outputs: int) -> None:
    x = np.random.default_rng(1).normal(0, 2, (rows, inputs)).astype(np.float32)
    check_graph(product(rows, inputs, outputs, products=2), [x], threads=(1, 3))


@pytest.mark.parametrize("axis", ["row", "tensor"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_extremes(axis: str, sign: int) -> None:
    """All codes 255 or 0, all weights of the largest magnitude, over a long K: no sum of two products fits 16 bits."""
    inputs = 1000
    x = np.full((5, inputs), 3.0, np.float32) * sign
    x[1, ::2], x[2] = 0, np.linspace(-1, 1, inputs)
    weight = np.full((19, inputs), 127)
    weight[1::2] = -127
    check_graph(product(5, inputs, 19, attrs={"axis": axis}, weight=weight), [x], threads=(1, 2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_and_empty_ranges(bad: float) -> None:
    x = np.random.default_rng(1).normal(0, 2, (9, 70)).astype(np.float32)
    clean = check_graph(product(9, 70, 18), [x], threads=(1,))[0]
    x[3, 69], x[5], x[6], x[7, :2] = bad, 0, 1e-42, (3e38, -3e38)
    found = check_graph(product(9, 70, 18), [x], threads=(1, 2))[0]
    assert np.isnan(found[3]).all() and np.isnan(found[7]).all() and np.isfinite(found[[5, 6]]).all()
    assert np.array_equal(found[[0, 1, 2, 4, 8]], clean[[0, 1, 2, 4, 8]])


@pytest.mark.parametrize("zero, dtype", [(3, DType.I8), (128, DType.U8)])
def test_weights_with_zero_points(zero: int, dtype: DType) -> None:
    x = np.random.default_rng(1).normal(0, 2, (6, 37)).astype(np.float32)
    check_graph(product(6, 37, 21, zero=zero, dtype=dtype), [x], threads=(1, 2))


def test_seven_bits_add_pairs_where_that_is_exact() -> None:
    x = np.random.default_rng(1).normal(0, 2, (6, 64)).astype(np.float32)
    weight = np.full((16, 64), 127)
    check_graph(product(6, 64, 16, attrs={"qmax": 127}, weight=weight), [x], threads=(1,))


@pytest.mark.parametrize("rows", [1, 3, 30])
def test_rows_are_open(rows: int) -> None:
    x = np.random.default_rng(1).normal(0, 2, (rows, 5, 33)).astype(np.float32)
    check_graph(product(rows, 33, 17, batch=("B", 5)), [x], threads=(1, 2))


def test_long_tensors_are_cut_into_parts() -> None:
    x = np.random.default_rng(1).normal(0, 2, (3, 70001)).astype(np.float32)
    x[2, 70000] = -40
    check_op("dynamic_quantize", [x], {"axis": "tensor"}, threads=(1, 3))
    check_op("dynamic_quantize", [x], threads=(1, 3))


def test_products_of_nothing() -> None:
    for shape in ((0, 5), (3, 0)):
        check_graph(product(shape[0], shape[1], 4), [np.zeros(shape, np.float32)], threads=(1,))


def test_a_linear_layer_without_inputs() -> None:
    check_op("linear", [tensor("f32", 3, 0), tensor("f32", 5, 0), tensor("f32", 5)], threads=(1,))
