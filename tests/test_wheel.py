"""Packages: the wheel, installed and used from an empty folder without the checkout; the sdist; an editable install."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

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
def installed(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the content of the wheel and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return target


def _build(kind: str, source: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Build an "sdist", a "wheel" or an "editable" wheel from `source` by setuptools."""
    program = f"import setuptools.build_meta as backend; print(backend.build_{kind}({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def _contents(wheel: pathlib.Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def _run(arguments: list[str], folder: pathlib.Path, installed: pathlib.Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_program_in_an_empty_folder(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    where = _run(["-c", PROGRAM], tmp_path, installed)
    assert where.strip().startswith(str(installed.resolve()))
    assert "x86-64+avx2" in _run(["-m", "qcompiler", "targets"], tmp_path, installed)


@pytest.mark.exhaustive
def test_the_demo_in_an_empty_folder(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(ROOT / "examples" / "fashion_mnist", tmp_path / "demo")
    text = _run(["demo/demo.py"], tmp_path, installed)
    assert "int8_top1" in text
    assert {"demo.json", "demo.qc.safetensors"} <= {p.name for p in (tmp_path / "build").iterdir()}


def test_the_wheel_holds_every_source_file(wheel: pathlib.Path) -> None:
    files = {
        f"qcompiler/{path.relative_to(ROOT if folder != 'qcompiler' else ROOT / folder).as_posix()}"
        for folder in ("qcompiler", "frontend", "passes", "backends")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".md")
    }
    assert set(_contents(wheel)) == files
    assert "qcompiler/py.typed" in files


def test_the_sdist_gives_the_same_wheel(source: pathlib.Path, wheel: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = shutil.copytree(source, tmp_path / "copy", symlinks=True)
    with tarfile.open(_build("sdist", copy, tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    assert _contents(_build("wheel", unpacked, tmp_path)) == _contents(wheel)


def test_an_editable_install_adds_the_root_to_the_path(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """It adds a path and no import hook, which type checkers and editors can't follow."""
    copy = shutil.copytree(source, tmp_path / "copy", symlinks=True)
    [(name, text)] = _contents(_build("editable", copy, tmp_path)).items()
    assert name.endswith(".pth") and text.decode().strip() == str(copy)
