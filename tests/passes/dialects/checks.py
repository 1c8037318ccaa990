"""Whether a model gives the integer graph of the ops that it spells out, to the bit."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch

import qcompiler as qc
from qcompiler.frontend import functional as F
from qcompiler.ir import Const, Graph, Value
from qcompiler.text.compare import first_difference


def example(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def integer_graph(model: Any, x: np.ndarray) -> Graph:
    """The int8 graph of a model, with codes everywhere, calibrated on one batch, without its source lines."""
    inputs = None if isinstance(model, Graph) else (x,)
    return bare(qc.compile(model, "int8:plain", inputs, calibration_data=[x], target="reference").graph)


def bare(graph: Graph) -> Graph:
    """A graph without names, source lines and notes, and with equal constants as one."""
    found = graph.clone()
    found.name, found.notes = "any", []
    found.set_outputs(found.outputs, [f"y{index}" for index in range(len(found.outputs))])
    first: dict[tuple[str, bytes], Value] = {}
    for node in found.nodes:
        node.loc, node.origin = None, ()
        for index, value in enumerate(node.operands):
            if isinstance(value, Const):
                found.set_operand(node, index, first.setdefault((str(value.type), value.data.tobytes()), value))
    found.erase_unused_consts()
    return found


def assert_same(got: Graph, wanted: Graph) -> None:
    """The same nodes, attributes, scales and data; names don't count."""
    difference = first_difference(wanted, got, names=False)
    assert difference is None, f"{difference}\n{wanted}\n{got}"


WEIGHT = np.random.default_rng(1).normal(size=(24, 24)).astype(np.float32)


def between_layers(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function between two linear layers, or two convolutions if x is an image: what it reads and gives are codes."""

    def whole(x: Any) -> Any:
        if len(x.shape) == 4:
            return F.conv2d(function(F.conv2d(x, WEIGHT[:, :, None, None])), WEIGHT[:, :, None, None])
        y = function(x @ WEIGHT)
        return y @ WEIGHT[: y.shape[-1]]

    return whole


class Module(torch.nn.Module):
    """`between_layers` of a torch function, or of each of several results, as a module."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = torch.nn.Parameter(torch.from_numpy(WEIGHT))

    def forward(self, x: torch.Tensor) -> Any:
        results = self.function(self._layer(x))
        return tuple(map(self._layer, results)) if isinstance(results, tuple) else self._layer(results)

    def _layer(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 4:
            return torch.nn.functional.conv2d(x, self.weight[:, :, None, None])
        return x @ self.weight[: x.shape[-1]]


def torchscript(function: Callable[[Any], Any], x: np.ndarray, opset: int) -> onnx.ModelProto:
    """The ONNX model that torch's TorchScript exporter writes."""
    memory = io.BytesIO()
    torch.onnx.export(Module(function).eval(), (torch.from_numpy(x),), memory, dynamo=False, opset_version=opset)
    return onnx.load_from_string(memory.getvalue())
