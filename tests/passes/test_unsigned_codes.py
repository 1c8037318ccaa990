"""unsigned-codes: i8 activations run on kernels, with the real values that i8 gives."""

from __future__ import annotations

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.frontend import functional as F
from qcompiler.interpreter import run
from qcompiler.passes.pipelines import convert_pipeline
from qcompiler.passes.unsigned_codes import UnsignedCodes
from qcompiler.passmanager import PassManager
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import DType

RNG = np.random.default_rng(7)
WEIGHT = QuantSpec(DType.I8, -127, 127, symmetric=True, per_channel=True)
SPECS = {
    "affine": QuantSpec(DType.I8, -128, 127),
    "symmetric": QuantSpec(DType.I8, -127, 127, symmetric=True),
    "reduced": QuantSpec(DType.I8, -64, 63),
}


def convolutions(x):
    """Products, a border, movers, tables, a residual and a mean."""
    a = F.relu(F.conv2d(x, W3, B4, padding=1))
    b = F.conv2d(a, W4, B4, padding=1)
    c = np.concatenate([F.sigmoid(b + a), a], axis=1)
    return F.linear(np.mean(c, axis=(2, 3)), W8)


def elementwise(x):
    return F.softmax(np.tanh(x) * np.maximum(x, x + 1.0), dim=-1) - F.layer_norm(x, (9,))


W3, W4, W8 = (RNG.normal(size=shape).astype(np.float32) for shape in ((4, 3, 3, 3), (4, 4, 3, 3), (5, 8)))
B4 = RNG.normal(size=4).astype(np.float32)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("model", [convolutions, elementwise])
def test_i8_activations_run_on_kernels_with_the_bits_of_i8(model, spec) -> None:
    items = [RNG.normal(size=(2, 3, 9, 9)).astype(np.float32) for _ in range(4)]
    prepared = qc.prepare(model, qc.QConfig(spec, WEIGHT, mixed_precision=False, equalize=False), items[0])
    calibration = qc.calibrate(prepared, items[:2])
    compiled = qc.compile(qc.convert(prepared, calibration))
    assert not compiled.program.python_nodes
    assert any(node.result.type.dtype is DType.U8 for node in compiled.graph.nodes)
    assert all(node.result.type.dtype is not DType.I8 for node in compiled.graph.nodes)

    params = {group: observer.qparams() for group, observer in calibration.items()}
    passes = [step for step in convert_pipeline(params, prepared.configs) if not isinstance(step, UnsignedCodes)]
    signed = PassManager(passes).run(prepared.graph)
    assert any(node.result.type.dtype is DType.I8 for node in signed.nodes)
    for item in items:
        assert np.array_equal(run(signed, [item])[0], compiled(item))
