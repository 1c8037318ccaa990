"""Sorting by counting: the place of an element is how many elements of its line come before it.

The work is quadratic in the length of a line. It needs no memory and no branches, and threads share elements.
"""

from __future__ import annotations

from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, P, Written
from qcompiler.backends.kernels.reduce import SEARCHED, ordered_key


class Argsort(Arguments["Argsort"], Generic[P, E]):
    """The arguments of `argsort`: x [outer, size, inner] and y of the same shape, i64, both row major."""

    x: P
    y: Written[P]
    outer: E
    size: E
    inner: E


@kernel
def argsort(b: KernelBuilder, a: Argsort, *, dtype: str, descending: bool) -> None:
    """The indices that sort each line; equal elements keep their order, and NaN counts as the largest."""
    element, unsigned = SEARCHED[dtype], dtype in ("u8", "bool")
    lo, hi = b.share(a.outer * a.inner * a.size)
    with b.loop(lo, hi) as unit:
        line, place = unit.index // a.size, unit.index % a.size
        start = line // a.inner * a.size * a.inner + line % a.inner
        own = ordered_key(b, b.load(element, a.x, (start + place * a.inner) * element.bytes), unsigned)
        with b.loop(0, a.size, carried=b.i64(0)) as other:
            key = ordered_key(b, b.load(element, a.x, (start + other.index * a.inner) * element.bytes), unsigned)
            before = (key > own if descending else key < own) | ((key == own) & (other.index < place))
            other.yield_(other.carried + b.select(before, b.i64(1), 0))
        b.store(place, a.y, (start + other.results * a.inner) * 8)
