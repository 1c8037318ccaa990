"""Places the barriers at which the threads of a program wait for each other, between steps that depend on each other.

Dependences are found from the physical bytes that steps touch, so memory that the arena's plan reuses counts too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Access(NamedTuple):
    """An access to the bytes begin to end of a base.

    disjoint_in: if set, accesses with the same value never overlap, even if their ranges do.
    """

    base: int
    begin: int
    end: int
    disjoint_in: Hashable = None


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
    return any(
        one.base == other.base
        and one.begin < other.end
        and other.begin < one.end
        and (one.disjoint_in is None or one.disjoint_in != other.disjoint_in)
        for one in accesses
        for other in others
    )
