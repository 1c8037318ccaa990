"""Pointwise regions: a function of one value becomes one table, which holds the float function of each code exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.interpreter import run
from qcompiler.quantization import qmath
from tests.passes.pass_texts import load

W = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
X = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "diamond": lambda v: v * np.clip(v + 1, 0, 2) / 3,
    "leaky by maximum": lambda v: np.maximum(v, v * 0.1),
    "nested where": lambda v: np.where(v > 0.5, v * 2, np.where(v < -0.5, v - 1, v * v)),
    "polynomial": lambda v: ((v * 0.1 + 0.2) * v - 0.3) * v + 1,
    "quick gelu": lambda v: v / (1 + np.exp(v * -1.702)),
    "sum of two": lambda v: np.tanh(v) + np.abs(v),
    "selected by two": lambda v: np.where((v > -1) & (v < 1), v, np.sign(v)),
    "interp": lambda v: np.interp(v, [-2, -0.5, 0, 1.5], [0, 1, -1, 2]),
    "interp with ends": lambda v: np.interp(v, [-2, 1.5], [0, 2], left=-1, right=3),
    "interp of 40 points": lambda v: np.interp(v, np.linspace(-5, 5, 40), np.sin(np.linspace(-5, 5, 40))),
    "select": lambda v: np.select([v < -1, v < 1], [v * 0.5, v * v], 1.0),
    "piecewise": lambda v: np.piecewise(v, [v < -1, v >= 1], [lambda t: -t, lambda t: t * t, 0.25]),
    "piecewise without a rest": lambda v: np.piecewise(v, [v > 0, v > 1], [np.tanh, 2.0]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_one_value_is_one_exact_table(name: str) -> None:
    function = FUNCTIONS[name]
    compiled = qc.compile(lambda x: function(x @ W) @ W, "int8:plain", (X,), calibration_data=[X], target="reference")
    graph = compiled.graph
    assert [node.op for node in graph.nodes] == ["quantize", "linear", "lookup", "linear", "dequantize"]
    lookup = graph.node_list[2]
    source, table = (value for value in lookup.operands if value is not None)
    codes = np.arange(256)
    real = (codes - source.type.params.zero_point[0]) * np.float64(source.type.params.scales[0])
    wanted = qmath.quantize(function(real).astype(np.float32), lookup.result.type.params, lookup.result.type.dtype)
    data = graph.consts[table.name].data
    # The table is made in float64; in f32, at most a tie falls to the other side.
    assert np.abs(data.astype(int) - wanted).max() <= 1 and (data != wanted).sum() <= 2


@pytest.mark.parametrize("seed", range(30))
def test_random_functions_of_one_value(seed: int) -> None:
    """Random diamonds with comparisons and selections become a table, which differs from float by one step at most."""
    rng = np.random.default_rng(seed)

    def function(v: Any) -> Any:
        values = [v]
        for _ in range(int(rng.integers(2, 8))):
            one, other = (values[i] for i in rng.integers(0, len(values), 2))
            kind = rng.integers(0, 5)
            made = (
                np.tanh(one)
                if kind == 0
                else one + other
                if kind == 1
                else np.minimum(one, other * 0.5)
                if kind == 2
                else np.where(one > float(rng.normal()), one, other)
                if kind == 3
                else one * 0.5 + float(rng.normal())
            )
            values.append(made)
        return values[-1] + np.tanh(v)

    compiled = qc.compile(lambda x: function(x @ W), "int8:plain", (X,), calibration_data=[X], target="reference")
    graph = compiled.graph
    assert [node.op for node in graph.nodes] == ["quantize", "linear", "lookup", "dequantize"], str(graph)


def test_what_two_values_make_is_no_table() -> None:
    graph = qc.compile(
        lambda x: np.maximum(x @ W, x * 0.5) * 2.0, "int8:plain", (X,), calibration_data=[X], target="reference"
    ).graph
    assert "maximum" in {node.op for node in graph.nodes}


def test_a_value_inside_that_others_read_keeps_its_own_parameters() -> None:
    """The tanh is an output too, so it has a table of its own, and the one after it reads its codes."""
    text = """
    const @w : f32[8,8]
    %a = linear(%x, @w) : f32[64,8]
    %t = tanh(%a) : f32[64,8]
    %s = mul(%t, %t) : f32[64,8]
    %y = add(%s, %t) : f32[64,8]
    return %t, %y"""
    graph = load("%x: f32[64,8]", text, w=W)
    integer = qc.compile(graph, "int8:plain", calibration_data=[X], target="reference").graph
    assert [node.op for node in integer.nodes].count("lookup") == 2


def test_nodes_of_other_qconfigs_stay_apart() -> None:
    text = """
    const @w : f32[8,8]
    %a = linear(%x, @w) : f32[64,8]
    %t = tanh(%a) : f32[64,8]
    %y = mul(%t, %a) : f32[64,8]
    return %y"""
    graph = load("%x: f32[64,8]", text, w=W)
    mapping = qc.QConfigMapping().set_global("int8:plain").set_object_type("tanh", None)
    kept = qc.compile(graph, mapping, calibration_data=[X], target="reference").graph
    assert {"tanh", "mul"} <= {node.op for node in kept.nodes} and "lookup" not in {node.op for node in kept.nodes}
    assert np.isfinite(run(kept, [X])[0]).all()


def test_a_mask_inside_keeps_the_region_float() -> None:
    graph = qc.compile(
        lambda x: np.where(x @ W > 0, x @ W, -1e9) + 1.0, "int8:plain", (X,), calibration_data=[X], target="reference"
    ).graph
    assert "where" in {node.op for node in graph.nodes} and "lookup" not in {node.op for node in graph.nodes}
