"""Kernels that gather and scatter elements by index.

A negative index counts from the end. An index outside is clamped, so nothing outside of an operand is ever read
or written; `check_indices` finds it, and the call ends in an InputError.
"""

from __future__ import annotations

from typing import Generic, Literal

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I32, I64
from qcompiler.backends.kernels.copy import ELEMENTS, copy_run

AXES = 8
SCATTERED = {"f32": F32, "i32": I32, "i64": I64}
"""The element types that scatters combine."""
Reduction = Literal["none", "add", "mul", "max", "min"]


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


class GatherTuples(Arguments["GatherTuples"], Generic[P, E]):
    """The arguments of `gather_tuples`: x row major, of which the first `depth` axes are indexed, to y [picks, inner].
    indices: [picks, depth]. inner: how many elements of x there are behind the indexed axes."""

    x: P
    indices: P
    y: Written[P]
    axes: tuple[GatherAxis[E], ...]
    picks: E
    inner: E


class ScatterTuples(Arguments["ScatterTuples"], Generic[P, E]):
    """The arguments of the scatters: updates [picks, inner] that go to y, of which the first `depth` axes are indexed.
    indices: [picks, depth]."""

    updates: P
    indices: P
    y: Written[P]
    axes: tuple[GatherAxis[E], ...]
    picks: E
    inner: E


class IndexCheck(Arguments["IndexCheck"], Generic[P, E]):
    """The arguments of `check_indices`: indices [picks, depth] into axes of these sizes. found: i64 [3], how many
    indices are outside, the last of them, and the size of its axis."""

    indices: P
    found: Written[P]
    sizes: tuple[E, ...]
    picks: E


def _load(b: KernelBuilder, start: Value, number: Value, wide: bool) -> Value:
    """Index `number` behind `start`. wide: indices are i64, otherwise i32."""
    return b.load(I64, start, number * 8) if wide else b.sext(b.load(I32, start, number * 4), I64)


def _index(b: KernelBuilder, start: Value, size: Value, number: Value, wide: bool) -> Value:
    """Index `number` behind `start`, clamped to an axis of this size."""
    index = _load(b, start, number, wide)
    index = b.select(index < 0, index + size, index)
    return b.smin(b.smax(index, 0), size - 1)


@kernel(sizes=AXES)
def check_indices(b: KernelBuilder, a: IndexCheck, *, wide: bool, depth: int) -> None:
    """Look for indices outside of their axes. One thread does it all."""
    lo, hi = b.share(1)
    with b.loop(lo, hi):
        with b.loop(0, a.picks, carried=[b.i64(0), b.i64(0), b.i64(0)]) as each:
            count, last, size = each.carried
            for number, axis in enumerate(a.sizes[:depth]):
                index = _load(b, a.indices, each.index * depth + number, wide)
                outside = (index + axis < 0) | (index >= axis)
                count = count + b.select(outside, b.i64(1), 0)
                last, size = b.select(outside, index, last), b.select(outside, axis, size)
            each.yield_([count, last, size])
        for place, value in enumerate(each.results):
            b.store(value, a.found, 8 * place)


@kernel
def gather_rows(b: KernelBuilder, a: GatherRows, *, itemsize: int, wide: bool) -> None:
    """Copy the rows that the indices pick. Threads share rows of y."""
    run = a.inner * itemsize
    lo, hi = b.share(a.outer * a.picks)
    with b.loop(lo, hi) as row:
        index = _index(b, a.indices.start, a.indices.size, row.index % a.picks, wide)
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
        x = x + _index(b, a.indices.start, a.indices.size, each.index, wide) * a.stride
        b.store(b.load(element, x), a.y, each.index * itemsize)


@kernel(axes=AXES)
def gather_tuples(b: KernelBuilder, a: GatherTuples, *, itemsize: int, wide: bool, depth: int) -> None:
    """Copy the rows that tuples of `depth` indices pick. Threads share rows of y."""
    run = a.inner * itemsize
    lo, hi = b.share(a.picks)
    with b.loop(lo, hi) as row:
        x = a.x
        for number, axis in enumerate(a.axes[:depth]):
            x = x + _index(b, a.indices, axis.size, row.index * depth + number, wide) * axis.stride
        copy_run(b, x, a.y + row.index * run, a.inner, ELEMENTS[itemsize])


@kernel(axes=AXES)
def scatter_tuples(
    b: KernelBuilder, a: ScatterTuples, *, dtype: str, itemsize: int, wide: bool, depth: int, reduction: Reduction
) -> None:
    """Write, or combine, the rows of the updates where tuples of `depth` indices say. Threads share the columns of the
    rows, so each place gets its updates in order."""
    element = ELEMENTS[itemsize] if reduction == "none" else SCATTERED[dtype]
    lo, hi = b.share(a.inner)
    with b.if_(lo < hi) as some:
        with b.loop(0, a.picks) as row:
            y = a.y
            for number, axis in enumerate(a.axes[:depth]):
                y = y + _index(b, a.indices, axis.size, row.index * depth + number, wide) * axis.stride
            x = a.updates + row.index * a.inner * element.bytes
            if reduction == "none":
                copy_run(b, x + lo * element.bytes, y + lo * element.bytes, hi - lo, element)
            else:
                with b.loop(lo, hi) as column:
                    place = column.index * element.bytes
                    update, found = b.load(element, x, place), b.load(element, y, place)
                    b.store(_combined(b, reduction, found, update), y, place)
        some.yield_([])


def _combined(b: KernelBuilder, reduction: Reduction, x: Value, y: Value) -> Value:
    if reduction in ("add", "mul"):
        return x + y if reduction == "add" else x * y
    if not x.type.is_float:
        return b.smax(x, y) if reduction == "max" else b.smin(x, y)
    better = x >= y if reduction == "max" else x <= y
    return b.select(better | (x != x), x, y)  # NaN stays, and y is taken if it is NaN
