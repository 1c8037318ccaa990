"""Commands that make and show models: quantize, check, passes, dump, draw and export."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from qcompiler import compiler
from qcompiler.artifact import load_graph, save_graph
from qcompiler.ir import Graph
from qcompiler.text.compare import first_difference
from qcompiler.types import tensor
from tests.cli.commands import REFERENCE, call, fail


def test_quantize_gives_what_compile_gives(files, capsys, demo_stages):
    out = call(
        capsys,
        "quantize",
        "float.qc.safetensors",
        "--data",
        "x.npz",
        "--batch",
        "4",
        "-o",
        "out.qc.safetensors",
        *REFERENCE,
    )
    assert "18 int8 nodes, 0 float nodes" in out and "saved to out.qc.safetensors" in out
    images = np.load("x.npy")
    expected = compiler.compile(
        demo_stages["float"], "int8", calibration_data=[images[:4], images[4:]], target="reference"
    ).graph
    assert first_difference(load_graph("out.qc.safetensors"), expected) is None


def test_quantize_json_and_a_folder_of_data(files, capsys):
    (files / "data").mkdir()
    images = np.load("x.npy")
    for index in range(3):
        np.savez(files / "data" / f"{index}.npz", x=images[index * 2 : index * 2 + 2])
    (files / "data" / "readme.txt").write_text("not data")
    out = json.loads(
        call(
            capsys, "quantize", "float.qc.safetensors", "--data", "data", "-o", "o.qc.safetensors", "--json", *REFERENCE
        )
    )
    assert out["output"] == "o.qc.safetensors" and out["int8_nodes"] == 18 and out["conversions"] == {"quantize": 1}


def test_quantize_on_the_machine_gives_the_same_file(files, capsys):
    for name, target in (("a", "reference"), ("b", "native")):
        call(
            capsys,
            "quantize",
            "float.qc.safetensors",
            "--data",
            "x.npz",
            "-o",
            f"{name}.qc.safetensors",
            "--target",
            target,
        )
    assert (files / "a.qc.safetensors").read_bytes() == (files / "b.qc.safetensors").read_bytes()


def test_a_failed_quantize_leaves_the_old_file(files, capsys):
    before = (files / "int8.qc.safetensors").read_bytes()
    np.savez("bad.npz", x=np.full((2, 1, 28, 28), np.nan, np.float32))
    assert "not finite" in fail(
        capsys, "quantize", "float.qc.safetensors", "--data", "bad.npz", "-o", "int8.qc.safetensors", *REFERENCE
    )
    assert (files / "int8.qc.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "change, message",
    [
        (("-o", "out.onnx"), "wrong suffix"),
        (("-o", "no/such/out.qc.safetensors"), "cannot be written"),
        (("--qconfig", "int9"), "did you mean 'int8'"),
        (("--data", "none.npz"), "no such file"),
        (("--data", "small_model.py"), "unknown kind of data"),
        (("--target", "z80"), "unknown target"),
    ],
)
def test_quantize_checks_before_it_works(files, capsys, monkeypatch, change, message):
    def never(*args, **options):
        raise AssertionError("calibration was reached")

    monkeypatch.setattr("qcompiler.compiler.calibrate", never)
    arguments = ["quantize", "float.qc.safetensors", "--data", "x.npz", "-o", "out.qc.safetensors", *REFERENCE, *change]
    assert message in fail(capsys, *arguments)


def test_what_is_quantized_is_not_quantized_again(files, capsys):
    assert "quantized already" in fail(
        capsys, "quantize", "int8.qc.safetensors", "--data", "x.npz", "-o", "o.qc.safetensors"
    )


def test_check(files, capsys):
    out = call(capsys, "check", "float.qc.safetensors")
    assert re.search(r"^stem\.conv +conv +int8 +global int8$", out, re.M) and "52 of 52 nodes will run in int8" in out
    found = json.loads(call(capsys, "check", "float.qc.safetensors", "--json"))
    assert len(found["nodes"]) == 52 and found["ops"]["conv"] == 15 and found["inputs"] == {"x": "f32[B,1,28,28]"}
    assert "18 int8 nodes" in call(capsys, "check", "int8.qc.safetensors")
    assert json.loads(call(capsys, "check", "int8.qc.safetensors", "--json"))["int8_nodes"] == 18


def test_check_says_what_stays_float_and_why(files, capsys):
    def model() -> Graph:
        graph = Graph("g")
        x = graph.add_input("x", tensor("f32", 2, 3))
        weight = graph.add_const("w", np.ones((3, 3), np.float32))
        z = graph.create("linear", [x, weight], names="fc").result
        y = graph.create("sin", [graph.create("log_softmax", [z], {"axis": 1}, names="soft").result], names="s").result
        graph.set_outputs([y])
        return graph

    save_graph(model(), "soft.qc.safetensors")
    found = json.loads(call(capsys, "check", "soft.qc.safetensors", "--json"))["nodes"]
    assert {row["node"]: (row["runs_in"], row["why"]) for row in found} == {
        "fc": ("int8", "gives f32: %soft = log_softmax reads real numbers"),
        "soft": ("float", "log_softmax has no integer form"),
        "s": ("float", "its operand is float"),
    }


def test_passes(files, capsys):
    out = call(capsys, "passes", "float.qc.safetensors")
    assert re.search(r"^fold-batchnorm +float +52 +37 ", out, re.M) and "--data" in out
    rows = json.loads(call(capsys, "passes", "float.qc.safetensors", "--data", "x.npz", "--json"))["passes"]
    names = [row["pass"] for row in rows]
    assert names.index("insert-observers") < names.index("insert-qdq") < names.index("integerize")
    assert rows[-1]["stage"] == "integer"
    assert all(row["ms"] >= 0 for row in rows)
    texts = call(capsys, "passes", "float.qc.safetensors", "--texts")
    assert "== fold-batchnorm: 52 -> 37 nodes" in texts and re.search(r"^-  %\S+ = batch_norm", texts, re.M)


@pytest.mark.parametrize("stage", ["float", "observed", "qdq", "integer"])
def test_dump_stages(files, capsys, stage):
    out = call(
        capsys,
        "dump",
        "float.qc.safetensors",
        "--stage",
        stage,
        *(("--data", "x.npz") if stage in ("qdq", "integer") else ()),
    )
    assert f"stage={stage} {{" in out and out.startswith("qcompiler 1\n")


def test_dump_and_export_write_the_text(files, capsys, demo_stages):
    call(capsys, "dump", "int8.qc.safetensors", "-o", "g.qir")
    call(capsys, "export", "int8.qc.safetensors", "--to", "text", "-o", "h.qir")
    assert (files / "g.qir").read_text() == (files / "h.qir").read_text() == str(demo_stages["integer"])
    assert call(capsys, "dump", "int8.qc.safetensors") == str(demo_stages["integer"])
    assert "stage=lowered" in call(capsys, "dump", "int8.qc.safetensors", "--stage", "lowered")


def test_stages_that_cannot_be_reached(files, capsys):
    assert "needs calibration data" in fail(capsys, "dump", "float.qc.safetensors", "--stage", "integer")
    assert "does not become one of stage float" in fail(capsys, "dump", "int8.qc.safetensors", "--stage", "float")
    assert "interpreter has no lowered" in fail(capsys, "dump", "int8.qc.safetensors", "--stage", "lowered", *REFERENCE)


def test_dynamic_quantization_needs_no_data(files, capsys):
    names = ("--qconfig", "dynamic")
    out = call(
        capsys, "quantize", "small_model:model", "--python", "--type", "f32[B,4]", *names, "-o", "d.qc.safetensors"
    )
    assert "dynamic_linear     1" in out and "saved to d.qc.safetensors" in out
    assert "dynamic_linear" in call(capsys, "dump", "float.qc.safetensors", "--stage", "integer", *names)
    assert "quantize-dynamic" in call(capsys, "passes", "float.qc.safetensors", *names)
    assert "nodes will run in int8" in call(capsys, "check", "float.qc.safetensors", *names)
    halves = call(
        capsys, "check", "small_model:model", "--python", "--type", "f32[2,4]", "--qconfig", "dynamic:float16"
    )
    assert "f16" in halves


def test_what_dynamic_quantization_has_no_use_for(files, capsys):
    dynamic = ("float.qc.safetensors", "--qconfig", "dynamic")
    assert "--data has no effect" in fail(
        capsys, "quantize", *dynamic, "--data", "x.npz", "-o", "d.qc.safetensors", *REFERENCE
    )
    assert "--data has no effect" in fail(capsys, "passes", *dynamic, "--data", "x.npz")
    assert "has no stage observed" in fail(capsys, "dump", *dynamic, "--stage", "observed")


def test_draw(files, capsys):
    assert "drawn to g.dot" in call(capsys, "draw", "int8.qc.safetensors", "-o", "g.dot")
    assert (files / "g.dot").read_text().startswith("digraph")
    assert "wrong suffix" in fail(capsys, "draw", "int8.qc.safetensors", "-o", "g.bmp")
