"""Kernels that gather elements by index.

A negative index counts from the end. An index outside is clamped, so nothing outside of the operand is ever read.
"""

from __future__ import annotations

from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import I32, I64
from qcompiler.backends.kernels.copy import ELEMENTS, copy_run

AXES = 8


class Indices(Group, Generic[P, E]):
    """Where the indices start, and the size of the axis that they point into."""

    start: P
    size: E


class GatherRows(Arguments["GatherRows"], Generic[P, E]):
    """The arguments of `gather_rows`: x [outer, indices.size, inner] to y [outer, picks, inner], all row major. picks:
    how many indices there are."""

    x: P
    indices: Indices[P, E]
    y: Written[P]
    outer: E
    picks: E
    inner: E


class GatherAxis(Group, Generic[E]):
    """One axis of the result: its size, and bytes from one element to the next along it in x (0 along the axis that is
    indexed)."""

    size: E
    stride: E


class GatherElements(Arguments["GatherElements"], Generic[P, E]):
    """The arguments of `gather_single`. The indices and y are row major over `axes`. stride: bytes in x from one
    element to the next along the axis that is indexed."""

    x: P
    indices: Indices[P, E]
    y: Written[P]
    axes: tuple[GatherAxis[E], ...]
    stride: E


def _index(b: KernelBuilder, indices: Indices, number: Value, wide: bool) -> Value:
    """Index `number`, clamped to the axis. wide: indices are i64, otherwise i32."""
    size, start = indices.size, indices.start
    index = b.load(I64, start, number * 8) if wide else b.sext(b.load(I32, start, number * 4), I64)
    index = b.select(index < 0, index + size, index)
    return b.smin(b.smax(index, 0), size - 1)


@kernel
def gather_rows(b: KernelBuilder, a: GatherRows, *, itemsize: int, wide: bool) -> None:
    """Copy the rows that the indices pick. Threads share rows of y."""
    run = a.inner * itemsize
    lo, hi = b.share(a.outer * a.picks)
    with b.loop(lo, hi) as row:
        index = _index(b, a.indices, row.index % a.picks, wide)
        x = a.x + (row.index // a.picks * a.indices.size + index) * run
        copy_run(b, x, a.y + row.index * run, a.inner, ELEMENTS[itemsize])


@kernel(axes=AXES)
def gather_single(b: KernelBuilder, a: GatherElements, *, itemsize: int, wide: bool) -> None:
    """y[place] = x[place, with one axis replaced by the index]. Threads share elements."""
    total = a.axes[0].size
    for axis in a.axes[1:]:
        total = total * axis.size
    element = ELEMENTS[itemsize]
    lo, hi = b.share(total)
    with b.loop(lo, hi) as each:
        x, rest = a.x, each.index
        for number, axis in reversed(list(enumerate(a.axes))):
            x = x + (rest % axis.size if number else rest) * axis.stride
            rest = rest // axis.size if number else rest
        x = x + _index(b, a.indices, each.index, wide) * a.stride
        b.store(b.load(element, x), a.y, each.index * itemsize)
