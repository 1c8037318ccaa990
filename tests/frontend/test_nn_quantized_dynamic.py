"""qcompiler.nn.quantized.dynamic against torch's modules of the same name, by torch's rule on x86: one range for all of
x, and one for the states of each step, in 7 bits. No code of this data lies beside a tie, so the codes are equal, and
the answers differ in the last places."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import qcompiler as qc
from qcompiler import nn
from qcompiler.quantization.quantized_tensor import quantize_per_tensor

ours = nn.quantized.dynamic
pytestmark = pytest.mark.skipif(
    torch.backends.quantized.engine not in ("x86", "fbgemm"), reason="torch's default engine here is another one"
)


def pair(name: str, *sizes: int, **options: Any) -> tuple[Any, Any]:
    """Our module made of a float one, and torch's made of the same."""
    torch.manual_seed(3)
    source = torch.nn.Sequential(getattr(torch.nn, name)(*sizes, **options)).eval()
    layer = getattr(nn, name)(*sizes, **options)
    layer.load_state_dict(source[0].state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.ao.quantization.quantize_dynamic(source, {type(source[0])}, dtype=torch.qint8)[0]
    assert type(theirs).__module__.startswith("torch.ao.nn.quantized.dynamic")
    return getattr(ours, name).from_float(layer), theirs


def check(module: Any, theirs: Any, *inputs: Any) -> Any:
    """Interpreted and compiled, within 1e-5 of torch. Gives the compiled model."""
    with torch.no_grad():
        want = pytree.tree_leaves(theirs(*pytree.tree_map(torch.from_numpy, inputs)))
    compiled = qc.compile(module, "keep", inputs)
    for got in (compiled(*inputs), qc.interpret(compiled.graph, list(inputs))):
        for one, other in zip(pytree.tree_leaves(got), want, strict=True):
            assert one.shape == tuple(other.shape) and np.abs(one - other.numpy()).max() < 1e-5
    return compiled


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(4).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias: bool) -> None:
    compiled = check(*pair("Linear", 24, 50, bias=bias), normal(3, 5, 24))
    assert [node.op for node in compiled.graph.nodes] == ["dynamic_quantize", "dynamic_linear"]


def test_linear_with_relu() -> None:
    module, theirs = pair("Linear", 24, 50)
    fused = ours.LinearReLU(module.weight, module.bias, scale_of="tensor", qmax=127)
    check(fused, lambda x: torch.relu(theirs(x)), normal(7, 24))


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}])
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_layers(name: str, options: dict[str, Any]) -> None:
    module, theirs = pair(name, 12, 20, **options)
    compiled = check(module, theirs, normal(5, 3, 12))
    nodes = [node for node in compiled.graph.nodes if node.op == name.lower()]
    assert {str(node.operands[i].type.dtype) for node in nodes for i in (1, 2)} == {"i8"}


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells(name: str) -> None:
    module, theirs = pair(name, 16, 24)
    check(module, theirs, normal(3, 16))
    states = (normal(3, 24), normal(3, 24) * 2)[: 2 if name == "LSTMCell" else 1]
    if name == "LSTMCell":
        check(lambda x, h, c: module(x, (h, c)), lambda x, h, c: theirs(x, (h, c)), normal(3, 16), *states)
    else:
        check(module, theirs, normal(3, 16), *states)


def test_rnn_is_a_loop_over_its_cell() -> None:
    layer = nn.RNN(6, 8, nonlinearity="relu")
    module = ours.RNN.from_float(layer, "dynamic")
    weights = {name.removesuffix("_l0"): value for name, value in (*module.codes.items(), *module.named_parameters())}
    cell, x = ours.RNNCell(6, 8, nonlinearity="relu", weights=weights), normal(4, 2, 6)
    state = np.zeros((2, 8), np.float32)
    for t, y in enumerate(module(x)[0]):
        state = cell(x[t], state)
        assert np.abs(y - state).max() < 1e-5


def test_mistakes() -> None:
    weight = quantize_per_tensor(normal(5, 4), 0.02, 0, "i8")
    with pytest.raises(qc.QuantizationError, match="row or tensor"):
        ours.Linear(weight, scale_of="column")
    with pytest.raises(qc.QuantizationError, match="1 to 255"):
        ours.Linear(weight, qmax=256)
    with pytest.raises(qc.QuantizationError, match="no ranges at run time"):
        ours.Linear.from_float(nn.Linear(3, 4), "torch:x86")
    with pytest.raises(qc.QuantizationError, match="weight_ih"):
        ours.RNNCell(4, 5, weights={"weight_ih": weight})
    with pytest.raises(qc.QuantizationError, match="shape"):
        ours.RNNCell(4, 5, False, weights={"weight_ih": weight, "weight_hh": weight})
    with pytest.raises(qc.ArgumentError, match="GRU"):
        ours.GRU.from_float(nn.LSTM(3, 4))
    static = nn.Sequential(nn.quantized.Quantize(0.1, 3), nn.quantized.DeQuantize(), ours.Linear(weight))
    with pytest.raises(qc.TraceError, match="static and dynamic"):
        static(normal(2, 4))
