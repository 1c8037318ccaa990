"""Reports: counts, reasons, bytes; text and JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qcompiler import compiler
from qcompiler.backends.target import known_targets, parse_target
from qcompiler.dims import Dim
from qcompiler.ir import Graph, Loc
from qcompiler.notes import Guard, KeptFloat, parse_note
from qcompiler.report import NodeKind, count_nodes, node_kind, noted_reasons, report
from qcompiler.types import DType, QuantParams, TensorType, tensor
from tests.sample_graphs import CASES, sample_graph


def mixed_graph() -> Graph:
    """A graph of quantize, an integer linear, dequantize and softmax in float; argmax gives indices."""
    graph = Graph("mixed", "integer")
    x = graph.add_input("x", tensor("f32", 2, 8))
    u8 = QuantParams.per_tensor(0.5, 128, DType.U8)
    xq = graph.create("quantize", [x], types=TensorType(DType.U8, (2, 8), u8)).result
    weight = TensorType(DType.I8, (4, 8), QuantParams.per_channel([0.5] * 4, 0, 0, DType.I8))
    w = graph.add_const("w", np.zeros((4, 8), np.int8), weight)
    y = graph.create("linear", [xq, w], types=TensorType(DType.U8, (2, 4), u8)).result
    real = graph.create("dequantize", [y], types=tensor("f32", 2, 4)).result
    out = graph.create("softmax", [real], {"axis": 1}, names="probabilities", loc=Loc("m.py", 7)).result
    best = graph.create("argmax", [real], {"axis": 1}, names="best").result
    graph.add_const("lonely", np.zeros(3, np.float32))
    graph.notes += [
        KeptFloat("probabilities", "softmax", "kept float by a rule"),
        KeptFloat("gone", "relu", "not here any more"),
        Guard(Dim.name("B"), ">=", 2),
    ]
    graph.set_outputs([out, best], ["p", "best"])
    return graph


def test_counts_reasons_and_bytes():
    found = report(mixed_graph())
    assert (found.int8_nodes, found.float_nodes) == (1, 1) == count_nodes(mixed_graph())
    assert found.conversions == {"quantize": 1, "dequantize": 1}
    assert [(row.op, row.int8, row.float) for row in found.ops] == [("linear", 1, 0), ("softmax", 0, 1)]
    (kept,) = found.kept_float
    assert (kept.node, kept.op, kept.reason, kept.where) == (
        "probabilities",
        "softmax",
        "kept float by a rule",
        "m.py:7",
    )
    assert found.constant_bytes == 4 * 8 + 4 * 4 + 12 and found.float_constant_bytes == 4 * 8 * 4 + 12
    assert found.inputs == ("x: f32[2,8]",) and found.outputs == ("p: f32[2,4]", "best: i64[2]")


def test_text(golden):
    golden(str(report(mixed_graph())) + "\n")


def test_json_has_the_same_figures():
    found = report(mixed_graph())
    data = json.loads(found.to_json())
    assert data["int8_nodes"] == 1 and data["ops"][1] == {"op": "softmax", "int8": 0, "float": 1}
    assert data["kept_float"][0]["reason"] == "kept float by a rule" and data["constant_bytes"] == found.constant_bytes


def test_a_float_node_without_a_note_says_so():
    graph = mixed_graph()
    graph.notes.clear()
    assert report(graph).kept_float[0].reason == "no reason is recorded"


def test_float_graphs_list_nothing_as_kept():
    found = report(sample_graph(*CASES[20]))
    assert found.kept_float == () and found.int8_nodes == 0


def test_notes_with_odd_names():
    graph = Graph()
    texts = ["float: %a = b = linear: x: y", "float: nothing", "float: %c = relu", "other: %d = relu: z"]
    graph.notes += map(parse_note, texts)
    assert [note.text for note in graph.notes] == texts
    assert noted_reasons(graph) == {"a = b": "x: y"}, "an op is one word; a note without a reason is a remark"


def test_kinds_cover_the_demo(demo_stages):
    kinds = {stage: {node_kind(node) for node in graph.nodes} for stage, graph in demo_stages.items()}
    assert kinds["float"] == {NodeKind.FLOAT} and kinds["observed"] == {NodeKind.FLOAT, NodeKind.OBSERVER}
    assert kinds["integer"] == {NodeKind.INTEGER, NodeKind.CONVERSION}


def test_a_compiled_models_report(demo_stages):
    model = compiler.compile(demo_stages["integer"], target="reference")
    found = model.report()
    assert found.target == "reference" and found.float_nodes == 0 and found.int8_nodes >= 17
    assert found.float_constant_bytes > 3.5 * found.constant_bytes
    assert "adaptive_avg_pool" in str(found) and "target reference" in str(found)
    assert found.execution == "interpreter" and "target reference (interpreter)" in str(found)
    assert report(demo_stages["integer"]).execution == ""


@pytest.mark.parametrize("target", [name for name in known_targets() if parse_target(name).can_run()])
def test_the_report_says_how_the_target_runs(demo_stages, target):
    found = compiler.compile(demo_stages["integer"], target=target).report()
    how = {"native": "native", "emulated": "emulated by "}[parse_target(target).execution()]
    assert found.target == target and found.execution.startswith(how) and found.execution != "emulated by "
    assert f"target {target} ({found.execution})" in str(found).splitlines()[0]
    assert json.loads(found.to_json())["execution"] == found.execution
