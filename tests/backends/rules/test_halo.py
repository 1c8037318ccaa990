"""Producers write around a halo: no copy is left where padding was, and results are the same with every reader that can
skip a halo."""

from __future__ import annotations

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import knobs
from qcompiler.backends.lower import lower_graph
from qcompiler.backends.target import native_target
from qcompiler.frontend import nn
from tests.backends.rules.harness import check_graph

RNG = np.random.default_rng(3)


class Chain(nn.Module):
    """Twice a convolution and one with padding, with a residual and a pool over the values that have a halo."""

    def __init__(self, channels: int, padding: int, groups: int = 1):
        super().__init__()
        self.first = nn.Conv2d(3, channels, 1)
        self.second = nn.Conv2d(channels, channels, 2 * padding + 1, padding=padding, groups=groups)
        self.third = nn.Conv2d(channels, channels, 3, padding=1)
        self.narrow = nn.Conv2d(channels, 5, 1)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.last = nn.Conv2d(channels, 4, 3, padding=1, stride=2)

    def forward(self, x):
        x = np.maximum(self.first(x), 0)
        y = np.maximum(self.second(x), 0)
        z = np.maximum(self.third(y) + x, 0)
        return self.narrow(x), self.last(self.pool(z)), self.narrow(z)


class Volume(nn.Module):
    """A convolution over three spatial axes, with a different border at each."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv3d(2, 6, 1)
        self.second = nn.Conv3d(6, 5, (3, 1, 5), padding=(1, 0, 2))

    def forward(self, x):
        return self.second(self.first(x))


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(2, 7, 1)
        self.second = nn.Conv1d(7, 3, 3, padding=1)

    def forward(self, x):
        return self.second(self.first(x))


def compiled(model: nn.Module, x: np.ndarray, quantized: bool, dynamic: bool = False) -> qc.Graph:
    options = {"dynamic": {"x": {0: "B"}}} if dynamic else {}
    if not quantized:
        return qc.compile(model, None, (x,), target="reference", **options).graph
    return qc.compile(model, "int8", (x,), calibration_data=[x, x * 0.5], target="reference", **options).graph


def kernels(graph: qc.Graph, sizes: dict[str, int] | None = None) -> list[str]:
    return [step.kernel for step in lower_graph(graph, native_target()).image(sizes or {}).steps]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize(
    "channels, padding, groups", [(8, 1, 1), (13, 2, 1), (40, 1, 1), (16, 1, 2), (16, 1, 16), (64, 3, 1)]
)
def test_nothing_is_copied_into_a_border(channels: int, padding: int, groups: int, quantized: bool) -> None:
    x = RNG.normal(size=(2, 3, 11, 14)).astype(np.float32)
    graph = compiled(Chain(channels, padding, groups), x, quantized)
    check_graph(graph, [x], bound=1e-4)
    found = kernels(graph)
    assert (
        not [name for name in found if name.startswith("pad_rows")]
        and sum(name.startswith("fill_gaps") for name in found) >= 2
    )


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("model, shape", [(Volume, (2, 2, 4, 5, 6)), (Line, (3, 2, 17))])
def test_other_ranks(model: type[nn.Module], shape: tuple[int, ...], quantized: bool) -> None:
    x = RNG.normal(size=shape).astype(np.float32)
    graph = compiled(model(), x, quantized)
    check_graph(graph, [x], bound=1e-4)
    assert not [name for name in kernels(graph) if name.startswith("pad_rows")]


def test_any_batch_and_bytes_between_guard_pages() -> None:
    x = RNG.normal(size=(3, 3, 9, 9)).astype(np.float32)
    for quantized in (True, False):
        graph = compiled(Chain(12, 1), x, quantized, dynamic=True)
        with knobs.GUARD(True):
            check_graph(graph, [x], bound=1e-4)
            check_graph(graph, [x[:1]], bound=1e-4)


class Read(nn.Module):
    """A padded convolution reads a value, and something else reads it too."""

    def __init__(self, other):
        super().__init__()
        self.first, self.second, self.other = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, padding=1), other

    def forward(self, x):
        y = self.first(x)
        return self.second(y), self.other(y)


@pytest.mark.parametrize(
    "other, has_halo",
    [
        (nn.AvgPool2d(2, padding=1), True),
        (nn.MaxPool2d(2), True),
        (nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8), True),
        (nn.Conv2d(8, 6, 1), True),
        (nn.Sigmoid(), False),
        (lambda y: y, False),
        (lambda y: y.mean(axis=(2, 3)), False),
        (lambda y: np.concatenate([y, y], axis=1), False),
    ],
    ids=["avg_pool", "max_pool", "depthwise", "conv", "sigmoid", "output", "mean", "concat"],
)
@pytest.mark.parametrize("quantized", [True, False])
def test_a_halo_needs_readers_that_step_over_it(other: object, has_halo: bool, quantized: bool) -> None:
    x = RNG.normal(size=(2, 3, 8, 10)).astype(np.float32)
    graph = compiled(Read(other), x, quantized)
    check_graph(graph, [x], bound=1e-4)
    lowered = lower_graph(graph, native_target()).graph
    assert any(value.type.layout is not None and value.type.layout.halo for value in lowered.values()) is has_halo
    assert bool([name for name in kernels(graph) if name.startswith("pad_rows")]) is not has_halo


def test_a_border_takes_no_barrier_of_its_own() -> None:
    """A barrier before or after the step that fills the border belongs to the steps around it. The groups of a
    convolution need none."""
    x = RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)
    steps = lower_graph(compiled(Chain(64, 1, 2), x, True), native_target()).image({}).steps
    fills = [number for number, step in enumerate(steps) if step.kernel.startswith("fill_gaps")]
    assert len(fills) >= 2 and not any(steps[number].barrier and steps[number - 1].barrier for number in fills)
    groups = [one for one, other in zip(steps, steps[1:]) if one.node == other.node and one.kernel == other.kernel]
    assert groups and not any(step.barrier for step in groups)
