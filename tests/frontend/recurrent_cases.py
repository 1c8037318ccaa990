"""Recurrent networks that tests compare with torch's: their options, modules and inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from qcompiler import nn

BOUND = 2e-6
"""The results are below 1. Ours are within 2^-24 of their exact values; torch adds up to 24 products and a few terms in
f32 for each of 6 steps and 2 layers, each with an error of 2^-24 of a sum below 3, and no step amplifies it."""


@dataclass(frozen=True)
class Case:
    """A network of torch.nn with 4 features and 5 units, and its input: 6 steps of 3 rows, or of none."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    batched: bool = True

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.options.items()), *([] if self.batched else ["one"])])

    @property
    def batch_first(self) -> bool:
        return bool(self.options.get("batch_first"))

    def input(self) -> np.ndarray:
        shape = ((3, 6, 4) if self.batch_first else (6, 3, 4)) if self.batched else (6, 4)
        return np.random.default_rng(7).normal(size=shape).astype(np.float32)


CASES = [
    Case("LSTM"),
    Case("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    Case("LSTM", {"proj_size": 3, "bidirectional": True, "num_layers": 2}),
    Case("LSTM", {"proj_size": 2, "bias": False}),
    Case("LSTM", {"num_layers": 3, "dropout": 0.5, "batch_first": True}, batched=False),
    Case("GRU"),
    Case("GRU", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    Case("GRU", {"bias": False, "bidirectional": True}, batched=False),
    Case("RNN"),
    Case("RNN", {"nonlinearity": "relu", "num_layers": 2, "bidirectional": True}),
    Case("RNN", {"bias": False, "batch_first": True}, batched=False),
]
CELLS = [
    (name, options)
    for name, more in (("LSTMCell", {}), ("GRUCell", {}), ("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu"}))
    for options in (more, {**more, "bias": False})
]


def pair_of_modules(case: Case) -> tuple[Any, Any]:
    """Our module and torch's, with the same parameters."""
    torch.manual_seed(3)
    theirs = getattr(torch.nn, case.name)(4, 5, **case.options).eval()
    ours = getattr(nn, case.name)(4, 5, **case.options)
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return ours, theirs


def random_states(case: Case) -> Any:
    """First states as the module takes them."""
    rng = np.random.default_rng(8)
    count = case.options.get("num_layers", 1) * (2 if case.options.get("bidirectional") else 1)
    sizes = [case.options.get("proj_size") or 5, 5][: 2 if case.name == "LSTM" else 1]
    rows = (3,) if case.batched else ()
    states = tuple(rng.normal(size=(count, *rows, size)).astype(np.float32) for size in sizes)
    return states if case.name == "LSTM" else states[0]


def flat(item: Any) -> list[np.ndarray]:
    """The arrays in nested results."""
    if isinstance(item, (tuple, list)):
        return [array for part in item for array in flat(part)]
    return [item.detach().numpy() if isinstance(item, torch.Tensor) else item]


def torch_answer(module: Any, x: np.ndarray, states: Any = None) -> list[np.ndarray]:
    """What a torch module gives."""
    given = tuple(map(torch.from_numpy, states)) if isinstance(states, tuple) else states
    given = torch.from_numpy(given) if isinstance(given, np.ndarray) else given
    with torch.no_grad():
        return flat(module(torch.from_numpy(x)) if given is None else module(torch.from_numpy(x), given))
