"""One mistake of each kind gives one error of the documented class, which says what, where, expected and got; nothing
is left half done."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import qcompiler as qc
from qcompiler import knobs, nn
from qcompiler.errors import ArtifactError, InputError, LoweringError, QCompilerError, QuantizationError, TraceError

X = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def compiled() -> qc.CompiledModel:
    return qc.compile(nn.Conv2d(3, 4, 3), "int8", (X,), calibration_data=[X])


@pytest.mark.parametrize(
    "call,text",
    [
        (lambda m: m(X[:, :2]), r"f32\[2,3,6,6\]"),
        (lambda m: m(X.astype(np.float64)), "astype"),
        (lambda m: m(X[0]), "rank"),
        (lambda m: m(), "x"),
        (lambda m: m(X, X), "expected"),
        (lambda m: m(y=X), "x"),
        (lambda m: m(X, x=X), "x"),
        (lambda m: m(X[:1]), "dynamic="),
    ],
)
def test_calls_that_do_not_fit(
    compiled: qc.CompiledModel, call: Callable[[qc.CompiledModel], object], text: str
) -> None:
    with pytest.raises(InputError, match=text):
        call(compiled)
    assert compiled(X).shape == (2, 4, 4, 4)


def _onnx(ops: list[str]) -> onnx.ModelProto:
    nodes = [helper.make_node(op, [f"v{i}"], [f"v{i + 1}"], name=f"n{i}") for i, op in enumerate(ops)]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("v0", f"v{len(ops)}")]
    return helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 17)]
    )


def test_unsupported_onnx_ops_are_named_all_at_once() -> None:
    with pytest.raises(TraceError) as caught:
        qc.trace(_onnx(["Relu", "LRN", "LRN", "Det", "ReverseSequence"]))
    message = str(caught.value)
    assert "3 kinds" in message and "2 x LRN" in message and "1 x Det" in message and "1 x ReverseSequence" in message


def test_files_that_are_no_models(tmp_path: pathlib.Path) -> None:
    good = tmp_path / "good.onnx"
    onnx.save(_onnx(["Relu", "Exp"]), good)
    assert len(qc.trace(good)) == 2
    bad = tmp_path / "bad.onnx"
    for data in (good.read_bytes()[:-20], b"not a model", b""):
        bad.write_bytes(data)
        with pytest.raises(TraceError, match="ONNX"):
            qc.trace(bad)
    with pytest.raises(TraceError, match="cannot be read"):
        qc.trace(tmp_path / "missing.onnx")


def test_damaged_artifacts_and_failed_saves(tmp_path: pathlib.Path, compiled: qc.CompiledModel) -> None:
    path = tmp_path / "m.qc.safetensors"
    compiled.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError):
        qc.load(path)
    path.write_bytes(data)
    assert np.array_equal(qc.load(path)(X), compiled(X))
    with pytest.raises(ArtifactError, match="does not exist"):
        compiled.save(tmp_path / "no" / "folder" / "m.qc.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "call,kind,text",
    [
        (lambda: qc.compile(nn.ReLU(), None, (X,), target="x86-64+avx51"), LoweringError, "avx512"),
        (lambda: qc.compile(nn.ReLU(), None, (X,), target="riscv"), LoweringError, "unknown target"),
        (lambda: qc.compile(nn.ReLU(), None, (X,), threads=0), LoweringError, "threads"),
        (lambda: qc.compile(nn.ReLU(), "int7", (X,), calibration_data=[X]), QuantizationError, "int8"),
        (lambda: qc.compile(nn.ReLU(), 7, (X,), calibration_data=[X]), QuantizationError, "qconfig"),
        (lambda: qc.compile(nn.ReLU(), "keep", (X,)), QuantizationError, "quantized already"),
        (lambda: qc.compile(nn.ReLU(), None), TraceError, "example inputs"),
        (lambda: qc.compile(42, None, (X,)), TraceError, "int"),
        (lambda: qc.compile(torch.nn.Dropout().train(), None, (X,)), TraceError, "training"),
        (lambda: qc.compile(lambda a: a.nonsense, None, (X,)), QCompilerError, "nonsense"),
        (lambda: qc.parse("graph x"), qc.ParseError, "line"),
    ],
)
def test_configuration_and_models(call: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.parametrize(
    "options,kind,text",
    [
        ({"target": "x86-64+avx512vnni"}, LoweringError, "can't run"),
        ({"target": "riscv"}, LoweringError, "unknown target"),
        ({"threads": 0}, LoweringError, "threads"),
        ({"io": "codes"}, QuantizationError, "io"),
        ({"qconfig": "int7"}, QuantizationError, "int8"),
        ({"qconfig": 7}, QuantizationError, "not a qconfig"),
        ({"calibration_data": None}, QuantizationError, "needs calibration data"),
        ({"qconfig": None, "io": "quantized"}, QuantizationError, "quantized graph"),
        ({"calibration": qc.Calibration({}, {})}, QuantizationError, "both calibration_data"),
    ],
)
def test_configuration_is_checked_before_the_model_runs(
    options: dict[str, object], kind: type[Exception], text: str
) -> None:
    def model(x: object) -> object:
        raise AssertionError("traced")

    with knobs.ISA("avx2"), pytest.raises(kind, match=text):
        qc.compile(model, **{"qconfig": "int8", "example_inputs": (X,), "calibration_data": [X], **options})
