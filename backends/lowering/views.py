"""Where tensors lie in memory: buffer, byte offset and byte strides by logical axis, as the type's layout says.

row_major: as the shape reads, without gaps. channels_last: axis 1 innermost, pixels `channel_stride` elements apart;
what lies between the last channel and the next pixel is never read as a value. With a halo, rows lie further apart, and
the border around each image holds real zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.program.builder import BufferHandle
from qcompiler.types import Layout, TensorType

SLACK = 64
"""Bytes behind every buffer of the arena: a dot product may read the four bytes that hold the last element."""


@dataclass(frozen=True)
class TensorView(Memory):
    """A tensor in memory. shape: of its logical axes; strides: bytes from one element to the next along each."""

    buffer: BufferHandle
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def pointer(self) -> tuple[BufferHandle, int]:
        return self.buffer, self.offset

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def is_row_major(self) -> bool:
        """Without gaps, last axis innermost. Axes of size 1 have no say."""
        expected = row_major_strides(self.shape, self.dtype.itemsize)
        return all(size == 1 or have == want for size, have, want in zip(self.shape, self.strides, expected))

    def moved(self, offset: int, shape: Sequence[int], strides: Sequence[int]) -> TensorView:
        """A view: `offset` bytes further, with other axes."""
        return replace(self, offset=self.offset + offset, shape=tuple(shape), strides=tuple(strides))


def row_major_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Byte strides of a C-contiguous array."""
    strides, step = [], itemsize
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def layout_strides(shape: Sequence[int], itemsize: int, layout: Layout | None) -> tuple[int, ...]:
    """Byte strides by logical axis."""
    if layout is None or layout.order == "row_major":
        return row_major_strides(shape, itemsize)
    physical = (shape[0], *with_halo(shape[2:], layout), layout.channel_stride)
    strides = row_major_strides(physical, itemsize)
    return (strides[0], strides[-1], *strides[1:-1])


def with_halo(spatial: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """Sizes of an image, its border counted."""
    return (
        tuple(size + before + after for size, (before, after) in zip(spatial, layout.halo))
        if layout.halo
        else tuple(spatial)
    )


def before_halo(strides: Sequence[int], layout: Layout | None) -> int:
    """Bytes of border before the first element."""
    return 0 if layout is None else sum(before * stride for (before, _), stride in zip(layout.halo, strides[2:]))


def storage_bytes(shape: Sequence[int], itemsize: int, layout: Layout | None) -> int:
    """Bytes from the first element, or its border, to the end of the last pixel, or its border."""
    if layout is None or layout.order == "row_major":
        return math.prod(shape) * itemsize
    return shape[0] * math.prod(with_halo(shape[2:], layout)) * layout.channel_stride * itemsize


def bound_shape(type: TensorType, sizes: dict[str, int]) -> tuple[int, ...]:
    """The shape with every symbolic size replaced."""
    return type.bind(sizes).sizes
