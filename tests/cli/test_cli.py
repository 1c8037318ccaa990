"""The command line, in process: each command, its JSON, exit codes, messages without tracebacks."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import re
import subprocess
import sys

import numpy as np
import pytest

from qcompiler import compiler, knobs
from qcompiler.artifact import load_graph, save_graph
from qcompiler.cli import arguments as cli
from qcompiler.cli.inputs import open_data, parse_type, random_inputs, read_arrays
from qcompiler.cli.output import write_arrays
from qcompiler.errors import QCompilerError
from qcompiler.interpreter import run as interpret
from qcompiler.ir import Graph
from qcompiler.metrics import OutputError
from qcompiler.report import count_nodes
from qcompiler.text.compare import first_difference
from qcompiler.types import tensor

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = ("--target", "reference")
MODULE = """
import numpy as np
from qcompiler.frontend import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.soft = nn.Softmax(-1)
    def forward(self, x):
        return self.soft(self.fc(x))

def make():
    model = Small()
    weights = {"fc.weight": np.linspace(-1, 1, 12, dtype="f4").reshape(3, 4), "fc.bias": np.zeros(3, "f4")}
    model.load_state_dict(weights)
    return model

model = make()
def fails():
    raise RuntimeError("by design")
def two(x, y):
    return {"sum": x + y, "last": y}
broken = 3
"""


@pytest.fixture
def files(tmp_path, monkeypatch, demo_stages):
    """A folder with the demo's float and integer models, data, and a Python module; the current folder."""
    save_graph(demo_stages["float"], tmp_path / "float.qc.safetensors")
    save_graph(demo_stages["integer"], tmp_path / "int8.qc.safetensors")
    save_graph(demo_stages["observed"], tmp_path / "observed.qc.safetensors")
    images = np.random.default_rng(1).uniform(-1, 2, (8, 1, 28, 28)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=images)
    np.save(tmp_path / "x.npy", images)
    (tmp_path / "small_model.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("small_model", None)


def call(capsys, *arguments: str) -> str:
    """stdout of a command that must succeed without a word on stderr."""
    code = cli.main(arguments)
    told = capsys.readouterr()
    assert (code, told.err) == (0, ""), told.err
    return told.out


def fail(capsys, *arguments: str, code: int = 1) -> str:
    """The message of a command that must fail: one, without a traceback, and nothing on stdout."""
    assert cli.main(arguments) == code
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("qcompiler: ") and "Traceback" not in told.err
    return told.err


# -- quantize


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
    assert (
        out["output"] == "o.qc.safetensors"
        and out["int8_nodes"] == 18
        and out["conversions"] == {"quantize": 1, "dequantize": 1}
    )


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


# -- check, passes, dump, draw, export


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
        y = graph.create("sin", [graph.create("log_softmax", [x], {"axis": 1}, names="soft").result], names="s").result
        graph.set_outputs([y])
        return graph

    save_graph(model(), "soft.qc.safetensors")
    found = json.loads(call(capsys, "check", "soft.qc.safetensors", "--json"))["nodes"]
    assert found[0]["node"] == "soft" and found[0]["runs_in"] in ("float", "int8") and found[0]["why"]
    floats = [row for row in found if row["runs_in"] == "float"]
    assert all(row["why"] and row["why"] != "global int8" for row in floats)


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


def test_draw(files, capsys):
    assert "drawn to g.dot" in call(capsys, "draw", "int8.qc.safetensors", "-o", "g.dot")
    assert (files / "g.dot").read_text().startswith("digraph")
    assert "wrong suffix" in fail(capsys, "draw", "int8.qc.safetensors", "-o", "g.bmp")


def test_forms_of_export_that_are_not_there_say_so(files, capsys):
    assert "export to onnx is not there yet" in fail(
        capsys, "export", "int8.qc.safetensors", "--to", "onnx", "-o", "x.onnx"
    )
    assert "did you mean 'python'" in fail(capsys, "export", "int8.qc.safetensors", "--to", "pyton", "-o", "x")


# -- run, bench, compare, targets


@pytest.mark.parametrize("data", ["x.npz", "x.npy"])
@pytest.mark.parametrize("target", ["reference", "native"])
def test_run(files, capsys, demo_stages, data, target):
    out = call(capsys, "run", "int8.qc.safetensors", "--input", data, "-o", "y.npz", "--target", target)
    assert "float32[8, 10]" in out and "written to y.npz" in out
    (name,) = demo_stages["integer"].output_names
    expected = interpret(demo_stages["integer"], [np.load("x.npy")])[0]
    assert np.array_equal(np.load("y.npz")[name], expected)
    rows = json.loads(call(capsys, "run", "int8.qc.safetensors", "--input", data, "--json", "--target", target))[
        "outputs"
    ]
    assert rows == [
        {
            "output": name,
            "type": "float32[8, 10]",
            "min": float(expected.min()),
            "max": float(expected.max()),
            "mean": float(expected.astype(np.float64).mean()),
        }
    ]


def test_run_names_what_does_not_fit(files, capsys):
    np.savez("y.npz", y=np.zeros(3, np.float32), z=np.zeros(3, np.float32))
    assert "names of the arrays" in fail(capsys, "run", "int8.qc.safetensors", "--input", "y.npz", *REFERENCE)
    np.savez("d.npz", x=np.zeros((1, 1, 28, 28)))
    assert "another dtype" in fail(capsys, "run", "int8.qc.safetensors", "--input", "d.npz", *REFERENCE)
    assert "runs on the interpreter only" in fail(capsys, "run", "observed.qc.safetensors", "--input", "x.npz")
    assert "float32[8, 10]" in call(capsys, "run", "observed.qc.safetensors", "--input", "x.npz", *REFERENCE)


def test_arrays_that_are_no_input_are_said_to_be_ignored(files, capsys):
    np.savez("labelled.npz", x=np.load("x.npy"), labels=np.arange(8))
    assert cli.main(["run", "int8.qc.safetensors", "--input", "labelled.npz", *REFERENCE]) == 0
    assert "ignored: labels" in capsys.readouterr().err


def test_bench(files, capsys):
    arguments = ("bench", "int8.qc.safetensors", "--seconds", "0", "--size", "B=2", "--threads", "1", *REFERENCE)
    found = json.loads(call(capsys, *arguments, "--json"))
    assert (
        found["rounds"] == 5
        and 0 < found["min_ms"] <= found["median_ms"]
        and found["target"] == "reference"
        and found["threads"] == 1
    )
    steps = json.loads(call(capsys, *arguments, "--json", "--profile"))["steps"]
    assert len(steps) == 20 and steps[1]["op"] == "conv" and all(step["us"] > 0 for step in steps)
    assert "median ms" in call(capsys, *arguments) and "numpy" in call(capsys, *arguments, "--profile")
    assert "the model has no size 'C'" in fail(capsys, *arguments, "--size", "C=3")


def test_bench_on_the_machine(files, capsys):
    arguments = ("bench", "int8.qc.safetensors", "--seconds", "0", "--threads", "1", "--json", "--profile")
    found = json.loads(call(capsys, *arguments))
    assert found["target"] != "reference" and sum(step["macs"] for step in found["steps"]) > 1e6
    weighted = [step for step in found["steps"] if step["macs"]]
    assert all(
        0 < step["fraction_of_peak"] < 2 and step["bytes"] > 0 and step["kernel"] != "numpy" for step in weighted
    )
    assert "of peak" in call(capsys, *arguments[:-2], "--profile")
    assert len(json.loads(call(capsys, *arguments, "--input", "x.npz"))["steps"]) >= 15


def test_compare(files, capsys):
    arguments = (
        "compare",
        "float.qc.safetensors",
        "int8.qc.safetensors",
        "--data",
        "x.npz",
        "--batch",
        "3",
        *REFERENCE,
    )
    found = json.loads(call(capsys, *arguments, "--json"))
    (row,) = found["outputs"]
    assert (
        found["calls"] == 3
        and row["sqnr_db"] > 15
        and 0 < row["max_abs"] < 5
        and 0.5 < row["top1_agreement"] <= 1
        and row["identical"] is False
    )
    assert "SQNR dB" in call(capsys, *arguments)
    same = json.loads(
        call(capsys, "compare", "int8.qc.safetensors", "int8.qc.safetensors", "--data", "x.npz", "--json", *REFERENCE)
    )
    assert same["outputs"][0] == {
        "output": same["outputs"][0]["output"],
        "sqnr_db": None,
        "top1_agreement": 1.0,
        "max_abs": 0.0,
        "identical": True,
    }


def test_targets(capsys):
    rows = {row["target"]: row for row in json.loads(call(capsys, "targets", "--json"))["targets"]}
    assert rows["reference"]["runs_here"] is True and rows["reference"]["execution"] == "interpreter"
    assert {"x86-64+avx2", "x86-64+avx512vnni", "aarch64+neon", "aarch64+dotprod", "aarch64+i8mm"} <= rows.keys()
    assert sum(row["native"] for row in rows.values()) <= 1
    for name, row in rows.items():
        assert row["runs_here"] == (row["execution"] != "none") and bool(row["hint"]) != row["runs_here"], name
        assert bool(row["emulator"]) == (row["execution"] == "emulated"), name
    out = call(capsys, "targets")
    assert "runs here" in out
    for name, row in rows.items():
        (line,) = (line for line in out.splitlines() if line.split() and line.split()[0] == name)
        expected = {
            "interpreter": "the interpreter",
            "native": "native",
            "emulated": f"emulated by {row['emulator']}",
            "none": row["hint"],
        }
        assert expected[row["execution"]] in line and line.split()[1] == ("yes" if row["runs_here"] else "no")


@pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="AArch64 is emulated on other Linux machines"
)
def test_targets_say_what_emulates_and_what_is_missing(capsys, monkeypatch):
    from qcompiler.backends.arm import target as arm

    rows = {row["target"]: row for row in json.loads(call(capsys, "targets", "--json"))["targets"]}
    assert rows["aarch64+neon"]["emulator"] == rows["aarch64+dotprod"]["emulator"] == "unicorn"
    assert rows["aarch64+i8mm"]["emulator"] in ("qemu-aarch64", "")
    monkeypatch.setattr(arm, "has_unicorn", lambda: False)
    rows = {row["target"]: row for row in json.loads(call(capsys, "targets", "--json"))["targets"]}
    assert (
        rows["aarch64+neon"]["execution"] == "none"
        and "pip install 'qcompiler-ir[arm]'" in rows["aarch64+neon"]["hint"]
    )
    monkeypatch.setenv("QC_ISA", "avx2")
    rows = {row["target"]: row for row in json.loads(call(capsys, "targets", "--json"))["targets"]}
    assert (
        rows["x86-64+avx2"]["execution"] == "native"
        and rows["x86-64+avx512vnni"]["hint"] == "QC_ISA pretends a CPU without it"
    )


# -- Python models


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


# -- usage, errors, streams


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such"],
        ["quantize", "m.onnx"],
        ["run", "m.onnx"],
        ["bench", "m", "--threads", "0"],
        ["bench", "m", "--size", "B"],
        ["bench", "m", "--size", "B=0"],
        ["bench", "m", "--seconds", "-1"],
        ["bench", "m", "--seconds", "nan"],
        ["dump", "m", "--stage", "x"],
        ["compare", "a", "--data", "x"],
        ["targets", "--nothing"],
    ],
)
def test_wrong_usage_exits_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    told = capsys.readouterr()
    assert caught.value.code == 2 and told.out == "" and "usage: qcompiler" in told.err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    for command in ("check", "quantize", "run", "bench", "dump", "draw", "passes", "compare", "export", "targets"):
        assert re.search(rf"^ +{command} ", out, re.M)


def test_a_bad_debug_knob_is_one_message(capsys, monkeypatch):
    monkeypatch.setenv("QC_DEBUG", "loud")
    assert "QC_DEBUG has a bad value" in fail(capsys, "targets")


def test_interrupting(files, capsys, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("qcompiler.compiler.compile", interrupt)
    assert "interrupted" in fail(capsys, "run", "int8.qc.safetensors", "--input", "x.npz", code=130)


def run_module(*arguments: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "qcompiler", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        **options,
    )


def test_as_a_module_in_another_folder(files):
    done = run_module("check", "int8.qc.safetensors", cwd=files)
    assert done.returncode == 0 and "18 int8 nodes" in done.stdout and done.stderr == ""
    done = run_module("check", "missing.qc.safetensors", cwd=files)
    assert (
        done.returncode == 1
        and done.stdout == ""
        and "cannot be read" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert run_module("nothing", cwd=files).returncode == 2


def test_help_is_quick_because_nothing_heavy_loads():
    code = (
        "import sys\nfrom qcompiler.cli import arguments\narguments.make_parser()\n"
        "print(sorted({'numpy', 'lark', 'llvmlite', 'rich', 'graphviz', 'torch', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_reader_that_leaves_is_no_error(files):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "qcompiler", "passes", "float.qc.safetensors", "--texts"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=files, env=environment
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(120) == 1


# -- parts


def graph_of(*shapes: tuple) -> Graph:
    graph = Graph()
    for index, shape in enumerate(shapes):
        graph.add_input(f"x{index}", tensor("f32", *shape))
    graph.set_outputs(graph.inputs)
    return graph


@pytest.mark.parametrize(
    "shapes, arrays, batch, expected",
    [
        ([("B", 3)], [(70, 3)], None, [32, 32, 6]),
        ([("B", 3)], [(7, 3)], 3, [3, 3, 1]),
        ([(2, 3)], [(6, 3)], None, [2, 2, 2]),
        ([(2, 3)], [(4, 2, 3)], None, [2, 2, 2, 2]),
        ([("B", 3)], [(4, 5, 3)], 2, [5, 5, 5, 5]),
        ([(3,)], [(3,)], None, [3]),
        ([("B", 3), ("B",)], [(5, 3), (5,)], 4, [4, 1]),
        ([("B", 3), (7,)], [(5, 3), (7,)], None, [5]),
        ([(2, 3)], [(0, 3)], None, []),
        ([(2, 3)], [(2, 3)], 2, [2]),
    ],
)
def test_how_data_is_cut_into_calls(tmp_path, shapes, arrays, batch, expected):
    np.savez(tmp_path / "d.npz", **{f"x{i}": np.zeros(shape, np.float32) for i, shape in enumerate(arrays)})
    data = open_data(str(tmp_path / "d.npz"), graph_of(*shapes), batch)
    assert [item[0].shape[0] for item in data] == expected and data.count() == len(expected)


def test_samples_that_do_not_fill_a_call_are_said_to_be_left_out(tmp_path, caplog):
    np.save(tmp_path / "d.npy", np.zeros((5, 3), np.float32))
    assert len(list(open_data(str(tmp_path / "d.npy"), graph_of((2, 3))))) == 2
    assert "the last 1 samples" in caplog.text
    with pytest.raises(QCompilerError, match="--batch differs"):
        list(open_data(str(tmp_path / "d.npy"), graph_of((2, 3)), 3))


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=np.array([{"a": 1}], object))
    (tmp_path / "t.npz").write_bytes(b"PK\x03\x04 cut off")
    (tmp_path / "e.npy").write_bytes(b"")
    for name in ("o.npy", "o.npz", "t.npz", "e.npy"):
        with pytest.raises(QCompilerError, match="no plain arrays"):
            read_arrays(tmp_path / name)


def test_outputs_of_any_name_are_written(tmp_path):
    names = ["file", "y", "y", "a/b", "../c", "ü"]
    arrays = [np.float32(index) * np.ones(()) for index in range(6)]
    write_arrays(str(tmp_path / "o.npz"), names, arrays)
    found = np.load(tmp_path / "o.npz")
    assert [float(found[name]) for name in ("file", "y", "y_1", "a/b", "../c", "ü")] == [0, 1, 2, 3, 4, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["o.npz"]


def test_random_inputs():
    graph = graph_of(("B", 3))
    graph.add_input("i", tensor("i64", "B"))
    graph.set_outputs(graph.inputs)
    first, again = random_inputs(graph, {"B": 5}, 1), random_inputs(graph, {"B": 5}, 1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again)) and not np.array_equal(
        first[0], random_inputs(graph, {"B": 5}, 2)[0]
    )
    assert first[0].shape == (5, 3) and first[1].dtype == np.int64 and set(first[1].tolist()) <= {0, 1}
    with pytest.raises(QCompilerError, match="sizes are not given"):
        random_inputs(graph, {}, 0)


def test_the_seed_knob_chooses_the_inputs(files, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "qcompiler.cli.run.random_inputs",
        lambda graph, sizes, seed: seen.append(seed) or random_inputs(graph, sizes, seed),
    )
    with knobs.SEED(11):
        call(capsys, "bench", "int8.qc.safetensors", "--seconds", "0", "--json", *REFERENCE)
    assert seen == [11]


def test_types_of_inputs():
    assert parse_type("f32[ B, 3 ]") == tensor("f32", "B", 3) and parse_type("i64[]") == tensor("i64")


def test_output_errors_by_hand():
    error = OutputError("y")
    error.add(np.array([[3.0, 4.0], [1.0, 0.0]], np.float32), np.array([[3.0, 4.5], [0.0, 1.0]], np.float32))
    assert error.sqnr_db == pytest.approx(10 * np.log10(26 / 2.25)) and error.max_abs == 1.0 and error.agreement == 0.5
    error.add(np.array([[0.0, 1.0]], np.float32), np.array([[0.0, 1.0]], np.float32))
    assert error.agreement == pytest.approx(2 / 3)
    plain = OutputError("y")
    plain.add(np.ones(3, np.float32), np.ones(3, np.float32))
    assert plain.agreement is None and plain.sqnr_db == np.inf
    with pytest.raises(QCompilerError, match="differ in shape"):
        plain.add(np.ones(3), np.ones(4))
