"""Text with its arrays beside it: written, edited by hand, read by every command."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

from qcompiler import export_text, load_text
from qcompiler.errors import ArtifactError, ParseError, QCompilerError, VerifyError
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.text.printer import format_scale, graph_data
from qcompiler.types import tensor


def test_every_stage_comes_back(demo_stages: dict[str, Graph], tmp_path: pathlib.Path) -> None:
    for stage, graph in demo_stages.items():
        path = tmp_path / f"{stage}.qir"
        export_text(graph, path)
        again = load_text(path)
        assert str(again) == str(graph) == path.read_text()
        data = graph_data(again)
        assert all(np.array_equal(array, data[name]) for name, array in graph_data(graph).items())


def test_a_scale_edited_by_hand(demo_stages: dict[str, Graph], tmp_path: pathlib.Path) -> None:
    """The edit counts where the graph stays legal; a bias that no longer fits its product is refused."""
    path = tmp_path / "m.qir"
    path.write_text(
        "qcompiler 1\ngraph g(%x: f32[4]) stage=integer {\n  %q = quantize(%x) : u8[4]{scale=0.5}\n"
        "  %y = dequantize(%q) : f32[4]\n  return %y\n}\n"
    )
    x = np.array([0.3, 1.0, 7.2, 99.0], np.float32)
    before = run(load_text(path), [x])[0]
    path.write_text(path.read_text().replace("scale=0.5", "scale=0.25"))
    assert np.array_equal(before, [0.5, 1, 7, 99]) and np.array_equal(
        run(load_text(path), [x])[0], [0.25, 1, 7.25, 63.75]
    )
    export_text(demo_stages["integer"], path)
    scale = format_scale(demo_stages["integer"].node_list[0].result.type.params.scale[0])
    path.write_text(path.read_text().replace(f"scale={scale}", "scale=0.25", 1))
    with pytest.raises(VerifyError, match="the scale of a bias"):
        load_text(path)


def test_a_graph_without_arrays_needs_no_second_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.qir"
    path.write_text("qcompiler 1\ngraph g(%x: f32[4]) stage=float {\n  %y = relu(%x) : f32[4]\n  return %y\n}\n")
    assert load_text(path).node_list[0].op == "relu"


def test_hostile_names(tmp_path: pathlib.Path) -> None:
    """Names of constants with quotes, newlines and paths are names of arrays, and nothing else."""
    graph = Graph("../x\n")
    value = graph.add_input('"', tensor("f32", 2))
    for name in ("../../etc/x", "a\nb", '"', "é\u2028", "x" * 1000):
        value = graph.create("add", [value, graph.add_const(f"{name}c", np.ones(2, np.float32))], names=name).result
    graph.set_outputs([value], ["</script>"])
    (tmp_path / "out").mkdir()
    export_text(graph, tmp_path / "out" / "m.qir")
    assert sorted(os.listdir(tmp_path)) == ["out"]
    assert sorted(os.listdir(tmp_path / "out")) == ["m.qir", "m.safetensors"]
    again = load_text(tmp_path / "out" / "m.qir")
    assert str(again) == str(graph)


def test_what_is_refused(demo_stages: dict[str, Graph], tmp_path: pathlib.Path) -> None:
    with pytest.raises(ArtifactError, match="a path that ends in .qir"):
        export_text(demo_stages["float"], tmp_path / "m.txt")
    assert os.listdir(tmp_path) == []
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_text(tmp_path / "m.qir")
    path = tmp_path / "m.qir"
    export_text(demo_stages["float"], path)
    beside = tmp_path / "m.safetensors"
    beside.write_bytes(beside.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="arrays of a text"):
        load_text(path)
    beside.unlink()
    with pytest.raises(QCompilerError):
        load_text(path)
    path.write_text("qcompiler 1\ngraph g(")
    with pytest.raises(ParseError):
        load_text(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="not UTF-8"):
        load_text(path)
