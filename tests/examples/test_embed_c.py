"""The C example, built by plain gcc and by CMake, gives the scores that Python gives."""

from __future__ import annotations

import pathlib
import re
import runpy
import shutil
import subprocess

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.backends import host
from qcompiler.ir import Graph
from tests.backends.c_programs import build, execute, tool

ROOT = pathlib.Path(__file__).resolve().parents[2]
EMBED, DEMO = ROOT / "examples" / "embed_c", ROOT / "examples" / "fashion_mnist"
pytestmark = pytest.mark.skipif(
    host.system() != "linux" or host.arch() != "x86-64", reason="objects for x86-64 Linux are run on such a machine"
)


@pytest.fixture
def model(tmp_path: pathlib.Path, demo_stages: dict[str, Graph]) -> qc.CompiledModel:
    """The demo's int8 network. It lies in tmp_path as model.o and model.h, beside two images."""
    compiled = qc.compile(demo_stages["integer"], None, target="x86-64+avx2")
    compiled.export_object(tmp_path / "model.o", target="x86-64-linux+avx2", prefix="model", sizes={"B": 1})
    for index, image in enumerate(images()):
        image.tofile(tmp_path / f"image{index}")
    return compiled


def images() -> np.ndarray:
    """Two images, u8[2,28,28]."""
    return np.random.default_rng(5).integers(0, 256, (2, 28, 28)).astype(np.uint8)


def check(model: qc.CompiledModel, program: pathlib.Path, folder: pathlib.Path) -> None:
    x = (images()[:, None].astype(np.float32) / np.float32(255) - np.float32(0.2860)) / np.float32(0.3530)
    want = model(x)
    assert not np.array_equal(want[0], want[1])
    for index in range(2):
        *rows, verdict = execute(program, str(folder / f"image{index}")).splitlines()
        scores = np.array([np.float32(row.split()[-1]) for row in rows], np.float32)
        assert scores.tobytes() == want[index].tobytes()
        assert verdict == f"it is: {rows[int(want[index].argmax())][:12].strip()}"
    short = subprocess.run([program, folder / "nothing"], capture_output=True, text=True, check=False)
    assert short.returncode == 2 and short.stderr.startswith("usage:")


def test_plain_gcc(model: qc.CompiledModel, tmp_path: pathlib.Path) -> None:
    check(model, build(tmp_path, (EMBED / "main.c").read_text(), ["model.o"]), tmp_path)


def test_cmake(model: qc.CompiledModel, tmp_path: pathlib.Path) -> None:
    cmake = tool("cmake")
    compiled = runpy.run_path(str(EMBED / "stream.py"))["compiled_stream"]("x86-64+avx2")
    compiled.export_object(tmp_path / "stream.o", target="x86-64-linux+avx2", prefix="stream")
    project = tmp_path / "project"
    shutil.copytree(EMBED, project)
    missing = subprocess.run(
        [cmake, "-S", project, "-B", tmp_path / "none"], capture_output=True, text=True, check=False
    )
    assert missing.returncode != 0 and "no model.o in" in missing.stderr
    for command in (
        [cmake, "-S", project, "-B", tmp_path / "out", f"-DMODEL_DIR={tmp_path}"],
        [cmake, "--build", tmp_path / "out"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    check(model, tmp_path / "out" / "embed_c", tmp_path)
    check_stream(tmp_path / "out" / "stream", compiled)


def check_stream(program: pathlib.Path, compiled: qc.CompiledModel) -> None:
    """The second chunk takes the states of the first, as in Python."""
    chunks = np.random.default_rng(6).normal(size=(3, *compiled.graph.inputs[0].type.sizes)).astype(np.float32)
    done = subprocess.run([program], input=chunks.tobytes(), capture_output=True, check=True)
    h = c = np.zeros(compiled.graph.inputs[1].type.sizes, np.float32)
    wanted = []
    for chunk in chunks:
        made = compiled(chunk, h, c)
        wanted.append(made["scores"])
        h, c = made["next_h"], made["next_c"]
    assert done.stdout == np.stack(wanted).tobytes()
    assert not np.array_equal(wanted[1], compiled(chunks[1], 0 * h, 0 * c)["scores"])


def test_the_example_names_the_classes_of_the_demo() -> None:
    text = (EMBED / "main.c").read_text()
    demo = (DEMO / "preprocess.py").read_text()
    names = re.findall(r'"([^"]+)"', re.search(r"CLASSES = \((.*?)\)", demo, re.S)[1])
    assert len(names) == 10 and names == re.findall(r'"([^"]+)"', re.search(r"CLASSES\[.*?\{(.*?)\}", text, re.S)[1])
    for name, value in re.findall(r"^(MEAN|STD) = ([\d.]+)", demo, re.M):
        assert f"{value}f" in text, name


def test_the_example_of_the_docs_links_and_runs(model: qc.CompiledModel, tmp_path: pathlib.Path) -> None:
    text = (ROOT / "docs" / "object-export.md").read_text()
    declarations, source = re.findall(r"```c\n(.*?)```", text, re.S)
    assert execute(build(tmp_path, source, ["model.o"])) == ""
    header = (tmp_path / "model.h").read_text()
    for line in declarations.splitlines():
        assert line in header
