"""Appends calls of elementwise kernels: numpy broadcasting as loops over merged axes.

The static arguments of a map must not depend on symbolic sizes. So an operand is repeated along an axis only if its
type says that the axis has size 1, not if a size happens to be 1; and the innermost axis is the last one, in the order
of storage, whose size is not 1 by the result's type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from qcompiler.backends.kernel_ir.definition import Arguments, Memory
from qcompiler.backends.kernel_ir.kernel_key import A, KernelKey
from qcompiler.backends.kernels.map_loop import OUTER, Map, MapOperand, MapResult
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.views import SLACK, TensorView, layout_strides, row_major_strides
from qcompiler.types import Layout

SHORT_ROW = 64
"""An innermost axis of fewer elements is joined with the next one; operands that repeat along it are copied first."""
_LONG_ROW = 256
"""Enough rows are joined to give at least this many elements."""
_FEW = 1024
"""In maps of fewer elements no rows are joined."""

MapCall: TypeAlias = tuple[KernelKey[A], Arguments[A]]
"""The kernel of a map, and its arguments."""


@dataclass(frozen=True)
class _Axis:
    """One axis of a map.

    Attributes:
        size: how many elements it has.
        strides: bytes from one element to the next, for each operand and then for the result.
        fixed: whether the size follows from the types alone.
    """

    size: int
    strides: tuple[int, ...]
    fixed: bool

    def continues(self, inner: _Axis) -> bool:
        """Whether this axis, which is just outside of `inner`, can be merged with it in every tensor."""
        return all(mine == inner.size * its for mine, its in zip(self.strides, inner.strides))

    def joined(self, inner: _Axis) -> _Axis:
        """This axis merged with the one inside of it."""
        return _Axis(self.size * inner.size, inner.strides, self.fixed and inner.fixed)


@dataclass(frozen=True)
class _Operand:
    """An operand with the result's rank. repeated: for each axis, whether one element is repeated along it."""

    view: TensorView
    repeated: tuple[bool, ...]

    def stride(self, axis: int) -> int:
        """Bytes from one element to the next; 0 along an axis where the operand is repeated."""
        return 0 if self.repeated[axis] else self.view.strides[axis]


def run_map(
    s: NodeLowering, operands: Sequence[TensorView], call_of: Callable[[str, Map[Memory, int]], MapCall[A]]
) -> None:
    """Append a map of the operands, broadcast to the result's shape.

    Args:
        operands: views of the node's operands in order, then of others.
        call_of: gives the kernel and its arguments for the static argument `inner` and the tensors of the map.
    """
    result = s.result()
    seen = [_seen(s, index, view) for index, view in enumerate(operands)]
    nbytes = sum(view.elements * view.dtype.itemsize for view in (*operands, result))
    layout = s.out.layout
    y, channels, order = result, 0, list(range(len(result.shape)))
    if layout is not None and layout.order == "channels_last":
        order = [0, *range(2, len(result.shape)), 1]
    if layout is not None and layout.order == "channels_last" and layout.channel_stride != result.shape[1]:
        channels = layout.channel_stride
        padded = [found for operand in seen if (found := _with_room(s, operand, channels)) is not None]
        if len(padded) == len(seen):
            seen = padded
        else:
            y, channels = s.new(s.out, f"{s.node.name}.row_major"), 0
            order = list(range(len(result.shape)))
    axes = _axes(s, seen, y, order, channels)
    for index, operand in enumerate(seen):
        if axes[-1].strides[index] not in (0, operand.view.dtype.itemsize):
            seen[index] = _in_order(s, operand, order)
    axes = _axes(s, seen, y, order, channels)
    inner = "".join("1" if stride else "0" for stride in axes[-1].strides[:-1])

    def call(tensors: Map[Memory, int]) -> None:
        s.call(*call_of(inner, tensors), bytes=nbytes)

    _long_rows(_Calls(s, call), [operand.view for operand in seen], y, axes)
    if y is not result:
        s.copy(y, result)


def _seen(s: NodeLowering, index: int, view: TensorView) -> _Operand:
    """An operand with the rank of the result; its type says along which axes it is repeated."""
    value = next(iter(s.node.operands[index : index + 1]), None)
    given: Sequence[Any] = view.shape if value is None else value.type.shape
    sizes = given if len(given) == len(view.shape) else view.shape
    missing = len(s.result().shape) - len(view.shape)
    repeated = (*(True,) * missing, *(isinstance(size, int) and size == 1 for size in sizes))
    return _Operand(view.moved(0, (1,) * missing + view.shape, (0,) * missing + view.strides), repeated)


def _axes(
    s: NodeLowering, operands: Sequence[_Operand], y: TensorView, order: Sequence[int], channels: int
) -> list[_Axis]:
    """The merged axes in the order of storage. channels: the number of channels including the gap after them, or 0 to
    leave out the gap."""
    merged: list[_Axis] = []
    for axis in order:
        size, known = y.shape[axis], isinstance(s.out.shape[axis], int)
        if channels and axis == 1:
            size = channels
        elif known and size == 1:
            continue
        current = _Axis(size, (*(operand.stride(axis) for operand in operands), y.strides[axis]), known)
        merged.append(merged.pop().joined(current) if merged and merged[-1].continues(current) else current)
    return merged or [_Axis(1, (*(operand.view.dtype.itemsize for operand in operands), y.dtype.itemsize), True)]


def _with_room(s: NodeLowering, operand: _Operand, channels: int) -> _Operand | None:
    """The operand with the same gap after its channels as the result, so that the map can run over both storages
    without a break. None if that takes more than a copy of a few channels."""
    view, item = operand.view, operand.view.dtype.itemsize
    if operand.repeated[1] and s.result().shape[1] != 1:
        return operand
    if view.strides == layout_strides(view.shape, item, Layout("channels_last", channels)):
        return replace(operand, repeated=(operand.repeated[0], False, *operand.repeated[2:]))
    if operand.repeated[1]:
        return operand
    if view.elements != view.shape[1]:
        return None
    strides = tuple(item if axis == 1 else 0 for axis in range(len(view.shape)))
    copy = TensorView(s.scratch(channels * item, "channels"), view.dtype, view.shape, strides)
    s.copy(view, copy)
    return replace(operand, view=copy)


def _in_order(s: NodeLowering, operand: _Operand, order: Sequence[int]) -> _Operand:
    """A copy of the operand without gaps, its axes in the order of the result."""
    view, item = operand.view, operand.view.dtype.itemsize
    physical = row_major_strides([view.shape[axis] for axis in order], item)
    strides = tuple(physical[order.index(axis)] for axis in range(len(order)))
    copy = TensorView(s.scratch(view.elements * item + SLACK, "ordered"), view.dtype, view.shape, strides)
    s.copy(view, copy)
    return replace(operand, view=copy)


# -- calls


@dataclass(frozen=True)
class _Calls:
    """Appends the calls of one map. emit: appends one call for the given tensors."""

    node: NodeLowering
    emit: Callable[[Map[Memory, int]], None]

    def append(self, views: Sequence[TensorView], y: TensorView, axes: Sequence[_Axis]) -> None:
        """Append a call. If there are more outer axes than a kernel has, several calls run the shortest ones."""
        if len(axes) > OUTER + 1:
            shortest = min(axes[:-1], key=lambda axis: axis.size)
            others = [axis for axis in axes if axis is not shortest]
            for index in range(shortest.size):
                moved = [_moved(view, index * stride) for view, stride in zip((*views, y), shortest.strides)]
                self.append(moved[:-1], moved[-1], others)
            return
        none = _Axis(1, (0,) * (len(views) + 1), True)
        outer = [none] * (OUTER + 1 - len(axes)) + list(axes[:-1])
        n0, n1, n2, n3, n4 = (axis.size for axis in outer)

        def strides(tensor: int) -> tuple[int, int, int, int, int]:
            s0, s1, s2, s3, s4 = (axis.strides[tensor] for axis in outer)
            return s0, s1, s2, s3, s4

        operands = tuple(MapOperand[Memory, int](view, strides(index)) for index, view in enumerate(views))
        result = MapResult[Memory, int](y, strides(len(views)))
        self.emit(Map(axes[-1].size, (n0, n1, n2, n3, n4), operands, result))


def _moved(view: TensorView, nbytes: int) -> TensorView:
    return view.moved(nbytes, view.shape, view.strides)


def _long_rows(calls: _Calls, views: list[TensorView], y: TensorView, axes: list[_Axis]) -> None:
    """Append the calls of a map, joining short rows.

    If some operands repeat along the next axis, a short innermost axis can't be merged with it. Then these operands are
    copied once for each of several rows, which become one row; the remaining rows get a second call.
    """
    if len(axes) < 2 or not axes[-1].fixed or axes[-1].size >= SHORT_ROW:
        calls.append(views, y, axes)
        return
    rows, inner = axes[-2:]
    continues = [stride == inner.size * its for stride, its in zip(rows.strides, inner.strides)]
    if rows.fixed and rows.size * inner.size < _FEW:
        calls.append(views, y, axes)
        return
    if not continues[-1] or any(
        not c and (stride != 0 or its == 0) for c, stride, its in zip(continues, rows.strides, inner.strides)
    ):
        calls.append(views, y, axes)
        return
    together = -(-_LONG_ROW // inner.size)
    outer = [[*axis.strides] for axis in axes[:-2]]
    for index, view in enumerate(views):
        if not continues[index]:
            views[index] = _written_out(calls.node, view, index, axes, together)
            stride = together * inner.size * view.dtype.itemsize
            for axis, strides in reversed(list(zip(axes[:-2], outer))):
                if strides[index]:
                    strides[index] = stride
                    stride *= axis.size
    around = [_Axis(axis.size, tuple(strides), axis.fixed) for axis, strides in zip(axes[:-2], outer)]
    whole, left = divmod(rows.size, together)
    if whole:
        by_rows = _Axis(whole, tuple(together * stride for stride in rows.strides), False)
        calls.append(views, y, [*around, by_rows, replace(inner, size=together * inner.size)])
    if left:
        moved = [_moved(view, whole * together * stride) for view, stride in zip((*views, y), rows.strides)]
        calls.append(moved[:-1], moved[-1], [*around, replace(inner, size=left * inner.size)])


def _written_out(s: NodeLowering, view: TensorView, index: int, axes: Sequence[_Axis], times: int) -> TensorView:
    """A copy of an operand that repeats its innermost axis `times` times, for each position along the outer axes in
    which it varies."""
    varying = [(axis.size, axis.strides[index]) for axis in axes[:-2] if axis.strides[index]]
    count, item = axes[-1].size, view.dtype.itemsize
    shape = (*(size for size, _ in varying), times, count)
    source = view.moved(0, shape, (*(stride for _, stride in varying), 0, item))
    strides = row_major_strides(shape, item)
    copy = TensorView(s.scratch(strides[0] * shape[0] + SLACK, f"repeated{index}"), view.dtype, shape, strides)
    s.copy(source, copy)
    return copy
