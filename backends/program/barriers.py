"""Places the barriers at which the threads of a program wait for each other, between steps that depend on each other.

Dependences are found from the physical bytes that steps touch, so memory that the arena's plan reuses counts too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

Access = tuple[int, int, int, Hashable]
"""An access to bytes of a base: (base, begin, end, disjoint_in). If `disjoint_in` is not None, accesses with the same
value never overlap, even if their ranges do."""


@dataclass(frozen=True)
class Accesses:
    """The accesses of one step. alone: whether it runs on one thread, between barriers."""

    reads: Sequence[Access]
    writes: Sequence[Access]
    alone: bool = False


def place_barriers(steps: Sequence[Accesses]) -> list[bool]:
    """Whether a barrier follows each step.

    A barrier is put directly before the first step that depends on a step since the last barrier.
    """
    flags = [False] * len(steps)
    read: list[Access] = []
    written: list[Access] = []
    for number, step in enumerate(steps):
        if step.alone:
            read, written = [], []
            continue
        if _touch(step.reads, written) or _touch(step.writes, written) or _touch(step.writes, read):
            flags[number - 1] = True
            read, written = [], []
        read += step.reads
        written += step.writes
    return flags


def _touch(accesses: Sequence[Access], others: Sequence[Access]) -> bool:
    """Whether two accesses share bytes, except for accesses that are disjoint in one buffer."""
    for base, begin, end, disjoint_in in accesses:
        for other, other_begin, other_end, other_disjoint_in in others:
            meet = begin < other_end and other_begin < end and base == other
            if meet and (disjoint_in is None or disjoint_in != other_disjoint_in):
                return True
    return False
