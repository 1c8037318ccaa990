"""Runs what was exported in a process that cannot import qcompiler, nor other packages that a test names."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

_BLOCK = """
import sys
class _Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(name + " is not here")
sys.meta_path.insert(0, _Refuse())
"""
_SCRIPTS = """
import json, os, runpy
import numpy as np
for folder in json.loads(sys.argv[1]):
    script = runpy.run_path(os.path.join(folder, "model.py"))
    with np.load(os.path.join(folder, "inputs.npz")) as file:
        inputs = {name: file[name] for name in file.files}
    np.savez(os.path.join(folder, "outputs.npz"), *script["run"](inputs).values())
"""


def run_elsewhere(
    code: str, *arguments: str, cwd: pathlib.Path, blocked: Sequence[str] = ("qcompiler", "torch")
) -> str:
    """The stdout of Python code in a process of its own, which finds no package of these names."""
    program = f"BLOCKED = {tuple(blocked)!r}\n{_BLOCK}\n{code}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("QC_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_scripts(folders: Sequence[pathlib.Path], inputs: Sequence[dict[str, np.ndarray]]) -> list[list[np.ndarray]]:
    """The outputs of the script `model.py` in each folder, for one call each, all run by one process without
    qcompiler and torch."""
    for folder, given in zip(folders, inputs):
        np.savez(folder / "inputs.npz", **given)
    run_elsewhere(_SCRIPTS, json.dumps([str(folder) for folder in folders]), cwd=folders[0])
    found = []
    for folder in folders:
        with np.load(folder / "outputs.npz") as file:
            found.append([file[name] for name in file.files])
    return found
