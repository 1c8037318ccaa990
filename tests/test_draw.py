"""Pictures in every format: what they show, odd names, big graphs, and a missing `dot`."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from qcompiler.draw import dot_source, draw
from qcompiler.errors import QCompilerError
from qcompiler.ir import Graph, Origin
from qcompiler.opdef import works_on_codes
from qcompiler.types import tensor
from tests.sample_graphs import CASE_IDS, CASES, sample_graph

MAGIC = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}


@pytest.fixture
def needs_dot():
    if shutil.which("dot") is None:
        if os.environ.get("QC_REQUIRE_ALL"):
            pytest.fail("Graphviz's dot is missing")
        pytest.skip("Graphviz's dot is not installed")


def svg_texts(path) -> str:
    root = ElementTree.parse(path).getroot()
    return "\n".join(element.text or "" for element in root.iter() if element.tag.endswith("text"))


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf", ".SVG"])
def test_formats(needs_dot, demo_stages, tmp_path, suffix):
    path = tmp_path / f"g{suffix}"
    assert draw(demo_stages["integer"], path) == path
    assert path.read_bytes().startswith(MAGIC[suffix.lower()])


@pytest.mark.parametrize("suffix", [".dot", ".gv"])
def test_dot_needs_no_program(demo_stages, tmp_path, monkeypatch, suffix):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = draw(demo_stages["float"], str(tmp_path / f"g{suffix}"))
    assert path.read_text().startswith("digraph")


def test_without_the_program_the_dot_file_is_written_and_said(demo_stages, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level(logging.WARNING, "qcompiler.draw"):
        written = draw(demo_stages["float"], tmp_path / "g.svg")
    assert written == tmp_path / "g.svg.dot" and written.read_text() == dot_source(demo_stages["float"])
    assert not (tmp_path / "g.svg").exists()
    assert "apt-get install graphviz" in caplog.text and "g.svg.dot" in caplog.text


@pytest.mark.parametrize(
    "name, message",
    [("g.jpg", "no picture format '.jpg'"), ("g", "no picture format"), ("no/g.dot", "cannot be written")],
)
def test_bad_paths(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QCompilerError, match=message):
        draw(sample_graph(*CASES[0]), name)


def test_every_node_value_and_module_is_shown(needs_dot, demo_stages, tmp_path):
    graph = demo_stages["integer"]
    texts = svg_texts(draw(graph, tmp_path / "g.svg"))
    for node in graph.node_list:
        assert node.name in texts
    assert "weight i8[16,16,3,3]" in texts and "bias i32[64]" in texts
    assert re.search(r"u8\[B,64,7,7\] ×0\.\d+", texts)
    for scope in ("stage1", "stage1.0", "stage3.1"):
        assert f"\n{scope}\n" in texts
    assert "add + relu" in texts.replace("\n", " ").replace("  ", " ") or " + add + relu" in texts
    source = dot_source(graph)
    counts = len(re.findall(r"^\s*n\d+ \[", source, re.M))
    assert counts == len(graph.node_list)
    edges = sum(1 for node in graph.node_list for value in node.operands if value is not None and not value.is_const)
    assert source.count(" -> ") == edges + len(graph.outputs)


def test_colours_say_what_runs_in_int8(demo_stages):
    graph = demo_stages["integer"]
    green = [n for n in graph.node_list if n.op not in ("quantize", "dequantize") and works_on_codes(n)]
    assert dot_source(graph).count('fillcolor="#d9efdc"') == len(green) > 10
    assert dot_source(demo_stages["float"]).count('fillcolor="#d9efdc"') == 0
    assert dot_source(demo_stages["observed"]).count('fillcolor="#f3ecc0"') > 5


def test_the_same_picture_every_time(demo_stages):
    assert dot_source(demo_stages["integer"]) == dot_source(demo_stages["integer"].clone())


@pytest.mark.sampled(5)
@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_every_ops_samples_have_a_picture(case):
    source = dot_source(sample_graph(*case))
    assert source.count(" -> ") >= 1 and case[0].name in source


def test_all_ops_in_one_drawing_are_valid_markup(needs_dot, tmp_path):
    sources = "\n".join(dot_source(sample_graph(*case)) for case in CASES)
    path = tmp_path / "all.dot"
    path.write_text(sources)
    done = subprocess.run(["dot", "-Tcanon", "-o", os.devnull, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize(
    "name", ["<b>", "a&b", '"', "\\n", "\\", "\x00\x01", "a\nb", "x" * 1000, "->", "%", "ü😀", "{|}", "<", "]]>", ""]
)
def test_odd_names_are_shown_as_they_are(needs_dot, tmp_path, name):
    graph = Graph(name or "g")
    x = graph.add_input(name or "x", tensor("f32", 2))
    c = graph.add_const("c" + name[:1000], np.zeros(1, np.float32))
    origin = [Origin(f"{name}.{name}", name)]
    y = graph.create("add", [x, c], names="y" + name[:1000], origin=origin).result
    z = graph.create("mul", [y, c], names="z" + name[:1000], origin=origin).result
    graph.set_outputs([z], [name])
    written = draw(graph, tmp_path / "g.svg")
    texts = svg_texts(written)
    if name and name.isprintable() and len(name) < 20:
        assert f"z{name}" in texts.split("\n")
    assert draw(graph, tmp_path / "g.png").read_bytes().startswith(MAGIC[".png"])


def test_outputs_that_are_inputs_or_constants_and_absent_operands(needs_dot, tmp_path):
    graph = Graph()
    x = graph.add_input("x", tensor("f32", 2, 3))
    r = graph.add_input("r", tensor("f32", 2, 2))
    w = graph.add_const("w", np.zeros((2, 3), np.float32))
    y = graph.create("linear", [x, w, None, r]).result
    graph.set_outputs([y, x, w, y], ["y", "x", "w", "again"])
    assert svg_texts(draw(graph, tmp_path / "g.svg")).count("@w") == 1


def test_a_graph_of_a_thousand_nodes(needs_dot, tmp_path):
    graph = Graph()
    value = graph.add_input("x", tensor("f32", 2))
    for index in range(1000):
        value = graph.create(
            "relu", [value], origin=[Origin(f"stage{index // 100}.{index // 10 % 10}.relu", "ReLU")]
        ).result
    graph.set_outputs([value])
    assert svg_texts(draw(graph, tmp_path / "g.svg")).count("relu_999") == 2  # the node and the output


def test_deep_module_paths_need_no_recursion_without_bound():
    graph = Graph()
    value = graph.add_input("x", tensor("f32", 2))
    for index in range(3):
        value = graph.create(
            "relu", [value], origin=[Origin(".".join("abc"[i % 3] for i in range(5000)) + f".{index}", "R")]
        ).result
    graph.set_outputs([value])
    assert dot_source(graph).count("subgraph") <= 16
