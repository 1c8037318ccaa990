"""Recurrent layers of torch: each layer and direction is one op, sizes of the batch and of the sequence stay open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qcompiler as qc
from qcompiler.errors import TraceError
from qcompiler.interpreter import run
from tests.frontend.recurrent_cases import BOUND, CASES, CELLS, Case, flat, pair_of_modules, random_states, torch_answer


def ops_of(case: Case) -> int:
    """How many ops a network has."""
    return case.options.get("num_layers", 1) * (2 if case.options.get("bidirectional") else 1)


class WithStates(torch.nn.Module):
    """A network whose first states are inputs of their own."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any, *states: Any) -> Any:
        return self.module(x, states if len(states) == 2 else states[0])


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("with_states", [False, True])
def test_layers_are_kept_whole(case: Case, with_states: bool) -> None:
    _, theirs = pair_of_modules(case)
    x, states = case.input(), random_states(case) if with_states else None
    inputs = [x, *(flat(states) if with_states else [])]
    graph = qc.trace(WithStates(theirs).eval() if with_states else theirs, tuple(inputs))
    assert [node.op for node in graph.nodes].count(case.name.lower()) == ops_of(case)
    for got, want in zip(run(graph, inputs), torch_answer(theirs, x, states), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=BOUND)


@pytest.mark.parametrize(("name", "options"), CELLS)
def test_cells(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    cell = getattr(torch.nn, name)(4, 5, **options).eval()
    x = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)
    graph = qc.trace(cell, (x,), dynamic={"input": {0: "N"}})
    for rows in (x, x[:2]):
        for got, want in zip(run(graph, [rows]), torch_answer(cell, rows), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=BOUND)


class Tagger(torch.nn.Module):
    """Embeds tokens and tags them, with an op that only torch's decomposition brings down to known ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 8)
        self.lstm = torch.nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
        self.head = torch.nn.Linear(12, 3)

    def forward(self, tokens: Any) -> Any:
        y, (h, _) = self.lstm(self.embedding(tokens))
        return torch.logsumexp(self.head(y), 2), h


def test_sizes_stay_open() -> None:
    torch.manual_seed(4)
    model = Tagger().eval()
    tokens = np.random.default_rng(5).integers(0, 10, (3, 7))
    compiled = qc.compile(model, None, (tokens,), dynamic={"tokens": {0: "N", 1: "T"}})
    assert [node.op for node in compiled.graph.nodes].count("lstm") == 4
    for given in (tokens, tokens[:1], tokens[:2, :1]):
        for got, want in zip(flat(compiled(given)), torch_answer(model, given), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=4 * BOUND)


def test_exported_programs_hold_torchs_own_ops(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = Tagger().eval()
    tokens = np.random.default_rng(5).integers(0, 10, (3, 7))
    program = torch.export.export(model, (torch.from_numpy(tokens),), strict=False)
    torch.export.save(program, tmp_path / "tagger.pt2")
    for source in (program, str(tmp_path / "tagger.pt2")):
        graph = qc.trace(source)
        assert [node.op for node in graph.nodes].count("lstm") == 4
        for got, want in zip(run(graph, [tokens]), torch_answer(model, tokens), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=4 * BOUND)


class Packed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(4, 5)

    def forward(self, x: Any, lengths: Any) -> Any:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return torch.nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], total_length=6)[0]


def test_packed_sequences_are_refused_with_what_to_do() -> None:
    x, lengths = np.zeros((6, 3, 4), np.float32), np.array([6, 2, 3])
    with pytest.raises(TraceError, match="packed sequences"):
        qc.trace(Packed().eval(), (x, lengths))
