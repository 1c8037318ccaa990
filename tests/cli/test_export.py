"""The command export: every form, run again by --check; and models as text in every command."""

from __future__ import annotations

import json
import os

import pytest

from tests.cli.commands import REFERENCE, call, fail

INT8 = "int8.qc.safetensors"


@pytest.mark.parametrize(
    "form,file",
    [
        ("onnx", "m.onnx"),
        ("qoperator", "m.onnx"),
        ("python", "m.py"),
        ("torch", "m.pt"),
        ("torch", "m.pt2"),
        ("text", "m.qir"),
    ],
)
def test_what_is_written_runs(form, file, files, capsys):
    out = call(capsys, "export", INT8, "--to", form, "-o", file, "--check", "x.npz", "--json")
    told = json.loads(out)
    assert told["file"] == file and told["bytes"] == os.path.getsize(file)
    (row,) = told["check"]
    assert row["output"] == "fc" and row["top1_agreement"] == 1.0
    assert row["identical"] or form in ("onnx", "qoperator")


def test_the_check_prints_a_table(files, capsys):
    out = call(capsys, "export", INT8, "--to", "python", "-o", "m.py", "--check", "x.npz")
    assert "written to m.py" in out and "SQNR dB" in out and "True" in out
    assert "SQNR" not in call(capsys, "export", INT8, "--to", "python", "-o", "n.py")


def test_refusals_write_nothing(files, capsys):
    before = sorted(os.listdir())
    assert "wrong suffix" in fail(capsys, "export", INT8, "--to", "onnx", "-o", "m.py")
    assert "did you mean 'python'" in fail(capsys, "export", INT8, "--to", "pyton", "-o", "m.py")
    assert "no such file" in fail(capsys, "export", INT8, "--to", "onnx", "-o", "m.onnx", "--check", "y.npz")
    assert "is not exported" in fail(capsys, "export", "observed.qc.safetensors", "--to", "onnx", "-o", "m.onnx")
    assert "--check" in fail(capsys, "export", INT8, "--to", "object", "-o", "m.o", "--check", "x.npz")
    assert sorted(os.listdir()) == before


def test_commands_take_text(files, capsys, demo_stages):
    """The commands that read a model, each with a .qir."""
    call(capsys, "export", INT8, "--to", "text", "-o", "m.qir")
    call(capsys, "export", "float.qc.safetensors", "--to", "text", "-o", "f.qir")
    assert call(capsys, "dump", "m.qir") == str(demo_stages["integer"])
    call(capsys, "check", "f.qir")
    call(capsys, "quantize", "f.qir", "--data", "x.npz", "-o", "q.qc.safetensors")
    call(capsys, "run", "m.qir", "--input", "x.npz", *REFERENCE)
    call(capsys, "bench", "m.qir", "--seconds", "0", *REFERENCE)
    call(capsys, "passes", "f.qir")
    call(capsys, "draw", "m.qir", "-o", "g.dot")
    assert json.loads(call(capsys, "compare", INT8, "m.qir", "--data", "x.npz", *REFERENCE, "--json"))["outputs"][0][
        "identical"
    ]
    call(capsys, "export", "m.qir", "--to", "python", "-o", "m.py")
    assert "no such file" in fail(capsys, "dump", "nowhere.qir")
