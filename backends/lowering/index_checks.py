"""Checks of indices when a program runs: which nodes have one, and what a program says of it.

A program with checks has one output more than its graph, i64 [checks, 3]. For each check step, in their order, it holds
how many indices were outside of their axis, the last of these, and the size of that axis. `Program.run` takes it off
the outputs and refuses the call. Does not own the kernel (`kernels/gather.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np

from qcompiler.backends.kernels import gather as kernels
from qcompiler.backends.lowering.context import Lowering
from qcompiler.backends.lowering.node import NodeLowering, Steps
from qcompiler.backends.lowering.rule import LoweringRule
from qcompiler.backends.lowering.views import TensorView, row_major_strides
from qcompiler.backends.program.image import CHECK_WORDS
from qcompiler.dims import DimLike
from qcompiler.errors import InputError
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.ops.elementwise import Cast
from qcompiler.ops.indexing import Gather, GatherElements, Picker
from qcompiler.ops.reduce import Argmax, Argmin
from qcompiler.ops.scatter import Scatter
from qcompiler.ops.shape import Expand, Reshape, Slice, Transpose
from qcompiler.ops.sort import Argsort
from qcompiler.types import DType


def checked_nodes(rules: Mapping[Node, LoweringRule | str]) -> list[Node]:
    """The nodes whose kernels read indices that are not known to be inside."""
    return [
        node
        for node, rule in rules.items()
        if isinstance(rule, LoweringRule) and (Picker.of(node) or Scatter.of(node)) and not _is_inside(node)
    ]


def check_indices(s: NodeLowering, indices: TensorView, sizes: Sequence[int]) -> None:
    """Append the step that checks a node's indices into axes of these sizes: tuples along the last axis of `indices`,
    if there are several sizes.

    Raises:
        InputError: there are indices into an axis without elements.
    """
    if not indices.elements:
        return
    if any(size == 0 for size in sizes):
        raise InputError(f"an index of {s.node.op} is outside", expected="an axis with elements")
    place = s.lowering.next_check(s.node)
    if place is None:
        return
    depth = len(sizes)
    s.call(
        kernels.check_indices(wide=indices.dtype.itemsize == 8, depth=depth),
        kernels.IndexCheck(
            indices=indices, found=place, sizes=(*sizes, *[1] * (kernels.AXES - depth)), picks=indices.elements // depth
        ),
        bytes=indices.elements * indices.dtype.itemsize,
    )


def check_nothing(lowering: Lowering) -> None:
    """Append a copy of zeros to the output of the checks: there are none with these sizes, but it must be written."""
    assert lowering.found is not None  # as the caller has checked
    zeros, strides = np.zeros(CHECK_WORDS, np.int64), row_major_strides((CHECK_WORDS,), 8)
    x, y = (
        TensorView(buffer, zeros.dtype, zeros.shape, strides)
        for buffer in (lowering.builder.constant(zeros), lowering.found)
    )
    Steps(lowering).copy(x, y)


def refuse_outside(found: np.ndarray, names: Sequence[str], graph: Graph) -> NoReturn:
    """Raise the InputError of the first check, of the nodes of these names, that found an index outside."""
    name, (_, index, size) = next(pair for pair in zip(names, found.tolist()) if pair[1][0])
    node = next(node for node in graph.nodes if node.name == name)
    raise InputError(
        f"an index of {node.op} is outside", where=node.describe(), expected=f"{-size} to {size - 1}", got=index
    )


def _is_inside(node: Node) -> bool:
    """Whether no index of a node can be outside: constants, or the places of elements along an axis as long."""
    single = Gather.of(node) or GatherElements.of(node)
    if single is not None:
        size = single.x.type.shape[single.axis]
        return _bound(single.indices) == size or (
            isinstance(single.indices, Const) and _fits(single.indices.data, size)
        )
    op = Picker.of(node) or Scatter.of(node)
    assert op is not None
    if not isinstance(op.indices, Const):
        return False
    return all(_fits(column, size) for column, size in zip(np.moveaxis(op.indices.data, -1, 0), op.x.type.shape))


def _fits(indices: np.ndarray, size: DimLike) -> bool:
    """Whether known indices are inside of an axis, whatever the sizes of a call."""
    if not isinstance(size, int):
        return False
    return not indices.size or -size <= int(indices.min()) <= int(indices.max()) < size


def _bound(indices: Value) -> DimLike | None:
    """The size of the axis of which these are places; None if that is not known."""
    node = indices.producer
    while (moved := _moved(node)) is not None:
        node = moved.producer
    found = Argsort.of(node) or Argmax.of(node) or Argmin.of(node)
    return None if found is None else found.x.type.shape[found.axis]


def _moved(node: Node | None) -> Value | None:
    """The value whose elements a node moves, or casts to integers of at least 32 bits; None for any other node."""
    cast = Cast.of(node)
    if cast is not None:
        return cast.x if cast.dtype in (DType.I32, DType.I64) and cast.x.type.dtype.is_integer else None
    moves = Reshape.of(node) or Transpose.of(node) or Slice.of(node) or Expand.of(node)
    return None if moves is None else moves.x
