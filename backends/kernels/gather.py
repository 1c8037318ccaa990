"""Gathers. An index counts from the end if negative; one outside is clamped, so nothing outside the operand is ever
read."""

from __future__ import annotations

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import I32, I64
from qcompiler.backends.kernels.copy import ELEMENTS, copy_run

OUTER = 8


def _index(b: KernelBuilder, at: Value, wide: bool) -> Value:
    """Index number `at`, inside [0, size)."""
    size, indices = b.extent("size"), b.pointer("indices")
    index = b.load(I64, indices, at * 8) if wide else b.sext(b.load(I32, indices, at * 4), I64)
    index = b.select(index < 0, index + size, index)
    return b.smin(b.smax(index, 0), size - 1)


@kernel(pointers=("x", "indices", "y"), extents=("outer", "size", "picks", "inner"))
def gather_rows(b: KernelBuilder, *, itemsize: int, wide: bool) -> None:
    """x [outer, size, inner] -> y [outer, picks, inner], all row major."""
    picks, run = b.extent("picks"), b.extent("inner") * itemsize
    lo, hi = b.share(b.extent("outer") * picks)
    with b.loop(lo, hi) as row:
        index = _index(b, row.index % picks, wide)
        x = b.pointer("x") + (row.index // picks * b.extent("size") + index) * run
        copy_run(b, x, b.pointer("y") + row.index * run, b.extent("inner"), ELEMENTS[itemsize])


@kernel(
    pointers=("x", "indices", "y"),
    extents=("size", "step", *(f"n{i}" for i in range(OUTER)), *(f"s{i}" for i in range(OUTER))),
)
def gather_single(b: KernelBuilder, *, itemsize: int, wide: bool) -> None:
    """y[place] = x[place, with its axis replaced by the index]; indices and y row major over n0..n7. s0..s7: strides of
    x, 0 on the axis;
    step: its stride there."""
    sizes = [b.extent(f"n{i}") for i in range(OUTER)]
    total = sizes[0]
    for size in sizes[1:]:
        total = total * size
    element = ELEMENTS[itemsize]
    lo, hi = b.share(total)
    with b.loop(lo, hi) as each:
        x, rest = b.pointer("x"), each.index
        for axis in reversed(range(OUTER)):
            x = x + (rest % sizes[axis] if axis else rest) * b.extent(f"s{axis}")
            rest = rest // sizes[axis] if axis else rest
        x = x + _index(b, each.index, wide) * b.extent("step")
        b.store(b.load(element, x), b.pointer("y"), each.index * itemsize)
