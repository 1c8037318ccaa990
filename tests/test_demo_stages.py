"""The demo's network as text at each stage: golden files in tests/golden/demo_stages.

The activations have the ranges below, which are those of a real calibration, rounded: a calibration computes in float,
and its sums differ in the last bits from machine to machine. Places in source files and origins are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from qcompiler import compiler
from qcompiler.ir import Graph
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import QuantParams
from tests.demo import trained_model

RANGES = {
    "x": (-0.8, 2.0), "relu": (0, 4.2), "stage1.0.relu1": (0, 4.6), "stage1.0.relu2": (0, 8.1),
    "stage1.1.relu1": (0, 5.6), "stage1.1.relu2": (0, 11), "stage2.0.shortcut.bn": (-4.6, 4.5),
    "stage2.0.relu1": (0, 5.7), "stage2.0.relu2": (0, 7.7), "stage2.1.relu1": (0, 5.3), "stage2.1.relu2": (0, 11),
    "stage3.0.shortcut.bn": (-4.5, 5.2), "stage3.0.relu1": (0, 5.2), "stage3.0.relu2": (0, 7.5),
    "stage3.1.relu1": (0, 4), "stage3.1.relu2": (0, 12), "fc": (-5.6, 13),
}  # fmt: skip


@dataclass(frozen=True)
class Range:
    """An observer that saw these ends of a range."""

    low: float
    high: float

    def qparams(self) -> QuantParams:
        return choose_qparams(self.low, self.high, QuantSpec())


@pytest.fixture(scope="module")
def stages() -> dict[str, Graph]:
    """Stage -> graph, as the real pipelines leave it."""
    image = np.zeros((1, 1, 28, 28), np.float32)
    traced = compiler.trace(trained_model(), (image,), dynamic={"x": {0: "B"}})
    prepared = compiler.prepare(traced, "int8")
    found = {"float": traced, "fused": compiler.fuse(traced), "observed": prepared.graph}

    class Stages:
        def after(self, index: int, applied: object, before: Graph, graph: Graph, seconds: float) -> None:
            if graph.stage != "observed":
                found[graph.stage] = graph.clone()

    compiler.convert(prepared, {name: Range(*ends) for name, ends in RANGES.items()}, instruments=[Stages()])
    return found


@pytest.mark.parametrize("stage", ["float", "fused", "observed", "qdq", "integer"])
def test_stage(stage: str, stages: dict[str, Graph], golden: Callable[..., None]) -> None:
    golden(re.sub(r' (loc|origin)\((?:"[^"]*"|[^")])*\)', "", str(stages[stage])), "qir")
