"""Ranges of values that maxima are taken of are not clipped; all others are the observer's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.ir import Graph

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(8, 8)).astype(np.float32)
LAST = RNG.normal(size=(8, 4)).astype(np.float32)


def peaks(count: int = 4, size: int = 256, seed: int = 0) -> list[np.ndarray]:
    """Recordings that are mostly quiet, with rare elements that are far larger."""
    rng = np.random.default_rng(seed)
    return [rng.laplace(size=(2, size, 8)).astype(np.float32) ** 3 for _ in range(count)]


def clicks(seed: int) -> np.ndarray:
    """A quiet recording with one loud element in each channel."""
    rng = np.random.default_rng(seed)
    x = rng.laplace(size=(1, 16384, 8)).astype(np.float32) / 4
    x[0, rng.integers(0, 16384, 8), np.arange(8)] = rng.uniform(4, 8, 8)
    return x


def over_time(x: np.ndarray) -> np.ndarray:
    return (x @ WEIGHT).max(axis=1) @ LAST


READERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], bool]] = {
    "maximum over time": (over_time, True),
    "minimum over time": (lambda x: (x @ WEIGHT).min(axis=1) @ LAST, True),
    "maximum behind a transpose": (lambda x: (x @ WEIGHT).transpose(0, 2, 1).max(axis=2) @ LAST, True),
    "large windows": (lambda x: (x @ WEIGHT).reshape(2, 4, 64, 8).max(axis=2) @ LAST, True),
    "small windows": (lambda x: (x @ WEIGHT).reshape(2, 32, 8, 8).max(axis=2) @ LAST, False),
    "mean over time": (lambda x: (x @ WEIGHT).mean(axis=1) @ LAST, False),
}


def converted(function: Callable[[np.ndarray], np.ndarray], qconfig: str = "int8") -> Graph:
    data = peaks()
    prepared = qc.prepare(function, qconfig, (data[0],))
    return qc.convert(prepared, qc.calibrate(prepared, data))


@pytest.mark.parametrize("name", READERS)
def test_which_ranges_are_whole(name: str) -> None:
    function, wanted = READERS[name]
    graph = converted(function)
    notes = [str(note) for note in graph.notes if "elements" in str(note)]
    assert bool(notes) is wanted
    if wanted:
        reached = np.abs(np.concatenate([x @ WEIGHT for x in peaks()])).max()
        spans = [max(t.params.scale) * 255 for t in (v.type for v in graph.values()) if t.is_quantized and t.rank == 3]
        assert any(span >= reached * 0.999 for span in spans)


def test_a_maximum_over_time_keeps_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    data, test = [clicks(seed) for seed in range(4)], [clicks(seed) for seed in range(10, 14)]
    prepared = qc.prepare(over_time, "int8", (data[0],))
    found = qc.calibrate(prepared, data)
    real = qc.compile(over_time, None, (data[0],))

    def error() -> float:
        model = qc.compile(qc.convert(prepared, found))
        assert bool(model.report().unclipped) is ("not clipped" in str(model.report()))
        return float(np.mean([np.abs(model(x) - real(x)).mean() / np.abs(real(x)).mean() for x in test]))

    kept = error()
    monkeypatch.setattr("qcompiler.passes.peaks.LEAST_WINDOW", 10**9)
    assert kept < 0.03 and kept * 1.5 < error()


@pytest.mark.parametrize("qconfig", ["int8:plain", "int8:percentile", "torch:x86"])
def test_observers_that_were_asked_for_keep_their_ranges(qconfig: str) -> None:
    assert not [note for note in converted(over_time, qconfig).notes if "elements" in str(note)]


def test_symbolic_sizes_count_as_many() -> None:
    data = peaks()
    prepared = qc.prepare(over_time, "int8", (data[0],), dynamic={"x": {1: "T"}})
    graph = qc.convert(prepared, qc.calibrate(prepared, data))
    assert [note for note in graph.notes if "takes one of many elements" in str(note)]
