"""What torch's dynamo exporter writes (by way of onnxscript) gives the integer graph of the op itself.

An export takes seconds, so all patterns of one input shape are outputs of one model.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import pytest
import torch

import qcompiler as qc
from qcompiler.ir import Graph
from tests.passes.dialects.checks import Module, assert_same, between_layers, example, integer_graph
from tests.passes.dialects.patterns import IMAGE, PATTERNS, SHAPE

pytest.importorskip("onnxscript")

OPSETS = [18, pytest.param(20, marks=pytest.mark.exhaustive), pytest.param(23, marks=pytest.mark.exhaustive)]


@cache
def exported(shape: tuple[int, ...], opset: int) -> tuple[Graph, list[str]]:
    """The float graph of all patterns of a shape, and their names in the order of its outputs."""
    names = [name for name, pattern in PATTERNS.items() if pattern.shape == shape]

    def every(x: Any) -> tuple[Any, ...]:
        return tuple(PATTERNS[name].written(x) for name in names)

    x = example(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Module(every).eval(), (torch.from_numpy(x),), dynamo=True, opset_version=opset, verbose=False
        )
    assert program is not None
    return qc.trace(program.model_proto, (x,)), names


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", PATTERNS)
def test_the_dynamo_exporter(name: str, opset: int) -> None:
    pattern = PATTERNS[name]
    assert pattern.shape in (SHAPE, IMAGE)
    whole, names = exported(pattern.shape, opset)
    graph = whole.clone()
    graph.notes = []
    graph.set_outputs([graph.outputs[names.index(name)]])
    x = example(pattern.shape)
    assert_same(integer_graph(graph, x), integer_graph(between_layers(pattern.direct), x))
