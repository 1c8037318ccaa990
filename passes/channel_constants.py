"""Matches constants with one number for each channel, which arithmetic ops apply to a layer's result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompiler.ir import Const, Value
from qcompiler.ops.interfaces import Arithmetic, Weighted
from qcompiler.passes.rewrite import names_of


@dataclass(frozen=True)
class AfterLayer:
    """op(layer(x), const), where `const` has one number for each channel of `value`, the result of `layer`."""

    layer: Weighted
    value: Value
    const: Const
    numbers: np.ndarray
    """[channels]"""


def after_layer(op: Arithmetic) -> AfterLayer | str:
    """The layer whose result `op` combines with a constant, or why the constant cannot move into the layer."""
    value, const = variable_and_const(op)
    if value is None or const is None:
        return "no operand is constant"
    layer = Weighted.of(value.producer)
    if layer is None:
        return f"%{value.name} is not made by {names_of(Weighted)}"
    if layer.activation != "none" or layer.added is not None:
        return f"an activation or a residual of %{value.name} stands between"
    if layer.bias is not None and not layer.bias.is_const:
        return f"the bias %{layer.bias.name} is not constant"
    numbers = per_channel(const.data, value, layer.channel_axis)
    if numbers is None:
        return f"{const.type} is not one number a channel of {value.type}"
    return AfterLayer(layer, value, const, numbers)


def variable_and_const(op: Arithmetic) -> tuple[Value | None, Const | None]:
    """The operand that is not a constant, and the one that is; (None, None) if there is no such pair."""
    for value, const in ((op.x, op.y), (op.y, op.x)):
        if isinstance(const, Const) and not value.is_const:
            return value, const
    return None, None


def per_channel(data: np.ndarray, value: Value, axis: int) -> np.ndarray | None:
    """The numbers [channels] of a constant that varies only along the channels of `value`; otherwise None."""
    channels = value.type.shape[axis]
    if data.ndim > value.type.rank or not isinstance(channels, int):
        return None
    shape = (1,) * (value.type.rank - data.ndim) + data.shape
    if any(size != 1 for i, size in enumerate(shape) if i != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(data.reshape(-1), (channels,))
