"""LSTM, GRU and RNN: each direction becomes one op, with its gates in torch's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import dims, lift
from qcompiler.frontend.indexing import slice_axes
from qcompiler.frontend.onnx_equal_sizes import require_size
from qcompiler.frontend.onnx_ops.node import OnnxNode, onnx
from qcompiler.frontend.proxy import Proxy
from qcompiler.types import DType

_ACTIVATIONS: dict[str, tuple[str, tuple[float | None, float | None]]] = {
    "sigmoid": ("sigmoid", (None, None)),
    "tanh": ("tanh", (None, None)),
    "relu": ("relu", (None, None)),
    "softsign": ("softsign", (None, None)),
    "softplus": ("softplus", (None, None)),
    "affine": ("affine", (1.0, 0.0)),
    "leakyrelu": ("leaky_relu", (0.01, None)),
    "thresholdedrelu": ("thresholded_relu", (1.0, None)),
    "scaledtanh": ("scaled_tanh", (1.0, 1.0)),
    "hardsigmoid": ("hardsigmoid", (0.2, 0.5)),
    "elu": ("elu", (1.0, None)),
}
"""ONNX's name in lower case -> ours, and the defaults of alpha and beta; None where the function has no such
parameter."""


@onnx("LSTM")
def _lstm(n: OnnxNode) -> Any:
    attrs = {"input_forget": bool(n.attr("input_forget", 0))}
    names = ("gate_activation", "cell_activation", "output_activation")
    # ONNX has i o f c and, in P, i o f
    return _directions(n, "lstm", (0, 2, 3, 1), names, ("Sigmoid", "Tanh", "Tanh"), attrs, peepholes=(0, 2, 1))


@onnx("com.microsoft.DynamicQuantizeLSTM")
def _dynamic_lstm(n: OnnxNode) -> Any:
    """The weights are codes [directions, inputs, gates * units]; x, and the states of each step, are quantized by their
    range."""
    values = list(n.values) + [None] * (12 - len(n.values))
    weights = [_codes(n, index, index_of_zeros) for index, index_of_zeros in ((1, 9), (2, 11))]
    scales = [_scales(n, index, weight) for index, weight in zip((8, 10), weights)]
    held = replace(n, values=[values[0], *weights, *values[3:8], *scales])
    attrs = {"input_forget": bool(n.attr("input_forget", 0)), "scale_of": "tensor"}
    names = ("gate_activation", "cell_activation", "output_activation")
    defaults = ("Sigmoid", "Tanh", "Tanh")
    return _directions(held, "lstm", (0, 2, 3, 1), names, defaults, attrs, peepholes=(0, 2, 1), has_scales=True)


def _codes(n: OnnxNode, index: int, index_of_zeros: int) -> np.ndarray:
    """A weight of codes as i8 [directions, gates * units, inputs], without zero points."""
    codes, zeros = n.known(index), n.known(index_of_zeros, np.zeros(1, np.int8))
    if codes.ndim != 3 or codes.dtype not in (np.int8, np.uint8) or zeros.shape[:1] not in ((1,), codes.shape[:1]):
        raise n.refuse("the weights", expected="int8 or uint8, of rank 3", got=f"{codes.dtype}{list(codes.shape)}")
    zeros = zeros.reshape(len(zeros), 1, -1)
    centered = codes.astype(np.int32) - zeros.astype(np.int32)
    if centered.min(initial=0) < -128 or centered.max(initial=0) > 127:
        raise n.refuse("weights less their zero points", expected="8 bits: symmetric weights", got="more")
    return np.ascontiguousarray(centered.astype(np.int8).transpose(0, 2, 1))


def _scales(n: OnnxNode, index: int, weight: np.ndarray) -> np.ndarray:
    """The scales of a weight, one for each row: f32 [directions, gates * units]."""
    given = n.known(index).astype(np.float32)
    directions, rows, _ = weight.shape
    if given.size not in (1, directions, directions * rows):
        raise n.refuse("the scales of the weights", expected=f"{directions} or {directions * rows}", got=given.size)
    shape = (directions, rows) if given.size == directions * rows else (-1, 1)
    return np.ascontiguousarray(np.broadcast_to(given.reshape(shape), (directions, rows)))


@onnx("GRU")
def _gru(n: OnnxNode) -> Any:
    attrs = {"linear_before_reset": bool(n.attr("linear_before_reset", 0))}
    # ONNX has z r h
    return _directions(n, "gru", (1, 0, 2), ("gate_activation", "cell_activation"), ("Sigmoid", "Tanh"), attrs)


@onnx("RNN")
def _rnn(n: OnnxNode) -> Any:
    return _directions(n, "rnn", (0,), ("activation",), ("Tanh",), {})


def _directions(
    n: OnnxNode,
    op: str,
    order: Sequence[int],
    names: Sequence[str],
    defaults: Sequence[str],
    attrs: dict[str, Any],
    peepholes: Sequence[int] = (),
    has_scales: bool = False,
) -> tuple[Proxy, ...]:
    """The outputs of a node. order: which of ONNX's gates each gate is; names: of the attributes of activations, whose
    defaults follow; peepholes: which of ONNX's parts of P each part is; has_scales: the weights are codes, whose scales
    are the operands 8 and 9."""
    n.only("direction", "forward", "reverse", "bidirectional")
    direction, batch_first = n.attr("direction", "forward"), n.attr("layout", 0) == 1
    count = 2 if direction == "bidirectional" else 1
    x = n.floats(0)
    if batch_first:
        x = ops.transpose(x, (1, 0, 2))
    units = dims(lift(n.raw(2), n.trace))[-1]
    if not isinstance(units, int) or n.attr("hidden_size", units) != units:
        raise n.refuse("hidden_size is not that of R", expected=str(units), got=n.attr("hidden_size", None))
    lengths = lift(n.representable(n.raw(4)), n.trace, dtype=DType.I64) if n.has(4) else None
    activations = _activations(n, names, defaults, count)
    clip = n.attr("clip", None)
    found = []
    for index in range(count):

        def part(operand: int, label: str, order: Sequence[int], start: int = 0, index: int = index) -> Any:
            if not n.has(operand):
                return None
            return _gates(n, operand, index, f"{label}{'_reverse' * index}", [start + gate for gate in order], units)

        def state(operand: int, index: int = index) -> Any:
            if not n.has(operand):
                return None
            found = _entry(n.floats(operand), index, axis=1 if batch_first else 0)
            require_size(dims(x)[1], dims(found)[0], n.trace)  # exporters write states of the example's batch
            return found

        operands = [
            x,
            part(1, "w_ih", order),
            part(2, "w_hh", order),
            part(3, "bias_ih", order),
            part(3, "bias_hh", order, start=len(order)),
            state(5),
            lengths,
        ]
        if peepholes:
            operands += [state(6), part(7, "peephole", peepholes)]
        if has_scales:
            operands += [None, part(8, "ih_scale", order), part(9, "hh_scale", order)]
        reverse = direction == "reverse" or index == 1
        given = {**attrs, **activations[index], "reverse": reverse, "clip": None if clip is None else float(clip)}
        found.append(n.trace.emit_results(op, operands, given))
    y, *states = zip(*found)
    axis = 1 if batch_first else 0
    last = [ops.stack(each, axis) for each in states]
    if batch_first:
        return ops.stack([ops.transpose(each, (1, 0, 2)) for each in y], 2), *last
    return ops.stack(y, 1), *last


def _gates(n: OnnxNode, operand: int, direction: int, label: str, order: Sequence[int], units: int) -> Proxy:
    """The parameters of one direction, [gates * units, ...], with the gates of `order`."""
    value = n.raw(operand)
    if isinstance(value, np.ndarray):
        known = n.as_f32(value)[direction]
        data = np.concatenate([known[gate * units : (gate + 1) * units] for gate in order])
        return n.trace.constant(data, name=f"{n.name or n.op}.{label}")
    own = _entry(n.floats(operand), direction, axis=0)
    return ops.concat([slice_axes(own, {0: slice(gate * units, (gate + 1) * units)}) for gate in order], axis=0)


def _entry(x: Proxy, index: int, axis: int) -> Proxy:
    """One of the entries along an axis, without the axis."""
    return ops.squeeze(slice_axes(x, {axis: slice(index, index + 1)}), axis)


def _activations(n: OnnxNode, names: Sequence[str], defaults: Sequence[str], directions: int) -> list[dict[str, Any]]:
    """The attributes that name the activations and give their parameters, for each direction. ONNX lists a parameter
    for those activations alone that have it, in their order."""
    listed = n.attr("activations", None) or list(defaults) * directions
    if len(listed) != len(names) * directions:
        raise n.refuse("activations", expected=f"{len(names) * directions} names", got=listed)
    alphas, betas = (list(n.attr(f"activation_{which}", None) or ()) for which in ("alpha", "beta"))
    found: list[tuple[str, float, float]] = []
    for given in listed:
        name = given.decode() if isinstance(given, bytes) else given
        if name.lower() not in _ACTIVATIONS:
            raise n.refuse(f"the activation {name!r} is not supported", expected=", ".join(sorted(_ACTIVATIONS)))
        ours, (alpha, beta) = _ACTIVATIONS[name.lower()]
        found.append((ours, _next(alphas, alpha), _next(betas, beta)))
    each = [found[i : i + len(names)] for i in range(0, len(found), len(names))]
    return [
        {
            **{name: function for name, (function, _, _) in zip(names, part)},
            "alphas": tuple(alpha for _, alpha, _ in part) if any(a for _, a, _ in part) else None,
            "betas": tuple(beta for _, _, beta in part) if any(b for _, _, b in part) else None,
        }
        for part in each
    ]


def _next(given: list[float], default: float | None) -> float:
    """The next of the given parameters, if the function has it."""
    if default is None:
        return 0.0
    return float(str(np.float32(given.pop(0)))) if given else default
