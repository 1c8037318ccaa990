"""Recurrent layers whose weights are codes, with their states as inputs and outputs, run from each form in a process
without qcompiler."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import TraceError
from qcompiler.export.check import check_export
from qcompiler.export.forms import FORMS
from qcompiler.export.onnx.model import onnx_model
from qcompiler.frontend.onnx_import import import_onnx
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.ops.recurrent import Recurrent
from tests.sample_graphs import CASES, random_array, sample_graph

STEPS, UNITS = 6, 24


class Tagger(nn.Module):
    """An lstm and a gru in two directions over [time, batch, features], then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(10, UNITS)
        self.gru = nn.GRU(UNITS, UNITS, bidirectional=True)
        self.fc = nn.Linear(2 * UNITS, 5)

    def forward(self, x: Any, h: Any, c: Any) -> object:
        y, (h, c) = self.lstm(x, (h, c))
        return self.fc(self.gru(y)[0]), h, c


def tagger(qconfig: str, sizes: dict[int, str]) -> Graph:
    """The graph of a tagger. sizes: axis of x -> the name of its size."""
    nn.manual_seed(0)
    inputs = (np.zeros((STEPS, 3, 10), np.float32), *(np.zeros((1, 3, UNITS), np.float32) for _ in range(2)))
    state = {1: sizes[1]} if 1 in sizes else {}
    open_sizes = {"x": sizes, "h": state, "c": state}
    return qc.compile(Tagger(), qconfig, inputs, dynamic=open_sizes, target="reference").graph


def arrays(steps: int, rows: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = ((steps, rows, 10), (1, rows, UNITS), (1, rows, UNITS))
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("form", ["onnx", "qoperator", "python", "torch"])
def test_states_are_carried_without_qcompiler(form: str, tmp_path: pathlib.Path) -> None:
    """Two calls, of which the second takes the states of the first. A code may flip in ONNX Runtime, whose functions
    round otherwise; nothing differs in the others. torch writes the steps out, so their number is fixed there."""
    qconfig = "dynamic" if form in ("onnx", "python") else "torch:dynamic"
    graph = tagger(qconfig, {1: "B"} if form == "torch" else {0: "T", 1: "B"})
    layers = [layer for node in graph.nodes if (layer := Recurrent.of(node)) is not None]
    assert len(layers) == 3 and all(layer.ih_scale is not None for layer in layers)
    first = arrays(STEPS, 3, 0)
    steps = STEPS if form == "torch" else 11
    calls = [first, [arrays(steps, 3, 1)[0], *run(graph, first)[1:]]]
    path = str(tmp_path / f"model{FORMS[form].suffixes[0]}")
    FORMS[form].write(graph, path)
    for error in check_export(FORMS[form], path, graph, calls):
        if form in ("python", "torch"):
            assert error.noise == 0, error.name
        else:  # a state is in [-1, 1]: a code of it is at most 2 / 255
            assert error.max_abs <= 2 / 255, error.name
            assert error.sqnr_db > 60, error.name


@pytest.mark.parametrize("op", ["lstm", "gru", "rnn"])
def test_layers_come_back_from_onnx(op: str) -> None:
    """Layers that were exported as a Scan are the same layers again, to the bit; not if the Scan was changed."""
    tried = 0
    for case, index in CASES:
        if case.name != op:
            continue
        graph, rng = sample_graph(case, index), np.random.default_rng(2)
        model = onnx_model(graph)
        scans = [node for node in model.graph.node if node.op_type == "Scan"]
        if not scans:
            continue
        tried += 1
        back = import_onnx(model)
        (was,), (now,) = graph.node_list, back.node_list
        assert (was.op, dict(was.attrs)) == (now.op, dict(now.attrs))
        assert [value and value.name for value in was.operands] == [value and value.name for value in now.operands]
        inputs = [random_array(value.type, rng) for value in graph.inputs]
        assert [a.tobytes() for a in run(graph, inputs)] == [b.tobytes() for b in run(back, inputs)]
        said = scans[0].metadata_props[0]
        kept, said.value = said.value, said.value.replace('"clip": ', '"clip": "much", "unused": ')
        with pytest.raises(TraceError, match="does not fit"):
            import_onnx(model)
        said.value = kept
        scans[0].attribute[0].g.node[0].name = "changed"
        with pytest.raises(TraceError, match="Scan is not supported|not supported"):
            import_onnx(model)
    assert tried >= 2
