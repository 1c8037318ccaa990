"""Lowers sorting."""

from __future__ import annotations

import math

from qcompiler.backends.kernels import sort as kernels
from qcompiler.backends.kernels.reduce import SEARCHED
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.ops.sort import Argsort


def _why_not_sorted(node: Node, target: Target) -> str | None:
    """Why no kernel sorts a node's operand, or None."""
    kind = str(Argsort(node).x.type.dtype)
    return None if kind in SEARCHED else f"no sort of {kind}"


@lowers("argsort", unless=_why_not_sorted)
def argsort(s: NodeLowering) -> None:
    op = Argsort(s.node)
    x, axis = s.row_major(op.x), op.axis
    s.call(
        kernels.argsort(dtype=str(op.x.type.dtype), descending=op.descending),
        kernels.Argsort(
            x=x,
            y=s.result(),
            outer=math.prod(x.shape[:axis]),
            size=x.shape[axis],
            inner=math.prod(x.shape[axis + 1 :]),
        ),
        bytes=x.elements * (x.dtype.itemsize + 8),
    )
