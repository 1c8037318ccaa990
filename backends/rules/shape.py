"""Lowers reshape and dropout, which need no step where the operand already lies as the result does; and sizes."""

from __future__ import annotations

import numpy as np

from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView, layout_strides
from qcompiler.ops.activations import Dropout
from qcompiler.ops.shape import Reshape, Size


@lowers("reshape")
def reshape(s: NodeLowering) -> None:
    shape = s.lowering.shape(s.out)
    x = s.row_major(Reshape(s.node).x)
    row = x.moved(0, shape, layout_strides(shape, x.dtype.itemsize, None))
    if s.out.layout is None:
        s.alias(row)
    else:
        s.copy(row, s.result())


@lowers("dropout")
def dropout(s: NodeLowering) -> None:
    x = Dropout(s.node).x
    if s.out.layout == x.type.layout:
        s.alias(s.view(x))
    else:
        s.copy(s.view(x), s.result())


@lowers("size")
def size(s: NodeLowering) -> None:
    op = Size(s.node)
    number = s.table(number_of, s.view(op.x).shape[op.axis])
    s.copy(TensorView(number, np.dtype(np.int64), (), ()), s.result())


def number_of(size: int) -> np.ndarray:
    """A size as i64 [1]."""
    return np.array([size], np.int64)
