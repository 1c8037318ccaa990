"""Exported scripts give the interpreter's bits in a process that has numpy alone."""

from __future__ import annotations

import ast
import os
import pathlib
import runpy
from collections.abc import Sequence

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.errors import ArgumentError, ArtifactError, LoweringError
from qcompiler.export.python.script import Script
from qcompiler.interpreter import run
from qcompiler.ir import Graph, Origin
from qcompiler.opdef import OpDef
from qcompiler.types import tensor
from tests.export.elsewhere import run_elsewhere, run_scripts
from tests.export.networks import network, with_all_values
from tests.export.single import ON_CODES, ON_CODES_IDS, coded_sample
from tests.sample_graphs import CASE_IDS, CASES, random_array, sample_graph


def check_script(graph: Graph, inputs: Sequence[np.ndarray], folder: pathlib.Path) -> None:
    """The script of a graph, run in this process, gives the interpreter's outputs to the bit."""
    qc.export_python(graph, folder / "model.py")
    script = runpy.run_path(str(folder / "model.py"))
    found = script["run"]({value.name: array for value, array in zip(graph.inputs, inputs)})
    assert list(found) == graph.output_names
    equal(run(graph, inputs), list(found.values()))


def equal(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> None:
    assert len(wanted) == len(found)
    for a, b in zip(wanted, found):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.mark.sampled(12)
@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_sample(case: tuple[OpDef, int], tmp_path: pathlib.Path) -> None:
    op, index = case
    if op.name == "observe":
        return
    graph, rng = sample_graph(op, index), np.random.default_rng(1)
    check_script(graph, [random_array(value.type, rng) for value in graph.inputs], tmp_path)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("case", ON_CODES, ids=ON_CODES_IDS)
def test_sample_on_codes(case: tuple[OpDef, int], tmp_path: pathlib.Path) -> None:
    op, index = case
    graph, inputs = coded_sample(op, index)
    check_script(graph, inputs, tmp_path)


def test_random_graphs_without_qcompiler(tmp_path: pathlib.Path) -> None:
    """Every value of networks of all kinds."""
    folders, calls, wanted = [], [], []
    for seed in (0, 8, 1, 9, 2, 6, 10, 3, 7, 11):
        graph, inputs = network(seed)
        graph = with_all_values(graph)
        folder = tmp_path / str(seed)
        folder.mkdir()
        qc.export_python(graph, folder / "model.py")
        folders.append(folder)
        calls.append(dict(zip([value.name for value in graph.inputs], inputs)))
        wanted.append(run(graph, inputs))
    for expected, found in zip(wanted, run_scripts(folders, calls)):
        equal(expected, found)


@pytest.mark.sampled(20)
@pytest.mark.parametrize("seed", range(200))
def test_networks(seed: int, tmp_path: pathlib.Path) -> None:
    """Every value of a network, to the bit."""
    graph, inputs = network(seed)
    check_script(with_all_values(graph), inputs, tmp_path)


def test_demo_without_qcompiler(demo_stages: dict[str, Graph], tmp_path: pathlib.Path) -> None:
    """The integer demo with another batch than it was traced with."""
    graph = demo_stages["integer"]
    images = np.random.default_rng(0).uniform(-1, 2, (3, 1, 28, 28)).astype(np.float32)
    qc.export_python(graph, tmp_path / "model.py")
    equal(run(graph, [images]), run_scripts([tmp_path], [{"x": images}])[0])


def test_a_node_is_a_line_that_says_where_it_comes_from(demo_stages: dict[str, Graph], tmp_path: pathlib.Path) -> None:
    graph = demo_stages["integer"]
    qc.export_python(graph, tmp_path / "model.py")
    text = (tmp_path / "model.py").read_text()
    body = text.partition("def run(")[2].partition("return")[0]
    lines = [line for line in body.splitlines() if " = " in line and "bind(" not in line and "sizes" not in line]
    assert len(lines) == len(graph)
    for line, node in zip(lines, graph.nodes):
        assert all(origin.path in line.partition("  # ")[2] for origin in node.origin)
        if node.result.type.is_quantized:
            assert "scale=" in line
    assert "import qcompiler" not in text and "from qcompiler" not in text


def test_command_line(demo_stages: dict[str, Graph], tmp_path: pathlib.Path) -> None:
    graph = demo_stages["integer"]
    images = np.random.default_rng(0).uniform(-1, 2, (2, 1, 28, 28)).astype(np.float32)
    qc.export_python(graph, tmp_path / "model.py")
    np.savez(tmp_path / "x.npz", x=images)
    code = "import runpy; sys.argv = ['model.py', 'x.npz', 'y.npz']; runpy.run_path('model.py', run_name='__main__')"
    run_elsewhere(code, cwd=tmp_path)
    with np.load(tmp_path / "y.npz") as file:
        equal(run(graph, [images]), [file[name] for name in graph.output_names])


def test_sizes_and_guards(tmp_path: pathlib.Path) -> None:
    """Sizes have the names of Python's keywords; an input has a derived size, a guard compares two."""
    graph = qc.parse(
        "qcompiler 1\n"
        "graph g(%x: f32[lambda,4,S], %y: f32[2*S,lambda]) stage=float {\n"
        '  note "guard: S >= 2"\n'
        '  %r = reshape(%x) {shape=("lambda", "4*S")} : f32[lambda,4*S]\n'
        '  %t = reshape(%y) {shape=("lambda", "2*S")} : f32[lambda,2*S]\n'
        "  %c = concat(%r, %t) {axis=1} : f32[lambda,6*S]\n"
        "  return %c\n}\n"
    )
    assert isinstance(graph, Graph)
    qc.export_python(graph, tmp_path / "model.py")
    call = runpy.run_path(str(tmp_path / "model.py"))
    for batch, size in ((1, 2), (3, 5)):
        x = np.arange(batch * 4 * size, dtype=np.float32).reshape(batch, 4, size)
        y = np.arange(batch * 2 * size, dtype=np.float32).reshape(2 * size, batch)
        equal(run(graph, [x, y]), list(call["run"]({"x": x, "y": y}).values()))
    one = np.zeros((1, 4, 1), np.float32), np.zeros((2, 1), np.float32)
    for wrong, message in (
        ({"x": one[0], "y": one[1]}, "S >= 2|size >= 2"),
        ({"x": np.zeros((1, 4, 2), np.float32), "y": one[1]}, "does not take these sizes"),
        ({"x": np.zeros((1, 4, 2), np.float64), "y": one[1]}, "another type"),
        ({"x": np.zeros((1, 5, 2), np.float32), "y": one[1]}, "another shape"),
        ({"x": one[0]}, "'y' is missing"),
    ):
        with pytest.raises(call["GraphError"], match=message):
            call["run"](wrong)


HOSTILE = (
    'a"b', "a'b", "a\nimport os\nos.abort()", '"""', "a*/b", "</script>", "class", "None", "print", "np", "run", "Conv",
    "inputs", "../../x", "..\\x", "é", "\u2028x", "x" * 1024, "#", "{x}", "%s", "\\", "a\\", "0", "_",
    "__import__", "f32",
)  # fmt: skip


def test_hostile_names_change_no_code(tmp_path: pathlib.Path) -> None:
    """The names of the graph, its values, constants, outputs and modules; the code is that of a graph with good names,
    but for identifiers and the texts of literals and comments."""

    def named(names: Sequence[str]) -> Graph:
        graph = Graph(names[0])
        value = graph.add_input(names[1], tensor("f32", 2))
        for index, name in enumerate(names[2:]):
            const = graph.add_const(f"{name[:1000]}c", np.full(2, index, np.float32))
            origin = [Origin(name * (64 if len(name) == 1024 else 1), name)]
            value = graph.create("add", [value, const], names=name, origin=origin).result
        graph.set_outputs([value], [names[0]])
        return graph

    folder = tmp_path / "out"
    folder.mkdir()
    graph = named(HOSTILE)
    qc.export_python(graph, folder / "model.py")
    x = np.array([1, -2], np.float32)
    equal(run(graph, [x]), run_scripts([folder], [{graph.inputs[0].name: x}])[0])
    assert sorted(os.listdir(tmp_path)) == ["out"]
    assert {"model.py", "model.safetensors"} <= set(os.listdir(folder))
    plain = Script(named([f"v{i}" for i in range(len(HOSTILE))])).text("model.safetensors", "0")
    text = (folder / "model.py").read_text()
    assert text.isascii() and len(text.splitlines()) == len(plain.splitlines())
    shapes = [[type(node).__name__ for node in ast.walk(ast.parse(source))] for source in (text, plain)]
    assert shapes[0] == shapes[1]


def test_other_constants_are_refused(demo_stages: dict[str, Graph], tmp_path: pathlib.Path) -> None:
    qc.export_python(demo_stages["integer"], tmp_path / "model.py")
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(Exception, match="is not the file of constants"):
        runpy.run_path(str(tmp_path / "model.py"))


def test_refusals_write_nothing(demo_stages: dict[str, Graph], tmp_path: pathlib.Path) -> None:
    with pytest.raises(LoweringError, match="is not exported"):
        qc.export_python(demo_stages["observed"], tmp_path / "model.py")
    with pytest.raises(LoweringError, match="file of a script"):
        qc.export_python(demo_stages["float"], tmp_path / "model.txt")
    with pytest.raises(ArgumentError):
        qc.export_python(demo_stages["float"], 3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError):
        qc.export_python("model.onnx", tmp_path / "model.py")  # type: ignore[arg-type]
    with pytest.raises(ArtifactError):
        qc.export_python(demo_stages["float"], tmp_path / "nowhere" / "model.py")
    assert os.listdir(tmp_path) == []
