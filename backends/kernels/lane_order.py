"""Puts registers whose channels lie in the order of packed weights into the order of memory."""

from __future__ import annotations

from collections.abc import Sequence

from qcompiler.backends.kernel_ir.builder import KernelBuilder
from qcompiler.backends.kernel_ir.ir import Value


def in_order(b: KernelBuilder, registers: Sequence[Value], order: Sequence[int]) -> list[Value]:
    """Sort two or four registers by channel. order: the channel of each lane."""
    lanes = registers[0].type.lanes
    if list(order) == sorted(order):
        return list(registers)
    places = [list(order).index(channel) for channel in range(len(order))]
    wanted = [places[first : first + lanes] for first in range(0, len(order), lanes)]
    if len(registers) == 2:
        return [b.shuffle(registers[0], registers[1], part) for part in wanted]
    found: list[Value] = []
    for parts in zip(wanted[::2], wanted[1::2]):
        if all({place // lanes for place in part} in ({0, 1}, {2, 3}) for part in parts):
            sides = [min(part) // (2 * lanes) for part in parts]
            for part, side in zip(parts, sides):
                chosen = [place - 2 * lanes * side for place in part]
                found.append(b.shuffle(registers[2 * side], registers[2 * side + 1], chosen))
            continue
        # From each half of the registers, collect the lanes that both results need, side by side in one register.
        halves, sources = [], []
        for side in range(2):
            taken = [place for part in parts for place in part if place // (2 * lanes) == side]
            halves.append(
                b.shuffle(registers[2 * side], registers[2 * side + 1], [place - 2 * lanes * side for place in taken])
            )
            sources += taken
        found += [b.shuffle(halves[0], halves[1], [sources.index(place) for place in part]) for part in parts]
    return found
