"""Which functions of one value are steep: their tables jump far between the codes that calibration saw most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.metrics import sqnr
from qcompiler.passes.steep import MOST_JUMP, steep_functions
from qcompiler.quantization.observers import chosen_params
from qcompiler.types import DType
from tests.backends.levels import programs

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(8, 8)).astype(np.float32)


def decades(low: float, high: float) -> np.ndarray:
    """Numbers evenly spread over the decades from 10^low to 10^high."""
    return (10 ** RNG.uniform(low, high, (64, 8))).astype(np.float32)


def found(function: Callable[[Any], Any], data: np.ndarray, qconfig: str = "int8") -> list[str]:
    eye = np.eye(8, dtype=np.float32)
    prepared = qc.prepare(lambda x: function(x @ eye) @ WEIGHT, qconfig, (data,))
    calibration = qc.calibrate(prepared, [data])
    params = {group: chosen_params(calibration[group], spec, group) for group, spec in prepared.specs().items()}
    return list(steep_functions(prepared.graph, params, calibration))


STEEP: dict[str, tuple[Callable[[Any], Any], np.ndarray]] = {
    "log of decades": (np.log, decades(-6, 0)),
    "log of one decade": (np.log, decades(-0.5, 0.5)),
    "log of power": (lambda x: np.log(x * x + 1e-12), decades(-5, 0)),
    "reciprocal near its pole": (lambda x: 1 / x, decades(-3, 0)),
    "a step that most elements are near to": (lambda x: np.tanh(1000 * x), np.append(decades(-4, -3), [[1.0] * 8], 0)),
    "square root": (np.sqrt, np.abs(RNG.normal(size=(64, 8))).astype(np.float32)),
    "relu": (lambda x: np.maximum(x, 0), RNG.normal(size=(64, 8)).astype(np.float32)),
    "tanh": (np.tanh, RNG.normal(size=(64, 8)).astype(np.float32)),
    "silu of a wide range": (nn.SiLU(), 5 * RNG.normal(size=(64, 8)).astype(np.float32)),
    "a step in the middle": (lambda x: np.tanh(1000 * x), RNG.uniform(-1, 1, (64, 8)).astype(np.float32)),
    "one value": (np.log, np.full((4, 8), 0.25, np.float32)),
}
WANTED = {name: name in list(STEEP)[:1] + list(STEEP)[2:5] for name in STEEP}


@pytest.mark.parametrize("name", STEEP)
def test_steep_functions(name: str) -> None:
    function, data = STEEP[name]
    assert bool(found(function, np.asarray(data, np.float32))) is WANTED[name]


def test_a_value_without_a_histogram_is_not_judged() -> None:
    function, data = STEEP["log of decades"]
    assert found(function, data) and not found(function, data, "int8:minmax")


def test_the_bound_is_a_mean_of_jumps() -> None:
    """A staircase of four equal steps: each jump is 85 codes, and 3 of 255 neighbours have one."""
    assert MOST_JUMP == 16.0
    data = np.linspace(0, 1, 2048, dtype=np.float32).reshape(-1, 8)
    assert not found(lambda x: np.floor(x * 4), data)


class LogFront(nn.Module):
    """A spectrum, its power, its log, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.filters, self.a, self.b = nn.Conv1d(1, 16, 16, stride=8), nn.Conv1d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x):  # type: ignore[no-untyped-def]
        parts = self.filters(x)
        power = parts[:, :8] * parts[:, :8] + parts[:, 8:] * parts[:, 8:]
        return self.b(np.maximum(self.a(np.log(power + 1e-6)), 0).mean(axis=2))


def sound(seed: int) -> np.ndarray:
    """Noise of one of six decades of loudness."""
    rng = np.random.default_rng(seed)
    return (10.0 ** -(seed % 4) * rng.normal(size=(1, 1, 128))).astype(np.float32)


def test_a_log_front_end_keeps_its_answer_on_every_level() -> None:
    """The products before and behind the log read 16-bit codes, the first gives f32, all between them is f32, the rest
    is int8; "int8:plain" loses 15 dB and more."""
    nn.manual_seed(0)  # whatever layers other tests made before
    items, model = [sound(seed) for seed in range(16)], LogFront()
    prepared = qc.prepare(model, "int8", (items[0],))
    calibration = qc.calibrate(prepared, items)
    graph = qc.convert(prepared, calibration)
    real = qc.compile(model, None, (items[0],), target="reference")
    products = [node for node in graph.nodes if node.op in ("conv", "linear")]
    assert [value.type.dtype for node in products if (value := node.operands[0])] == [DType.I16, DType.I16, DType.U8]
    assert products[0].result.type.dtype is DType.F32
    assert not any(node.result.type.is_quantized for node in graph.nodes if node.op in ("mul", "add", "log"))
    mixed = qc.compile(graph, target="reference")
    plain = qc.compile(model, "int8:plain", (items[0],), calibration=calibration, target="reference")
    tests = [sound(seed) for seed in range(100, 120)]
    kept, lost = ([sqnr(real(x), each(x)) for x in tests] for each in (mixed, plain))
    assert min(kept) > 30 and np.median(kept) > np.median(lost) + 15
    for level, executable in programs(graph):
        for x in tests[:4]:
            assert np.array_equal(executable.run([x])[0], mixed(x)), level
