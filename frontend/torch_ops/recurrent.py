"""ATen ops of recurrent networks and of their cells.

torch's own ops loop over the steps, so torch.export needs to know how many there are, and takes long if there are many.
`kept_whole` has it record ops of a library of ours instead, which have no loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from qcompiler.errors import TraceError
from qcompiler.frontend.recurrent import Layer, gru_cell, lstm_cell, recurrent, rnn_cell
from qcompiler.frontend.source import user_place
from qcompiler.frontend.torch_ops.table import TABLE, aten
from qcompiler.ops.recurrent import Gru, Lstm, Rnn

_LIBRARY = "qcompiler_recurrent"
_STATES = {"lstm": 2, "gru": 1, "rnn_tanh": 1, "rnn_relu": 1}
"""torch's functions that are kept whole -> how many states they have."""


def _network(op: str, **attrs: Any) -> Callable[..., Any]:
    """The meaning of aten.lstm.input and its like. states: one tensor, or a list of them."""

    def meaning(
        x: Any,
        states: Any,
        params: Sequence[Any],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> Any:
        layers = Layer.listed(params, has_biases, num_layers * (2 if bidirectional else 1))
        given = list(states) if isinstance(states, (list, tuple)) else [states]
        return recurrent(op, x, given, layers, bidirectional=bidirectional, batch_first=batch_first, **attrs)

    return meaning


for _function, _meaning in (
    ("lstm", _network(Lstm.name)),
    ("gru", _network(Gru.name)),
    ("rnn_tanh", _network(Rnn.name, activation="tanh")),
    ("rnn_relu", _network(Rnn.name, activation="relu")),
):
    aten(f"{_function}.input")(_meaning)
    TABLE[f"{_LIBRARY}.{_function}.default"] = _meaning

aten("lstm_cell")(lambda x, states, *parameters: lstm_cell(x, states, Layer(*parameters)))
aten("gru_cell")(lambda x, h, *parameters: gru_cell(x, h, Layer(*parameters)))
aten("rnn_tanh_cell")(lambda x, h, *parameters: rnn_cell(x, h, Layer(*parameters), "tanh"))
aten("rnn_relu_cell")(lambda x, h, *parameters: rnn_cell(x, h, Layer(*parameters), "relu"))


@contextlib.contextmanager
def kept_whole(torch: Any) -> Iterator[None]:
    """While torch.export traces a module, torch.lstm and its like are recorded as one op each."""
    from torch.overrides import TorchFunctionMode

    replacements = _replacements(torch)

    class Whole(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            replacement = replacements.get(function)
            if function is torch._VF._pack_padded_sequence:
                raise TraceError(
                    "packed sequences are not supported in torch modules: their sizes depend on the lengths",
                    where=user_place(("/torch/",)),
                    hint="qcompiler.nn.LSTM, GRU and RNN take lengths= and load the state dicts of torch's",
                )
            if replacement is None:
                return function(*args, **(kwargs or {}))
            return replacement(*args)

    with Whole():
        yield


@cache
def _replacements(torch: Any) -> dict[Any, Callable[..., Any]]:
    """torch's functions -> ops of a library of ours with the same results, which is made at the first call."""
    library = torch.library.Library(_LIBRARY, "DEF")
    _keep.append(library)
    found: dict[Any, Callable[..., Any]] = {}
    for name, states in _STATES.items():
        results = ", ".join(["Tensor"] * (1 + states))
        library.define(
            f"{name}(Tensor x, Tensor[] states, Tensor[] params, bool has_biases, int num_layers, float dropout, "
            f"bool train, bool bidirectional, bool batch_first) -> ({results})"
        )
        torch.library.register_fake(f"{_LIBRARY}::{name}", _shapes, lib=library)
        op = getattr(getattr(torch.ops, _LIBRARY), name).default
        for function in {getattr(torch, name), getattr(torch._VF, name)}:
            found[function] = _called(op)
    return found


_keep: list[Any] = []
"""The library lives as long as the process."""


def _called(op: Any) -> Callable[..., Any]:
    def call(x: Any, states: Any, *args: Any) -> Any:
        return op(x, list(states) if isinstance(states, (list, tuple)) else [states], *args)

    return call


def _shapes(
    x: Any,
    states: Sequence[Any],
    params: Sequence[Any],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """Tensors with the shapes of the results."""
    features = states[0].shape[-1] * (2 if bidirectional else 1)
    return x.new_empty([*x.shape[:-1], features]), *(state.new_empty(state.shape) for state in states)
