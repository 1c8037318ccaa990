"""Geometry: the shape and strides of a part of a tensor, which is taken by numpy's operations on axes.

It is to views of memory what an array is to data: slices, transposes and broadcasts follow numpy's rules. Its numbers
may be traced sizes (`qcompiler.traced_size`), which numpy's own arrays can't hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.backends.lowering.views import TensorView
from qcompiler.errors import ShapeError


@dataclass(frozen=True)
class Geometry:
    """Some elements of a tensor: their shape, byte strides, and the byte offset of the first one."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @staticmethod
    def of(tensor: TensorView) -> Geometry:
        """All elements of a tensor."""
        return Geometry(tensor.shape, tensor.strides)

    def part_of(self, tensor: TensorView) -> TensorView:
        """The view of a tensor that this part of its geometry selects."""
        return tensor.moved(self.offset, self.shape, self.strides)

    @property
    def is_empty(self) -> bool:
        return 0 in self.shape

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def transposed(self, axes: Sequence[int]) -> Geometry:
        """As np.transpose."""
        return Geometry(tuple(self.shape[i] for i in axes), tuple(self.strides[i] for i in axes), self.offset)

    def swapped(self, a: int, b: int) -> Geometry:
        """As np.swapaxes, for axes that are not negative."""
        axes = list(range(len(self.shape)))
        axes[a], axes[b] = b, a
        return self.transposed(axes)

    def sliced(self, index: Sequence[slice]) -> Geometry:
        """As an array's part by slices of its first axes. Steps are numbers; bounds may be traced."""
        shape, strides, offset = [*self.shape], [*self.strides], self.offset
        for axis, part in enumerate(index):
            if part == slice(None):
                continue
            start, count, step = slice_bounds(part, self.shape[axis])
            shape[axis], strides[axis] = count, self.strides[axis] * step
            offset = offset + start * self.strides[axis]
        return Geometry(tuple(shape), tuple(strides), 0 if 0 in shape else offset)

    def flipped(self, axes: Sequence[int]) -> Geometry:
        """As np.flip, for axes that are not negative."""
        return self.sliced([slice(None, None, -1 if axis in axes else None) for axis in range(len(self.shape))])

    def expanded(self, axis: int) -> Geometry:
        """As np.expand_dims."""
        shape, strides = [*self.shape], [*self.strides]
        shape.insert(axis, 1)
        strides.insert(axis, 0)
        return Geometry(tuple(shape), tuple(strides), self.offset)

    def broadcast(self, shape: Sequence[int]) -> Geometry:
        """As np.broadcast_to.

        Raises:
            ShapeError: the shapes do not fit.
        """
        missing = len(shape) - len(self.shape)
        sizes, strides = [1] * missing + [*self.shape], [0] * missing + [*self.strides]
        if missing < 0 or any(have != want and have != 1 for have, want in zip(sizes, shape)):
            raise ShapeError("shapes do not broadcast", expected=tuple(shape), got=self.shape)
        fitted = [stride if have == want else 0 for have, want, stride in zip(sizes, shape, strides)]
        return Geometry(tuple(shape), tuple(fitted), self.offset)

    def split(self, axis: int, *sizes: int) -> Geometry:
        """One axis split into several, the outermost first."""
        stride, strides = self.strides[axis], []
        for size in reversed(sizes):
            strides.append(stride)
            stride = stride * size
        return Geometry(
            (*self.shape[:axis], *sizes, *self.shape[axis + 1 :]),
            (*self.strides[:axis], *reversed(strides), *self.strides[axis + 1 :]),
            self.offset,
        )


def slice_bounds(part: slice, size: int) -> tuple[int, int, int]:
    """(first element, number of elements, step) of a slice of an axis of this size, as Python takes it."""
    step = 1 if part.step is None else part.step
    lowest, highest = (0, size) if step > 0 else (-1, size - 1)

    def bound(value: int | None, default: int) -> int:
        if value is None:
            return default
        if value < 0:
            return max(value + size, lowest)
        return min(value, highest)

    start = bound(part.start, lowest if step > 0 else highest)
    stop = bound(part.stop, highest if step > 0 else lowest)
    length = stop - start if step > 0 else start - stop
    return start, max(0, -(-length // abs(step))), step
