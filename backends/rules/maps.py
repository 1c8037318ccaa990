"""How an elementwise kernel goes over its operands: numpy broadcasting as loops over merged axes.

Static arguments of a map must not depend on symbolic sizes, so an axis counts as repeated where the operand's type says
1, not where a size happens to be 1; and the innermost axis is the last one in the order of storage that the result's
type does not say is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qcompiler.backends.kernel_ir.definition import KernelDef
from qcompiler.backends.kernels.elementwise import static_inner
from qcompiler.backends.kernels.map_loop import OUTER
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.views import TensorView, layout_strides, row_major_strides
from qcompiler.types import Layout

SHORT_ROW = 64
"""Innermost axes of fewer elements are joined with the next one, operands that repeat along it written out."""
_LONG_ROW = 256
_FEW = 1024


@dataclass(frozen=True)
class _Axis:
    """One axis of a map. steps: bytes from one element to the next, of each operand and then of the result. fixed: the
    size comes from the types alone."""

    size: int
    steps: tuple[int, ...]
    fixed: bool

    def joins(self, inner: _Axis) -> bool:
        """Whether this axis, just outside of `inner`, continues it in every tensor."""
        return all(mine == inner.size * its for mine, its in zip(self.steps, inner.steps))

    def joined(self, inner: _Axis) -> _Axis:
        return _Axis(self.size * inner.size, inner.steps, self.fixed and inner.fixed)


@dataclass(frozen=True)
class _Operand:
    """An operand seen with the result's rank. repeated: by axis, whether it has one element for all."""

    place: TensorView
    repeated: tuple[bool, ...]

    def step(self, axis: int) -> int:
        return 0 if self.repeated[axis] else self.place.strides[axis]


def run_map(
    s: NodeLowering, kernel: KernelDef, operands: Sequence[TensorView], static: dict[str, Any], **arguments: Any
) -> None:
    """Append a map of the operands, broadcast to the result's shape.

    Args:
        operands: those of the node first, in order, where they lie or as a view; then others.
    """
    result = s.result()
    seen = [_seen(s, index, place) for index, place in enumerate(operands)]
    moved = sum(place.elements * place.dtype.itemsize for place in (*operands, result))
    layout = s.out.layout
    channels_last = layout is not None and layout.order == "channels_last"
    order = [0, *range(2, len(result.shape)), 1] if channels_last else list(range(len(result.shape)))
    y, channels = result, 0
    if channels_last and layout.channel_stride != result.shape[1]:
        channels = layout.channel_stride
        padded = [found for operand in seen if (found := _with_room(s, operand, channels)) is not None]
        if len(padded) == len(seen):
            seen = padded
        else:
            y, channels = s.lowering.new(s.out, f"{s.node.name}.row_major", None), 0
            order = list(range(len(result.shape)))
    axes = _axes(s, seen, y, order, channels)
    for index, operand in enumerate(seen):
        if axes[-1].steps[index] not in (0, operand.place.dtype.itemsize):
            seen[index] = _in_order(s, operand, order)
    axes = _axes(s, seen, y, order, channels)
    inner = static_inner([step != 0 for step in axes[-1].steps[:-1]])
    call = _Call(s, kernel, {**static, "inner": inner}, arguments, moved)
    _long_rows(call, [operand.place for operand in seen], y, axes)
    if y is not result:
        s.copy(y, result)


def _seen(s: NodeLowering, index: int, place: TensorView) -> _Operand:
    """An operand with the rank of the result, its repeated axes by its type."""
    given = s.node.operands[index].type.shape if index < len(s.node.operands) else place.shape
    sizes = given if len(given) == len(place.shape) else place.shape
    missing = len(s.result().shape) - len(place.shape)
    repeated = (*(True,) * missing, *(isinstance(size, int) and size == 1 for size in sizes))
    return _Operand(place.moved(0, (1,) * missing + place.shape, (0,) * missing + place.strides), repeated)


def _axes(
    s: NodeLowering, operands: Sequence[_Operand], y: TensorView, order: Sequence[int], channels: int
) -> list[_Axis]:
    """Merged axes in the order of storage. channels: with the gap behind the channels, or 0."""
    merged: list[_Axis] = []
    for axis in order:
        size, known = y.shape[axis], isinstance(s.out.shape[axis], int)
        if channels and axis == 1:
            size = channels
        elif known and size == 1:
            continue
        current = _Axis(size, (*(operand.step(axis) for operand in operands), y.strides[axis]), known)
        merged.append(merged.pop().joined(current) if merged and merged[-1].joins(current) else current)
    return merged or [_Axis(1, (*(operand.place.dtype.itemsize for operand in operands), y.dtype.itemsize), True)]


def _with_room(s: NodeLowering, operand: _Operand, channels: int) -> _Operand | None:
    """The operand with a gap behind its channels as in the result, so that both can be gone through as one run; None
    where that takes more than a copy of a few channels."""
    place, item = operand.place, operand.place.dtype.itemsize
    if operand.repeated[1] and s.result().shape[1] != 1:
        return operand
    if place.strides == layout_strides(place.shape, item, Layout("channels_last", channels)):
        return replace(operand, repeated=(operand.repeated[0], False, *operand.repeated[2:]))
    if operand.repeated[1]:
        return operand
    if place.elements != place.shape[1]:
        return None
    strides = tuple(item if axis == 1 else 0 for axis in range(len(place.shape)))
    copy = TensorView(s.scratch(channels * item, "channels"), place.dtype, place.shape, strides)
    s.copy(place, copy)
    return replace(operand, place=copy)


def _in_order(s: NodeLowering, operand: _Operand, order: Sequence[int]) -> _Operand:
    """A copy that lies as the result does, without its gaps."""
    place, item = operand.place, operand.place.dtype.itemsize
    physical = row_major_strides([place.shape[axis] for axis in order], item)
    strides = tuple(physical[order.index(axis)] for axis in range(len(order)))
    copy = TensorView(s.scratch(place.elements * item + 64, "ordered"), place.dtype, place.shape, strides)
    s.copy(place, copy)
    return replace(operand, place=copy)


# -- calls


@dataclass(frozen=True)
class _Call:
    """A kernel with all that does not say where its tensors lie."""

    steps: NodeLowering
    kernel: KernelDef
    static: dict[str, Any]
    arguments: dict[str, Any]
    bytes: int

    def __call__(self, places: Sequence[TensorView], y: TensorView, axes: Sequence[_Axis]) -> None:
        """Outer axes beyond the kernel's are gone through by calls."""
        if len(axes) > OUTER + 1:
            for index in range(axes[0].size):
                *inputs, out = (place.moved(index * step, place.shape, place.strides)
                                for place, step in zip((*places, y), axes[0].steps))  # fmt: skip
                self(inputs, out, axes[1:])
            return
        names = [*(f"x{i}" for i in range(len(places))), "y"]
        outer = [_Axis(1, (0,) * len(names), True)] * (OUTER + 1 - len(axes)) + list(axes[:-1])
        extents = {f"n{i}": axis.size for i, axis in enumerate(outer)}
        extents |= {f"{name}_s{i}": axis.steps[k] for i, axis in enumerate(outer) for k, name in enumerate(names)}
        self.steps.call(self.kernel, self.static, count=axes[-1].size, writes=("y",), bytes=self.bytes,
                        **dict(zip(names, [*places, y])), **extents, **self.arguments)  # fmt: skip


def _long_rows(call: _Call, places: list[TensorView], y: TensorView, axes: list[_Axis]) -> None:
    """Call the kernel. A short innermost axis, along which some operands start anew in every row of the next axis, is
    repeated: these operands are written out for a number of rows, which then are one, and what remains of the rows is a
    call of its own."""
    if len(axes) < 2 or not axes[-1].fixed or axes[-1].size >= SHORT_ROW:
        call(places, y, axes)
        return
    rows, inner = axes[-2:]
    continues = [step == inner.size * its for step, its in zip(rows.steps, inner.steps)]
    if rows.fixed and rows.size * inner.size < _FEW:
        call(places, y, axes)
        return
    if not continues[-1] or any(
        not c and (step != 0 or its == 0) for c, step, its in zip(continues, rows.steps, inner.steps)
    ):
        call(places, y, axes)
        return
    together = -(-_LONG_ROW // inner.size)
    outer = [[*axis.steps] for axis in axes[:-2]]
    for index, place in enumerate(places):
        if not continues[index]:
            places[index] = _written_out(call.steps, place, index, axes, together)
            step = together * inner.size * place.dtype.itemsize
            for axis, around_steps in reversed(list(zip(axes[:-2], outer))):
                if around_steps[index]:
                    around_steps[index] = step
                    step *= axis.size
    around = [_Axis(axis.size, tuple(moves), axis.fixed) for axis, moves in zip(axes[:-2], outer)]
    whole, left = divmod(rows.size, together)
    if whole:
        steps = tuple(together * step for step in rows.steps)
        call(places, y, [*around, _Axis(whole, steps, False), replace(inner, size=together * inner.size)])
    if left:
        moved = [
            place.moved(whole * together * step, place.shape, place.strides)
            for place, step in zip((*places, y), rows.steps)
        ]
        call(moved[:-1], moved[-1], [*around, replace(inner, size=left * inner.size)])


def _written_out(s: NodeLowering, place: TensorView, index: int, axes: Sequence[_Axis], times: int) -> TensorView:
    """An operand's innermost axis `times` times, for each place of the outer axes along which it varies."""
    varying = [(axis.size, axis.steps[index]) for axis in axes[:-2] if axis.steps[index]]
    count, item = axes[-1].size, place.dtype.itemsize
    shape = (*(size for size, _ in varying), times, count)
    source = place.moved(0, shape, (*(step for _, step in varying), 0, item))
    strides = row_major_strides(shape, item)
    copy = TensorView(s.scratch(strides[0] * shape[0] + 64, f"repeated{index}"), place.dtype, shape, strides)
    s.copy(source, copy)
    return copy
