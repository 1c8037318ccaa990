"""One binding of a graph's symbolic sizes while it is lowered: where values lie, and the calls so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qcompiler.artifact.mapped_file import forget_pages
from qcompiler.backends.kernel_ir.definition import KernelKey
from qcompiler.backends.lowering.views import (
    SLACK,
    TensorView,
    before_halo,
    bound_shape,
    layout_strides,
    row_major_strides,
    storage_bytes,
)
from qcompiler.backends.program.builder import BufferRef, ProgramBuilder, View
from qcompiler.backends.target import Target
from qcompiler.ir import Const, Node, Value
from qcompiler.types import Layout, TensorType

_LARGE = 1 << 16
"""Constants of at least this many bytes are copied when memory is planned, and not compared with others."""


@dataclass
class Call:
    """A kernel call that waits for its kernel."""

    key: KernelKey[Any]
    args: list[Any]
    reads: list[Any]
    writes: list[Any]
    node: str
    macs: int
    bytes: int
    disjoint: bool


@dataclass
class PythonCall:
    """A node that runs as its numpy reference."""

    node: Node
    function: Callable[..., None]
    reads: list[View]
    writes: list[View]


@dataclass
class Lowering:
    """One binding being lowered: places of values, and calls in order. packed: arrays made from constants, shared by
    bindings."""

    builder: ProgramBuilder
    target: Target
    sizes: dict[str, int]
    packed: dict[tuple[str, str], np.ndarray]
    places: dict[Value, TensorView] = field(default_factory=dict)
    row_major: dict[Value, TensorView] = field(default_factory=dict)
    calls: list[Call | PythonCall] = field(default_factory=list)

    def shape(self, type: TensorType) -> tuple[int, ...]:
        return bound_shape(type, self.sizes)

    def place(self, value: Value) -> TensorView:
        """Where a value lies; constants are placed when first asked for."""
        if value not in self.places and isinstance(value, Const):
            ref = self._stored(value)
            self.places[value] = TensorView(
                ref, value.data.dtype, value.data.shape, row_major_strides(value.data.shape, value.data.itemsize)
            )
        return self.places[value]

    def _stored(self, value: Const) -> BufferRef:
        if value.data.nbytes < _LARGE:
            return self.builder.constant(value.data)

        def fill(block: np.ndarray) -> None:
            block.view(value.data.dtype).reshape(value.data.shape)[...] = value.data
            forget_pages(value.data)

        return self.builder.deferred(f"@{value.name}", value.data.nbytes, fill)

    def new(self, type: TensorType, name: str, layout: Layout | None) -> TensorView:
        """A buffer of the arena for a value of this type."""
        shape, dtype = self.shape(type), type.dtype.numpy
        handle = self.builder.buffer(storage_bytes(shape, dtype.itemsize, layout) + SLACK, name)
        strides = layout_strides(shape, dtype.itemsize, layout)
        return TensorView(handle, dtype, shape, strides, before_halo(strides, layout))
