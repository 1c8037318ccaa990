"""Copies that change which axis is innermost: channels last to row major and back."""

from __future__ import annotations

from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, P, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import Type, vector
from qcompiler.backends.kernels.copy import ELEMENTS, CopyAxis

OUTER = 4
"""Axes around the two that change places."""
TILE_BYTES = 16
"""Bytes of a tile's row. A tile is square: it has as many rows as a row has elements."""
_UNIT = 8
"""Tiles of columns in a unit of work."""


class TransposedCopy(Arguments["TransposedCopy"], Generic[P, E]):
    """The arguments of `copy_transposed`: matrices and their transposes.

    Attributes:
        x, y: elements of neighbouring columns are adjacent in x, those of neighbouring rows in y.
        rows, columns: the size of a matrix.
        x_row: bytes from row to row of x.
        y_column: bytes from column to column of y.
        outer: the axes around the matrices, outermost first.
    """

    x: P
    y: Written[P]
    rows: E
    columns: E
    x_row: E
    y_column: E
    outer: tuple[CopyAxis[E], ...]


def transposed(b: KernelBuilder, rows: list[Value]) -> list[Value]:
    """Transpose n vectors of n lanes: row i of the result holds lane i of each. Rows n/2 apart are interleaved log2(n)
    times."""
    n = len(rows)
    low = [lane // 2 + lane % 2 * n for lane in range(n)]
    high = [lane + n // 2 for lane in low]
    for _ in range(n.bit_length() - 1):
        pairs = zip(rows[: n // 2], rows[n // 2 :])
        rows = [b.shuffle(first, second, lanes) for first, second in pairs for lanes in (low, high)]
    return rows


@kernel(outer=OUTER)
def copy_transposed(b: KernelBuilder, a: TransposedCopy, *, itemsize: int) -> None:
    """y[column, row] = x[row, column]. Threads share tiles of columns."""
    side = TILE_BYTES // itemsize
    blocks = (a.columns + (_UNIT * side - 1)) // (_UNIT * side)
    total = blocks
    for axis in a.outer:
        total = total * axis.size
    lo, hi = b.share(total)
    with b.loop(lo, hi) as unit:
        first, rest = unit.index % blocks * (_UNIT * side), unit.index // blocks
        x, y = a.x, a.y
        for number, axis in reversed(list(enumerate(a.outer))):
            place = rest % axis.size if number else rest
            rest = rest // axis.size if number else rest
            x, y = x + place * axis.x_stride, y + place * axis.y_stride
        with (
            b.loop(0, a.rows, side) as tile,
            b.loop(first, b.smin(first + _UNIT * side, a.columns), side) as column,
        ):
            to = y + (column.index * a.y_column + tile.index * itemsize)
            start, left = x + column.index * itemsize, a.columns - column.index
            _tile(b, a, vector(ELEMENTS[itemsize], side), start, to, tile.index, left)


def _tile(b: KernelBuilder, a: TransposedCopy, type: Type, x: Value, y: Value, row: Value, left: Value) -> None:
    """Transpose one tile: up to `side` rows from `row` on, and `left` columns.

    type: the type of a tile's row. x: a pointer to the first column of row 0. y: where its element in `row` goes.
    """
    side = type.lanes
    below = a.rows - row
    with b.if_(left >= side) as wide:
        loaded = [b.load(type, x, b.smin(row + i, a.rows - 1) * a.x_row) for i in range(side)]
        found = transposed(b, loaded)
        with b.if_(below >= side) as whole:
            for i, value in enumerate(found):
                b.store(value, y, a.y_column * i)
            whole.yield_([])
        with whole.else_():
            for i, value in enumerate(found):
                b.store_prefix(value, y, a.y_column * i, below)
            whole.yield_([])
        wide.yield_([])
    with wide.else_():
        with b.loop(row, b.smin(row + side, a.rows)) as line, b.loop(0, left) as place:
            size = type.element.bytes
            one = b.load(type.element, x, line.index * a.x_row + place.index * size)
            b.store(one, y, place.index * a.y_column + (line.index - row) * size)
        wide.yield_([])
