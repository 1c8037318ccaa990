"""Recurrent layers as ONNX's ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompiler.export.onnx.builder import ELEMENTS
from qcompiler.export.onnx.cells import ACTIVATIONS, scanned
from qcompiler.export.onnx.node import NodeWriter, Refusal, writes
from qcompiler.ir import Const, Node, Value
from qcompiler.opdef import op_of
from qcompiler.ops.recurrent import Gru, Lstm, Rnn
from qcompiler.types import DType

_ONNX_GATES = {Lstm: (0, 3, 1, 2), Gru: (1, 0, 2), Rnn: (0,)}
"""Which of our gates each of ONNX's is: i o f c of i f g o, z r h of r z n."""


@writes(Lstm, Gru, Rnn)
def recurrent(w: NodeWriter) -> list[str]:
    """ONNX's op, with constant weights in its order of gates; else a Scan. Two layers that read the same sequence in
    both directions are one op, as ONNX's own exporters write them."""
    if any(value is not None and value.type.is_quantized for value in w.node.operands):
        raise Refusal("a recurrent layer on codes")
    if not _fits(w.node):
        return scanned(w)
    if id(w.node) in w.model.written_ahead:
        return _results(w, w.model.written_ahead.pop(id(w.node)), int(w.op.reverse))
    partner = _partner(w)
    layers = [w] if partner is None else [w, NodeWriter(w.model, partner)]
    if w.op.reverse:
        layers.reverse()
    made = _op(w, layers)
    if partner is None:
        return _results(w, made, None)
    w.model.written_ahead[id(partner)] = made
    return _results(w, made, int(w.op.reverse))


def _fits(node: Node) -> bool:
    """Whether a layer is ONNX's op: with constant, real weights, and no projection."""
    op: Any = op_of(node)
    fixed = [_operand(node, index) for index in (1, 2, 3, 4, *((8,) if isinstance(op, Lstm) else ()))]
    projects = isinstance(op, Lstm) and op.w_hr is not None
    return op.ih_scale is None and not projects and all(isinstance(value, Const | None) for value in fixed)


def _operand(node: Node, index: int) -> Value | None:
    return node.operands[index] if index < len(node.operands) else None


def _partner(w: NodeWriter) -> Node | None:
    """The layer that walks the same sequence in the other direction, if it can be written here."""
    return next((other for other in w.value(0).users if other is not w.node and _is_partner(w, other)), None)


def _is_partner(w: NodeWriter, other: Node) -> bool:
    node, done = w.node, w.model.done
    if other.op != node.op or id(other) in done or not _fits(other):
        return False
    layer: Any = op_of(other)
    if bool(layer.reverse) == bool(w.op.reverse) or {**other.attrs, "reverse": 0} != {**node.attrs, "reverse": 0}:
        return False
    if any(_operand(other, index) is not _operand(node, index) for index in (0, 6)):
        return False
    parts = [(_operand(node, i), _operand(other, i)) for i in (2, 5, *((7, 8) if isinstance(w.op, Lstm) else ()))]
    if any((a and a.type.shape) != (b and b.type.shape) for a, b in parts):
        return False
    return all(value is None or value.producer is None or id(value.producer) in done for value in other.operands)


def _op(w: NodeWriter, layers: Sequence[NodeWriter]) -> list[str]:
    """The outputs of one op for the layers of its directions, of which all but the direction and operands are those of
    w."""
    op, order = w.op, _ONNX_GATES[type(w.op)]
    units = w.type(2).sizes[0] // len(order)

    def gates(layer: NodeWriter, index: int, places: tuple[int, ...] = order) -> np.ndarray:
        data = layer.data(index, op.operands[index].name).reshape(len(places), units, -1)
        return np.concatenate([data[place] for place in places])

    def bias(layer: NodeWriter, index: int) -> np.ndarray:
        return gates(layer, index)[:, 0] if layer.has(index) else np.zeros(len(order) * units, np.float32)

    def state(index: int) -> str:
        if not w.has(index):
            return ""
        each = [w.emit("Unsqueeze", layer.x(index), w.ints([0])) for layer in layers]
        return each[0] if len(each) == 1 else w.emit("Concat", *each, axis=0)

    given = [w.x(), *(w.constant(np.stack([gates(layer, i) for layer in layers]), "wr"[i - 1]) for i in (1, 2))]
    has_bias = any(layer.has(index) for layer in layers for index in (3, 4))
    biases = np.stack([np.concatenate([bias(layer, index) for index in (3, 4)]) for layer in layers])
    given.append(w.constant(biases.astype(np.float32), "b") if has_bias else "")
    if w.has(6):
        steps = w.emit("Gather", w.emit("Shape", w.x()), w.ints([0]), axis=0)
        bounded = w.emit("Min", w.emit("Max", w.x(6), w.ints([0])), steps)
        given.append(w.emit("Cast", bounded, to=int(ELEMENTS[DType.I32])))
    else:
        given.append("")
    given.append(state(5))
    direction = "bidirectional" if len(layers) == 2 else "reverse" if op.reverse else "forward"
    fields: dict[str, object] = {"hidden_size": units, "direction": direction}
    if isinstance(op, Lstm):
        given.append(state(7))
        peepholes = [gates(layer, 8, (0, 2, 1))[:, 0] for layer in layers] if w.has(8) else []
        given.append(w.constant(np.stack(peepholes), "p") if peepholes else "")
        fields["input_forget"] = int(op.input_forget)
    if isinstance(op, Gru):
        fields["linear_before_reset"] = int(op.linear_before_reset)
    named = [(ACTIVATIONS[name], given_) for name, given_ in zip(op.activations(), op.parameters())] * len(layers)
    alphas = [alpha for (_, has, _), (alpha, _) in named if has]
    betas = [beta for (_, _, has), (_, beta) in named if has]
    return w.emits(
        len(w.node.results),
        op.name.upper(),
        *given,
        activations=[name for (name, _, _), _ in named],
        activation_alpha=alphas or None,
        activation_beta=betas or None,
        clip=op.clip,
        **fields,
    )


def _results(w: NodeWriter, made: Sequence[str], direction: int | None) -> list[str]:
    """The results of one layer, of an op's outputs. direction: which of two it is, None if it is the only one."""
    y, *states = made

    def taken(x: str, axis: int) -> str:
        if direction is None:
            return w.emit("Squeeze", x, w.ints([axis]))
        return w.emit("Gather", x, w.constant(np.int64(direction), "direction"), axis=axis)

    last = [taken(state, 0) for state in states]
    if w.has(6):  # what a row without a step keeps
        idle = w.emit("Unsqueeze", w.emit("LessOrEqual", w.x(6), w.ints([0])), w.ints([1]))
        before = [w.x(index) if w.has(index) else w.number(0.0) for index in (5, 7)]
        last = [w.emit("Where", idle, old, new) for old, new in zip(before, last)]
    return [taken(y, 1), *last]
