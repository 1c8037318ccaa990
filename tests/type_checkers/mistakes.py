"""A user's program with planted mistakes: a type checker must find one on each line marked MISTAKE, and no other."""

import numpy as np

import qcompiler as qc
from qcompiler import nn

x = np.zeros((8, 3, 32, 32), np.float32)
model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Relu())  # MISTAKE: misspelt layer
layer = nn.Conv2d("3", 16, 3)  # MISTAKE: wrong argument type

compiled = qc.compile(model, "int8", (x,), calibration_data=[x])
qc.compil(model)  # MISTAKE: misspelt function
qc.compile(model, "int8", (x,), calibrationdata=[x])  # MISTAKE: misspelt keyword
qc.compile(model, 8, (x,), calibration_data=[x])  # MISTAKE: wrong argument type
qc.compile(model, "int8", (x,), calibration_data=3)  # MISTAKE: wrong argument type
qc.compile(model, "int8", (x,), [x])  # MISTAKE: keyword-only argument by position
qc.compile(model, None, (x,), target=None)  # MISTAKE: wrong argument type
qc.compile(model, None, (x,), threads="2")  # MISTAKE: wrong argument type
qc.compile(model, None, (x,), io="quantised")  # MISTAKE: misspelt choice
qc.compile(model, None, (x,), dynamic={"x": 0})  # MISTAKE: wrong argument type

compiled.export("net.o")  # MISTAKE: misspelt method
compiled.save(3)  # MISTAKE: wrong argument type
compiled.report() + 1  # MISTAKE: wrong use of a result
for node in compiled.graph.node:  # MISTAKE: misspelt attribute
    print(node)
size: int = compiled.graph.nodes[0].op  # MISTAKE: wrong use of a result
path: str = compiled.draw("net.svg")  # MISTAKE: wrong use of a result

mapping = qc.QConfigMapping().set_global(8)  # MISTAKE: wrong argument type
mapping.set_modulename("head", None)  # MISTAKE: misspelt method
prepared = qc.prepare(model, 8, (x,))  # MISTAKE: wrong argument type
qc.calibrate(prepared.graph, [x])  # MISTAKE: a graph where its Prepared is expected
qc.calibrate(prepared, [x]).load(None)  # MISTAKE: wrong argument type
qc.load("net.qc.safetensors").predict(x)  # MISTAKE: unknown method
qc.QuantSpec("u8")  # MISTAKE: wrong argument type


def import_by_name() -> None:
    from qcompiler import QconfigMapping  # MISTAKE: misspelt name

    QconfigMapping()
