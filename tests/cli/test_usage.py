"""Wrong usage, help, interrupts, and the command line as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from qcompiler.cli import arguments as cli
from tests.cli.commands import ROOT, fail


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
    for command in (
        "check",
        "quantize",
        "run",
        "bench",
        "dump",
        "draw",
        "passes",
        "compare",
        "export",
        "scales",
        "diff",
        "targets",
    ):
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
