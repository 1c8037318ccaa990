"""Recurrent layers and cells: qcompiler.nn against torch's modules, compiled ones against the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import QCompilerError
from qcompiler.ops.recurrent import Lstm
from tests.frontend.recurrent_cases import BOUND, CASES, CELLS, Case, flat, pair_of_modules, random_states, torch_answer


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("with_states", [False, True])
def test_layers_give_what_torch_gives(case: Case, with_states: bool) -> None:
    ours, theirs = pair_of_modules(case)
    x, states = case.input(), random_states(case) if with_states else None
    found = flat(ours(x, states))
    for got, want in zip(found, torch_answer(theirs, x, states), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=BOUND)


@pytest.mark.parametrize("case", [case for case in CASES if case.batched], ids=str)
def test_lengths_are_those_of_packed_sequences(case: Case) -> None:
    ours, theirs = pair_of_modules(case)
    x, states, lengths = case.input(), random_states(case), np.array([6, 1, 4])
    given = torch.from_numpy(x)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        given, torch.from_numpy(lengths), batch_first=case.batch_first, enforce_sorted=False
    )
    with torch.no_grad():
        y, last = theirs(packed, _tensors(states))
    y = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=case.batch_first, total_length=6)[0]
    for got, want in zip(flat(ours(x, states, lengths=lengths)), flat((y, last)), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=BOUND)


def _tensors(states: Any) -> Any:
    return tuple(map(torch.from_numpy, states)) if isinstance(states, tuple) else torch.from_numpy(states)


@pytest.mark.parametrize(("name", "options"), CELLS)
@pytest.mark.parametrize("shape", [(3, 4), (4,)])
def test_cells_give_what_torch_gives(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    theirs = getattr(torch.nn, name)(4, 5, **options)
    ours = getattr(nn, name)(4, 5, **options)
    ours.load_state_dict(theirs.state_dict())
    rng = np.random.default_rng(2)
    x, h, c = (rng.normal(size=(*shape[:-1], n)).astype(np.float32) for n in (4, 5, 5))
    states = (h, c) if name == "LSTMCell" else h
    for given in (None, states):
        with torch.no_grad():
            expected = theirs(torch.from_numpy(x), None if given is None else _tensors(given))
        for got, want in zip(flat(ours(x, given)), flat(expected), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=BOUND)


class Tagger(nn.Module):
    """Two layers of lstm in both directions, whose lengths and first states are inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 9, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(18, 3)

    def forward(self, x: Any, h: Any, c: Any, lengths: Any) -> Any:
        y, (h, c) = self.lstm(x, (h, c), lengths=lengths)
        return self.head(y), h, c


def tagger_inputs(rows: int, steps: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, steps, 5)).astype(np.float32)
    h, c = rng.normal(size=(2, 4, rows, 9)).astype(np.float32)
    return x, h, c, rng.integers(0, steps + 2, rows)


DYNAMIC = {"x": {0: "N", 1: "T"}, "h": {1: "N"}, "c": {1: "N"}, "lengths": {0: "N"}}


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_row_has_the_same_bits_alone_in_a_batch_and_padded(threads: int) -> None:
    compiled = qc.compile(Tagger(), None, tagger_inputs(3, 4), dynamic=DYNAMIC, threads=threads)
    assert not compiled.program.python_nodes
    x, h, c, lengths = tagger_inputs(7, 6)
    together = compiled(x, h, c, lengths)
    longer = np.concatenate([x, np.full((7, 5, 5), np.nan, np.float32)], axis=1)
    padded = compiled(longer, h, c, np.minimum(lengths, 6))
    for row in range(7):
        alone = compiled(x[row : row + 1], h[:, row : row + 1], c[:, row : row + 1], lengths[row : row + 1])
        assert np.array_equal(alone[0][0], together[0][row])
        for state, of_all, of_padded in zip(alone[1:], together[1:], padded[1:]):
            assert np.array_equal(state[:, 0], of_all[:, row]) and np.array_equal(state[:, 0], of_padded[:, row])


def test_the_states_of_a_stream_continue_it() -> None:
    """Parts of a sequence, each with the states that the part before it left, give the bits of the whole sequence."""
    model = nn.GRU(5, 9, 2)
    x = tagger_inputs(6, 3)[0]
    h = np.zeros((2, 3, 9), np.float32)
    compiled = qc.compile(model, None, (x, h), dynamic={"x": {0: "T"}})
    whole, last = compiled(x, h)
    parts = []
    for part in (x[:1], x[1:1], x[1:4], x[4:]):
        y, h = compiled(part, h)
        parts.append(y)
    assert np.array_equal(np.concatenate(parts), whole) and np.array_equal(h, last)


def test_int8_gives_codes_to_their_states() -> None:
    x, h, c, lengths = tagger_inputs(3, 4)
    model = Tagger()
    compiled = qc.compile(model, "int8", (x, h, c, lengths), calibration_data=[(x, h, c, lengths)], dynamic=DYNAMIC)
    layers = [layer for node in compiled.graph.nodes if (layer := Lstm.of(node)) is not None]
    assert len(layers) == 4 and all(layer.is_static for layer in layers)
    assert not compiled.program.python_nodes
    got = compiled(x, h, c, lengths)
    for ours, interpreted in zip(got, qc.compile(compiled.graph, target="reference")(x, h, c, lengths)):
        assert np.array_equal(ours, interpreted)
    for ours, exact in zip(got, qc.compile(model, None, (x, h, c, lengths), dynamic=DYNAMIC)(x, h, c, lengths)):
        assert 0 < np.abs(ours - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.LSTM(4, 5, num_layers=0), "num_layers"),
        (lambda: nn.LSTM(4, 5, proj_size=5), "proj_size"),
        (lambda: nn.RNN(4, 5, nonlinearity="sigmoid"), "tanh or relu"),
        (lambda: nn.LSTM(4, 5)(np.zeros((1, 2, 3, 4), np.float32)), "rank 3"),
        (lambda: nn.GRU(4, 5)(np.zeros((2, 3, 4), np.float32), np.zeros((1, 5), np.float32)), "same rank"),
        (lambda: nn.GRU(4, 5)(np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 5), np.float32)), "each of 1 layers"),
        (lambda: nn.GRU(4, 5)(np.zeros((2, 3, 6), np.float32)), "w_ih of gru"),
        (lambda: nn.GRU(4, 5)(np.zeros((2, 3, 4), np.float32), lengths=np.array([1, 2])), "lengths of gru"),
        (lambda: nn.GRU(4, 5, 2, dropout=0.5).train()(np.zeros((2, 3, 4), np.float32)), "training mode"),
    ],
)
def test_mistakes(build: Any, message: str) -> None:
    with pytest.raises(QCompilerError, match=message):
        build()
