"""Models from Python modules and functions."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from qcompiler.artifact import load_graph
from qcompiler.cli import arguments as cli
from qcompiler.report import count_nodes
from tests.cli.commands import REFERENCE, call, fail


def test_python_models_run_only_when_asked(files, capsys):
    assert "add --python" in fail(capsys, "check", "small_model:make()")
    assert "small_model" not in sys.modules
    assert "needs the types of its inputs" in fail(capsys, "check", "small_model:make()", "--python")
    assert "small_model" not in sys.modules


@pytest.mark.parametrize("model", ["small_model:make()", "small_model:model"])
def test_python_models(files, capsys, model):
    np.savez("f.npz", x=np.random.default_rng(0).uniform(-1, 1, (9, 4)).astype(np.float32))
    python = ("--python", "--type", "f32[B,4]")
    assert "graph Small(%x: f32[B,4]) stage=float" in call(capsys, "dump", model, *python)
    call(capsys, "quantize", model, *python, "--data", "f.npz", "-o", "s.qc.safetensors", *REFERENCE)
    assert count_nodes(load_graph("s.qc.safetensors"))[0] >= 1
    (row,) = json.loads(
        call(capsys, "compare", model, "s.qc.safetensors", *python, "--data", "f.npz", "--json", *REFERENCE)
    )["outputs"]
    assert row["sqnr_db"] > 20


def test_a_python_function_of_two_inputs(files, capsys):
    out = call(capsys, "dump", "small_model:two", "--python", "--type", "f32[B,3]", "--type", "f32[B,3]")
    assert "(%x: f32[B,3], %y: f32[B,3])" in out
    np.savez("xy.npz", x=np.ones((2, 3), np.float32), y=np.full((2, 3), 2, np.float32))
    call(
        capsys,
        "run",
        "small_model:two",
        "--python",
        "--type",
        "f32[B,3]",
        "--type",
        "f32[B,3]",
        "--input",
        "xy.npz",
        "-o",
        "o.npz",
        *REFERENCE,
    )
    assert np.load("o.npz")["sum"].tolist() == [[3.0] * 3] * 2


@pytest.mark.parametrize(
    "model, message",
    [
        ("no_such_module:m", "no module 'no_such_module'"),
        ("small_model:nothing", "has no 'nothing'"),
        ("small_model:broken", "cannot be called"),
        ("nonsense", "not a model"),
        ("a.txt", "not a model"),
        ("missing.onnx", "no such file"),
        ("missing.qc.safetensors", "cannot be read"),
    ],
)
def test_models_that_are_none(files, capsys, model, message):
    assert message in fail(capsys, "check", model, "--python", "--type", "f32[2]")


@pytest.mark.parametrize("text", ["f32", "f33[2]", "f32[2", "f32[2]{scale=1.0}", "f32[-1]", "f32[2] %y", ""])
def test_types_that_are_none(files, capsys, text):
    fail(capsys, "check", "small_model:model", "--python", "--type", text)


def test_an_error_of_the_users_model_is_shown_without_a_traceback(files, capsys, monkeypatch):
    arguments = ("check", "small_model:fails()", "--python", "--type", "f32[2]")
    assert "RuntimeError: by design (QC_DEBUG=1 shows where)" in fail(capsys, *arguments)
    monkeypatch.setenv("QC_DEBUG", "1")
    assert cli.main(arguments) == 1
    assert "Traceback" in capsys.readouterr().err
