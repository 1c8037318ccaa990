"""Hostile calibration data: compilation ends, the answer stays near to float, and the log and the report name the
values of which the data says little."""

from __future__ import annotations

import logging
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import QuantizationError
from qcompiler.quantization import collect
from qcompiler.quantization.workflow import observe_items
from qcompiler.report import report

X = np.random.default_rng(0).normal(size=(24, 4, 3, 8, 8)).astype(np.float32)


def net() -> nn.Module:
    nn.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 5))


def compiled(model: object, data: list[np.ndarray], qconfig: str = "int8") -> qc.CompiledModel:
    return qc.compile(model, qconfig, (data[0],), calibration_data=data)


def sqnr(real: np.ndarray, given: np.ndarray) -> float:
    return float(10 * np.log10((real.astype(np.float64) ** 2).sum() / max(((real - given) ** 2).sum(), 1e-30)))


TAILS = np.random.default_rng(1).standard_cauchy(size=X.shape).astype(np.float32)
CASES = {
    "one item": ([X[0]], 15),
    "one sample": ([X[0, :1]], 10),
    "a constant": ([np.full_like(X[0], 0.5)] * 4, None),
    "all zero": ([np.zeros_like(X[0])] * 4, None),
    "heavy tails": (list(TAILS), None),
    "one NaN": ([np.where(np.arange(192).reshape(3, 8, 8) == 7, np.nan, X[0]).astype(np.float32), *X[1:]], 25),
    "an infinite item": ([X[0], np.full_like(X[0], np.inf), *X[2:]], 25),
}


@pytest.mark.parametrize("qconfig", ["int8", "int8:minmax", "auto", "torch:fbgemm"])
@pytest.mark.parametrize("case", CASES)
def test_compilation_ends_and_answers_are_finite(case: str, qconfig: str) -> None:
    data, least = CASES[case]
    model = compiled(net(), data, qconfig)
    x = X[5, : len(data[0])]
    answer = model(x)
    assert np.isfinite(answer).all()
    if least is not None and qconfig == "int8":
        assert sqnr(qc.compile(net(), None, (x,))(x), answer) > least


def test_items_that_are_not_finite_are_left_out(caplog: pytest.LogCaptureFixture, tmp_path: pathlib.Path) -> None:
    """The result is that of the others, in one process and on workers, and the log says so once."""
    bad = X[3].copy()
    bad[1, 2, 3, 4] = np.nan
    prepared = qc.prepare(net(), "int8", (X[0],))
    found, others = qc.calibrate(prepared, [X[0], bad, X[1], -bad]), qc.calibrate(prepared, [X[0], X[1]])
    assert found.left_out == {"x": 2} and not found.not_finite
    with ThreadPoolExecutor(2) as pool:
        spread = qc.calibrate(prepared, [X[0], bad, X[1], -bad], executor=pool)
    found.save(tmp_path / "found")
    spread.save(tmp_path / "spread")
    assert (tmp_path / "found").read_bytes() == (tmp_path / "spread").read_bytes()
    assert qc.Calibration.load(tmp_path / "found").left_out == {"x": 2} and (found + spread).left_out == {"x": 4}
    assert all(found[group].qparams() == others[group].qparams() for group in others)
    caplog.clear()
    graph = qc.convert(prepared, found)
    text = "%x: it held NaN or Inf in 2 items, which were left out"
    assert caplog.text.count(text) == 1 == len([r for r in caplog.records if r.levelno == logging.WARNING])
    assert text in str(report(graph))


def test_data_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(QuantizationError, match="not finite\n  where:    input 'x'"):
        compiled(net(), [np.full_like(X[0], np.nan)] * 2)


class Overflowing(nn.Module):
    """A value that is NaN in some items in the middle of a model whose answer is finite."""

    def __init__(self) -> None:
        super().__init__()
        nn.manual_seed(2)
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: np.ndarray) -> np.ndarray:
        y = self.b(np.maximum(self.a(x), 0))
        ratio = y / (y - y * (x.mean() < 2))  # 0 / 0 for all but large items
        return self.c(np.where(ratio > 0, y, y * 0.5))


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_nodes_around_a_value_that_is_not_finite_stay_float(
    native: bool, count: int, caplog: pytest.LogCaptureFixture, tmp_path: pathlib.Path
) -> None:
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(16, 8)).astype(np.float32) + 4 * (item % 3 > 0) for item in range(count)]
    prepared = qc.prepare(Overflowing(), "int8", (data[0],))
    if native:
        found = qc.calibrate(prepared, data)
    else:
        runner = collect.GraphInterpreter(prepared.graph, prepared.sampled_products(), "")
        found = observe_items(prepared, runner, [[item] for item in data], 1)
    assert found.not_finite
    found.save(tmp_path / "c")
    assert qc.Calibration.load(tmp_path / "c").not_finite == found.not_finite == (found + found).not_finite
    graph = qc.convert(prepared, found)
    found_report = report(graph)
    for name in found.not_finite:
        assert f"%{name}: it held NaN or Inf" in str(found_report) and caplog.text.count(f"%{name}: it held NaN") == 1
    assert any("calibration saw NaN or Inf in %" in row.reason for row in found_report.kept_float)
    assert sum(node.op == "linear" and node.operands[0].type.is_quantized for node in graph.nodes) >= 2
    real, model = qc.compile(Overflowing(), None, (data[0],)), qc.compile(graph)
    assert all(sqnr(real(x), model(x)) > 20 for x in data)


def test_values_that_are_constant_are_named() -> None:
    found = compiled(net(), [np.zeros_like(X[0])] * 4).report()
    assert "%x: it was 0 in all items" in [str(note) for note in found.uncalibrated]
    assert found.to_dict()["uncalibrated"][0]["value"] == "x"


def test_good_data_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert not compiled(net(), list(X)).report().uncalibrated and not caplog.records
