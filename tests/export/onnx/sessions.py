"""Runs exported ONNX models in ONNX Runtime, graph optimizations off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

from qcompiler.export.onnx.model import onnx_model
from qcompiler.ir import Graph, Value
from qcompiler.ops.recurrent import Recurrent


def run_onnx(model: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a model."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def run_exported(graph: Graph, inputs: Sequence[np.ndarray], form: str = "qdq") -> list[np.ndarray]:
    """The outputs of a graph's ONNX model, which ONNX's own checker accepts, types and shapes included."""
    model = onnx_model(graph, form)
    onnx.checker.check_model(model, full_check=True)
    return run_onnx(model, {value.name: np.asarray(array) for value, array in zip(graph.inputs, inputs)})


def close(
    values: Sequence[Value], wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], read: Sequence[np.ndarray] = ()
) -> int:
    """How many codes differ; none does by more than one. Real numbers lie within 2^-15 of the largest: products are
    summed in another order, and functions are good to some units in the last place of f32. Where terms cancel, as in
    x - tanh(x), these are units of the largest number that was `read`: two bits are allowed for them. The states of a
    recurrent layer on codes may lie one code apart, since they are quantized in each step."""
    flips = 0
    assert len(wanted) == len(found)
    for value, a, b in zip(values, wanted, found):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), value
        if value.type.is_quantized:
            apart = np.abs(a.astype(np.int64) - b)
            assert apart.max(initial=0) <= 1, value
            flips += int((apart == 1).sum())
        elif a.dtype.kind == "f":
            finite = np.abs(a[np.isfinite(a)]).max(initial=0)
            reals = [np.abs(x[np.isfinite(x)]).max(initial=0) for x in read if x.dtype.kind == "f"]
            atol = 2.0**-15 * finite + 2.0**-22 * max(reals, default=0)
            if _has_coded_weights(value):
                atol = max(atol, (a.max(initial=0) - a.min(initial=0)) / 255)
            np.testing.assert_allclose(b, a, rtol=2.0**-15, atol=atol, err_msg=str(value))
        else:
            np.testing.assert_array_equal(a, b, err_msg=str(value))
    return flips


def _has_coded_weights(value: Value) -> bool:
    layer = None if value.producer is None else Recurrent.of(value.producer)
    return layer is not None and layer.ih_scale is not None
