"""Copies that exchange which axis is innermost: channels last to row major and back."""

from __future__ import annotations

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import I8, I16, I32, I64, Type, vector

ELEMENTS: dict[int, Type] = {1: I8, 2: I16, 4: I32, 8: I64}
OUTER = 4
"""Axes around the two that change places."""
TILE_BYTES = 16
"""A tile is square: 16 bytes of as many rows as these hold elements."""
_UNIT = 8
"""Tiles of columns in a unit of work."""


def transposed(b: KernelBuilder, rows: list[Value]) -> list[Value]:
    """n vectors of n lanes: row i holds lane i of each. Rows n/2 apart are interleaved log2(n) times."""
    n = len(rows)
    low = [lane // 2 + lane % 2 * n for lane in range(n)]
    high = [lane + n // 2 for lane in low]
    for _ in range(n.bit_length() - 1):
        pairs = zip(rows[: n // 2], rows[n // 2 :])
        rows = [b.shuffle(first, second, lanes) for first, second in pairs for lanes in (low, high)]
    return rows


@kernel(
    pointers=("x", "y"),
    extents=("rows", "columns", "x_row", "y_column", *(f"{p}{i}" for p in ("n", "xs", "ys") for i in range(OUTER))),
)
def copy_transposed(b: KernelBuilder, *, itemsize: int) -> None:
    """y[column, row] = x[row, column] over n0..n3; strides in bytes: x_row between rows of x, whose columns are
    adjacent, y_column between columns of y, whose rows are adjacent. Threads share tiles of columns."""
    element = ELEMENTS[itemsize]
    side = TILE_BYTES // itemsize
    rows, columns = b.extent("rows"), b.extent("columns")
    sizes = [b.extent(f"n{axis}") for axis in range(OUTER)]
    blocks = (columns + (_UNIT * side - 1)) // (_UNIT * side)
    total = blocks
    for size in sizes:
        total = total * size
    lo, hi = b.share(total)
    with b.loop(lo, hi) as unit:
        first, rest = unit.index % blocks * (_UNIT * side), unit.index // blocks
        x, y = b.pointer("x"), b.pointer("y")
        for axis in reversed(range(OUTER)):
            place = rest % sizes[axis] if axis else rest
            rest = rest // sizes[axis] if axis else rest
            x, y = x + place * b.extent(f"xs{axis}"), y + place * b.extent(f"ys{axis}")
        with b.loop(0, rows, side) as tile, b.loop(first, b.smin(first + _UNIT * side, columns), side) as column:
            to = y + (column.index * b.extent("y_column") + tile.index * itemsize)
            _tile(b, vector(element, side), x + column.index * itemsize, to, tile.index, rows, columns - column.index)


def _tile(b: KernelBuilder, type: Type, x: Value, y: Value, row: Value, rows: Value, left: Value) -> None:
    """Up to side rows by `left` columns, from `row` on. x: the first column of row 0; y: where its element of `row`
    goes."""
    side, x_row, y_column = type.lanes, b.extent("x_row"), b.extent("y_column")
    below = rows - row
    with b.if_(left >= side) as wide:
        loaded = [b.load(type, x, b.smin(row + i, rows - 1) * x_row) for i in range(side)]
        found = transposed(b, loaded)
        with b.if_(below >= side) as whole:
            for i, value in enumerate(found):
                b.store(value, y, y_column * i)
            whole.yield_([])
        with whole.else_():
            for i, value in enumerate(found):
                b.store_prefix(value, y, y_column * i, below)
            whole.yield_([])
        wide.yield_([])
    with wide.else_():
        with b.loop(row, b.smin(row + side, rows)) as line, b.loop(0, left) as place:
            size = type.element.bytes
            one = b.load(type.element, x, line.index * x_row + place.index * size)
            b.store(one, y, place.index * y_column + (line.index - row) * size)
        wide.yield_([])
