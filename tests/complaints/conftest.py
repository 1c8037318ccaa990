"""A small CNN, its data, and a comparison of all backends, which the complaint tests share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.signature import bind_inputs
from tests.backends.levels import programs


class SmallNet(nn.Module):
    """A network of two convolutions with batch norm, a residual, pooling and a classifier."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.act = activation()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.bn(self.stem(x)))
        x = self.act(self.conv(x) + x)
        return self.fc(self.flatten(self.pool(x)))


@pytest.fixture
def batches() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(4, 3, 8, 8)).astype(np.float32) for _ in range(4)]


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(9).normal(size=(4, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def small_net() -> type[SmallNet]:
    return SmallNet


@pytest.fixture
def every_target() -> Callable[[qc.Graph, np.ndarray], np.ndarray]:
    """A function that runs an integer graph on the interpreter and on every level, checks that all bits agree, and
    gives the output."""

    def check(graph: qc.Graph, x: np.ndarray) -> np.ndarray:
        expected = qc.compile(graph, target="reference")(x)
        arrays, sizes = bind_inputs(graph, [x])
        for name, program in programs(graph, sizes):
            assert np.array_equal(program.run([np.asarray(array, order="C") for array in arrays])[0], expected), name
        return expected

    return check


def sqnr(reference: np.ndarray, got: np.ndarray) -> float:
    """The signal-to-quantization-noise ratio in dB."""
    noise = np.square(reference.astype(np.float64) - got).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / max(noise, 1e-30)))
