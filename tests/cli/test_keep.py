"""Every command takes a model that another tool quantized, which keeps its own parameters."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompiler as qc
from tests.cli.commands import call, fail

MODEL, SAVED = "quantized.onnx", "kept.qc.safetensors"
X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(autouse=True)
def quantized(tmp_path, monkeypatch):
    """A linear layer between QuantizeLinear and DequantizeLinear with signed codes, as ONNX Runtime writes it."""
    held = {
        "s": np.float32(0.01),
        "z": np.int8(3),
        "w": np.arange(-6, 6, dtype=np.int8).reshape(4, 3),
        "t": np.float32(0.05),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "t"], ["v"]),
        helper.make_node("MatMul", ["d", "v"], ["h"]),
        helper.make_node("QuantizeLinear", ["h", "t", "z"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "t", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    monkeypatch.chdir(tmp_path)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), MODEL)
    np.savez("x.npz", x=X)
    return qc.compile(MODEL, "keep")(X)["y"]


def test_run_bench_and_compare_compile_it(capsys, quantized):
    call(capsys, "run", MODEL, "--input", "x.npz", "-o", "y.npz")
    np.testing.assert_array_equal(np.load("y.npz")["y"], quantized)
    assert json.loads(call(capsys, "bench", MODEL, "--seconds", "0", "--json"))["rounds"] >= 5
    call(capsys, "quantize", MODEL, "--qconfig", "keep", "-o", SAVED)
    (row,) = json.loads(call(capsys, "compare", MODEL, SAVED, "--data", "x.npz", "--json"))["outputs"]
    assert row["identical"]


def test_quantize_saves_it_without_data(capsys, quantized):
    told = json.loads(call(capsys, "quantize", MODEL, "--qconfig", "keep", "-o", SAVED, "--json"))
    assert told["output"] == SAVED
    np.testing.assert_array_equal(qc.load(SAVED)(X)["y"], quantized)
    assert "no effect" in fail(capsys, "quantize", MODEL, "--qconfig", "keep", "--data", "x.npz", "-o", SAVED)
    assert "quantized already" in fail(capsys, "quantize", MODEL, "--data", "x.npz", "-o", SAVED)


def test_check_passes_dump_and_draw_show_it(capsys):
    assert call(capsys, "check", MODEL, "--qconfig", "keep") == call(capsys, "check", MODEL)
    assert json.loads(call(capsys, "passes", MODEL, "--qconfig", "keep", "--json"))["stage"] == "integer"
    for stage in ("integer", "lowered"):
        text = call(capsys, "dump", MODEL, "--stage", stage, "--qconfig", "keep")
        assert f"stage={stage}" in text and text == call(capsys, "dump", MODEL, "--stage", stage)
    assert "drawn to" in call(capsys, "draw", MODEL, "--stage", "integer", "-o", "g.dot")
    assert "--qconfig keep" in fail(capsys, "dump", MODEL, "--stage", "integer", "--qconfig", "int8")


def test_export_writes_an_object(capsys):
    assert "written to" in call(capsys, "export", MODEL, "--to", "object", "-o", "m.o")
    assert "stage=qdq" in call(capsys, "dump", MODEL)


def test_a_float_model_has_nothing_to_keep(capsys):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "float.onnx")
    for command in (("quantize", "float.onnx", "-o", SAVED), ("passes", "float.onnx"), ("check", "float.onnx")):
        assert "quantized already" in fail(capsys, *command, "--qconfig", "keep")
    assert "--qconfig keep" in fail(capsys, "quantize", "float.onnx", "-o", SAVED)
