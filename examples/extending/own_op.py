"""A model with an op of its own: quantized, fused, run on x86 and ARM, drawn, saved and exported."""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np
from gated_add import GatedAdd
from levels import run_everywhere

import qcompiler as qc
from qcompiler import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.first(x)
        x = np.maximum(GatedAdd.apply(x, self.second(x), gate=0.3), 0)  # the ReLU is fused
        return x.mean(axis=(2, 3)) * 2


def main() -> None:
    print(qc.check_op(GatedAdd))  # the samples, on every target
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    compiled = qc.compile(Net(), "int8", (x,), calibration_data=[x])
    print(*(line for line in str(compiled.graph).splitlines() if "gated_add" in line))
    run_everywhere(compiled.graph, x)

    folder = pathlib.Path(tempfile.mkdtemp())
    compiled.draw(folder / "net.svg")
    compiled.save(folder / "net.qc.safetensors")
    assert np.array_equal(qc.load(folder / "net.qc.safetensors")(x), compiled(x))
    qc.export_python(compiled, folder / "net.py")  # with the op's own source
    qc.export_onnx(compiled, folder / "net.onnx")  # a node of com.example, and a function of the model
    compiled.export_object(folder / "net.o", target="aarch64-linux+dotprod")
    print("written:", *sorted(path.name for path in folder.iterdir()))
    again = qc.compile(folder / "net.onnx", "keep")
    print("read again:", *dict.fromkeys(node.op for node in again.graph.nodes))


if __name__ == "__main__":
    main()
