"""Recurrent networks of several layers and directions, from the ops lstm, gru and rnn; and single steps of them.

Each layer in each direction is one op on a sequence [T, N, features]. The results of both directions are concatenated
along the features, and layers follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import functional as F
from qcompiler.frontend.array_ops import binary, lift, rank, trace_of
from qcompiler.frontend.functional.layers import linear
from qcompiler.frontend.indexing import slice_axes, split_at
from qcompiler.frontend.proxy import Proxy
from qcompiler.types import DType


@dataclass(frozen=True)
class Layer:
    """The parameters of one layer in one direction, with torch's shapes. w_hr: the projection of an lstm.

    ih_scale, hh_scale: where weights are plain codes, their scales. product: what multiplies in cells.
    """

    w_ih: Any
    w_hh: Any
    bias_ih: Any = None
    bias_hh: Any = None
    w_hr: Any = None
    ih_scale: Any = None
    hh_scale: Any = None
    product: Callable[..., Any] = field(default=linear, kw_only=True)

    @staticmethod
    def listed(flat: Sequence[Any], has_biases: bool, count: int) -> list[Layer]:
        """The layers in torch's flat list of parameters: for each of them w_ih, w_hh, the biases if it has any, and
        w_hr if it projects its states."""
        size, biases = len(flat) // count, 2 if has_biases else 0
        parts = [list(flat[i : i + size]) for i in range(0, len(flat), size)]
        return [Layer(*part[:2], *(part[2:4] if biases else (None, None)), *part[2 + biases :]) for part in parts]


def recurrent(
    op: str,
    x: Any,
    states: Sequence[Any],
    layers: Sequence[Layer],
    *,
    bidirectional: bool = False,
    batch_first: bool = False,
    lengths: Any = None,
    **attrs: Any,
) -> tuple[Proxy, ...]:
    """y and the last states of a network of lstm, gru or rnn layers.

    Args:
        x: [T, N, I], [N, T, I] if `batch_first`, or [T, I] without a batch.
        states: the first states, each [layers, N, R] ([layers, R] without a batch), or None for zeros.
        layers: for each layer that of the forward direction, then that of the other one if `bidirectional`.
        lengths: [N], how many steps of each row of the batch are read; None for all.

    Returns:
        y, with the axes of x and the features of both directions; then the last states, with the shape of the first.
    """
    trace = trace_of(x, *states)
    x = ops.single(x, op, trace)
    given = [None if state is None else ops.single(state, op, trace) for state in states]
    batched, directions = rank(x) == 3, 2 if bidirectional else 1
    if rank(x) not in (2, 3) or any(state is not None and rank(state) != rank(x) for state in given):
        raise TraceError(
            f"operands of {op}",
            where=trace.place(),
            expected="a sequence of rank 3, or of rank 2 without a batch, and states of the same rank",
            got=", ".join(repr(each) for each in (x, *given) if each is not None),
        )
    if not batched:
        x, given = ops.expand_dims(x, 1), [None if state is None else ops.expand_dims(state, 1) for state in given]
    elif batch_first:
        x = ops.transpose(x, (1, 0, 2))
    for state in given:
        if state is not None and state.value.type.shape[0] != len(layers):
            raise TraceError(
                f"states of {op}",
                where=trace.place(),
                expected=f"one for each of {len(layers)} layers",
                got=repr(state),
            )
    ends = None if lengths is None else lift(lengths, trace, dtype=DType.I64)
    last: list[list[Proxy]] = []
    for index in range(0, len(layers), directions):
        parts = []
        for direction in range(directions):
            first = [None if state is None else _entry(state, index + direction) for state in given]
            y, *after = _layer(op, x, first, layers[index + direction], ends, reverse=direction == 1, **attrs)
            parts.append(y)
            last.append(after)
        x = ops.concat(parts, axis=2)
    stacked = [ops.concat([ops.expand_dims(state, 0) for state in each], axis=0) for each in zip(*last)]
    if not batched:
        return tuple(ops.squeeze(each, 1) for each in (x, *stacked))
    return ops.transpose(x, (1, 0, 2)) if batch_first else x, *stacked


def _entry(states: Proxy, index: int) -> Proxy:
    """One of the states that are stacked along axis 0."""
    return ops.squeeze(slice_axes(states, {0: slice(index, index + 1)}), 0)


def _layer(
    op: str, x: Proxy, states: Sequence[Proxy | None], layer: Layer, lengths: Proxy | None, **attrs: Any
) -> tuple[Proxy, ...]:
    """One layer in one direction: y and the last states."""
    given = (layer.bias_ih, layer.bias_hh, layer.w_hr, layer.ih_scale, layer.hh_scale)
    bias_ih, bias_hh, w_hr, *scales = (None if each is None else ops.single(each, op, x.trace) for each in given)
    weights = [layer.w_ih, layer.w_hh]
    if layer.ih_scale is None:
        weights = [ops.single(weight, op, x.trace) for weight in weights]
    weights += [bias_ih, bias_hh]
    first, *others = states
    more = [*([*others, None, w_hr] if others else []), *scales]
    return x.trace.emit_results(op, [x, *weights, first, lengths, *more], attrs)


def lstm_cell(x: Any, states: Sequence[Any], layer: Layer) -> tuple[Any, Any]:
    """One step of an lstm: the next h and c."""
    h, c = states
    gates = binary("add", layer.product(x, layer.w_ih, layer.bias_ih), layer.product(h, layer.w_hh, layer.bias_hh))
    i, f, g, o = _parts(gates, 4)
    c = binary("add", binary("mul", F.sigmoid(f), c), binary("mul", F.sigmoid(i), F.tanh(g)))
    return binary("mul", F.sigmoid(o), F.tanh(c)), c


def gru_cell(x: Any, h: Any, layer: Layer) -> Any:
    """One step of a gru: the next h."""
    own = _parts(layer.product(x, layer.w_ih, layer.bias_ih), 3)
    kept = _parts(layer.product(h, layer.w_hh, layer.bias_hh), 3)
    r, z = (F.sigmoid(binary("add", *pair)) for pair in list(zip(own, kept))[:2])
    n = F.tanh(binary("add", own[2], binary("mul", r, kept[2])))
    return binary("add", n, binary("mul", z, binary("sub", h, n)))


def rnn_cell(x: Any, h: Any, layer: Layer, nonlinearity: str) -> Any:
    """One step of an rnn: the next h. nonlinearity: tanh or relu."""
    total = binary("add", layer.product(x, layer.w_ih, layer.bias_ih), layer.product(h, layer.w_hh, layer.bias_hh))
    return F.tanh(total) if nonlinearity == "tanh" else F.relu(total)


def _parts(gates: Proxy, count: int) -> list[Proxy]:
    """The gates, which lie one after the other along the last axis."""
    size = int(gates.value.type.shape[-1]) // count  # type: ignore[arg-type]
    return split_at(gates, [size * i for i in range(1, count)], -1)
