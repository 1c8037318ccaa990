"""Barriers stand between steps that depend on each other, and nowhere else."""

from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.program.builder import ProgramBuilder
from qcompiler.backends.program.image import ArraySpec
from tests.backends.program.programs import BYTES, add, random_program


def barriers(build, inputs=2, outputs=3):
    builder = ProgramBuilder([ArraySpec(BYTES, (64,))] * inputs, [ArraySpec(BYTES, (64,))] * outputs)
    build(builder)
    return [step.barrier for step in builder.finish().steps]


def test_independent_steps_have_no_barrier():
    def build(b):
        for i in range(3):
            add(b, b.input(i % 2), b.output(i), 64, 1)

    assert barriers(build) == [False] * 3


def test_read_after_write_and_write_after_read_and_write_after_write():
    def build(b):
        hidden = b.buffer(64)
        add(b, b.input(0), hidden, 64, 1)
        add(b, b.input(0), b.output(0), 64, 1)
        add(b, hidden, b.output(1), 64, 1)  # reads hidden
        add(b, b.input(1), hidden, 64, 1)  # writes what was read since
        add(b, b.input(1), hidden, 64, 1)  # writes what was written since
        add(b, hidden, b.output(2), 64, 1)

    assert barriers(build) == [False, True, True, True, True, False]


def test_memory_used_again_counts_as_a_dependence():
    """c takes over the memory of a, so its step must wait for the last reader of a, although no name links them."""

    def build(b):
        a, c = b.buffer(64, "a"), b.buffer(64, "c")
        add(b, b.input(0), a, 64, 1)
        add(b, a, b.output(0), 64, 1)
        add(b, b.input(1), c, 64, 1)
        add(b, c, b.output(1), 64, 1)

    assert barriers(build, outputs=2) == [True, True, True, False]


def test_disjoint_writes_to_one_buffer_need_no_barrier():
    """Steps of different nodes write parts of one buffer. Its readers wait, and so does a step that is not marked
    disjoint."""

    def build(b):
        whole = b.buffer(64, "whole")
        add(b, b.input(0), whole, 64, 1, node="a", disjoint=True)
        add(b, b.input(1), b.output(0), 64, 1, node="b")
        add(b, b.input(1), whole, 64, 1, node="c", disjoint=True)
        add(b, b.input(1), whole, 64, 1, node="c")
        add(b, b.input(1), whole, 64, 1, node="d", disjoint=True)
        add(b, whole, b.output(1), 64, 1, node="e", disjoint=True)

    assert barriers(build, outputs=2) == [False, False, True, True, True, False]


def test_disjoint_writes_to_buffers_that_share_memory_wait():
    """Writes that are disjoint within a buffer may meet another buffer that takes over its memory."""

    def build(b):
        a, c = b.buffer(64, "a"), b.buffer(64, "c")
        add(b, b.input(0), a, 64, 1, node="n", disjoint=True)
        add(b, b.input(1), c, 64, 1, node="n", disjoint=True)
        add(b, c, b.output(0), 64, 1)

    assert barriers(build, outputs=1) == [True, True, False]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_no_two_dependent_steps_lie_between_two_barriers(seed):
    bound, _ = random_program(seed)
    words, _ = bound.image.argument_words()
    reads, writes = [], []
    for row, step in zip(words.reshape(-1, 8), bound.image.steps):
        read, write = tuple(row[0:2]), tuple(row[2:4])
        assert read not in writes and write not in writes and write not in reads
        reads.append(read)
        writes.append(write)
        if step.barrier:
            reads, writes = [], []
