"""Commands that run models: run, bench, compare and targets."""

from __future__ import annotations

import json
import platform
import sys

import numpy as np
import pytest

from qcompiler.cli import arguments as cli
from qcompiler.interpreter import run as interpret
from tests.cli.commands import REFERENCE, call, fail


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
    assert len(steps) == 19 and steps[1]["op"] == "conv" and all(step["us"] > 0 for step in steps)
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
