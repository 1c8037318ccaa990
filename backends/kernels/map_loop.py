"""The loops of elementwise kernels: numpy broadcasting over operands at any strides.

A map goes over up to OUTER outer axes, which operands cross at any strides; along the innermost axis the result lies
without gaps, and each operand either does too or is one element for all. What is computed lane by lane is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qcompiler.backends.kernel_ir.builder import KernelBuilder, KernelDef, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import Type, vector

OUTER = 5
Plan = Sequence[tuple[int, int]]
"""(lanes, unroll): a step goes over lanes * unroll elements. Wide steps first; what is shorter than the last step's
lanes is a prefix of it."""
Prepare = Callable[[int], Callable[..., Value]]


@dataclass(frozen=True)
class _Row:
    """What lies along the innermost axis: where, of which types (the result's last), and one element of each operand
    that stands still."""

    pointers: list[Value]
    elements: list[Type]
    still: list[Value | None]
    compute: dict[int, Callable[..., Value]]

    def step(
        self, b: KernelBuilder, still: list[Value | None], lanes: int, unroll: int, at: Value, left: Value | None = None
    ) -> None:
        """Elements at `at` and on: all, or the first `left` (unroll 1)."""
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
        """[begin, end) by the widest steps that fit. The last step is moved back to end with the row: it computes some
        elements again, which is cheaper than a tail."""
        lanes, unroll = plan[0]
        size = lanes * unroll
        with b.if_(end - begin >= size) as fits:
            still = [None if value is None else b.splat(value, lanes) for value in self.still]
            with b.loop(begin, end, size) as loop:
                self.step(b, still, lanes, unroll, b.smin(loop.index, end - size))
            fits.yield_([])
        with fits.else_():
            if len(plan) > 1:
                self.run(b, begin, end, plan[1:])
            else:
                with b.if_(end > begin) as some:
                    still = [None if value is None else b.splat(value, lanes) for value in self.still]
                    self.step(b, still, lanes, 1, begin, end - begin)
                    some.yield_([])
            fits.yield_([])


def emit_map(
    b: KernelBuilder, elements: Sequence[Type], inner: Sequence[bool], result: Type, plan: Plan, prepare: Prepare
) -> None:
    """result[...] = compute(operands).

    Args:
        elements: memory types of the operands. inner: whether an operand varies along the innermost axis.
        prepare: gives `compute` for a number of lanes; called outside of all loops.
    """
    count = b.extent("count")
    sizes = [b.extent(f"n{axis}") for axis in range(OUTER)]
    total = sizes[0]
    for size in sizes[1:]:
        total = total * size
    compute = {lanes: prepare(lanes) for lanes in dict.fromkeys(lanes for lanes, _ in plan)}
    grain = plan[0][0] * plan[0][1]
    blocks = (count + (grain - 1)) // grain
    lo, hi = b.share(total * blocks)  # blocks of all rows in a line, so that one long row is shared as well
    first, last = lo // blocks, (hi + (blocks - 1)) // blocks
    names = [*(f"x{i}" for i in range(len(elements))), "y"]
    places: list[Value] = []
    rest = first
    for axis in reversed(range(1, OUTER)):
        places.insert(0, rest % sizes[axis])
        rest = rest // sizes[axis]
    pointers = []
    for name in names:
        pointer = b.pointer(name) + rest * b.extent(f"{name}_s0")
        for axis, place in enumerate(places, start=1):
            pointer = pointer + place * b.extent(f"{name}_s{axis}")
        pointers.append(pointer)
    moves = [_moves(b, name, sizes) for name in names]
    with b.loop(first, last, carried=[places, pointers]) as rows:
        places, pointers = rows.carried
        begin = b.smax(lo - rows.index * blocks, 0) * grain
        end = b.smin(b.smin(hi - rows.index * blocks, blocks) * grain, count)
        still = [
            None if varies else b.load(element, pointer) for element, pointer, varies in zip(elements, pointers, inner)
        ]
        _Row(pointers, [*elements, result], still, compute).run(b, begin, end, plan)
        rows.yield_(_next_row(b, places, pointers, sizes, moves))


def _moves(b: KernelBuilder, name: str, sizes: Sequence[Value]) -> list[Value]:
    """By axis: how far a pointer goes when that axis counts on and all inner ones start again."""
    strides = [b.extent(f"{name}_s{axis}") for axis in range(OUTER)]
    found, back = [strides[-1]], b.i64(0)
    for axis in reversed(range(OUTER - 1)):
        back = back + (sizes[axis + 1] - 1) * strides[axis + 1]
        found.insert(0, strides[axis] - back)
    return found


def _next_row(
    b: KernelBuilder, places: list[Value], pointers: list[Value], sizes: Sequence[Value], moves: list[list[Value]]
) -> list:
    """The next place in row-major order, without a division."""
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


def declare_map(
    name: str, operands: int, body: Callable[..., None], extents: Sequence[str] = (), scalars: Sequence[str] = ()
) -> KernelDef:
    """A kernel of this many operands x0, x1 ... and result y; `body` calls emit_map. Extents: count, n0 ... of the
    axes, strides."""
    body.__name__ = name
    names = (*(f"x{i}" for i in range(operands)), "y")
    strides = tuple(f"{each}_s{axis}" for each in names for axis in range(OUTER))
    return kernel(
        pointers=names, extents=("count", *(f"n{axis}" for axis in range(OUTER)), *strides, *extents), scalars=scalars
    )(body)
