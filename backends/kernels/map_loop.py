"""The loops of elementwise kernels: numpy broadcasting over operands at any strides.

A map runs over OUTER outer axes, along which every tensor has a stride of its own. Along the innermost axis the result
is adjacent, and each operand is either adjacent too or one element for the whole row. The caller gives the function of
the lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import Type, vector

OUTER = 5
Plan = Sequence[tuple[int, int]]
"""(lanes, unroll) pairs, wide ones first: one iteration covers lanes * unroll elements. A row shorter than the lanes of
the last pair is a prefix of them."""
Prepare = Callable[[int], Callable[..., Value]]


class MapOperand(Group, Generic[P, E]):
    """An operand of a map: its first element, and its strides in bytes along the outer axes."""

    start: P
    strides: tuple[E, E, E, E, E]


class MapResult(Group, Generic[P, E]):
    """The result of a map: its first element, and its strides in bytes along the outer axes."""

    start: Written[P]
    strides: tuple[E, E, E, E, E]


class Map(Arguments["Map"], Generic[P, E]):
    """The arguments of every map. count: elements along the innermost axis; sizes: the sizes of the outer axes."""

    count: E
    sizes: tuple[E, E, E, E, E]
    operands: tuple[MapOperand[P, E], ...]
    y: MapResult[P, E]


@dataclass(frozen=True)
class _Row:
    """One row of a map.

    Attributes:
        pointers: the first element of each operand and of the result.
        elements: their types.
        still: for each operand its element if it has one for the whole row, otherwise None.
        compute: the function of the lanes, by their number.
    """

    pointers: list[Value]
    elements: list[Type]
    still: list[Value | None]
    compute: dict[int, Callable[..., Value]]

    def block(
        self, b: KernelBuilder, still: list[Value | None], lanes: int, unroll: int, at: Value, left: Value | None = None
    ) -> None:
        """Compute lanes * unroll elements from `at` on, or only the first `left` of them (then unroll is 1)."""
        for part in range(unroll):
            values = []
            for element, pointer, value in zip(self.elements, self.pointers, still):
                size = element.bytes
                if value is not None:
                    values.append(value)
                elif left is None:
                    values.append(b.load(vector(element, lanes), pointer, at * size, disp=part * lanes * size))
                else:
                    values.append(b.load_prefix(vector(element, lanes), pointer, at * size, left))
            found, size = self.compute[lanes](*values), self.elements[-1].bytes
            if left is None:
                b.store(found, self.pointers[-1], at * size, disp=part * lanes * size)
            else:
                b.store_prefix(found, self.pointers[-1], at * size, left)

    def run(self, b: KernelBuilder, begin: Value, end: Value, plan: Plan) -> None:
        """Compute the elements [begin, end) in the widest blocks that fit. The last block is moved back so that it ends
        with the row. It computes some elements again, which is cheaper than a tail."""
        lanes, unroll = plan[0]
        size = lanes * unroll
        with b.if_(end - begin >= size) as fits:
            still = [None if value is None else b.splat(value, lanes) for value in self.still]
            with b.loop(begin, end, size) as loop:
                self.block(b, still, lanes, unroll, b.smin(loop.index, end - size))
            fits.yield_([])
        with fits.else_():
            if len(plan) > 1:
                self.run(b, begin, end, plan[1:])
            else:
                with b.if_(end > begin) as some:
                    still = [None if value is None else b.splat(value, lanes) for value in self.still]
                    self.block(b, still, lanes, 1, begin, end - begin)
                    some.yield_([])
            fits.yield_([])


def emit_map(
    b: KernelBuilder, a: Map, elements: Sequence[Type], inner: str, result: Type, plan: Plan, prepare: Prepare
) -> None:
    """Emit result[...] = compute(operands).

    Args:
        elements: memory types of the operands.
        inner: "1" for each operand that varies along the innermost axis, "0" for each other one.
        prepare: gives `compute` for a number of lanes; called outside of all loops.
    """
    total = a.sizes[0]
    for size in a.sizes[1:]:
        total = total * size
    compute = {lanes: prepare(lanes) for lanes in dict.fromkeys(lanes for lanes, _ in plan)}
    grain = plan[0][0] * plan[0][1]
    blocks = (a.count + (grain - 1)) // grain
    lo, hi = b.share(total * blocks)  # blocks of all rows in a line, so that one long row is shared as well
    first, last = lo // blocks, (hi + (blocks - 1)) // blocks
    tensors: list[MapOperand | MapResult] = [*a.operands, a.y]
    places: list[Value] = []
    rest = first
    for axis in reversed(range(1, OUTER)):
        places.insert(0, rest % a.sizes[axis])
        rest = rest // a.sizes[axis]
    pointers = []
    for tensor in tensors:
        pointer = tensor.start + rest * tensor.strides[0]
        for axis, place in enumerate(places, start=1):
            pointer = pointer + place * tensor.strides[axis]
        pointers.append(pointer)
    moves = [_moves(b, tensor.strides, a.sizes) for tensor in tensors]
    with b.loop(first, last, carried=[places, pointers]) as rows:
        places, pointers = rows.carried
        begin = b.smax(lo - rows.index * blocks, 0) * grain
        end = b.smin(b.smin(hi - rows.index * blocks, blocks) * grain, a.count)
        still = [
            None if varies == "1" else b.load(element, pointer)
            for element, pointer, varies in zip(elements, pointers, inner)
        ]
        _Row(pointers, [*elements, result], still, compute).run(b, begin, end, plan)
        rows.yield_(_next_row(b, places, pointers, a.sizes, moves))


def _moves(b: KernelBuilder, strides: Sequence[Value], sizes: Sequence[Value]) -> list[Value]:
    """For each axis the bytes that a pointer moves when the index along it increases and all inner ones return to 0."""
    found, back = [strides[-1]], b.i64(0)
    for axis in reversed(range(OUTER - 1)):
        back = back + (sizes[axis + 1] - 1) * strides[axis + 1]
        found.insert(0, strides[axis] - back)
    return found


def _next_row(
    b: KernelBuilder, places: list[Value], pointers: list[Value], sizes: Sequence[Value], moves: list[list[Value]]
) -> list[list[Value]]:
    """The next indices in row-major order and the pointers to their elements, found without a division."""
    moved = [by_axis[-1] for by_axis in moves]
    following, wraps = list(places), None
    for axis in reversed(range(1, OUTER)):
        place = places[axis - 1]
        counted = place + 1 if wraps is None else b.select(wraps, place + 1, place)
        full = counted == sizes[axis]
        following[axis - 1] = b.select(full, b.i64(0), counted)
        wraps = full
        moved = [b.select(wraps, by_axis[axis - 1], move) for by_axis, move in zip(moves, moved)]
    return [following, [pointer + move for pointer, move in zip(pointers, moved)]]
