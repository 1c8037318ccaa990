"""Runs what was written in a fresh process, and compares it with the interpreter."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence

import numpy as np

import qcompiler
from qcompiler.errors import QCompilerError
from qcompiler.export.forms import Form
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.metrics import OutputError

_PROGRAM = """
import json, sys
import numpy as np
PATH, HOME, NAMES, CALLS, BLOCKED = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:6])
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(name + " is not imported here")
sys.meta_path.insert(0, Refuse())
{runner}
with open(CALLS) as file:
    CALLS = json.load(file)
for path in CALLS:
    with np.load(path) as file:
        arrays = [file["arr_" + str(index)] for index in range(len(NAMES))]
    np.savez(path + ".out.npz", *call(arrays))
"""


def check_packages(form: Form) -> None:
    """QCompilerError if what was written could not be run here, since a package is missing."""
    for package in form.needs:
        if importlib.util.find_spec(package) is None:
            raise QCompilerError(
                f"--check runs the file by {package}, which is not installed", hint="leave --check out"
            )


def check_export(
    form: Form,
    path: str,
    graph: Graph,
    calls: Iterable[Sequence[np.ndarray]],
    wanted: Iterable[Sequence[np.ndarray]] | None = None,
) -> list[OutputError]:
    """How far the outputs of the file lie from the interpreter's, for each output.

    The file runs in a process of its own, which cannot import qcompiler unless the form needs it. wanted: the
    interpreter's outputs of each call, where they are known.

    Raises:
        QCompilerError: the process failed, or there are no calls.
    """
    errors = [OutputError(name) for name in graph.output_names]
    with tempfile.TemporaryDirectory() as folder:
        places, computed = [], []
        for index, arrays in enumerate(calls):
            places.append(os.path.join(folder, f"{index}.npz"))
            np.savez(places[-1], *arrays)
            if wanted is None:
                computed.append(run(graph, list(arrays)))
        if not places:
            raise QCompilerError("there is no data to check on")
        home = str(pathlib.Path(qcompiler.__file__).resolve().parents[1])
        calls_file = os.path.join(folder, "calls.json")
        pathlib.Path(calls_file).write_text(json.dumps(places))
        names, blocked = [value.name for value in graph.inputs], [] if form.is_ours else ["qcompiler"]
        arguments = [os.path.abspath(path), home, *map(json.dumps, (names, calls_file, blocked))]
        program = _PROGRAM.replace("{runner}", form.runner)
        done = subprocess.run([sys.executable, "-I", "-c", program, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise QCompilerError("the exported file does not run", where=f"file {path}", got=last[0][:500])
        for place, expected in zip(places, computed if wanted is None else wanted):
            with np.load(f"{place}.out.npz") as file:
                for index, error in enumerate(errors):
                    error.add(expected[index], file[f"arr_{index}"])
    return errors
