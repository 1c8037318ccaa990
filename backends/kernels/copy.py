"""Kernels that copy elements between different strides, and that copy images into a border."""

from __future__ import annotations

from typing import Generic, Literal

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import I8, I16, I32, I64, Type, vector
from qcompiler.types import MAX_RANK

ELEMENTS: dict[int, Type] = {1: I8, 2: I16, 4: I32, 8: I64}
OUTER = 5
"""Axes around the innermost one."""
MOST_OUTER = 2 * MAX_RANK - 1
"""The same for copies of many axes. A tile splits each axis in two; no other op copies between views of more axes."""
_BLOCK = 64
"""Runs of the axis around the innermost one in a unit of work."""

Inner = Literal["run", "fill", "any"]


class CopyAxis(Group, Generic[E]):
    """One axis of a copy: its size, and bytes from one element to the next in x and in y."""

    size: E
    x_stride: E
    y_stride: E


class StridedCopy(Arguments["StridedCopy"], Generic[P, E]):
    """The arguments of the strided copies. outer: the axes around the innermost one, outermost first."""

    x: P
    y: Written[P]
    outer: tuple[CopyAxis[E], ...]
    innermost: CopyAxis[E]


class Gaps(Arguments["Gaps"], Generic[P, E]):
    """The arguments of `fill_gaps`: images, and the gaps between their elements.

    Attributes:
        gaps: for each gap of an image a pair of i64: the byte offset in the image, and the number of elements.
        gap_count: how many pairs there are.
        y_image: bytes from image to image.
        fill: the bits of the element that is written.
    """

    gaps: P
    y: Written[P]
    images: E
    gap_count: E
    y_image: E
    fill: E


class PadRows(Arguments["PadRows"], Generic[P, E]):
    """The arguments of `pad_rows`: images, and the border that they get.

    Attributes:
        rows: for each row of a padded image an i64: the byte offset of its source in the image, or -1 for a row of the
            border.
        row_total, row_count: how many rows there are in all padded images, and in one.
        x_image, y_image, y_row: the distances in bytes from image to image of x and of y, and from row to row of y.
        before, inside, after: how many elements of a padded row are border, copied, and border again.
        fill: the bits of a border element.
    """

    x: P
    rows: P
    y: Written[P]
    row_total: E
    row_count: E
    x_image: E
    y_image: E
    y_row: E
    before: E
    inside: E
    after: E
    fill: E


@kernel(outer=OUTER)
def copy_strided_nd(b: KernelBuilder, a: StridedCopy, *, itemsize: int, inner: Inner) -> None:
    """y[i] = x[i] for axes of any strides. Threads share the outer elements.

    inner: "run" where the innermost axis is adjacent in x and in y, "fill" where it has one element of x for all of y,
    which is adjacent; otherwise "any".
    """
    _copy_strided(b, a, itemsize, inner)


@kernel(outer=MOST_OUTER)
def copy_strided_many(b: KernelBuilder, a: StridedCopy, *, itemsize: int, inner: Inner) -> None:
    """`copy_strided_nd` for more axes."""
    _copy_strided(b, a, itemsize, inner)


def _copy_strided(b: KernelBuilder, a: StridedCopy, itemsize: int, inner: Inner) -> None:
    element = ELEMENTS[itemsize]
    *around, last = a.outer
    blocks = (last.size + (_BLOCK - 1)) // _BLOCK
    total, count = blocks, a.innermost.size
    for axis in around:
        total = total * axis.size
    lo, hi = b.share(total)
    with b.loop(lo, hi) as unit:
        first, rest, x, y = unit.index % blocks * _BLOCK, unit.index // blocks, a.x, a.y
        for number, axis in reversed(list(enumerate(around))):
            place = rest % axis.size if number else rest
            rest = rest // axis.size if number else rest
            x, y = x + place * axis.x_stride, y + place * axis.y_stride
        with b.loop(first, b.smin(first + _BLOCK, last.size)) as line:
            here, there = x + line.index * last.x_stride, y + line.index * last.y_stride
            if inner == "run":
                copy_run(b, here, there, count, element)
            elif inner == "fill":
                fill_run(b, b.load(element, here), there, count)
            else:
                with b.loop(0, count) as each:
                    value = b.load(element, here, each.index * a.innermost.x_stride)
                    b.store(value, there, each.index * a.innermost.y_stride)


def copy_run(b: KernelBuilder, x: Value, y: Value, count: Value, element: Type) -> None:
    """Copy `count` adjacent elements."""
    size = element.bits // 8
    lanes = b.target.vector_bytes // size
    type = vector(element, lanes)
    whole = count // lanes * lanes
    with b.loop(0, whole, lanes) as loop:
        b.store(b.load(type, x, loop.index * size), y, loop.index * size)
    with b.if_(whole < count) as tail:
        b.store_prefix(b.load_prefix(type, x, whole * size, count - whole), y, whole * size, count - whole)
        tail.yield_([])


def fill_run(b: KernelBuilder, value: Value, y: Value, count: Value) -> None:
    """Write `value` `count` times."""
    size = value.type.bits // 8
    lanes = b.target.vector_bytes // size
    block = b.splat(value, lanes)
    whole = count // lanes * lanes
    with b.loop(0, whole, lanes) as loop:
        b.store(block, y, loop.index * size)
    with b.if_(whole < count) as tail:
        b.store_prefix(block, y, whole * size, count - whole)
        tail.yield_([])


def _bits(b: KernelBuilder, fill: Value, element: Type) -> Value:
    """The element whose bits an extent holds."""
    return fill if element is I64 else b.trunc(fill, element)


@kernel
def fill_gaps(b: KernelBuilder, a: Gaps, *, itemsize: int) -> None:
    """Fill the gaps of each image with one element. Threads share gaps."""
    fill = _bits(b, a.fill, ELEMENTS[itemsize])
    lo, hi = b.share(a.images * a.gap_count)
    with b.loop(lo, hi) as unit:
        gap = unit.index % a.gap_count * 16
        y = a.y + (unit.index // a.gap_count * a.y_image + b.load(I64, a.gaps, gap))
        fill_run(b, fill, y, b.load(I64, a.gaps, gap, disp=8))


def compact(b: KernelBuilder, x: Value, y: Value, pixels: Value, channels: int) -> None:
    """Copy pixels of `channels` bytes, which are four bytes apart in x and adjacent in y.

    More bytes of y may be written than are copied, but none after the last pixel.
    """
    size = b.target.vector_bytes
    lanes = size // 4
    picks = [4 * pixel + channel for pixel in range(lanes) for channel in range(channels)]
    with b.loop(0, pixels, lanes) as loop:
        left = pixels - loop.index
        quads = b.bitcast(b.load_prefix(vector(I32, lanes), x, loop.index * 4, left), vector(I8, size))
        adjacent = b.shuffle(quads, None, picks + [0] * (size - len(picks)))
        b.store_prefix(adjacent, y, loop.index * channels, left * channels)


@kernel
def pad_rows(b: KernelBuilder, a: PadRows, *, itemsize: int, channels: int) -> None:
    """Copy images into a border. Threads share rows.

    channels: if not 0, the pixels of x have this many bytes and are four bytes apart, and in y they are adjacent. Then
    the four bytes after the end of y are written too, because products read y four bytes at a time.
    """
    element = ELEMENTS[itemsize]
    fill = _bits(b, a.fill, element)
    lo, hi = b.share(a.row_total)
    with b.loop(lo, hi) as row:
        image, line = row.index // a.row_count, row.index % a.row_count
        y = a.y + (image * a.y_image + line * a.y_row)
        source = b.load(I64, a.rows, line * 8)
        with b.if_(source < 0) as border:
            fill_run(b, fill, y, a.before + a.inside + a.after)
            border.yield_([])
        with border.else_():
            fill_run(b, fill, y, a.before)
            x, inner = a.x + (image * a.x_image + source), y + a.before * itemsize
            if channels:
                compact(b, x, inner, a.inside // channels, channels)
            else:
                copy_run(b, x, inner, a.inside, element)
            fill_run(b, fill, y + (a.before + a.inside) * itemsize, a.after)
            border.yield_([])
    if channels:
        with b.if_(hi == a.row_total) as last:
            b.store(b.const(I32, 0), a.y, hi // a.row_count * a.y_image)
            last.yield_([])
