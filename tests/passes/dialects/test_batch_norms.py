"""A batch norm behind a layer, in each way to write it, is folded into the layer.

The factor is weight / sqrt(var + eps) in float64 for the op, and one or two numbers rounded to f32 for a spelling: the
folded weights differ by 2^-22 of themselves at most, so a scale does too, and codes differ where they are near a tie.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from qcompiler.frontend import functional as F
from qcompiler.ir import Graph
from tests.passes.dialects.checks import Module, between_layers, example, integer_graph, torchscript
from tests.passes.dialects.patterns import GAIN, IMAGE, SHAPE, SHIFT

MEAN, VAR = np.linspace(-0.3, 0.3, 24, dtype=np.float32), np.linspace(0.5, 2, 24, dtype=np.float32)
FACTOR = GAIN / np.sqrt(VAR + np.float32(1e-5))
ADDEND = SHIFT - MEAN * FACTOR
G, B, M, V, K, A = (torch.from_numpy(array) for array in (GAIN, SHIFT, MEAN, VAR, FACTOR, ADDEND))


def along(parameter: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A parameter, to broadcast along the channels of an image, or along the last axis."""
    return parameter.reshape(-1, 1, 1) if x.ndim == 4 else parameter


SPELLINGS: dict[str, Callable[[Any], Any]] = {
    "mul, add": lambda x: x * along(K, x) + along(A, x),
    "add, mul": lambda x: (x + along(A / K, x)) * along(K, x),
    "sub, div, mul, add": lambda x: (x - along(M, x)) / along((V + 1e-5).sqrt(), x) * along(G, x) + along(B, x),
    "sub, mul, mul, add": lambda x: along(G, x) * ((x - along(M, x)) * along((V + 1e-5).rsqrt(), x)) + along(B, x),
    "statistics in the graph": lambda x: (x - along(M, x)) / torch.sqrt(along(V, x) + 1e-5) * along(G, x) + along(B, x),
}


def direct(x: Any) -> Any:
    return F.batch_norm(x, MEAN, VAR, GAIN, SHIFT)


def assert_folded_alike(got: Graph, wanted: Graph) -> None:
    assert [node.op for node in got.nodes] == [node.op for node in wanted.nodes], str(got)
    for one, other in zip(got.nodes, wanted.nodes):
        for value, same in zip((*one.operands, *one.results), (*other.operands, *other.results)):
            if value is None or not value.type.is_quantized:
                continue
            scales, others = value.type.params.scale, same.type.params.scale
            np.testing.assert_allclose(scales, others, rtol=2.0**-20)
            if value.is_const:
                codes, wanted_codes = (graph.consts[v.name].data for graph, v in ((got, value), (wanted, same)))
                apart = np.abs(codes.astype(np.int64) - wanted_codes)
                assert apart.max() <= 1 + np.abs(wanted_codes).max() * 2.0**-20 and (apart > 0).mean() < 0.01


@pytest.mark.parametrize("name", SPELLINGS)
def test_behind_a_convolution(name: str) -> None:
    x = example(IMAGE)
    wanted = integer_graph(between_layers(direct), x)
    assert [node.op for node in wanted.nodes] == ["quantize", "conv", "conv", "dequantize"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torchscript(SPELLINGS[name], x, 13)
    for model in (exported, Module(SPELLINGS[name]).eval()):
        assert_folded_alike(integer_graph(model, x), wanted)


@pytest.mark.parametrize("name", SPELLINGS)
def test_behind_a_linear_layer(name: str) -> None:
    x = example(SHAPE)
    graph = integer_graph(Module(SPELLINGS[name]).eval(), x)
    assert [node.op for node in graph.nodes] == ["quantize", "linear", "linear", "dequantize"]
    assert_folded_alike(graph, integer_graph(Module(SPELLINGS["mul, add"]).eval(), x))
