"""The range in front of a function is chosen by what the function gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.ir import Graph
from qcompiler.passes import read_ranges
from qcompiler.passes.read_ranges import ranges_for_functions
from qcompiler.quantization.observers import chosen_params
from qcompiler.types import QuantParams

RNG = np.random.default_rng(0)
WEIGHT, LAST = (RNG.normal(size=(16, 16)).astype(np.float32) for _ in range(2))
Function = Callable[[np.ndarray], np.ndarray]


def hardswish(x: np.ndarray) -> np.ndarray:
    return x * np.clip(x + 3, 0, 6) / 6


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def batches(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [3 * rng.normal(size=(32, 16)).astype(np.float32) for _ in range(4)]


def between(function: Function) -> Function:
    return lambda x: function(x @ WEIGHT) @ LAST


def ranges(net: Function, qconfig: str = "int8") -> dict[str, tuple[QuantParams, QuantParams]]:
    """Group -> (the parameters that its observer chose, those for the function)."""
    data = batches()
    prepared = qc.prepare(net, qconfig, (data[0],))
    found = qc.calibrate(prepared, data)
    made = ranges_for_functions(prepared.graph, found, prepared.configs)
    specs = prepared.specs()
    return {group: (chosen_params(found[group], specs[group], group), params) for group, params in made.items()}


def low(params: QuantParams) -> float:
    return (params.qmin - params.zero_point[0]) * params.scale[0]


def high(params: QuantParams) -> float:
    return (params.qmax - params.zero_point[0]) * params.scale[0]


def test_no_codes_lie_where_the_function_is_flat() -> None:
    [(old, new)] = ranges(between(hardswish)).values()
    assert low(old) < -15 and -4 < low(new) <= -2.5 and high(new) > 0.8 * high(old)
    [(old, new)] = ranges(between(lambda x: hardswish(-x))).values()
    assert high(old) > 15 and 2.5 <= high(new) < 4 and low(new) < 0.8 * low(old)
    [(old, new)] = ranges(between(sigmoid)).values()
    assert -8 < low(new) < -3 and 3 < high(new) < 8


def test_a_linear_function_keeps_the_range_of_the_value() -> None:
    [(old, new)] = ranges(between(lambda x: np.abs(x) * 0.5)).values()
    assert new.scale[0] == pytest.approx(old.scale[0], rel=0.1)


def shared(x: np.ndarray) -> np.ndarray:
    y = x @ WEIGHT
    return hardswish(y) @ LAST + y @ LAST


def twice(x: np.ndarray) -> np.ndarray:
    y = x @ WEIGHT
    return hardswish(y) @ LAST + sigmoid(y) @ LAST


@pytest.mark.parametrize("net", [shared, twice, lambda x: (x @ WEIGHT) @ LAST])
def test_values_that_others_read_keep_theirs(net: Function) -> None:
    assert not ranges(net)


@pytest.mark.parametrize("qconfig", ["int8:plain", "int8:minmax", "int8:percentile", "torch:x86"])
def test_observers_that_were_asked_for_keep_their_ranges(qconfig: str) -> None:
    assert not ranges(between(hardswish), qconfig)


def test_results_that_are_not_finite_are_not_judged() -> None:
    assert not ranges(between(lambda x: np.log(np.maximum(x, 0))))


def graph_of(net: Function) -> tuple[Graph, list[np.ndarray]]:
    data = batches()
    prepared = qc.prepare(net, "int8", (data[0],))
    return qc.convert(prepared, qc.calibrate(prepared, data)), batches(7)


@pytest.mark.parametrize("function", [hardswish, nn.functional.silu, nn.functional.gelu])
def test_errors_fall(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    def error() -> float:
        graph, test = graph_of(between(function))
        model, real = qc.compile(graph), qc.compile(between(function), None, (test[0],))
        return float(np.mean([((model(x) - real(x)) ** 2).sum() / (real(x) ** 2).sum() for x in test]))

    better = error()
    monkeypatch.setattr(read_ranges, "FRACTIONS", np.ones(1))
    assert better * 1.2 < error()
