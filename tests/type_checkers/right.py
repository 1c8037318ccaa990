"""A user's program without a mistake, on which test_user_programs.py runs type checkers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import qcompiler as qc
from qcompiler import nn
from qcompiler.backends.target import known_targets
from qcompiler.opdef import Op, Sample, operand
from qcompiler.types import tensor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(nn.Conv2d(16, 16, (3, 3), stride=(2, 2), padding="valid"), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        x = self.blocks(np.maximum(self.norm(self.conv(x)), 0))
        return self.head(x.mean(axis=(2, 3)))


class Twice(Op):
    """2 * x."""

    name = "twice"
    x = operand()

    def infer(self, x: qc.TensorType) -> qc.TensorType:
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        return 2 * x

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [Sample((tensor("f32", 5),))]


@dataclass(frozen=True)
class Nothing:
    """A pass."""

    name: ClassVar[str] = "nothing"

    def run(self, graph: qc.Graph) -> qc.Graph:
        return graph


def main() -> None:
    batches = [np.zeros((8, 3, 32, 32), np.float32) for _ in range(4)]
    dynamic = {"x": {0: "B"}}
    model = Net()
    compiled: qc.CompiledModel = qc.compile(model, "int8", (batches[0],), calibration_data=batches, dynamic=dynamic)
    y = compiled(batches[0])
    print(y.shape, compiled.target.upper(), compiled.report().int8_nodes + 1)
    compiled.save("net.qc.safetensors")
    compiled.export_object("net.o", target="aarch64-linux+dotprod", prefix="net", sizes={"B": 1})
    print(compiled.draw("net.svg").suffix)
    loaded = qc.load("net.qc.safetensors", threads=2)
    reference = qc.compile(loaded.graph, target="reference")
    print([node.op.upper() for node in reference.graph.nodes], reference.graph.inputs[0].type.shape)

    mapping = qc.QConfigMapping().set_global("int8").set_module_name("head", None).set_object_type(nn.ReLU, "int8:mse")
    prepared = qc.prepare(qc.trace(model, (batches[0],)), mapping)
    calibration = qc.calibrate(prepared, batches[:2], progress=print) + qc.calibrate(prepared, batches[2:])
    calibration.save("net.calibration.safetensors")
    mixed = qc.compile(model, mapping, (batches[0],), calibration=qc.Calibration.load("net.calibration.safetensors"))
    graph = qc.convert(prepared, calibration)
    print(qc.print_graph(qc.fuse(graph)).splitlines(), mixed.threads + 1)
    print([target.upper() for target in known_targets()])
    qc.register_pass(Nothing(), after="fuse")
    qc.register_importer("onnx", "com.example::Twice", Twice)
    qc.register_exporter("onnx", Twice, lambda w: w.emit("Add", w.x(), w.x()), domain="com.example")
    print(qc.check_op(Twice, targets=["native"]).has_kernels, Twice.apply(batches[0]))
    try:
        qc.compile(lambda x: x + 1, None, (batches[0],), threads=1)
    except qc.TraceError as error:
        print(error.message.upper())
    except (qc.LoweringError, qc.QCompilerError):
        raise


if __name__ == "__main__":
    main()
