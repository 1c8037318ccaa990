"""Ranges and counts on every level, to the bit: sizes around blocks and parts, all layouts, extremes."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.backends.kernels.statistics import BLOCK
from qcompiler.ir import Graph
from qcompiler.types import tensor
from tests.backends.rules.harness import check_graph


def graph_of(shape: tuple[int, ...], *, channels_last: bool = False, perm: tuple[int, ...] | None = None) -> Graph:
    graph = Graph("test")
    x = graph.add_input("x", tensor("f32", *shape))
    if channels_last:
        attrs = {"kernel": (1, 1), "stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
        x = graph.create("max_pool", [x], attrs).result
    if perm is not None:
        x = graph.create("transpose", [x], {"perm": perm}).result
    bounds = graph.create("value_range", [x]).result
    graph.set_outputs([bounds, graph.create("value_counts", [x, bounds]).result])
    return graph


@pytest.mark.parametrize("size", [1, 7, 8, 9, 31, 33, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_sizes(size: int) -> None:
    x = np.random.default_rng(size).normal(size=size).astype(np.float32)
    _, counts = check_graph(graph_of((size,)), [x])
    assert counts.sum() == size


@pytest.mark.parametrize("size", [2 * 65536, 3 * 65536 + 77])
def test_several_parts(size: int) -> None:
    x = np.maximum(np.random.default_rng(size).normal(size=size), 0).astype(np.float32)
    _, counts = check_graph(graph_of((size,)), [x])
    assert counts.sum() == size


@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (2, 1, 9, 4), (2, 17, 3, 3), (3, 64, 40, 40)])
def test_channels_last(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    _, counts = check_graph(graph_of(shape, channels_last=True), [x])
    assert counts.sum() == x.size


def test_axes_that_are_no_runs() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    check_graph(graph_of((3, 4, 5, 6), perm=(3, 1, 0, 2)), [x])


@pytest.mark.parametrize(
    "shape, axis", [((5, 7), 1), ((3, 64, 40), 2), ((2, 17, 3, 5), 1), ((2, 6, 5, 4), 2), ((9,), 0)]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_ranges_of_channels(shape: tuple[int, ...], axis: int, channels_last: bool) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x.reshape(-1)[[1, -1]] = [np.nan, -np.inf]
    (bounds,) = check_graph(channels_of(shape, axis, channels_last and len(shape) == 4), [x])
    assert np.isnan(bounds[0]).sum() == len({index[axis] for index in np.argwhere(~np.isfinite(x)).tolist()})


def test_ranges_of_channels_whose_axes_do_not_merge() -> None:
    """A channel within a value of five axes, in an order in which kernels can't read it."""
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 3, 4)).astype(np.float32)
    check_graph(channels_of(x.shape, 2, perm=(4, 2, 0, 3, 1)), [x])


def channels_of(
    shape: tuple[int, ...], axis: int, channels_last: bool = False, perm: tuple[int, ...] | None = None
) -> Graph:
    graph = graph_of(shape, channels_last=channels_last, perm=perm)
    (x,) = {node.operands[0] for node in graph.nodes if node.op == "value_range"}
    assert x is not None
    graph.set_outputs([graph.create("channel_range", [x], {"axis": axis}).result])
    return graph


@pytest.mark.parametrize("shape, axis", [((2, 3, 9, 11), 2), ((2, 3, 9, 11), 3), ((2, 9, 16), 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_part_is_counted(shape: tuple[int, ...], axis: int, channels_last: bool) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    graph = graph_of(shape, channels_last=channels_last and len(shape) == 4)
    bounds, counts = (node for node in graph.nodes if node.op.startswith("value_"))
    graph.set_attr(counts, "axis", axis)
    graph.set_attr(counts, "step", 4)
    _, found = check_graph(graph, [x])
    assert found.sum() == x.size // shape[axis] * len(range(2, shape[axis], 4)) and bounds.op == "value_range"


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 6, 40, BLOCK + 3])
def test_what_is_not_finite_has_no_range(bad: float, place: int) -> None:
    x = np.random.default_rng(0).normal(size=BLOCK + 4).astype(np.float32)
    x[place] = bad
    bounds, _ = check_graph(graph_of(x.shape), [x])
    assert np.isnan(bounds).all()


@pytest.mark.parametrize("largest", [2.0**-149, 2.0**-126, 1.0, np.finfo(np.float32).max])
def test_denormals_and_zeros(largest: float) -> None:
    """A tiny negative element lies in the bin below 0, although its product with the scale rounds to -0."""
    x = np.array([0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-127, -(2.0**-127), largest] * 5, np.float32)
    bounds, counts = check_graph(graph_of(x.shape), [x])
    assert not np.signbit(bounds[bounds == 0]).any() and counts[:2048].sum() == (x < 0).sum()
