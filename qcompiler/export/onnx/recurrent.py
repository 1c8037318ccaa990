"""Recurrent layers as ONNX's."""

from __future__ import annotations

import numpy as np

from qcompiler.export.onnx.builder import ELEMENTS
from qcompiler.export.onnx.cells import ACTIVATIONS, scanned
from qcompiler.export.onnx.node import NodeWriter, Refusal, writes
from qcompiler.ir import Const
from qcompiler.ops.recurrent import Gru, Lstm, Rnn
from qcompiler.types import DType

_ONNX_GATES = {Lstm: (0, 3, 1, 2), Gru: (1, 0, 2), Rnn: (0,)}
"""Which of our gates each of ONNX's is: i o f c of i f g o, z r h of r z n."""


@writes(Lstm, Gru, Rnn)
def recurrent(w: NodeWriter) -> list[str]:
    """ONNX's op, with constant weights in its order of gates; else a Scan."""
    op, order = w.op, _ONNX_GATES[type(w.op)]
    if any(value is not None and value.type.is_quantized for value in w.node.operands):
        raise Refusal("a recurrent layer on codes")
    if op.is_static:
        raise Refusal("a recurrent layer with calibrated codes of its states")
    fixed = [w.value(index) for index in (1, 2, 3, 4) if w.has(index)]
    fixed += [w.value(8)] if isinstance(op, Lstm) and w.has(8) else []
    projects = isinstance(op, Lstm) and w.has(9)
    if op.ih_scale is not None or projects or not all(isinstance(value, Const) for value in fixed):
        return scanned(w)
    units = w.type(2).sizes[0] // len(order)

    def gates(index: int, places: tuple[int, ...] = order) -> np.ndarray:
        data = w.data(index, op.operands[index].name).reshape(len(places), units, -1)
        return np.concatenate([data[place] for place in places])

    given = [w.x(), w.constant(gates(1)[None], "w"), w.constant(gates(2)[None], "r")]
    biases = [gates(i)[:, 0] if w.has(i) else np.zeros(len(order) * units, np.float32) for i in (3, 4)]
    given.append(w.constant(np.concatenate(biases)[None].astype(np.float32), "b") if w.has(3) or w.has(4) else "")
    if w.has(6):
        steps = w.emit("Gather", w.emit("Shape", w.x()), w.ints([0]), axis=0)
        bounded = w.emit("Min", w.emit("Max", w.x(6), w.ints([0])), steps)
        given.append(w.emit("Cast", bounded, to=int(ELEMENTS[DType.I32])))
    else:
        given.append("")
    given.append(w.emit("Unsqueeze", w.x(5), w.ints([0])) if w.has(5) else "")
    fields: dict[str, object] = {"hidden_size": units, "direction": "reverse" if op.reverse else "forward"}
    if isinstance(op, Lstm):
        given.append(w.emit("Unsqueeze", w.x(7), w.ints([0])) if w.has(7) else "")
        given.append(w.constant(gates(8, (0, 2, 1))[:, 0][None], "p") if w.has(8) else "")
        fields["input_forget"] = int(op.input_forget)
    if isinstance(op, Gru):
        fields["linear_before_reset"] = int(op.linear_before_reset)
    named = [(ACTIVATIONS[name], given_) for name, given_ in zip(op.activations(), op.parameters())]
    alphas = [alpha for (_, has, _), (alpha, _) in named if has]
    betas = [beta for (_, _, has), (_, beta) in named if has]
    y, *states = w.emits(
        len(w.node.results),
        op.name.upper(),
        *given,
        activations=[name for (name, _, _), _ in named],
        activation_alpha=alphas or None,
        activation_beta=betas or None,
        clip=op.clip,
        **fields,
    )
    last = [w.emit("Squeeze", state, w.ints([0])) for state in states]
    if w.has(6):  # what a row without a step keeps
        idle = w.emit("Unsqueeze", w.emit("LessOrEqual", w.x(6), w.ints([0])), w.ints([1]))
        before = [w.x(index) if w.has(index) else w.number(0.0) for index in (5, 7)]
        last = [w.emit("Where", idle, old, new) for old, new in zip(before, last)]
    return [w.emit("Squeeze", y, w.ints([1])), *last]
