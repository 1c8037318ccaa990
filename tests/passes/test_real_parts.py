"""Parts between products stay real where codes of their channels cost the answer, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.ir import Graph
from qcompiler.notes import KeptFloat
from qcompiler.passes import real_parts
from qcompiler.passes.equalization import estimate
from qcompiler.passmanager import Pass
from tests.passes import test_split_outliers
from tests.passes.test_equalization import accuracy, items

CHANNELS = 32


def block(function: Callable[[np.ndarray], np.ndarray], spread: float, outputs: int = 512, seed: int = 0) -> nn.Module:
    """A convolution whose channels differ in range by up to `spread`, a function, a depthwise convolution that makes
    them alike again, and a convolution that reads all of them."""
    rng = np.random.default_rng(seed)
    factors = np.exp(np.linspace(0, -np.log(spread), CHANNELS)).astype(np.float32).reshape(-1, 1, 1, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Conv2d(64, CHANNELS, 1)
            self.depthwise = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
            self.last = nn.Conv2d(CHANNELS, outputs, 1)
            self.wide.weight = (rng.normal(size=(CHANNELS, 64, 1, 1)) * factors).astype(np.float32)
            self.depthwise.weight = (rng.normal(size=(CHANNELS, 1, 3, 3)) / factors).astype(np.float32)

        def forward(self, x: np.ndarray) -> np.ndarray:
            return self.last(self.depthwise(function(self.wide(x))))

    return Net()


def hardswish(x: np.ndarray) -> np.ndarray:
    return x * np.clip(x + 3, 0, 6) / 6


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.1 * x)


def gated(x: np.ndarray) -> np.ndarray:
    """A squeeze and excite block in small ops: two values meet in front of the product."""
    return x * np.clip(x.mean(axis=(2, 3), keepdims=True) / 6 + 0.5, 0, 1)


FUNCTIONS = {"hardswish": hardswish, "silu": silu, "leaky relu": leaky, "squeeze and excite": gated}


def converted(net: nn.Module, data: list[np.ndarray]) -> Graph:
    prepared = qc.prepare(net, "int8", (data[0],))
    return qc.convert(prepared, qc.calibrate(prepared, data))


def kept(graph: Graph) -> list[KeptFloat]:
    return [note for note in graph.notes if isinstance(note, KeptFloat) and "of their energy" in note.reason]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_channels_that_differ_in_range_keep_their_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data, test = block(FUNCTIONS[name], 300.0), items(2, 64, 12, 12), items(2, 64, 12, 12, seed=9)
    better = accuracy(net, data, test, "int8")
    monkeypatch.setattr(real_parts, "SHARE_FOR_PARTS", 0.0)
    assert better > 30 and better > accuracy(net, data, test, "int8") + 10


@pytest.mark.parametrize("name", FUNCTIONS)
def test_channels_of_like_range_give_the_graph_without_real_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = block(FUNCTIONS[name], 1.2), items(2, 64, 12, 12)
    graph = converted(net, data)
    assert not kept(graph)
    monkeypatch.setattr(real_parts, "SHARE_FOR_PARTS", 0.0)
    assert str(converted(net, data)) == str(graph)


def test_the_report_says_why_and_what_it_was() -> None:
    model = qc.compile(
        block(hardswish, 300.0), "int8", (items(2, 64, 12, 12)[0],), calibration_data=items(2, 64, 12, 12)
    )
    (note,) = kept(model.graph)
    assert note.op == "hardswish" and note.reason in str(model.report())
    before, after = (float(word.strip(",")) for word in note.reason.split() if "e-" in word)
    assert before > real_parts.BUDGET and after * real_parts.GAIN <= before


def test_a_plain_rule_keeps_codes() -> None:
    data = items(2, 64, 12, 12)
    prepared = qc.prepare(block(hardswish, 300.0), "int8:plain", (data[0],))
    assert not kept(qc.convert(prepared, qc.calibrate(prepared, data)))


def test_parts_cost_at_most_their_share() -> None:
    """Many channels behind few products: real numbers would cost more than the products do."""
    data = items(2, 64, 12, 12)
    prepared = qc.prepare(block(hardswish, 300.0), "int8", (data[0],))
    nodes = {node.name: None for node in prepared.graph.nodes}
    assert estimate(prepared.graph, nodes) > real_parts.SPEED * estimate(prepared.graph, {})
    found = qc.calibrate(prepared, data)
    assert kept(qc.convert(prepared, found))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real_parts, "SPEED", 100.0)
        assert not kept(qc.convert(prepared, found))


def test_the_choice_needs_rows() -> None:
    data = items(2, 64, 12, 12)
    prepared = qc.prepare(block(hardswish, 300.0), "int8", (data[0],))
    found = qc.calibrate(prepared, data)
    found.inputs = {}
    assert not kept(qc.convert(prepared, found))


def test_a_watched_conversion_runs_every_pass_and_gives_the_same_graph() -> None:
    class Watch:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def after(self, index: int, done: Pass, before: Graph, graph: Graph, seconds: float) -> None:
            self.seen.append(done.name)

    data, watch = items(2, 64, 12, 12), Watch()
    prepared = qc.prepare(block(hardswish, 300.0), "int8", (data[0],))
    found = qc.calibrate(prepared, data)
    watched = qc.convert(prepared, found, instruments=[watch])
    assert watch.seen[:3] == ["choose-precision", "scale-channels", "correct-bias"]
    assert str(qc.convert(prepared, found)) == str(watched) and kept(watched)


def test_outlier_channels_are_split_off_even_if_real_parts_were_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real numbers and scales would lower the error as well, but by less."""
    monkeypatch.setattr(real_parts, "SHARE_FOR_PARTS", 1000.0)
    monkeypatch.setattr(real_parts, "SPEED", 1e-3)
    graph = converted(test_split_outliers.Block(), test_split_outliers.items())
    assert test_split_outliers.told(graph) and not kept(graph)
