"""Importers of one's own: an op of a foreign domain in an ONNX file, and an op of a torch library."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gated_add import GatedAdd
from levels import run_everywhere
from onnx import helper

import qcompiler as qc
from qcompiler.frontend.onnx_ops.node import OnnxNode


def lerp(node: OnnxNode) -> Any:
    """org.other::Lerp(x, y) {t}: x + t * (y - x). What it gives may be any traced computation."""
    x, y = node.x(0), node.x(1)
    return GatedAdd.apply(x, y - x, gate=node.number("t", 0.5))


qc.register_importer("onnx", "org.other::Lerp", lerp)
qc.register_importer("torch", "mylib::gated_add", GatedAdd)  # the same operands, then the attributes


def onnx_model() -> Any:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Lerp", ["x", "r"], ["y"], domain="org.other", t=0.25),
    ]
    x, y = (helper.make_tensor_value_info(name, 1, ["N", 8]) for name in "xy")
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("org.other", 1)]
    return helper.make_model(helper.make_graph(nodes, "lerp", [x], [y]), opset_imports=opsets)


def torch_model() -> Any:
    @torch.library.custom_op("mylib::gated_add", mutates_args=())
    def gated_add(x: torch.Tensor, r: torch.Tensor, gate: float) -> torch.Tensor:
        return x + gate * r

    @gated_add.register_fake
    def _(x: torch.Tensor, r: torch.Tensor, gate: float) -> torch.Tensor:
        return torch.empty_like(x)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return gated_add(x, self.linear(x), 0.3).relu()

    return Net().eval()


def main() -> None:
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    for name, model in (("onnx", onnx_model()), ("torch", torch_model())):
        compiled = qc.compile(model, "int8:plain", (x,), calibration_data=[x])
        print(f"{name}:", *(node.op for node in compiled.graph.nodes))
        run_everywhere(compiled.graph, x)
        [reference] = qc.interpret(compiled.graph, [x])
        assert np.array_equal(qc.to_torch(compiled)(torch.from_numpy(x)).numpy(), reference)  # back to torch


if __name__ == "__main__":
    main()
