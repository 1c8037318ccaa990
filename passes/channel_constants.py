"""Constants that arithmetic applies to the channels of a value."""

from __future__ import annotations

import numpy as np

from qcompiler.ir import Const, Value
from qcompiler.ops.interfaces import Arithmetic


def variable_and_const(op: Arithmetic) -> tuple[Value | None, Const | None]:
    """The operand that is no constant, and the one that is; None twice if there is no such pair."""
    for value, const in ((op.x, op.y), (op.y, op.x)):
        if isinstance(const, Const) and not value.is_const:
            return value, const
    return None, None


def per_channel(data: np.ndarray, value: Value, axis: int) -> np.ndarray | None:
    """[channels] of a constant that varies along the channels of `value` alone; else None."""
    channels = value.type.shape[axis]
    if data.ndim > value.type.rank or not isinstance(channels, int):
        return None
    shape = (1,) * (value.type.rank - data.ndim) + data.shape
    if any(size != 1 for i, size in enumerate(shape) if i != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(data.reshape(-1), (channels,))
