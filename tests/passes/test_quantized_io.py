"""quantized-io makes inputs and outputs codes, with the same bits inside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import QuantizationError
from qcompiler.passes.quantized_io import QuantizedIo
from qcompiler.quantization.qmath import dequantize, quantize
from qcompiler.text.compare import first_difference

X = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)


def test_codes_in_and_out_give_the_same_codes() -> None:
    model = qc.trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (X,))
    real = qc.compile(model, replace(qc.get_qconfig("int8"), mixed_precision=False), calibration_data=[X])
    codes = qc.compile(real.graph, io="quantized")
    asked = qc.compile(model, "int8", calibration_data=[X], io="quantized")
    assert first_difference(asked.graph, codes.graph) is None, "codes at the outputs are wanted, so none stays real"
    source, result = codes.graph.inputs[0].type, codes.graph.outputs[0].type
    assert source.is_quantized and result.is_quantized
    assert not any(node.op in ("quantize", "dequantize") for node in codes.graph.nodes)
    assert [v.name for v in codes.graph.inputs] == [v.name for v in real.graph.inputs]
    got = codes(quantize(X, source.quant, source.dtype))
    assert got.dtype == np.uint8 and np.array_equal(dequantize(got, result.quant), real(X))


def test_what_others_read_as_a_real_stays_one() -> None:
    graph = qc.parse("""qcompiler 1
graph main(%x: f32[4]) stage=integer {
  %q = quantize(%x) : u8[4]{scale=0.1}
  %y = exp(%x) : f32[4]
  %z = dequantize(%q) : f32[4]
  return %y, %z
}
""")
    step = QuantizedIo()
    assert "something else" in step.why_not_codes(graph, graph.inputs[0])
    after = step.run(graph.clone())
    assert not after.inputs[0].type.is_quantized and after.outputs[1].type.is_quantized


def test_a_float_graph_has_no_codes() -> None:
    with pytest.raises(QuantizationError, match="quantized graph"):
        qc.compile(nn.ReLU(), None, (X,), io="quantized")
    with pytest.raises(QuantizationError, match="io"):
        qc.compile(nn.ReLU(), None, (X,), io="int8")
