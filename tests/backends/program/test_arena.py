"""The plan of the arena has no overlaps and is near the lower bound; aliases; guard pages."""

import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.program.arena import (
    Buffer,
    Plan,
    overlapping,
    plan_arena,
    plan_guarded,
)
from qcompiler.errors import LoweringError


@st.composite
def buffer_lists(draw):
    buffers = []
    for index in range(draw(st.integers(1, 40))):
        first = draw(st.integers(0, 20))
        alias = draw(st.integers(0, index - 1)) if index and draw(st.integers(0, 4)) == 0 else None
        size = draw(st.one_of(st.integers(0, 300), st.integers(0, 100_000)))
        buffers.append(Buffer(size, first, first + draw(st.integers(0, 12)), 2 ** draw(st.integers(0, 8)), alias))
    return buffers


def roots(buffers):
    groups = list(range(len(buffers)))
    for _ in buffers:
        for i, buffer in enumerate(buffers):
            if buffer.alias is not None:
                groups[i] = groups[buffer.alias] = min(groups[i], groups[buffer.alias])
    return groups


def brute_force_overlap(buffers, plan):
    """Mark bytes step by step, with groups of aliases as one: an oracle that shares no code with the planner."""
    group = roots(buffers)
    spans = {}
    for g in set(group):
        members = [i for i in range(len(buffers)) if group[i] == g]
        spans[g] = (
            plan.offsets[members[0]],
            max(buffers[i].size for i in members),
            min(buffers[i].first for i in members),
            max(buffers[i].last for i in members),
        )
    for step in range(40):
        used = np.zeros(plan.total, bool)
        for offset, size, first, last in spans.values():
            if first <= step <= last:
                if used[offset : offset + size].any():
                    return True
                used[offset : offset + size] = True
    return False


@settings(max_examples=150, deadline=None)
@given(buffer_lists())
def test_live_buffers_never_overlap(buffers):
    plan = plan_arena(buffers)
    assert not brute_force_overlap(buffers, plan)
    assert overlapping(buffers, plan) is None
    assert plan.lower_bound <= plan.total
    group = roots(buffers)
    for i, buffer in enumerate(buffers):
        assert plan.offsets[i] % buffer.alignment == 0
        assert plan.offsets[i] + buffer.size <= plan.total or buffer.size == 0
        assert plan.offsets[i] == plan.offsets[group[i]]
    assert plan_arena(buffers) == plan


@settings(max_examples=60, deadline=None)
@given(buffer_lists())
def test_lower_bound_is_the_peak_of_live_bytes(buffers):
    group = roots(buffers)
    peak = 0
    for step in range(40):
        alive = 0
        for g in set(group):
            members = [b for i, b in enumerate(buffers) if group[i] == g]
            if min(b.first for b in members) <= step <= max(b.last for b in members):
                alive += max(b.size for b in members)
        peak = max(peak, alive)
    assert plan_arena(buffers).lower_bound == peak


def test_a_chain_needs_two_buffers():
    chain = [Buffer(1024, i, i + 1) for i in range(50)]
    assert plan_arena(chain).total == 2048


def test_best_gap_is_taken():
    buffers = [Buffer(640, 0, 0), Buffer(512, 0, 3), Buffer(256, 0, 0), Buffer(192, 0, 3), Buffer(128, 2, 3)]
    plan = plan_arena(buffers)
    assert plan.total == 640 + 512 + 256 + 192
    assert plan.offsets[4] == plan.offsets[2]


def test_aliases_share_and_live_together():
    buffers = [Buffer(256, 0, 1), Buffer(256, 2, 5, alias=0), Buffer(256, 3, 4)]
    plan = plan_arena(buffers)
    assert plan.offsets[0] == plan.offsets[1] != plan.offsets[2]


def test_empty_plans():
    assert plan_arena([]) == Plan((), 0, 0)
    assert plan_arena([Buffer(0, 0, 9)]).total == 0


def test_overlap_is_found():
    buffers = [Buffer(100, 0, 2), Buffer(100, 2, 3)]
    assert overlapping(buffers, Plan((0, 64), 164, 200)) == (0, 1)
    assert overlapping(buffers, Plan((0, 100), 200, 200)) is None


@pytest.mark.parametrize(
    "bad", [Buffer(-1, 0, 0), Buffer(1, 3, 2), Buffer(1, -1, 2), Buffer(1, 0, 0, 48), Buffer(1, 0, 0, 64, alias=7)]
)
def test_malformed_buffers_are_refused(bad):
    with pytest.raises(LoweringError, match="buffer 1"):
        plan_arena([Buffer(1, 0, 0), bad])


def test_ten_thousand_buffers_are_planned_and_sound():
    rng = np.random.default_rng(5)
    first = rng.integers(0, 10_000, 10_000)
    buffers = [
        Buffer(int(s), int(f), int(f + d)) for s, f, d in zip(rng.integers(1, 1 << 20, 10_000), first, first % 40)
    ]
    began = time.perf_counter()
    plan = plan_arena(buffers)
    assert time.perf_counter() - began < 60  # quadratic Python would take many minutes
    assert overlapping(buffers, plan) is None
    assert plan.total < 1.5 * plan.lower_bound


@settings(max_examples=60, deadline=None)
@given(buffer_lists())
def test_guarded_plan_never_shares_a_page(buffers):
    plan, guards = plan_guarded(buffers)
    page = os.sysconf("SC_PAGESIZE")
    group = roots(buffers)
    pages = {}
    for i, buffer in enumerate(buffers):
        assert plan.offsets[i] % buffer.alignment == 0
        for number in range(plan.offsets[i] // page, -(-(plan.offsets[i] + buffer.size) // page)):
            assert pages.setdefault(number, group[i]) == group[i]
    assert not pages.keys() & {guard // page for guard in guards}
    assert plan.total == guards[-1] + page
