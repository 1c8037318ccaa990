"""What torch's exporters write gives the integer graph of the op itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from qcompiler.frontend import functional as F
from qcompiler.ir import Graph
from tests.passes.dialects.checks import Module, assert_same, between_layers, example, integer_graph, torchscript
from tests.passes.dialects.patterns import PATTERNS, SHAPE

CHANGED = (11, 13, 17, 18, 20)
"""Opsets that changed how the exporter writes a pattern: axes as operands, LayerNormalization, Gelu."""
OPSETS = [opset if opset in CHANGED else pytest.param(opset, marks=pytest.mark.exhaustive) for opset in range(11, 21)]


@cache
def wanted(name: str) -> Graph:
    pattern = PATTERNS[name]
    return integer_graph(between_layers(pattern.direct), example(pattern.shape))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", [name for name in PATTERNS if name != "rms_norm"])
def test_the_torchscript_exporter(name: str, opset: int) -> None:
    pattern = PATTERNS[name]
    x = example(pattern.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchscript(pattern.written, x, opset)
    assert_same(integer_graph(model, x), wanted(name))


@pytest.mark.filterwarnings("ignore")
def test_the_torchscript_exporter_has_no_spelling_of_rms_norm() -> None:
    pattern = PATTERNS["rms_norm"]
    with pytest.raises(torch.onnx.errors.UnsupportedOperatorError):
        torchscript(pattern.written, example(pattern.shape), 20)


@pytest.mark.parametrize("name", PATTERNS)
def test_torch_export(name: str) -> None:
    pattern = PATTERNS[name]
    x = example(pattern.shape)
    assert_same(integer_graph(Module(pattern.written).eval(), x), wanted(name))


COMPOSED = [name for name, pattern in PATTERNS.items() if pattern.shape == SHAPE and "mask" not in name]
COMPOSED.remove("rms_norm")  # the TorchScript exporter does not know it


@pytest.mark.parametrize("seed", range(12))
def test_compositions(seed: int) -> None:
    """Random patterns one behind the other, some beside a branch: each is still found. The branch is no multiple of its
    operand, since a norm of the sum would be one of the operand."""
    rng = np.random.default_rng(seed)
    names = [str(name) for name in rng.choice(COMPOSED, int(rng.integers(2, 6)))]
    branches = rng.random(len(names)) < 0.4

    def composed(parts: list[Callable[[Any], Any]], branch: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def whole(x: Any) -> Any:
            for part, has_branch in zip(parts, branches):
                x = part(x) + branch(x) if has_branch else part(x)
            return x

        return whole

    patterns = [PATTERNS[name] for name in names]
    written = composed([pattern.written for pattern in patterns], torch.tanh)
    direct = composed([pattern.direct for pattern in patterns], F.tanh)
    x = example(SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchscript(written, x, int(rng.choice([13, 17, 18])))
    wanted = integer_graph(between_layers(direct), x)
    for dialect in (model, Module(written).eval()):
        assert_same(integer_graph(dialect, x), wanted)
