"""The float meaning of recurrent layers in torch ops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from qcompiler.export.torch.dynamic import dynamic_codes, dynamic_product
from qcompiler.export.torch.node import LAST, REALS, NodeWriter, Refusal, Tensor, cut, writes
from qcompiler.ops.recurrent import BY_ROW, Gru, Lstm, Rnn

_ACTIVATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "sigmoid": lambda x, a, b: torch.sigmoid(x),
    "tanh": lambda x, a, b: torch.tanh(x),
    "relu": lambda x, a, b: torch.relu(x),
    "affine": lambda x, a, b: x * a + b,
    "leaky_relu": lambda x, a, b: torch.where(x < 0, x * a, x),
    "thresholded_relu": lambda x, a, b: torch.where(x <= a, 0.0, x),
    "scaled_tanh": lambda x, a, b: torch.tanh(x * b) * a,
    "hardsigmoid": lambda x, a, b: torch.clamp(x * a + b, 0.0, 1.0),
    "elu": lambda x, a, b: torch.where(x < 0, torch.expm1(torch.clamp(x, None, 0.0)) * a, x),
    "softsign": lambda x, a, b: x / (torch.abs(x) + 1),
    "softplus": lambda x, a, b: torch.clamp(x, 0.0) + torch.log1p(torch.exp(-torch.abs(x))),
}


@writes(REALS, Lstm, Gru, Rnn)
def recurrent(w: NodeWriter) -> tuple[Tensor, ...]:
    """The reference's steps in float64, written out for each time."""
    op = w.op
    if op.is_static:
        raise Refusal("a recurrent layer with calibrated codes of its states")
    if op.ih_scale is not None and 0 in (w.type(1).shape[1], w.type(2).shape[1]):
        raise Refusal("the range of no elements")
    (steps,) = w.known(w.type().shape[:1], "a recurrent layer over a time")
    rows = w.type().shape[1]
    units = w.type(2).sizes[0] // op.gate_count
    names, parameters = op.activations(), op.parameters()

    def act(index: int, x: Tensor) -> Tensor:
        if op.clip is not None and index < 2:
            x = torch.clamp(x, -float(np.float32(op.clip)), float(np.float32(op.clip)))
        return _ACTIVATIONS[names[index]](x, *parameters[index])

    def wide(index: int) -> Tensor:
        return w.x(index).to(torch.float64) if w.has(index) else None

    def state(index: int, size: int) -> Tensor:
        found = wide(index)
        return w.buffer(np.zeros((1, size))).expand([w.size(rows), size]) if found is None else found

    def part(x: Tensor, index: int) -> Tensor:
        return cut(x, -1, index * units, (index + 1) * units)

    def times(x: Tensor, index: int, start: int = 0, stop: int = LAST) -> Tensor:
        """x by a weight's rows [start:stop], transposed, plus those of its bias."""
        weight, bias = wide(index), wide(index + 2)
        if op.ih_scale is None:
            y = torch.matmul(x, torch.transpose(cut(weight, 0, start, stop), 0, 1))
            return y if bias is None else y + cut(bias, 0, start, stop)
        by_row, scale = op.scale_of == BY_ROW, w.x((type(op).ih_scale, type(op).hh_scale)[index - 1].index)
        axes = [-1] if by_row else [0, 1, 2] if index == 1 else [0, 1]
        given = dynamic_codes(w, x.to(torch.float32), axes, by_row, 0, op.qmax)
        y = dynamic_product(*given, cut(weight, 0, start, stop), cut(scale, 0, start, stop))
        y = y if bias is None else y + cut(w.x(index + 2), 0, start, stop)
        return y.to(torch.float64)

    def product(h: Tensor, start: int = 0, stop: int = LAST) -> Tensor:
        return times(h, 2, start, stop)

    gates = times(wide(0), 1)

    def lstm(g: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        g, peephole = g + product(h), wide(8)
        i, f, o = part(g, 0), part(g, 1), part(g, 3)
        if peephole is not None:
            i, f = i + cut(peephole, 0, 0, units) * c, f + cut(peephole, 0, units, 2 * units) * c
        i = act(0, i)
        f = 1 - i if op.input_forget else act(0, f)
        c = f * c + i * act(1, part(g, 2))
        o = o if peephole is None else o + cut(peephole, 0, 2 * units, 3 * units) * c
        h = act(0, o) * act(2, c)
        return (torch.matmul(h, torch.transpose(wide(9), 0, 1)) if w.has(9) else h), c

    def gru(g: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        both = cut(g, -1, 0, 2 * units) + product(h, 0, 2 * units)
        r, z = act(0, part(both, 0)), act(0, part(both, 1))
        linear_before = op.linear_before_reset
        inner = r * product(h, 2 * units) if linear_before else product(r * h, 2 * units)
        n = act(1, part(g, 2) + inner)
        return (n + z * (h - n),)

    def rnn(g: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        return (act(0, g + product(h)),)

    states: tuple[Tensor, ...]
    step: Callable[..., tuple[Tensor, ...]]
    if isinstance(op, Lstm):
        step, states = lstm, (state(5, w.type(2).sizes[1]), state(7, units))
    elif isinstance(op, Gru):
        step, states = gru, (state(5, units),)
    else:
        step, states = rnn, (state(5, units),)
    outputs: list[Tensor] = [None] * steps
    for t in reversed(range(steps)) if op.reverse else range(steps):
        after = step(torch.select(gates, 0, t), *states)
        if w.has(6):
            active = torch.unsqueeze(w.x(6) > t, 1)
            after = tuple(torch.where(active, new, old) for new, old in zip(after, states))
            outputs[t] = torch.where(active, after[0], 0.0)
        else:
            outputs[t] = after[0]
        states = after
    return torch.stack(outputs, 0).to(torch.float32), *(state.to(torch.float32) for state in states)
