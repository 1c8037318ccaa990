"""What a lowering rule works with: the calls that it appends, and the node's operands and results in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompiler.backends.kernel_ir.definition import Arguments
from qcompiler.backends.kernel_ir.kernel_key import A, KernelKey
from qcompiler.backends.lowering.context import Lowering
from qcompiler.backends.lowering.views import TensorView, layout_strides
from qcompiler.backends.program.recorded import BufferHandle, View
from qcompiler.binding import bound_attrs
from qcompiler.errors import LoweringError
from qcompiler.ir import Const, Node, Value
from qcompiler.opdef import opdef
from qcompiler.ops.interfaces import Weighted
from qcompiler.traced_size import whole
from qcompiler.types import Layout, TensorType

MAX_TABLE_BYTES = 2**30
"""A table that lowering computes takes at most this much memory."""


class Steps:
    """Appends calls of kernels to a program.

    Attributes:
        target: the target to emit code for.
        name: the name of the node that the steps belong to; "" if they belong to none.
    """

    def __init__(self, lowering: Lowering, name: str = "") -> None:
        self.lowering, self.target, self.name = lowering, lowering.target, name

    def call(
        self, kernel: KernelKey[A], arguments: Arguments[A], *, macs: int = 0, bytes: int = 0, disjoint: bool = False
    ) -> None:
        """Append a call of a kernel: `s.call(lookup_flat(), Lookup(x=x, table=t, y=y, count=n), bytes=...)`.

        Args:
            kernel: the kernel with its static arguments.
            arguments: its signature, filled with TensorViews and buffers, ints and floats. A pointer that this call
                does not use is None.
            macs: multiply-adds of the call.
            bytes: bytes that it reads and writes.
            disjoint: calls marked so write different bytes of a shared buffer, so no barrier is needed between them.
        """
        values: list[Any] = []
        reads: list[Any] = []
        written: list[Any] = []
        for parameter, argument in kernel.definition.arguments(arguments):
            if parameter.kind == "extent":
                values.append(whole(argument))
            elif parameter.kind == "scalar":
                values.append(float(np.float32(argument)))
            elif argument is None:
                values.append(None)
            else:
                values.append(argument.pointer)
                (written if parameter.written else reads).append(argument.pointer[0])
        self.lowering.builder.step(
            kernel, values, reads=reads, writes=written, node=self.name, macs=macs, bytes=bytes, disjoint=disjoint
        )

    def copy(self, x: TensorView, y: TensorView) -> None:
        """Append a copy between two views of one shape and any strides."""
        from qcompiler.backends.rules.copy import copy_strided

        copy_strided(self, x, y)


class NodeLowering(Steps):
    """One node while it is lowered.

    Methods take operands as values, which the op's class reads from the node: `s.view(Conv(s.node).x)`.

    Attributes:
        node: the node.
        attrs: its attrs with symbolic sizes evaluated.
    """

    def __init__(self, lowering: Lowering, node: Node) -> None:
        super().__init__(lowering, node.name)
        self.node = node
        self.attrs: Mapping[str, Any] = bound_attrs(opdef(node.op), node.attrs, lowering.sizes)

    # -- operands and results

    @property
    def out(self) -> TensorType:
        """The type of the first result."""
        return self.node.results[0].type

    @property
    def channel_stride(self) -> int:
        """The channel stride, in elements, of the first result, which lies channels last."""
        assert self.out.layout is not None
        return self.out.layout.channel_stride

    def view(self, value: Value) -> TensorView:
        """The view of a value where it lies, in the layout of its type."""
        return self.lowering.view(value)

    def row_major(self, value: Value) -> TensorView:
        """A row-major view of a value. If the value lies otherwise, it is copied, once for all users."""
        lies = self.lowering.view(value)
        if lies.is_row_major:
            return lies
        if value not in self.lowering.row_major:
            copy = self.lowering.new(value.type, f"{value.name}.row_major", None)
            self.copy(lies, copy)
            self.lowering.row_major[value] = copy
        return self.lowering.row_major[value]

    def channels_last(self, value: Value, channel_stride: int) -> TensorView:
        """A channels-last view, with this channel stride, of a value of rank 3 or more. It has the halo of the value's
        type; if the value lies otherwise, the view is of a copy without a halo."""
        lies = self.lowering.view(value)
        layout = Layout("channels_last", channel_stride)
        as_typed = layout if value.type.layout is None else replace(layout, halo=value.type.layout.halo)
        if lies.strides == layout_strides(lies.shape, lies.dtype.itemsize, as_typed):
            return lies
        copy = self.lowering.new(value.type, f"{value.name}.channels_last", layout)
        self.copy(lies, copy)
        return copy

    def channels_last_in_arena(self, value: Value, channel_stride: int) -> TensorView:
        """Like `channels_last`, but in the arena, where reading up to SLACK bytes past the end is legal."""
        lies = self.channels_last(value, channel_stride)
        if is_in_arena(lies):
            return lies
        copy = self.lowering.new(value.type, f"{value.name}.copy", Layout("channels_last", channel_stride))
        self.copy(lies, copy)
        return copy

    def constant(self, value: Value) -> np.ndarray:
        """The data of a constant."""
        if not isinstance(value, Const):
            raise LoweringError("an operand is not constant", where=self.node.describe(), got=str(value))
        return value.data

    def result(self, index: int = 0) -> TensorView:
        """The view to write a result to, in the layout of its type; the same at every call.

        If the node's rule is `strided`, the view may lie within a larger value. If the result has a halo, the first
        call appends the steps that fill its border.
        """
        value = self.node.results[index]
        if value not in self.lowering.views:
            lies = self.lowering.views[value] = self.lowering.new(value.type, value.name, value.type.layout)
            if value.type.layout is not None and value.type.layout.halo:
                from qcompiler.backends.rules.copy import fill_border

                fill_border(self, lies, value.type)
        return self.lowering.views[value]

    def alias(self, memory: TensorView, index: int = 0) -> None:
        """Let a result be memory that already holds it. The strides must be those of the result's layout."""
        value = self.node.results[index]
        strides = layout_strides(memory.shape, memory.dtype.itemsize, value.type.layout)
        if any(have != want and size != 1 for size, have, want in zip(memory.shape, memory.strides, strides)):
            raise LoweringError(
                "a view in another layout", where=self.node.describe(), expected=str(strides), got=str(memory.strides)
            )
        self.lowering.views[value] = memory

    # -- memory

    def new(self, type: TensorType, name: str, layout: Layout | None = None) -> TensorView:
        """Allocate a buffer of the arena for a value of this type."""
        return self.lowering.new(type, name, layout)

    def scratch(self, nbytes: int, name: str = "scratch") -> BufferHandle:
        """Allocate scratch memory of the arena for this node."""
        return self.lowering.builder.buffer(nbytes, f"{self.node.name}.{name}")

    def check_table(self, count: int, nbytes: int) -> None:
        """Raise LoweringError if a table of `count` entries, which lowering is about to compute, takes too much memory.

        nbytes: bytes that lowering needs for each entry.
        """
        if count * nbytes > MAX_TABLE_BYTES:
            raise LoweringError(
                "a table that the program needs is too large",
                where=self.node.describe(),
                expected=f"at most {MAX_TABLE_BYTES:,} bytes",
                got=f"{count:,} entries of {nbytes} bytes",
                hint='smaller sizes, or target="reference"',
            )

    def stored(self, array: npt.ArrayLike) -> BufferHandle:
        """Add an array that was made for this binding to the constants."""
        return self.lowering.builder.constant(np.ascontiguousarray(array))

    def table(self, function: Callable[..., np.ndarray], *args: int) -> BufferHandle:
        """Add an array that a function of a module computes of ints to the constants. In contrast to `stored`, the ints
        may be sizes of the call without tying the program to them."""
        return self.lowering.builder.table(function, *args)

    def memo(self, role: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """An array made from constants, computed once for all bindings. role: unique within the node."""
        key = (self.node.name, role)
        if key not in self.lowering.memo:
            self.lowering.memo[key] = np.ascontiguousarray(make())
        return self.lowering.memo[key]

    def packed(self, role: str, make: Callable[[], np.ndarray]) -> BufferHandle:
        """Add a `memo` to the constants."""
        return self.lowering.builder.constant(self.memo(role, make))

    def filled(
        self, role: str, shape: tuple[int, ...], dtype: npt.DTypeLike, fill: Callable[[np.ndarray], None]
    ) -> BufferHandle:
        """Add a large constant, which fill(zeros of this shape) writes when the block of constants is packed, at the
        first link.

        role: names everything that determines the content, except for the op, its attrs and the constant operands. So
        nodes that share their weights share the packed weights.
        """
        made = np.dtype(dtype)
        return self.lowering.builder.deferred(
            self.shared_key(role), math.prod(shape) * made.itemsize, lambda block: fill(block.view(made).reshape(shape))
        )

    def shared_key(self, role: str) -> str:
        """The key of a constant that the node's op, attrs, weight and `role` determine; the same in every process."""
        weighted = Weighted.of(self.node)
        return f"{self.node.op}({dict(self.attrs)}) of {weighted and weighted.weight!r}: {role}"

    # -- steps

    def python(self) -> None:
        """Append a step that runs the node in Python, by its numpy reference."""
        node = self.node
        given = [None if value is None else self.row_major(value) for value in node.operands]
        results = []
        for index, value in enumerate(node.results):
            view = self.result(index)
            results.append(
                view if view.is_row_major else self.lowering.new(value.type, f"{value.name}.row_major", None)
            )

        reads, writes = (
            [View(v.buffer, v.dtype, v.shape, v.offset) for v in views if v is not None] for views in (given, results)
        )
        self.lowering.builder.python_step(node.name, reads=reads, writes=writes)
        for index, view in enumerate(results):
            if view is not self.result(index):
                self.copy(view, self.result(index))


def is_in_arena(view: TensorView) -> bool:
    """Whether a view lies in the arena, where reading up to SLACK bytes past its end is legal."""
    return view.buffer.kind == "arena"
