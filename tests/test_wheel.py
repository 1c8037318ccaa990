"""The wheel: built, installed into an empty folder, and used from another one, without the checkout."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = """
import pathlib, numpy as np, qcompiler as qc
from qcompiler import nn
x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(8, 4))
compiled = qc.compile(model, "int8", (x,), calibration_data=[x])
assert np.array_equal(compiled(x), qc.compile(compiled.graph, target="reference")(x))
compiled.save("m.qc.safetensors")
assert np.array_equal(qc.load("m.qc.safetensors")(x), compiled(x))
from qcompiler.text.printer import graph_data
assert str(qc.parse(str(compiled.graph), graph_data(compiled.graph))) == str(compiled.graph)
print(pathlib.Path(qc.__file__).resolve())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with nothing but the wheel's content."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "installed"))
    for name in ("qcompiler", "frontend", "passes", "backends"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source)],
        check=True,
        capture_output=True,
    )
    [wheel] = wheels.glob("qcompiler_ir-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)],
        check=True,
        capture_output=True,
    )
    return target


def _run(arguments: list[str], folder: pathlib.Path, installed: pathlib.Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_program_in_an_empty_folder(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    where = _run(["-c", PROGRAM], tmp_path, installed)
    assert where.strip().startswith(str(installed.resolve()))
    assert "x86-64+avx2" in _run(["-m", "qcompiler", "targets"], tmp_path, installed)


def test_the_demo_in_an_empty_folder(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(ROOT / "examples" / "fashion_mnist", tmp_path / "demo")
    text = _run(["demo/demo.py"], tmp_path, installed)
    assert "int8_top1" in text
    assert {"demo.json", "demo.qc.safetensors"} <= {p.name for p in (tmp_path / "build").iterdir()}
