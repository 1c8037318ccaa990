"""Addresses the rows of a tile from few pointers, depending on how many rows a target's loads reach from one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qcompiler.backends.kernel_ir.ir import Operand, Value

if TYPE_CHECKING:
    from qcompiler.backends.kernel_ir.builder import KernelBuilder


class Rows:
    """Addresses of rows at a fixed distance. Row r lies at `pointers[r // group] + offsets[r % group]`.

    The group is the target's `row_group`. x86 (3) addresses base, base + index and base + 2 * index in the load itself,
    so 14 rows need five pointers and one stride. ARM (1) moves a pointer in the load itself. In a loop, carry
    `rows.pointers` and yield `rows.at(carried).moved(nbytes)`.
    """

    def __init__(self, b: KernelBuilder, pointers: Sequence[Value], offsets: Sequence[Operand]) -> None:
        self.b = b
        self.pointers = list(pointers)
        self.offsets = list(offsets)

    def __getitem__(self, row: int) -> tuple[Value, Operand]:
        """The (pointer, offset) of a row, for a load or a store: `b.load(F32, *rows[r])`."""
        return self.pointers[row // len(self.offsets)], self.offsets[row % len(self.offsets)]

    def at(self, pointers: Sequence[Value]) -> Rows:
        """The same rows at other pointers, such as those that a loop carries."""
        return Rows(self.b, pointers, self.offsets)

    def moved(self, nbytes: Operand) -> list[Value]:
        """The pointers moved by `nbytes` bytes."""
        alone = self.b.target.row_group == 1
        return [self.b.advance(pointer, nbytes) if alone else pointer + nbytes for pointer in self.pointers]
