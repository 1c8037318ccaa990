"""The float meaning of recurrent layers in torch ops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from qcompiler.export.torch.dynamic import dynamic_codes, dynamic_product
from qcompiler.export.torch.node import LAST, REALS, NodeWriter, Refusal, Tensor, cut, writes
from qcompiler.ops.recurrent import BY_ROW, Gru, Lstm, Rnn
from qcompiler.quantization import qmath
from qcompiler.types import QuantParams

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


def _gate_tanh(x: Tensor) -> Tensor:
    """Rule (9) of qmath."""
    bound = qmath.GATE_BOUND
    x = torch.where(x > -bound, x, -bound)
    v = torch.where(x < bound, x, bound) * 0.5
    u = v * v

    def polynomial(coefficients: tuple[float, ...]) -> Tensor:
        total = u * coefficients[0] + coefficients[1]
        for coefficient in coefficients[2:]:
            total = total * u + coefficient
        return total

    p, q = v * polynomial(qmath.GATE_P), polynomial(qmath.GATE_Q)
    return (p + p) * q / (p * p + q * q)


_STATIC_FUNCTIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "sigmoid": lambda x, a, b: _gate_tanh(x * 0.5) * 0.5 + 0.5,
    "tanh": lambda x, a, b: _gate_tanh(x),
    "relu": lambda x, a, b: torch.where(x < 0, 0.0, x),
}


@writes(REALS, Lstm, Gru, Rnn)
def recurrent(w: NodeWriter) -> tuple[Tensor, ...]:
    """The reference's steps in float64, or float32 where it is static, written out for each time."""
    op = w.op
    if op.ih_scale is not None and not op.is_static and 0 in (w.type(1).shape[1], w.type(2).shape[1]):
        raise Refusal("the range of no elements")
    (steps,) = w.known(w.type().shape[:1], "a recurrent layer over a time")
    rows = w.type().shape[1]
    units = w.type(2).sizes[0] // op.gate_count
    names, parameters = op.activations(), op.parameters()

    real = torch.float32 if op.is_static else torch.float64

    def act(index: int, x: Tensor) -> Tensor:
        if op.clip is not None and index < 2:
            x = torch.clamp(x, -float(np.float32(op.clip)), float(np.float32(op.clip)))
        functions = _STATIC_FUNCTIONS if op.is_static else _ACTIVATIONS
        return functions[names[index]](x, *parameters[index])

    def scaled(x: Tensor, quant: QuantParams) -> Tensor:
        """Rule (2): the codes of x less their zero point, as f32."""
        low, high = (w.buffer(np.float32(end - quant.zero_point[0])) for end in (quant.qmin, quant.qmax))
        x = x / w.buffer(quant.scales.reshape(()))
        x = torch.where(x > low, x, low)
        return torch.round(torch.where(x < high, x, high))

    def settled(x: Tensor, index: int = 0) -> Tensor:
        """A state as the next step reads it: static ones are those that codes stand for."""
        if not op.is_static:
            return x
        quant = op.c_params() if index else op.h_params()
        return scaled(x, quant) * w.buffer(quant.scales.reshape(()))

    def wide(index: int) -> Tensor:
        return w.x(index).to(real) if w.has(index) else None

    def state(index: int, size: int) -> Tensor:
        found = wide(index)
        if found is None:
            found = w.buffer(np.zeros((1, size))).to(real).expand([w.size(rows), size])
        return settled(found, int(index == 7))

    def part(x: Tensor, index: int) -> Tensor:
        return cut(x, -1, index * units, (index + 1) * units)

    def times(x: Tensor, index: int, start: int = 0, stop: int = LAST) -> Tensor:
        """x by a weight's rows [start:stop], transposed, plus those of its bias."""
        weight, bias = wide(index), wide(index + 2)
        if op.ih_scale is None:
            y = torch.matmul(x, torch.transpose(cut(weight, 0, start, stop), 0, 1))
            return y if bias is None else y + cut(bias, 0, start, stop)
        weight, scale = weight.to(torch.float64), w.x((type(op).ih_scale, type(op).hh_scale)[index - 1].index)
        if op.is_static:
            quant = op.x_params() if index == 1 else op.h_params()
            given = scaled(x, quant), w.buffer(quant.scales.reshape(())), w.buffer(np.float32(0))
        else:
            by_row = op.scale_of == BY_ROW
            axes = [-1] if by_row else [0, 1, 2] if index == 1 else [0, 1]
            given = dynamic_codes(w, x.to(torch.float32), axes, by_row, 0, op.qmax)
        y = dynamic_product(*given, cut(weight, 0, start, stop), cut(scale, 0, start, stop))
        y = y if bias is None else y + cut(w.x(index + 2), 0, start, stop)
        return y.to(real)

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
        c = settled(f * c + i * act(1, part(g, 2)), 1)
        o = o if peephole is None else o + cut(peephole, 0, 2 * units, 3 * units) * c
        h = settled(act(0, o) * act(2, c))
        return (torch.matmul(h, torch.transpose(wide(9), 0, 1)) if w.has(9) else h), c

    def gru(g: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        both = cut(g, -1, 0, 2 * units) + product(h, 0, 2 * units)
        r, z = act(0, part(both, 0)), act(0, part(both, 1))
        linear_before = op.linear_before_reset
        inner = r * product(h, 2 * units) if linear_before else product(r * h, 2 * units)
        n = act(1, part(g, 2) + inner)
        return (settled(n + z * (h - n)),)

    def rnn(g: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        return (settled(act(0, g + product(h))),)

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
