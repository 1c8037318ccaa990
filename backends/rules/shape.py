"""reshape and dropout: no step at all where memory already lies as the result wants it."""

from __future__ import annotations

from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import layout_strides


@lowers("reshape")
def reshape(s: NodeLowering) -> None:
    shape = s.lowering.shape(s.out)
    x = s.row_major(0)
    row = x.moved(0, shape, layout_strides(shape, x.dtype.itemsize, None))
    if s.out.layout is None:
        s.share(row)
    else:
        s.copy(row, s.result())


@lowers("dropout")
def dropout(s: NodeLowering) -> None:
    if s.out.layout == s.type(0).layout:
        s.share(s.operand(0))
    else:
        s.copy(s.operand(0), s.result())
