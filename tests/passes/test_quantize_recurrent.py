"""Recurrent layers under dynamic qconfigs: torch's dynamic layers, the float layers, rows alone and in batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import qcompiler as qc
from qcompiler import nn
from qcompiler.quantization.qconfig import QConfig, get_qconfig

RNG = np.random.default_rng(4)
CODES = 2.0**-8
"""A range of 2 in 255 codes. Outputs are below 1; a code of a state that rounds the other way beside a tie moves them
by less than this."""
OPTIONS: dict[str, dict[str, Any]] = {
    "one": {},
    "both ways": {"num_layers": 2, "bidirectional": True, "batch_first": True},
}


class Torch(torch.nn.Module):
    """torch's quantize_dynamic replaces children, so the layer is one."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        self.layer = getattr(torch.nn, name)(12, 20, **options)

    def forward(self, x: Any) -> Any:
        return self.layer(x)


def pair(name: str, **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(1)
    theirs = Torch(name, **options).eval()
    ours = getattr(nn, name)(12, 20, **options)
    ours.load_state_dict(theirs.layer.state_dict())
    return ours, theirs


def flat(found: Any) -> list[np.ndarray]:
    y, last = found
    return [np.asarray(each) for each in (y, *(last if isinstance(last, (tuple, list)) else [last]))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_torchs_dynamic_layers(name: str, options: str) -> None:
    """torch's own rule on x86: one range for all of x, and one for the states of each step, in 7 bits. No code of
    this data lies beside a tie, so the codes are equal, and the answers differ in the last places."""
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("torch has no fbgemm here")
    ours, theirs = pair(name, **OPTIONS[options])
    x = RNG.normal(size=(5, 3, 12)).astype(np.float32)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        layers = torch.ao.quantization.quantize_dynamic(theirs, {getattr(torch.nn, name)}, dtype=torch.qint8)
        with torch.no_grad():
            expected = flat(layers(torch.from_numpy(x)))
    finally:
        torch.backends.quantized.engine = before
    compiled = qc.compile(ours, "torch:dynamic", (x,))
    assert not compiled.program.python_nodes
    for got, want in zip(flat(compiled(x)), expected, strict=True):
        assert np.abs(got - want).max() < 1e-5


@pytest.mark.parametrize("qconfig", ["dynamic", "dynamic:per_tensor", "torch:dynamic", "torch:dynamic_per_channel"])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_weights_are_codes_and_answers_near(name: str, qconfig: str) -> None:
    ours, _ = pair(name, num_layers=2)
    x = RNG.normal(size=(6, 4, 12)).astype(np.float32)
    compiled = qc.compile(ours, qconfig, (x,), dynamic={"x": {0: "T", 1: "N"}})
    assert not compiled.program.python_nodes
    nodes = [node for node in compiled.graph.nodes if node.op == name.lower()]
    assert [str(node.operands[i].type.dtype) for node in nodes for i in (1, 2)] == ["i8"] * 4
    in_float = flat(qc.compile(ours, None, (x,))(x))
    of_reference = flat(qc.compile(ours, qconfig, (x,), target="reference")(x))
    for got, real, same in zip(flat(compiled(x)), in_float, of_reference, strict=True):
        assert np.abs(got - real).max() < 0.1
        assert np.abs(got - same).max() < CODES


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_row_has_the_same_bits_alone_and_in_a_batch(name: str) -> None:
    ours, _ = pair(name, batch_first=True)
    x = RNG.normal(size=(7, 5, 12)).astype(np.float32)
    compiled = qc.compile(ours, "dynamic", (x,), dynamic={"x": {0: "N", 1: "T"}})
    together = compiled(x)[0]
    for row in range(7):
        assert np.array_equal(compiled(x[row : row + 1])[0][0], together[row])
    for threads in (1, 3):
        again = qc.compile(ours, "dynamic", (x,), dynamic={"x": {0: "N", 1: "T"}}, threads=threads)(x)[0]
        assert np.array_equal(again, together)
    x[2, 1, 3] = np.nan
    with_nan = compiled(x)[0]
    others = [row for row in range(7) if row != 2]
    assert np.array_equal(with_nan[others], together[others]) and np.isnan(with_nan[2, 1:]).all()


def test_what_stays_float_says_why() -> None:
    ours, _ = pair("LSTM")
    x = RNG.normal(size=(5, 3, 12)).astype(np.float32)
    compiled = qc.compile(ours, "dynamic:float16", (x,))
    assert any("no weights of f16" in str(note) for note in compiled.graph.notes)
    given = get_qconfig("dynamic")
    assert isinstance(given, QConfig)
    ours.weight_hh_l0[0, 0] = np.inf
    compiled = qc.compile(ours, "dynamic", (x,))
    assert any("not finite" in str(note) for note in compiled.graph.notes)


def test_saved_and_loaded(tmp_path: Any) -> None:
    ours, _ = pair("GRU", num_layers=2)
    x = RNG.normal(size=(5, 3, 12)).astype(np.float32)
    compiled = qc.compile(ours, "dynamic", (x,))
    compiled.save(tmp_path / "model.safetensors")
    assert np.array_equal(qc.load(tmp_path / "model.safetensors")(x)[0], compiled(x)[0])
