"""Kernels that move elements: strided copies, and copies into a border."""

from __future__ import annotations

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import I8, I16, I32, I64, Type, vector

ELEMENTS: dict[int, Type] = {1: I8, 2: I16, 4: I32, 8: I64}
OUTER = 5
"""Axes around the innermost one."""
_BLOCK = 64
"""Runs of the axis around the innermost one in a unit of work."""


@kernel(
    pointers=("x", "y"),
    extents=(
        "count",
        "x_step",
        "y_step",
        *(f"{n}" for n in ("n0", "n1", "n2", "n3", "n4")),
        *(f"xs{i}" for i in range(OUTER)),
        *(f"ys{i}" for i in range(OUTER)),
    ),
)
def copy_strided_nd(b: KernelBuilder, *, itemsize: int, inner: str) -> None:
    """y[i] = x[i] over n0..n4 and `count` elements innermost; strides in bytes. inner: "run" where both innermost steps
    are one element, "fill" where x stands still, else "any". Threads share the outer elements."""
    element = ELEMENTS[itemsize]
    sizes = [b.extent(f"n{axis}") for axis in range(OUTER)]
    blocks = (sizes[-1] + (_BLOCK - 1)) // _BLOCK
    total, count = blocks, b.extent("count")
    for size in sizes[:-1]:
        total = total * size
    lo, hi = b.share(total)
    with b.loop(lo, hi) as unit:
        first, rest, x, y = unit.index % blocks * _BLOCK, unit.index // blocks, b.pointer("x"), b.pointer("y")
        for axis in reversed(range(OUTER - 1)):
            place = rest % sizes[axis] if axis else rest
            rest = rest // sizes[axis] if axis else rest
            x, y = x + place * b.extent(f"xs{axis}"), y + place * b.extent(f"ys{axis}")
        with b.loop(first, b.smin(first + _BLOCK, sizes[-1])) as line:
            here, there = x + line.index * b.extent(f"xs{OUTER - 1}"), y + line.index * b.extent(f"ys{OUTER - 1}")
            if inner == "run":
                copy_run(b, here, there, count, element)
            elif inner == "fill":
                fill_run(b, b.load(element, here), there, count)
            else:
                with b.loop(0, count) as each:
                    b.store(
                        b.load(element, here, each.index * b.extent("x_step")), there, each.index * b.extent("y_step")
                    )


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


@kernel(pointers=("gaps", "y"), extents=("images", "gap_count", "y_image", "fill"))
def fill_gaps(b: KernelBuilder, *, itemsize: int) -> None:
    """Write one element all over the gaps of each image. gaps: (byte offset, elements) of each; fill: the element's
    bits. Threads share gaps."""
    element = ELEMENTS[itemsize]
    fill = b.extent("fill") if element is I64 else b.trunc(b.extent("fill"), element)
    count = b.extent("gap_count")
    lo, hi = b.share(b.extent("images") * count)
    with b.loop(lo, hi) as unit:
        gap = unit.index % count * 16
        y = b.pointer("y") + (unit.index // count * b.extent("y_image") + b.load(I64, b.pointer("gaps"), gap))
        fill_run(b, fill, y, b.load(I64, b.pointer("gaps"), gap, disp=8))


def close_pixels(b: KernelBuilder, x: Value, y: Value, pixels: Value, channels: int) -> None:
    """Copy pixels of `channels` bytes that lie four bytes apart in x, side by side in y; may write more than it copies,
    but not behind the last pixel."""
    size = b.target.vector_bytes
    lanes = size // 4
    picks = [4 * pixel + channel for pixel in range(lanes) for channel in range(channels)]
    with b.loop(0, pixels, lanes) as loop:
        left = pixels - loop.index
        quads = b.bitcast(b.load_prefix(vector(I32, lanes), x, loop.index * 4, left), vector(I8, size))
        closed = b.shuffle(quads, None, picks + [0] * (size - len(picks)))
        b.store_prefix(closed, y, loop.index * channels, left * channels)


@kernel(
    pointers=("x", "rows", "y"),
    extents=("row_total", "row_count", "x_image", "y_image", "y_row", "before", "inside", "after", "fill"),
)
def pad_rows(b: KernelBuilder, *, itemsize: int, channels: int) -> None:
    """Copy images into a border. rows: for each padded row of an image the byte offset of its source in x, or -1 for a
    row of the border. A padded row holds `before` elements of border, `inside` copied, `after` of border; fill: the
    element's bits. Threads share rows.
    channels: if not 0, x holds pixels of so many bytes, four apart, and in y they lie side by side;
    products read y by fours, so four bytes behind its end are written too."""
    element = ELEMENTS[itemsize]
    fill = b.extent("fill") if element is I64 else b.trunc(b.extent("fill"), element)
    before, inside, after = (b.extent(name) for name in ("before", "inside", "after"))
    lo, hi = b.share(b.extent("row_total"))
    with b.loop(lo, hi) as row:
        image, line = row.index // b.extent("row_count"), row.index % b.extent("row_count")
        y = b.pointer("y") + (image * b.extent("y_image") + line * b.extent("y_row"))
        source = b.load(I64, b.pointer("rows"), line * 8)
        with b.if_(source < 0) as border:
            fill_run(b, fill, y, before + inside + after)
            border.yield_([])
        with border.else_():
            fill_run(b, fill, y, before)
            x, inner = b.pointer("x") + (image * b.extent("x_image") + source), y + before * itemsize
            if channels:
                close_pixels(b, x, inner, inside // channels, channels)
            else:
                copy_run(b, x, inner, inside, element)
            fill_run(b, fill, y + (before + inside) * itemsize, after)
            border.yield_([])
    if channels:
        with b.if_(hi == b.extent("row_total")) as last:
            b.store(b.const(I32, 0), b.pointer("y"), hi // b.extent("row_count") * b.extent("y_image"))
            last.yield_([])
