"""Errors at the outputs of a graph, and what they decide: parts between products are codes where no output suffers."""

from __future__ import annotations

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import knobs, nn
from qcompiler.backends.target import parse_target
from qcompiler.ir import Graph
from qcompiler.notes import PartsJudged
from qcompiler.passes import real_parts
from qcompiler.quantization import output_errors
from qcompiler.quantization.output_errors import OutputErrors
from tests.passes.test_equalization import items
from tests.passes.test_real_parts import block, hardswish, kept

DATA = items(2, 64, 12, 12)


class Beside(nn.Module):
    """A block that codes cost much, added to something a thousand times as large; or the block alone."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.block, self.share = block(hardswish, 300.0), share

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.block(x) * self.share + x.sum(axis=1, keepdims=True)


def judged(graph: Graph) -> list[PartsJudged]:
    return [note for note in graph.notes if isinstance(note, PartsJudged)]


def prepared_and_calibrated(share: float) -> tuple[qc.Prepared, qc.Calibration]:
    prepared = qc.prepare(Beside(share), "int8", (DATA[0],))
    return prepared, qc.calibrate(prepared, DATA)


def test_parts_that_no_output_needs_are_codes() -> None:
    prepared, found = prepared_and_calibrated(1e-6)
    graph = qc.convert(prepared, found)
    (note,) = judged(graph)
    assert not note.real and note.lost is not None and note.lost <= real_parts.OUTPUT_BUDGET
    assert note.parts == 1 and not kept(graph) and str(note) in str(qc.compile(graph).report())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real_parts, "BUDGET", np.inf)
        without = qc.convert(prepared, found)
    assert not judged(without)
    without.notes.insert(graph.notes.index(note), note)
    assert str(without) == str(graph)


def test_parts_that_an_output_needs_stay_real() -> None:
    prepared, found = prepared_and_calibrated(1.0)
    graph = qc.convert(prepared, found)
    (note,) = judged(graph)
    assert note.real and note.lost is not None and note.lost > real_parts.OUTPUT_BUDGET and kept(graph)
    exact = OutputErrors(prepared.graph, [[each] for each in DATA]).of(graph)
    assert exact < note.lost / 4  # what the real parts are for


def test_without_items_that_fit_the_parts_stay_real() -> None:
    prepared, found = prepared_and_calibrated(1e-6)
    other = qc.calibrate(qc.prepare(Beside(1e-6), "int8", (DATA[0][:1],)), [each[:1] for each in DATA])
    for kept_items in (None, other.kept_items):
        found.kept_items = kept_items
        graph = qc.convert(prepared, found)
        assert judged(graph) == [PartsJudged(1, True, None)] and kept(graph)


def test_the_interpreter_decides_the_same_where_no_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, found = prepared_and_calibrated(1e-6)
    kept_items = found.kept_items
    assert kept_items is not None
    native = OutputErrors(prepared.graph, kept_items.items[:1])
    graph = qc.convert(prepared, found)

    def refuse() -> None:
        raise qc.LoweringError("no kernels here")

    monkeypatch.setattr("qcompiler.backends.target.native_target", refuse)
    interpreted = OutputErrors(prepared.graph, kept_items.items[:1])
    assert interpreted.of(graph) == pytest.approx(native.of(graph), rel=1e-2)


def test_every_level_measures_the_same_bits() -> None:
    prepared, found = prepared_and_calibrated(1.0)
    kept_items = found.kept_items
    assert kept_items is not None
    graph = qc.convert(prepared, found)
    measured = set()
    for name in ("avx2", "avxvnni", "avx512", "avx512vnni"):
        if parse_target(f"x86-64+{name}").can_run():
            with knobs.ISA(name):
                measured.add(OutputErrors(prepared.graph, kept_items.items).of(graph))
    assert len(measured) <= 1


def test_errors_are_shares_of_the_energy_of_an_output() -> None:
    x = np.array([3.0, -4.0], np.float32)
    assert output_errors._error([x, x], [x, x]) == 0
    assert output_errors._error([x], [x + np.array([0.5, 0], np.float32)]) == pytest.approx(0.25 / 25, rel=1e-3)
    assert output_errors._error([x, 0 * x], [x, x]) == pytest.approx(1)
    assert output_errors._error([0 * x], [0 * x]) == 0
    assert output_errors._error([0 * x], [x]) == np.inf
    bad = np.array([np.nan, 1], np.float32)
    assert output_errors._error([bad], [bad]) == 0
    assert output_errors._error([x], [bad]) == np.inf
    codes = np.array([1, 2, 3, 4])
    assert output_errors._error([codes], [np.array([1, 2, 3, 5])]) == 0.25


def test_the_worst_output_counts() -> None:
    def two(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x + 1, x * 2

    def worse(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x + 1, x * 3

    x = np.ones((2, 4), np.float32)
    first, second = (qc.trace(each, (x,)) for each in (two, worse))
    assert OutputErrors(first, [[x]]).of(first) == 0
    assert OutputErrors(first, [[x]]).of(second) == pytest.approx(0.25, rel=1e-3)
