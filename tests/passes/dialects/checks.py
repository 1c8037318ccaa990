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
    """The int8 graph of a model, calibrated on one batch, without its source lines."""
    graph = qc.compile(model, "int8", (x,), calibration_data=[x], target="reference").graph
    return bare(graph)


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


def behind_a_layer(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function of a linear layer's result, or of a convolution's if x is an image."""
    return lambda x: function(F.conv2d(x, WEIGHT[:, :, None, None]) if len(x.shape) == 4 else x @ WEIGHT)


class Module(torch.nn.Module):
    """`behind_a_layer` of a torch function as a module."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = torch.nn.Parameter(torch.from_numpy(WEIGHT))

    def forward(self, x: torch.Tensor) -> Any:
        layer = torch.nn.functional.conv2d(x, self.weight[:, :, None, None]) if x.ndim == 4 else x @ self.weight
        return self.function(layer)


def torchscript(function: Callable[[Any], Any], x: np.ndarray, opset: int) -> onnx.ModelProto:
    """The ONNX model that torch's TorchScript exporter writes."""
    memory = io.BytesIO()
    torch.onnx.export(Module(function).eval(), (torch.from_numpy(x),), memory, dynamo=False, opset_version=opset)
    return onnx.load_from_string(memory.getvalue())
