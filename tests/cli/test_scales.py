"""The commands scales and diff, and quantize --scales."""

from __future__ import annotations

import json
import pathlib

from qcompiler import compiler
from qcompiler.artifact import load_graph
from qcompiler.quantization.scales import Scales
from tests.cli.commands import REFERENCE, call, fail

FLOAT = "float.qc.safetensors"


def write(capsys, to: str, *more: str) -> str:
    return call(capsys, "scales", FLOAT, "--data", "x.npz", "-o", to, *more)


def quantize(capsys, scales: str) -> str:
    call(capsys, "quantize", FLOAT, "--scales", scales, "-o", "o.qc.safetensors", *REFERENCE)
    return str(load_graph("o.qc.safetensors"))


def test_written_edited_diffed_and_applied(files, capsys, demo_stages):
    assert "values are written to a.scales" in write(capsys, "a.scales")
    scales = Scales.load("a.scales")
    expected = compiler.compile(demo_stages["float"], "int8", calibration=scales, target="reference").graph
    assert quantize(capsys, "a.scales") == str(expected)
    text = pathlib.Path("a.scales").read_text()
    old = next(line for line in text.splitlines() if line.startswith('"relu" '))
    pathlib.Path("b.scales").write_text(text.replace(old, '"relu" u8 [0,255] scale=0.03125 zero_point=9'))
    (line,) = call(capsys, "diff", "a.scales", "b.scales").splitlines()
    assert line.startswith(old) and "scale=0.03125" in line
    assert json.loads(call(capsys, "diff", "a.scales", "b.scales", "--json"))["differ"] == [line]
    assert call(capsys, "diff", "a.scales", "a.scales") == "the same scales\n"
    assert "{scale=0.03125, zero_point=9}" in quantize(capsys, "b.scales")


def test_the_qconfig_and_the_batch_count(files, capsys):
    write(capsys, "a.scales")
    written = json.loads(write(capsys, "b.scales", "--qconfig", "torch:qnnpack", "--batch", "4", "--json"))
    assert written == {"output": "b.scales", "values": len(Scales.load("b.scales"))}
    assert Scales.load("a.scales") != Scales.load("b.scales")


def test_refusals(files, capsys):
    assert "stage float" in fail(capsys, "scales", "int8.qc.safetensors", "--data", "x.npz", "-o", "a.scales")
    assert ".scales" in fail(capsys, "scales", FLOAT, "--data", "x.npz", "-o", "a.txt")
    assert "cannot be read" in fail(capsys, "diff", "none.scales", "none.scales")
    assert "--scales F.scales" in fail(capsys, "quantize", FLOAT, "-o", "o.qc.safetensors")
