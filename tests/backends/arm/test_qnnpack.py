"""With torch's settings for ARM every ARM level gives the interpreter's bits, and the report says how the level
runs."""

from __future__ import annotations

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.backends.target import parse_target

LEVELS = ("neon", "dotprod", "i8mm")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.conv = nn.Conv2d(3, 20, 3, padding=1)
        self.depthwise = nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.head = nn.Linear(20, 7)
        for parameter in (self.conv, self.depthwise, self.head):
            parameter.weight = rng.normal(0, 0.3, parameter.weight.shape).astype(np.float32)

    def forward(self, x):
        x = np.maximum(self.depthwise(np.maximum(self.conv(x), 0)), 0)
        return self.head(x.mean(axis=(2, 3)))


@pytest.fixture(scope="module")
def quantized() -> tuple[qc.CompiledModel, np.ndarray]:
    x = np.random.default_rng(1).normal(size=(2, 3, 13, 11)).astype(np.float32)
    return qc.compile(Net(), "torch:qnnpack", (x,), calibration_data=[x], target="reference"), x


def test_weights_are_per_tensor_and_activations_take_all_codes(quantized) -> None:
    graph = quantized[0].graph
    weights = [node.operands[1].type.quant for node in graph.nodes if node.op in ("conv", "linear")]
    assert len(weights) == 3 and all(quant.axis is None and quant.zero_point == (0,) for quant in weights)
    codes = [value.type.quant for node in graph.nodes for value in node.results if value.type.is_quantized]
    assert codes and all((quant.qmin, quant.qmax) == (0, 255) for quant in codes)


@pytest.mark.parametrize("level", LEVELS)
def test_the_level_has_the_interpreters_bits(quantized, level: str) -> None:
    reference, x = quantized
    target = parse_target(f"aarch64-linux+{level}")
    if not target.can_run():
        pytest.skip(target.why_not() or f"no {level} here")
    compiled = qc.compile(reference.graph, target=target.name)
    assert np.array_equal(compiled(x), reference(x)) and np.unique(reference(x)).size > 5
    assert ("emulated by" in str(compiled.report())) == (target.execution() == "emulated")
