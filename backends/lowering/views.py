"""Views of tensors in memory: a buffer, a byte offset, and a byte stride for each logical axis.

The type's layout determines the strides; `passes/assign_layout.py` chose it. In a row_major layout the last axis is
innermost, without gaps. In a channels_last layout axis 1 is innermost, and pixels lie `channel_stride` elements apart;
the elements between the last channel and the next pixel are never read as values. With a halo, rows lie further apart,
and the border around each image holds real zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.program.recorded import BufferHandle
from qcompiler.types import Layout, TensorType

SLACK = 64
"""Bytes after every buffer of the arena: kernels may read a whole register from the last element on."""


@dataclass(frozen=True)
class TensorView(Memory):
    """A tensor in memory.

    Attributes:
        buffer: the buffer in which it lies.
        dtype: the dtype of its elements.
        shape: the sizes of its logical axes.
        strides: bytes from one element to the next along each axis.
        offset: bytes from the start of the buffer to the first element.
    """

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
        """Whether the last axis is innermost and there are no gaps. Axes of size 1 do not matter."""
        expected = row_major_strides(self.shape, self.dtype.itemsize)
        return all(have == want or size == 1 for size, have, want in zip(self.shape, self.strides, expected))

    def moved(self, offset: int, shape: Sequence[int], strides: Sequence[int]) -> TensorView:
        """The view `offset` bytes further, with other axes."""
        return replace(self, offset=self.offset + offset, shape=tuple(shape), strides=tuple(strides))


def row_major_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Byte strides of a C-contiguous array."""
    strides, stride = [], itemsize
    for size in reversed(shape):
        strides.append(stride)
        stride *= max(size, 1)
    return tuple(reversed(strides))


def layout_strides(shape: Sequence[int], itemsize: int, layout: Layout | None) -> tuple[int, ...]:
    """Byte strides by logical axis."""
    if layout is None or layout.order == "row_major":
        return row_major_strides(shape, itemsize)
    physical = (shape[0], *with_halo(shape[2:], layout), layout.channel_stride)
    strides = row_major_strides(physical, itemsize)
    return (strides[0], strides[-1], *strides[1:-1])


def with_halo(spatial: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """The spatial sizes of an image with its halo."""
    return (
        tuple(size + before + after for size, (before, after) in zip(spatial, layout.halo))
        if layout.halo
        else tuple(spatial)
    )


def before_halo(strides: Sequence[int], layout: Layout | None) -> int:
    """The bytes of halo before the first element."""
    return 0 if layout is None else sum(before * stride for (before, _), stride in zip(layout.halo, strides[2:]))


def storage_bytes(shape: Sequence[int], itemsize: int, layout: Layout | None) -> int:
    """The bytes of a tensor, including the halos of its images and the gaps after its pixels."""
    if layout is None or layout.order == "row_major":
        return math.prod(shape) * itemsize
    return shape[0] * math.prod(with_halo(shape[2:], layout)) * layout.channel_stride * itemsize


def bound_shape(type: TensorType, sizes: dict[str, int]) -> tuple[int, ...]:
    """The shape of a type with its symbolic sizes replaced."""
    return type.bind(sizes).sizes
