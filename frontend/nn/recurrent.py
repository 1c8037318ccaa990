"""Recurrent layers and cells. Parameters have torch's names, shapes and order of gates."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.functional.calling import no_training
from qcompiler.frontend.nn import init
from qcompiler.frontend.nn.module import Module
from qcompiler.frontend.recurrent import Layer, gru_cell, lstm_cell, recurrent, rnn_cell
from qcompiler.frontend.source import user_place
from qcompiler.ops.recurrent import Gru, Lstm, Recurrent, Rnn

_NONLINEARITIES = ("tanh", "relu")


class _Recurrent(Module):
    """Layers of one op, in one or both directions; the last states come as torch gives them."""

    op: ClassVar[type[Recurrent]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
    ) -> None:
        super().__init__()
        if num_layers < 1 or hidden_size < 1 or not 0 <= proj_size < hidden_size:
            raise TraceError(
                f"sizes of {type(self).__name__}",
                where=user_place(),
                expected="num_layers and hidden_size above 0, and proj_size from 0 to hidden_size - 1",
                got=f"num_layers={num_layers}, hidden_size={hidden_size}, proj_size={proj_size}",
            )
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional, self.proj_size = bidirectional, proj_size
        bound, gates = 1.0 / math.sqrt(hidden_size), self.op.gate_count * hidden_size
        state = proj_size or hidden_size
        for layer in range(num_layers):
            features = input_size if layer == 0 else state * (2 if bidirectional else 1)
            for end in self._directions():
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (gates, features), "weight_hh": (gates, state)}
                shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)} if bias else {}
                shapes |= {"weight_hr": (proj_size, hidden_size)} if proj_size else {}
                for name, shape in shapes.items():
                    self.register_parameter(f"{name}_l{layer}{end}", init.uniform(shape, bound))

    def _directions(self) -> tuple[str, ...]:
        """The end of the parameters' names, for each direction."""
        return ("", "_reverse") if self.bidirectional else ("",)

    def _layers(self) -> list[Layer]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        ends = [f"_l{layer}{end}" for layer in range(self.num_layers) for end in self._directions()]
        return [Layer(*(self._parameters.get(name + end) for name in names)) for end in ends]

    def _run(self, x: Any, states: list[Any], lengths: Any, **attrs: Any) -> tuple[Any, ...]:
        if self.dropout:
            no_training(f"{type(self).__name__} with dropout", self.training)
        return recurrent(
            self.op.name,
            x,
            states,
            self._layers(),
            bidirectional=self.bidirectional,
            batch_first=self.batch_first,
            lengths=lengths,
            **attrs,
        )

    def extra_repr(self) -> str:
        shown = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        given = [f"{name}={getattr(self, name)}" for name, default in shown.items() if getattr(self, name) != default]
        projection = [f"proj_size={self.proj_size}"] if self.proj_size else []
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *projection, *given])


class RNN(_Recurrent):
    """x [T, N, input_size] to (y [T, N, hidden_size], the last state [num_layers, N, hidden_size]).

    With `batch_first`, x and y are [N, T, features]; without a batch, [T, features]. If `bidirectional`, y has the
    features of both directions, and there are two states for each layer. The first state is zeros unless given.
    `lengths`, [N], gives the steps of each row, as torch's packed sequences do: y is 0 behind them.
    """

    op = Rnn

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        self.nonlinearity = _checked(nonlinearity)

    def forward(self, x: Any, hx: Any = None, lengths: Any = None) -> Any:
        return self._run(x, [hx], lengths, activation=self.nonlinearity)


class GRU(_Recurrent):
    """x [T, N, input_size] to (y [T, N, hidden_size], the last state); more in `RNN`."""

    op = Gru

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)

    def forward(self, x: Any, hx: Any = None, lengths: Any = None) -> Any:
        return self._run(x, [hx], lengths)


class LSTM(_Recurrent):
    """x [T, N, input_size] to (y [T, N, hidden_size], (the last h, the last c)); more in `RNN`. With `proj_size`, y and
    h have that many features."""

    op = Lstm

    def forward(self, x: Any, hx: Any = None, lengths: Any = None) -> Any:
        y, h, c = self._run(x, [None, None] if hx is None else list(hx), lengths)
        return y, (h, c)


class _Cell(Module):
    """One step of a recurrent layer."""

    op: ClassVar[type[Recurrent]]

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        bound, gates = 1.0 / math.sqrt(hidden_size), self.op.gate_count * hidden_size
        self.weight_ih = init.uniform((gates, input_size), bound)
        self.weight_hh = init.uniform((gates, hidden_size), bound)
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, init.uniform((gates,), bound) if bias else None)

    def _layer(self) -> Layer:
        return Layer(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)

    def _state(self, x: Any, given: Any) -> Any:
        """A state, or zeros of its shape."""
        if given is not None:
            return given
        return ops.expand(np.float32(0), (*ops.dims(ops.lift(x))[:-1], self.hidden_size))

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(_Cell):
    """x [N, input_size] and a state [N, hidden_size], zeros unless given, to the next state. Also without a batch."""

    op = Rnn

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh") -> None:
        super().__init__(input_size, hidden_size, bias)
        self.nonlinearity = _checked(nonlinearity)

    def forward(self, x: Any, hx: Any = None) -> Any:
        return rnn_cell(x, self._state(x, hx), self._layer(), self.nonlinearity)


class GRUCell(_Cell):
    """x [N, input_size] and a state [N, hidden_size], zeros unless given, to the next state. Also without a batch."""

    op = Gru

    def forward(self, x: Any, hx: Any = None) -> Any:
        return gru_cell(x, self._state(x, hx), self._layer())


class LSTMCell(_Cell):
    """x [N, input_size] and the states (h, c), zeros unless given, to the next (h, c). Also without a batch."""

    op = Lstm

    def forward(self, x: Any, hx: Any = None) -> Any:
        given = [None, None] if hx is None else hx
        return lstm_cell(x, [self._state(x, state) for state in given], self._layer())


def _checked(nonlinearity: str) -> str:
    if nonlinearity not in _NONLINEARITIES:
        raise TraceError("nonlinearity", where=user_place(), expected="tanh or relu", got=repr(nonlinearity))
    return nonlinearity
