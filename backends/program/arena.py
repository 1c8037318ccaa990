"""Plans the arena: gives each buffer an offset, such that buffers alive at the same step never overlap.

Owns the offsets. Does not know programs: `qcompiler.backends.program.builder` gives it lifetimes as step numbers.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.errors import LoweringError
from qcompiler.fork_safety import cached_property

ALIGNMENT = 64
_ORDERS_LIMIT = 2000


@dataclass(frozen=True)
class Buffer:
    """One buffer to place: its bytes, the first and the last step that touch it, and its alignment.

    alias: the index of a buffer whose memory it shares, from the same offset on (an in-place result). The buffers of
    such an alias group are placed as one, alive from the first to the last step of any of them.
    """

    size: int
    first: int
    last: int
    alignment: int = ALIGNMENT
    alias: int | None = None


@dataclass(frozen=True)
class Plan:
    """The byte offset of each buffer, the arena's size, and the most bytes alive at one step, a bound for any plan."""

    offsets: tuple[int, ...]
    total: int
    lower_bound: int


class Lifetimes:
    """All that a plan needs but the sizes: when buffers are alive, their alignments and their alias groups, which are
    placed as one. One object plans for any sizes."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        root = list(range(len(buffers)))

        def find(i: int) -> int:
            while root[i] != i:
                root[i] = root[root[i]]
                i = root[i]
            return i

        for i, buffer in enumerate(buffers):
            _check(buffer, i, len(buffers))
            if buffer.alias is not None:
                a, b = find(i), find(buffer.alias)
                root[max(a, b)] = min(a, b)
        roots = [find(i) for i in range(len(buffers))]
        number = {each: group for group, each in enumerate(sorted(set(roots)))}
        self.member = [number[each] for each in roots]
        """The group of each buffer."""
        count = len(number)
        self.first, self.last, self.alignment = [buffers[i].first for i in number], [0] * count, [1] * count
        for group, buffer in zip(self.member, buffers):
            self.first[group] = min(self.first[group], buffer.first)
            self.last[group] = max(self.last[group], buffer.last)
            self.alignment[group] = max(self.alignment[group], buffer.alignment)

    def sizes_of_groups(self, sizes: Sequence[int]) -> list[int]:
        """The size of each group: that of its largest buffer."""
        found = [0] * len(self.first)
        for group, size in zip(self.member, sizes):
            if size > found[group]:
                found[group] = size
        return found

    def plan(self, sizes: Sequence[int]) -> Plan:
        """Offsets for buffers of these sizes; see `plan_arena`."""
        if not self.member:
            return Plan((), 0, 0)
        size, first = self.sizes_of_groups(sizes), self.first
        bound, groups = self.lower_bound(size), range(len(size))
        offsets, total = self._place(size, sorted(groups, key=lambda g: (-size[g], first[g])))
        if total > bound and len(size) <= _ORDERS_LIMIT:
            duration = [last - begin + 1 for begin, last in zip(first, self.last)]
            for order in (
                sorted(groups, key=lambda g: (-duration[g], -size[g])),
                sorted(groups, key=lambda g: (-size[g] * duration[g], first[g])),
            ):
                other, needed = self._place(size, order)
                if needed < total:
                    offsets, total = other, needed
        return Plan(tuple([offsets[group] for group in self.member]), total, bound)

    def plan_guarded(self, sizes: Sequence[int]) -> tuple[Plan, tuple[int, ...]]:
        """See `plan_guarded`."""
        if not self.member:
            return Plan((), 0, 0), ()
        size = self.sizes_of_groups(sizes)
        offsets, guards, at = [], [0], mmap.PAGESIZE
        for needed, alignment in zip(size, self.alignment):
            room = -(-max(needed, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
            offsets.append(at + (room - needed) // alignment * alignment)
            guards.append(at + room)
            at += room + mmap.PAGESIZE
        return Plan(tuple([offsets[group] for group in self.member]), at, self.lower_bound(size)), tuple(guards)

    def lower_bound(self, size: Sequence[int]) -> int:
        """The most bytes alive at once. size: of each group."""
        change = [0] * (max(self.last) + 2)
        for begin, last, needed in zip(self.first, self.last, size):
            change[begin] += needed
            change[last + 1] -= needed
        return max(itertools.accumulate(change))

    @cached_property
    def _neighbours(self) -> list[list[int]]:
        """For each group the others that are alive at the same time as it."""
        first, last = np.array(self.first), np.array(self.last)
        return [
            [other for other in np.flatnonzero((first <= end) & (last >= begin)).tolist() if other != group]
            for group, (begin, end) in enumerate(zip(self.first, self.last))
        ]

    def _place(self, size: Sequence[int], order: Sequence[int]) -> tuple[list[int], int]:
        """Place groups in this order. Returns their offsets and the total size."""
        begins, ends, total = [0] * len(size), [0] * len(size), 0
        for g in order:
            needed, alignment = size[g], self.alignment[g]
            if needed == 0:
                continue
            offset, top, least = -1, 0, 0
            for begin, end in sorted([(begins[each], ends[each]) for each in self._neighbours[g] if ends[each]]):
                start = -(-top // alignment) * alignment
                room = begin - start
                if room >= needed and (offset < 0 or room < least):
                    offset, least = start, room
                if end > top:
                    top = end
            if offset < 0:
                offset = -(-top // alignment) * alignment
            begins[g], ends[g] = offset, offset + needed
            if offset + needed > total:
                total = offset + needed
        return begins, total


def plan_arena(buffers: Sequence[Buffer]) -> Plan:
    """Offsets such that buffers alive at the same step never overlap.

    Greedy by decreasing size: each buffer takes the smallest gap that fits between those already placed and alive with
    it. If that misses the lower bound and the problem is small, two other orders are tried and the best one wins. The
    result depends on the list alone. LoweringError for a malformed buffer.
    """
    return Lifetimes(buffers).plan([buffer.size for buffer in buffers])


def plan_guarded(buffers: Sequence[Buffer]) -> tuple[Plan, tuple[int, ...]]:
    """A plan for debugging: no reuse, every buffer on its own pages, pushed against a guard page at its end.

    Returns the plan and the byte offsets of the guard pages, one before each group of buffers and one after the last.
    """
    return Lifetimes(buffers).plan_guarded([buffer.size for buffer in buffers])


def _check(buffer: Buffer, index: int, count: int) -> None:
    where = f"buffer {index}"
    if buffer.size < 0 or not 0 <= buffer.first <= buffer.last:
        raise LoweringError("a buffer needs a size >= 0 and steps 0 <= first <= last", where=where, got=buffer)
    if buffer.alignment < 1 or buffer.alignment & (buffer.alignment - 1):
        raise LoweringError("an alignment is a power of two", where=where, got=buffer.alignment)
    if buffer.alias is not None and not 0 <= buffer.alias < count:
        raise LoweringError("alias names no buffer", where=where, expected=f"0..{count - 1}", got=buffer.alias)


def overlapping(buffers: Sequence[Buffer], plan: Plan) -> tuple[int, int] | None:
    """Two buffers that break a plan: they are alive at the same step and share bytes without being aliases. None if
    there are none."""
    lifetimes = Lifetimes(buffers)
    size = np.array(lifetimes.sizes_of_groups([buffer.size for buffer in buffers]), np.int64)
    first, last, member = np.array(lifetimes.first), np.array(lifetimes.last), np.array(lifetimes.member)
    offsets, representative = np.zeros(len(size), np.int64), np.zeros(len(size), np.int64)
    offsets[member] = plan.offsets
    representative[member[::-1]] = np.arange(len(buffers))[::-1]
    ends = offsets + size
    for g in range(len(size)):
        clash = (offsets < ends[g]) & (ends > offsets[g]) & (size > 0) & (size[g] > 0)
        clash &= (first <= last[g]) & (last >= first[g])
        clash[: g + 1] = False
        if clash.any():
            return int(representative[g]), int(representative[np.argmax(clash)])
    return None
