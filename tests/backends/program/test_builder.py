"""Programs: memory reuse, execution from many threads, debugging aids, errors."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.program.builder import ProgramBuilder
from qcompiler.backends.program.image import ArraySpec
from qcompiler.backends.program.recorded import View
from qcompiler.backends.runtime.pages import guarded_block
from qcompiler.errors import InputError, LoweringError
from tests.backends.program.programs import (
    BYTES,
    HERE,
    add,
    bytes_in,
    chain,
    key,
    linked,
    random_program,
    rotate,
)

# -- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 1000])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_chain(n, threads):
    x = bytes_in(n)
    [y] = chain(n, 10).run([x], threads=threads)
    assert np.array_equal(y, x + np.uint8(45))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3]), st.sampled_from(["", "poison", "guard"]))
def test_random_programs_equal_their_meaning(seed, threads, debug):
    bound, expected = random_program(seed, poison=debug == "poison", guard=debug == "guard")
    x = np.random.default_rng(seed).integers(-1000, 1000, 64).astype(np.int32)
    for _ in range(2):
        results = bound.run([x], threads=threads)
        assert all(np.array_equal(a, b) for a, b in zip(results, expected(x)))


def test_memory_is_reused_but_results_are_their_own():
    bound = chain(4096, 20)
    assert bound.image.arena.nbytes == 2 * 4096 == bound.image.arena.lower_bound
    first = bound.run([bytes_in(4096, 1)])[0]
    kept = first.copy()
    bound.run([bytes_in(4096, 2)])
    assert np.array_equal(first, kept)
    assert first.flags.owndata


def test_given_outputs_are_filled():
    y = np.zeros(100, BYTES)
    assert chain(100, 3).run([bytes_in(100)], [y])[0] is y
    assert np.array_equal(y, bytes_in(100) + np.uint8(3))


def test_read_only_inputs_are_fine():
    x = bytes_in(100)
    x.flags.writeable = False
    assert np.array_equal(chain(100, 3).run([x])[0], x + np.uint8(3))


def test_scalar_arguments():
    builder = ProgramBuilder([], [ArraySpec(np.int64, (1,))])
    builder.step(key("count_threads"), [builder.output(0), None, 1, 1.5], writes=[builder.output(0)])
    words, starts = builder.finish().argument_words()
    assert words.tolist() == [2, 0, 0, 0, 1, 0x3FC00000, 0, 0] and starts == [0]


def test_parts_of_buffers():
    """Two halves are written apart, as by a concatenation, and read as one."""
    builder = ProgramBuilder([ArraySpec(BYTES, (50,))] * 2, [ArraySpec(BYTES, (100,))])
    whole = builder.buffer(100)
    for i in range(2):
        args = [builder.input(i), (whole, 50 * i), 50, i + 1]
        builder.step(key("add"), args, reads=[builder.input(i)], writes=[(whole, 50 * i, 50)])
    add(builder, whole, builder.output(0), 100, 10)
    bound = linked(builder)
    assert [step.barrier for step in bound.image.steps] == [False, True, False]
    a, b = bytes_in(50, 1), bytes_in(50, 2)
    [y] = bound.run([a, b], threads=2)
    assert np.array_equal(y, np.concatenate([a + np.uint8(11), b + np.uint8(12)]))


def test_an_alias_works_in_place():
    builder = ProgramBuilder([ArraySpec(BYTES, (64,))], [ArraySpec(BYTES, (64,))])
    a = builder.buffer(64, "a")
    b = builder.buffer(64, "b", alias=a)
    add(builder, builder.input(0), a, 64, 1)
    add(builder, a, b, 64, 2)
    add(builder, b, builder.output(0), 64, 3)
    bound = linked(builder)
    assert bound.image.arena.nbytes == 64
    assert np.array_equal(bound.run([bytes_in(64)], threads=2)[0], bytes_in(64) + np.uint8(6))


# -- Python steps -----------------------------------------------------------------------------------------------------


def mixed(function, n=32, guard=False):
    """A program of native, Python and native steps, with f32[4, n/16] in the middle."""
    builder = ProgramBuilder([ArraySpec(BYTES, (n,))], [ArraySpec(BYTES, (n,))])
    a, b = builder.buffer(n), builder.buffer(n)
    add(builder, builder.input(0), a, n, 1, node="before")
    table = builder.constant(np.arange(n, dtype=BYTES))
    shape = (2, n // 2)
    builder.python_step("user", reads=[View(a, BYTES, shape), View(table, BYTES, (n,))], writes=[View(b, BYTES, shape)])
    add(builder, b, builder.output(0), n, 2, node="after")
    return linked(builder, guard=guard, user=function)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("guard", [False, True])
def test_python_steps_see_numpy_views(threads, guard):
    def function(reads, writes):
        assert not reads[0].flags.writeable and reads[0].shape == (2, 16)
        writes[0][:] = reads[0] * 2 + reads[1].reshape(2, 16)

    x = bytes_in(32)
    bound = mixed(function, guard=guard)
    expected = (x + np.uint8(1)) * np.uint8(2) + np.arange(32, dtype=BYTES) + np.uint8(2)
    for _ in range(3):
        assert np.array_equal(bound.run([x], threads=threads)[0], expected)


def test_exceptions_of_python_steps_pass_and_the_program_stays_usable():
    fail = [True]

    def function(reads, writes):
        if fail[0]:
            raise KeyError("mine")
        writes[0][:] = reads[0]

    bound, x = mixed(function), bytes_in(32)
    for threads in (1, 2):
        fail[0] = True
        for _ in range(10):
            with pytest.raises(KeyError, match="mine"):
                bound.run([x], threads=threads)
        fail[0] = False
        assert np.array_equal(bound.run([x], threads=threads)[0], x + np.uint8(3))
    assert len(bound._free) == 1


def test_a_python_step_may_run_another_program():
    inner = chain(32, 4)

    def function(reads, writes):
        writes[0][:] = inner.run([reads[0].reshape(-1)], threads=2)[0].reshape(2, 16)

    x = bytes_in(32)
    assert np.array_equal(mixed(function).run([x], threads=2)[0], x + np.uint8(9))


def test_only_python_steps():
    builder = ProgramBuilder([ArraySpec(np.float32, ())], [ArraySpec(np.float32, ())])
    builder.python_step(
        "inc", reads=[View(builder.input(0), np.float32, ())], writes=[View(builder.output(0), np.float32, ())]
    )
    bound = linked(builder, inc=lambda reads, writes: np.copyto(writes[0], reads[0] + 1))
    assert bound.run([np.array(2, np.float32)])[0] == 3


# -- many calls -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_concurrent_callers_never_share_an_arena(threads):
    bound, expected = random_program(7, poison=True)
    wrong = []

    def call(seed):
        x = np.random.default_rng(seed).integers(-1000, 1000, 64).astype(np.int32)
        want = expected(x)
        for _ in range(60):
            if not all(np.array_equal(a, b) for a, b in zip(bound.run([x], threads=threads), want)):
                wrong.append(seed)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    assert wrong == []
    assert len(bound._free) <= 4


def test_a_child_process_runs_and_leaves_the_parents_memory_alone():
    bound, x = chain(1000, 10), bytes_in(1000)
    assert np.array_equal(bound.run([x], threads=2)[0], x + np.uint8(45))
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(bound.run([x], threads=2)[0], x + np.uint8(45)) else 1)
    assert os.waitpid(child, 0)[1] == 0


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_thousands_of_runs_take_no_more_memory(threads):
    bound, x = chain(5000, 8), bytes_in(5000)
    for _ in range(500):
        bound.run([x], threads=threads)
    gc.collect()
    before = resident_bytes()
    for _ in range(5_000):
        bound.run([x], threads=threads)
    gc.collect()
    assert resident_bytes() - before < 1 << 20


# -- debugging --------------------------------------------------------------------------------------------------------


def test_poison_fills_the_arena_and_fresh_outputs():
    seen = []
    builder = ProgramBuilder([], [ArraySpec(BYTES, (10,))])
    scratch = builder.buffer(100, "scratch")
    builder.python_step("look", writes=[View(scratch, BYTES, (100,)), View(builder.output(0), BYTES, (10,))])

    def look(reads, writes):
        seen.extend([writes[0].copy(), writes[1].copy()])
        writes[0].fill(0)

    bound = linked(builder, poison=True, look=look)
    for _ in range(2):
        bound.run([])
    assert all((array == 0xA5).all() for array in seen) and len(seen) == 4


def test_knobs_turn_debugging_on(monkeypatch):
    assert not chain(8, 2).poison
    monkeypatch.setenv("QC_POISON", "1")
    assert chain(8, 2).poison and not chain(8, 2).image.arena.guards
    monkeypatch.setenv("QC_GUARD", "1")
    assert chain(8, 2).image.arena.guards
    monkeypatch.setenv("QC_GUARD", "0")
    assert not chain(8, 2).image.arena.guards


def overrunning(nbytes, by, **options):
    builder = ProgramBuilder([ArraySpec(BYTES, (nbytes + by,))], [ArraySpec(BYTES, (1,))], name="over")
    hidden = builder.buffer(nbytes, "hidden")
    add(builder, builder.input(0), hidden, nbytes + by, 1)
    add(builder, hidden, builder.output(0), 1, 1)
    return linked(builder, **options)


def test_guard_mode_finds_writes_into_the_slack():
    x = bytes_in(101)
    assert overrunning(100, 0, guard=True).run([x[:100].copy()])[0] == x[0] + np.uint8(2)
    with pytest.raises(LoweringError, match="outside a buffer[^$]*hidden"):
        overrunning(100, 1, guard=True).run([x])


def test_guard_pages_stop_a_longer_overrun():
    code = (
        "import numpy as np; from tests.backends.program.test_builder import overrunning, BYTES; "
        "b = overrunning(128, 1, guard=True);"
        "print('ready', flush=True); b.run([np.ones(129, BYTES)])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)
    assert done.stdout == "ready\n", done.stderr
    assert done.returncode == -11


@pytest.mark.parametrize("n", [1, 64, 100, 4096, 5000])
@pytest.mark.parametrize("threads", [1, 2])
def test_inputs_and_outputs_are_touched_to_the_last_byte_and_no_further(n, threads):
    """The arrays end at a page that faults."""
    source, target = guarded_block(n), guarded_block(n)
    source.data[:] = bytes_in(n)
    chain(n, 3, guard=True).run([source.data], [target.data], threads=threads)
    assert np.array_equal(target.data, bytes_in(n) + np.uint8(3))


# -- reports ----------------------------------------------------------------------------------------------------------


def test_text(golden):
    golden(str(mixed(lambda reads, writes: None).image))


@pytest.mark.parametrize("threads", [1, 2])
def test_profile_has_a_time_for_each_step(threads):
    def wait(reads, writes):
        threading.Event().wait(0.02)
        writes[0].fill(0)

    times = mixed(wait).profile([bytes_in(32)], threads=threads)
    assert len(times) == 3 and all(t > 0 for t in times)
    assert times[1] >= 20_000_000 and max(times[0], times[2]) < times[1] + 20_000_000


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs, message",
    [
        ([], "wrong number of inputs"),
        ([np.zeros(99, BYTES)], r"uint8\[100\][\s\S]*uint8\[99\]"),
        ([np.zeros(100, np.int8)], "int8"),
        ([np.zeros(200, BYTES)[::2]], "strides"),
        ([[0] * 100], "list"),
    ],
)
def test_inputs_that_do_not_fit(inputs, message):
    with pytest.raises(InputError, match=message):
        chain(100, 2).run(inputs)


def test_misaligned_inputs_are_refused():
    builder = ProgramBuilder([ArraySpec(np.int32, (4,))], [ArraySpec(np.int32, (4,))])
    rotate(builder, builder.input(0), builder.output(0), 4, 0)
    with pytest.raises(InputError, match="aligned False"):
        linked(builder).run([np.zeros(17, BYTES)[1:].view(np.int32)])


def test_outputs_that_do_not_fit():
    bound, x = chain(100, 2), bytes_in(100)
    frozen = np.zeros(100, BYTES)
    frozen.flags.writeable = False
    for outputs, message in (
        ([], "wrong number"),
        ([np.zeros(101, BYTES)], "does not fit"),
        ([frozen], "read only"),
        ([x], "shares memory"),
    ):
        with pytest.raises(InputError, match=message):
            bound.run([x], outputs)


def broken(build):
    builder = ProgramBuilder([ArraySpec(BYTES, (8,))], [ArraySpec(BYTES, (8,))], name="broken")
    build(builder)
    return builder.finish()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda b: None, "no step writes an output"),
        (lambda b: add(b, b.buffer(8, "ghost"), b.output(0), 8, 1), "never written[^$]*ghost"),
        (lambda b: add(b, b.output(0), b.input(0), 8, 1), "writes to an input"),
        (lambda b: b.input(1), "no such input"),
        (lambda b: b.buffer(-1), "negative buffer size"),
        (lambda b: b.buffer(8, alias=b.input(0)), "only a buffer of the arena"),
        (lambda b: b.step(key("add"), [b.input(0)], writes=[b.output(0)]), "neither reads nor writes"),
        (lambda b: b.step(key("add"), [(b.output(0), 9)], writes=[b.output(0)]), "points outside"),
        (lambda b: b.step(key("add"), [], writes=[(b.output(0), 4, 5)]), "outside a buffer"),
        (lambda b: b.step(key("add"), ["8"], writes=[b.output(0)]), "bad argument"),
        (lambda b: b.step(key("add"), [1 << 63], writes=[b.output(0)]), "bad argument"),
        (lambda b: b.step(key("add"), [], writes=[ProgramBuilder([], []).buffer(8)]), "another program"),
    ],
)
def test_malformed_programs_are_refused(build, message):
    with pytest.raises(LoweringError, match=message):
        broken(build)
