"""The qconfig "auto": the cut is the cheapest of all assignments, and what it keeps float is recorded in the graph."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.errors import QuantizationError
from qcompiler.ir import Graph
from qcompiler.notes import Estimate
from qcompiler.opdef import works_on_codes
from qcompiler.quantization.cost_profile import ZEN5_AVX512VNNI, CostProfile, elements, products
from qcompiler.quantization.precision import decide
from qcompiler.types import tensor

X = np.random.default_rng(0).normal(size=(1, 16, 12, 12)).astype(np.float32)


def _random_graph(seed: int) -> Graph:
    """A float graph of six nodes that read one another."""
    rng = np.random.default_rng(seed)
    graph = Graph("g")
    values = [graph.add_input("x", tensor("f32", 4, 8)), graph.add_input("y", tensor("f32", 4, 8))]
    for i in range(6):
        picked = [values[int(j)] for j in rng.integers(0, len(values), 2)]
        op = ("add", "mul", "relu", "softmax")[int(rng.integers(0, 4))]
        operands, attrs = (picked, {}) if op in ("add", "mul") else (picked[:1], {"axis": 1} if op == "softmax" else {})
        values.append(graph.create(op, operands, attrs, names=f"n{i}").result)
    graph.set_outputs([values[-1], values[int(rng.integers(2, len(values) - 1))]])
    return graph


def _total(graph: Graph, integer: set[str], profile: CostProfile) -> float:
    """The cost of an assignment, computed from its definition."""
    total = sum(profile.cost(node, quantized=node.name in integer) for node in graph.nodes)
    for value in graph.values():
        made_integer = value.producer is not None and value.producer.name in integer
        readers = [user.name in integer for user in value.users] + [False] * graph.is_output(value)
        if (not made_integer) in readers:
            total += profile.overhead + elements(value) * (profile.dequantize if made_integer else profile.quantize)
    return total


@pytest.mark.parametrize("seed", range(30))
def test_the_cut_is_the_cheapest_of_all_assignments(seed: int) -> None:
    graph = _random_graph(seed)
    rng = np.random.default_rng(seed)
    names = [node.name for node in graph.nodes]
    element = {op: (float(rng.uniform(0, 20)), float(rng.uniform(0, 20))) for op in ("add", "mul", "relu", "softmax")}
    profile = CostProfile(
        "p",
        "none",
        (1, 1),
        (1, 1),
        float(rng.uniform(0, 9)),
        float(rng.uniform(0, 9)),
        10.0,
        element,
    )
    able = {name: bool(rng.random() < 0.85) for name in names}
    decision = decide(graph, able, frozenset(), profile)
    choices = [{n for n, on in zip(names, bits) if on} for bits in itertools.product((0, 1), repeat=len(names))]
    cheapest = min(_total(graph, chosen, profile) for chosen in choices if all(able[n] for n in chosen))
    assert decision.chosen == pytest.approx(cheapest, rel=1e-9)
    chosen = {n for n in names if able[n] and n not in decision.slow}
    assert _total(graph, chosen, profile) == pytest.approx(cheapest, rel=1e-9)
    assert decision.all_float == pytest.approx(_total(graph, set(), profile), rel=1e-9)


def test_followers_are_int8_only_behind_int8() -> None:
    graph = _random_graph(3)
    element = {"add": (100.0, 1.0), "mul": (100.0, 1.0), "relu": (0.0, 50.0), "softmax": (0.0, 50.0)}
    profile = CostProfile("p", "none", (1, 1), (1, 1), 0.0, 0.0, 0.0, element)
    able = dict.fromkeys((node.name for node in graph.nodes), True)
    followers = frozenset(node.name for node in graph.nodes if node.op in ("relu", "softmax"))
    slow = decide(graph, able, followers, profile).slow
    for node in graph.nodes:
        if node.name in followers and node.operands[0].producer is not None and node.name not in slow:
            assert node.operands[0].producer.name not in slow


class _Convolutions(qc.nn.Module):
    """Two convolutions for which int8 pays, and an op without an integer form."""

    def __init__(self) -> None:
        super().__init__()
        self.first = qc.nn.Conv2d(16, 64, 3, padding=1)
        self.second = qc.nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, x):  # type: ignore[no-untyped-def]
        y = self.second(self.first(x))
        return np.argmax(y, axis=1), y


def test_convolutions_are_int8_and_small_things_are_not() -> None:
    big = qc.compile(_Convolutions(), "auto", (X,), calibration_data=[X])
    assert all(works_on_codes(node) for node in big.graph.nodes if node.op == "conv")
    small = qc.compile(lambda x: np.maximum(x, 0) + x, "auto", (X[:, :1, :2, :2],), calibration_data=[X[:, :1, :2, :2]])
    assert not any(node.result.type.is_quantized for node in small.graph.nodes)
    assert "the cost model zen5-avx512vnni keeps it float" in str(small.report())
    assert any(isinstance(note, Estimate) and note.profile == "zen5-avx512vnni" for note in small.graph.notes)


def test_the_decision_is_the_same_for_every_target() -> None:
    model = _Convolutions()
    texts = {
        str(qc.compile(model, "auto", (X,), calibration_data=[X], target=target).graph)
        for target in ("reference", "native")
    }
    assert len(texts) == 1


def test_auto_is_for_whole_models() -> None:
    with pytest.raises(QuantizationError, match="weighs a whole model"):
        qc.QConfigMapping().set_global("auto")


def test_products_are_those_of_the_definition() -> None:
    graph = qc.trace(_Convolutions(), (X,))
    assert [products(node) for node in graph.nodes if node.op == "conv"] == [
        12 * 12 * 64 * 16 * 9,
        12 * 12 * 64 * 64 * 9,
    ]
    assert ZEN5_AVX512VNNI.cost(next(iter(graph.nodes)), quantized=True) > ZEN5_AVX512VNNI.overhead
