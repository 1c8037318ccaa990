"""One binding of a graph's symbolic sizes while it is lowered: where values lie, and the builder of its steps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qcompiler.artifact.mapped_file import forget_pages
from qcompiler.backends.lowering.views import (
    SLACK,
    TensorView,
    before_halo,
    bound_shape,
    layout_strides,
    row_major_strides,
    storage_bytes,
)
from qcompiler.backends.program.builder import ProgramBuilder
from qcompiler.backends.program.image import CHECK_WORDS
from qcompiler.backends.program.recorded import BufferHandle
from qcompiler.backends.target import Target
from qcompiler.ir import Const, Node, Value
from qcompiler.types import Layout, TensorType

_LARGE = 1 << 16
"""Constants of at least this many bytes are copied when the block of constants is packed, at the first link. They are
not compared with others to find equal ones."""


@dataclass
class Lowering:
    """One binding of sizes while it is lowered.

    Attributes:
        builder: collects the steps.
        memo: arrays made from constants, by (node, role). All bindings share them.
        views: the view of each value in memory.
        row_major: row-major copies of values that lie otherwise.
        records: scales and zero points joined to records for products, by these two values.
        widened: copies as i16 of memory that holds bytes, see `rules.widening`.
        checked: the nodes whose indices are checked. found: the output that takes what the checks find, or None.
        checks: how many checks there are so far.
    """

    builder: ProgramBuilder
    target: Target
    sizes: dict[str, int]
    memo: dict[tuple[str, str], np.ndarray]
    views: dict[Value, TensorView] = field(default_factory=dict)
    row_major: dict[Value, TensorView] = field(default_factory=dict)
    records: dict[tuple[Value, Value], TensorView] = field(default_factory=dict)
    widened: dict[tuple[Any, ...], TensorView] = field(default_factory=dict)
    checked: Collection[Node] = ()
    found: BufferHandle | None = None
    checks: int = 0

    def next_check(self, node: Node) -> TensorView | None:
        """Where the check of a node's indices writes what it finds; None if the node has no check."""
        if self.found is None or node not in self.checked:
            return None
        self.checks += 1
        itemsize = np.dtype(np.int64).itemsize
        offset = (self.checks - 1) * CHECK_WORDS * itemsize
        return TensorView(self.found, np.dtype(np.int64), (CHECK_WORDS,), (itemsize,), offset)

    def shape(self, type: TensorType) -> tuple[int, ...]:
        return bound_shape(type, self.sizes)

    def view(self, value: Value) -> TensorView:
        """The view of a value in memory. A constant gets its memory when it is first asked for."""
        if value not in self.views and isinstance(value, Const):
            ref = self._stored(value)
            self.views[value] = TensorView(
                ref, value.data.dtype, value.data.shape, row_major_strides(value.data.shape, value.data.itemsize)
            )
        return self.views[value]

    def _stored(self, value: Const) -> BufferHandle:
        if value.data.nbytes < _LARGE:
            return self.builder.constant(value.data)

        def fill(block: np.ndarray) -> None:
            block.view(value.data.dtype).reshape(value.data.shape)[...] = value.data
            forget_pages(value.data)

        return self.builder.deferred(f"@{value.name}", value.data.nbytes, fill)

    def new(self, type: TensorType, name: str, layout: Layout | None) -> TensorView:
        """Allocate a buffer of the arena for a value of this type."""
        shape, dtype = self.shape(type), type.dtype.numpy
        nbytes = storage_bytes(shape, dtype.itemsize, layout) + SLACK
        handle = self.builder.buffer(nbytes, name, is_empty=0 in shape)
        strides = layout_strides(shape, dtype.itemsize, layout)
        return TensorView(handle, dtype, shape, strides, before_halo(strides, layout))
