"""What torch's exporters write gives the integer graph of the op itself."""

from __future__ import annotations

import warnings
from functools import cache

import pytest
import torch

from qcompiler.ir import Graph
from tests.passes.dialects.checks import Module, assert_same, behind_a_layer, example, integer_graph, torchscript
from tests.passes.dialects.patterns import PATTERNS

CHANGED = (11, 13, 17, 18, 20)
"""Opsets that changed how the exporter writes a pattern: axes as operands, LayerNormalization, Gelu."""
OPSETS = [opset if opset in CHANGED else pytest.param(opset, marks=pytest.mark.exhaustive) for opset in range(11, 21)]


@cache
def wanted(name: str) -> Graph:
    pattern = PATTERNS[name]
    return integer_graph(behind_a_layer(pattern.direct), example(pattern.shape))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", PATTERNS)
def test_the_torchscript_exporter(name: str, opset: int) -> None:
    pattern = PATTERNS[name]
    x = example(pattern.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = torchscript(pattern.written, x, opset)
        except torch.onnx.errors.UnsupportedOperatorError:
            pytest.skip("the exporter has no spelling at this opset")
    assert_same(integer_graph(model, x), wanted(name))


@pytest.mark.parametrize("name", PATTERNS)
def test_torch_export(name: str) -> None:
    pattern = PATTERNS[name]
    x = example(pattern.shape)
    assert_same(integer_graph(Module(pattern.written).eval(), x), wanted(name))
