"""Plans the arena: gives each buffer an offset, such that buffers alive at the same step never overlap.

Owns the offsets. Does not know programs: `qcompiler.backends.program.builder` gives it lifetimes as step numbers.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.errors import LoweringError

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


@dataclass
class _Groups:
    """The alias groups, which are what is placed, as arrays. member[i]: the group of buffer i."""

    member: np.ndarray
    size: np.ndarray
    first: np.ndarray
    last: np.ndarray
    alignment: np.ndarray


def plan_arena(buffers: Sequence[Buffer]) -> Plan:
    """Offsets such that buffers alive at the same step never overlap.

    Greedy by decreasing size: each buffer takes the smallest gap that fits between those already placed and alive with
    it. If that misses the lower bound and the problem is small, two other orders are tried and the best one wins. The
    result depends on the list alone. LoweringError for a malformed buffer.
    """
    if not buffers:
        return Plan((), 0, 0)
    groups = _merge_aliases(buffers)
    bound = _lower_bound(groups)
    by_size = np.lexsort((groups.first, -groups.size))
    offsets, total = _place(groups, by_size)
    if total > bound and len(groups.size) <= _ORDERS_LIMIT:
        duration = groups.last - groups.first + 1
        for order in (np.lexsort((-groups.size, -duration)), np.lexsort((groups.first, -groups.size * duration))):
            other, size = _place(groups, order)
            if size < total:
                offsets, total = other, size
    return Plan(tuple(offsets[groups.member].tolist()), total, bound)


def _merge_aliases(buffers: Sequence[Buffer]) -> _Groups:
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
    roots = np.array([find(i) for i in range(len(buffers))])
    distinct, member = np.unique(roots, return_inverse=True)
    groups = _Groups(
        member,
        np.zeros(len(distinct), np.int64),
        np.full(len(distinct), np.iinfo(np.int64).max),
        np.zeros(len(distinct), np.int64),
        np.ones(len(distinct), np.int64),
    )
    np.maximum.at(groups.size, member, [b.size for b in buffers])
    np.minimum.at(groups.first, member, [b.first for b in buffers])
    np.maximum.at(groups.last, member, [b.last for b in buffers])
    np.maximum.at(groups.alignment, member, [b.alignment for b in buffers])
    return groups


def _check(buffer: Buffer, index: int, count: int) -> None:
    where = f"buffer {index}"
    if buffer.size < 0 or not 0 <= buffer.first <= buffer.last:
        raise LoweringError("a buffer needs a size >= 0 and steps 0 <= first <= last", where=where, got=buffer)
    if buffer.alignment < 1 or buffer.alignment & (buffer.alignment - 1):
        raise LoweringError("an alignment is a power of two", where=where, got=buffer.alignment)
    if buffer.alias is not None and not 0 <= buffer.alias < count:
        raise LoweringError("alias names no buffer", where=where, expected=f"0..{count - 1}", got=buffer.alias)


def _lower_bound(groups: _Groups) -> int:
    """The most bytes alive at once. Only a step at which a group begins can be the peak."""
    events = np.concatenate([groups.first, groups.last + 1])
    change = np.concatenate([groups.size, -groups.size])
    steps, inverse = np.unique(events, return_inverse=True)
    alive = np.zeros(len(steps), np.int64)
    np.add.at(alive, inverse, change)
    return int(np.cumsum(alive).max())


def _place(groups: _Groups, order: np.ndarray) -> tuple[np.ndarray, int]:
    """Place groups in this order. Returns their offsets and the total size. Placed groups are kept sorted by offset."""
    count = len(order)
    offsets = np.zeros(count, np.int64)
    begin, end, first, last = (np.zeros(count, np.int64) for _ in range(4))
    placed = total = 0
    for g in order.tolist():
        size = int(groups.size[g])
        if size == 0:
            continue
        alive = np.flatnonzero((first[:placed] <= groups.last[g]) & (last[:placed] >= groups.first[g]))
        offset = _best_gap(begin[alive], end[alive], size, int(groups.alignment[g]))
        at = int(np.searchsorted(begin[:placed], offset))
        values = (offset, offset + size, groups.first[g], groups.last[g])
        for array, value in zip((begin, end, first, last), values):
            array[at + 1 : placed + 1] = array[at:placed]
            array[at] = value
        offsets[g] = offset
        total = max(total, offset + size)
        placed += 1
    return offsets, total


def _best_gap(begin: np.ndarray, end: np.ndarray, size: int, alignment: int) -> int:
    """The offset in the smallest gap that fits among intervals sorted by begin, or after all of them if none fits."""
    if len(begin) == 0:
        return 0
    tops = np.maximum.accumulate(end)
    starts = np.concatenate(([0], tops))
    starts = -(-starts // alignment) * alignment
    room = begin - starts[:-1]
    fits = np.flatnonzero(room >= size)
    if len(fits) == 0:
        return int(starts[-1])
    return int(starts[fits[np.argmin(room[fits])]])


def plan_guarded(buffers: Sequence[Buffer]) -> tuple[Plan, tuple[int, ...]]:
    """A plan for debugging: no reuse, every buffer on its own pages, pushed against a guard page at its end.

    Returns the plan and the byte offsets of the guard pages, one before each group of buffers and one after the last.
    """
    if not buffers:
        return Plan((), 0, 0), ()
    groups = _merge_aliases(buffers)
    offsets = np.zeros(len(groups.size), np.int64)
    guards, at = [0], mmap.PAGESIZE
    for g, (size, alignment) in enumerate(zip(groups.size.tolist(), groups.alignment.tolist())):
        room = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        offsets[g] = at + (room - size) // alignment * alignment
        guards.append(at + room)
        at += room + mmap.PAGESIZE
    return Plan(tuple(offsets[groups.member].tolist()), at, _lower_bound(groups)), tuple(guards)


def overlapping(buffers: Sequence[Buffer], plan: Plan) -> tuple[int, int] | None:
    """Two buffers that break a plan: they are alive at the same step and share bytes without being aliases. None if
    there are none."""
    groups = _merge_aliases(buffers)
    offsets = np.zeros(len(groups.size), np.int64)
    offsets[groups.member] = plan.offsets
    representative = np.zeros(len(groups.size), np.int64)
    representative[groups.member[::-1]] = np.arange(len(buffers))[::-1]
    ends = offsets + groups.size
    for g in range(len(groups.size)):
        clash = (offsets < ends[g]) & (ends > offsets[g]) & (groups.size > 0) & (groups.size[g] > 0)
        clash &= (groups.first <= groups.last[g]) & (groups.last >= groups.first[g])
        clash[: g + 1] = False
        if clash.any():
            return int(representative[g]), int(representative[np.argmax(clash)])
    return None
