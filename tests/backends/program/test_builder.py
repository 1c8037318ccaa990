"""Programs: packing, memory reuse, barriers, execution from many threads, debugging aids, errors."""

import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.backends.program.builder import ProgramBuilder, View
from qcompiler.backends.program.constants import Constants, content_key
from qcompiler.backends.program.image import ArraySpec
from qcompiler.backends.program.saved_image import image_data, image_of
from qcompiler.backends.runtime.executable import Executable
from qcompiler.backends.runtime.link import link
from qcompiler.backends.runtime.loader import LoadedKernel
from qcompiler.backends.runtime.native import NativeLoader
from qcompiler.backends.runtime.pages import guarded_block
from qcompiler.backends.target import native_target
from qcompiler.errors import InputError, LoweringError
from tests.backends.native_kernels import kernel

HERE = Path(__file__).parents[1]
BYTES = np.uint8


def key(name):
    """A kernel of native_kernels."""
    return KernelKey("tests.backends.native_kernels:kernel", name, ())


def add(builder, source, target, n, k, **options):
    """One `add` step: target = source + k over n bytes."""
    builder.step(key("add"), [source, target, n, k], reads=[source], writes=[target], **options)


def rotate(builder, source, target, n, k):
    builder.step(key("rotate"), [source, target, n, k], reads=[source], writes=[target])


def linked(builder, constants=None, *, guard=None, poison=None, **functions) -> Executable:
    """The builder's program, ready to run. constants: those that the builder was given; functions: of Python steps."""
    image = builder.finish(guard=guard)
    shared = builder._constants if constants is None else constants
    kernels = {each: kernel(each.name) for each in image.kernels}
    loaded = {each: LoadedKernel(found.name, found.address, found.engine) for each, found in kernels.items()}
    own = builder.own.block() if image.own_constant_bytes else None
    return link(image, loaded, NativeLoader(native_target()), shared.block(), own, functions, poison)


def rotated(x, shifts):
    index = np.arange(len(x))
    with np.errstate(over="ignore"):
        for k in shifts:
            x = x[(index + k) % len(x)] * np.int32(3) + index.astype(np.int32)
    return x


def chain(n, steps, **options):
    """x -> `add` through `steps` buffers -> y, n bytes; each adds its number."""
    builder = ProgramBuilder([ArraySpec(BYTES, (n,), "x")], [ArraySpec(BYTES, (n,), "y")], name="chain")
    value = builder.input(0)
    for number in range(steps):
        target = builder.output(0) if number == steps - 1 else builder.buffer(n, f"h{number}")
        add(builder, value, target, n, number)
        value = target
    return linked(builder, **options)


def bytes_in(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, n, BYTES)


# -- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 1000])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_chain(n, threads):
    x = bytes_in(n)
    [y] = chain(n, 10).run([x], threads=threads)
    assert np.array_equal(y, x + np.uint8(45))


def random_program(seed, n=64, **options):
    """A random graph of `rotate` steps: many buffers, reused memory; and what it must compute."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 25))
    builder = ProgramBuilder([ArraySpec(np.int32, (n,))], [ArraySpec(np.int32, (n,))] * 2)
    handles, shifts, sources = [builder.input(0)], [], []
    for number in range(count + 2):
        source = int(rng.integers(max(0, len(handles) - 4), len(handles))) if number < count else len(handles) - 1
        k = int(rng.integers(0, n))
        target = builder.buffer(4 * n) if number < count else builder.output(number - count)
        rotate(builder, handles[source], target, n, k)
        sources.append(source)
        shifts.append(k)
        if number < count:
            handles.append(target)

    def expected(x):
        values = [x]
        for source, k in zip(sources, shifts):
            values.append(rotated(values[source], [k]))
        return values[-2:]

    return linked(builder, **options), expected


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
    """Two halves written apart (a concatenation), read as one."""
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


# -- constants --------------------------------------------------------------------------------------------------------


def test_constants_are_shared_aligned_and_frozen():
    builder = ProgramBuilder([], [ArraySpec(BYTES, (64,))])
    a = builder.constant(np.arange(64, dtype=BYTES))
    b = builder.constant(np.arange(10, dtype=np.float32))
    again = builder.constant(np.arange(64, dtype=BYTES).reshape(8, 8))
    assert a == again and a != b
    add(builder, a, builder.output(0), 64, 5)
    bound = linked(builder)
    assert np.array_equal(bound.run([])[0], np.arange(64, dtype=BYTES) + 5)
    assert not bound.constants.data.flags.writeable
    offsets = {buffer.name: buffer.offset for buffer in bound.image.buffers}
    assert offsets[a.name] != offsets[b.name] and offsets[b.name] % 64 == 0
    assert bound.constants.data[offsets[b.name] :][:40].view(np.float32).tolist() == list(range(10))


def add_array(constants, array):
    key, fill = content_key(array)
    return constants.add(key, array.nbytes, fill)


def test_views_in_other_layouts_pack_in_c_order():
    constants = Constants()
    array = np.arange(12, dtype=np.int16).reshape(3, 4)
    assert add_array(constants, array.T) == 0
    assert add_array(constants, np.ascontiguousarray(array.T)) == 0
    assert add_array(constants, array[:, ::-1]) == 64
    assert np.array_equal(constants.block().data[:24].view(np.int16).reshape(4, 3), array.T)
    assert add_array(constants, array.T) == 0 and add_array(constants, np.ones(3)) is None


def test_bindings_share_constants_and_may_add_their_own():
    constants = Constants()
    for n in (4, 5, 4, 6):
        builder = ProgramBuilder([], [ArraySpec(BYTES, (n,)), ArraySpec(BYTES, (8,))], constants)
        add(builder, builder.constant(np.full(n, n, BYTES)), builder.output(0), n, 1)
        add(builder, builder.constant(np.full(8, 200, BYTES)), builder.output(1), 8, 2)
        bound = linked(builder)
        a, b = bound.run([], threads=2)
        assert a.tolist() == [n + 1] * n and b.tolist() == [202] * 8
        assert bound.constants is constants.block()
        assert (bound.own is None) == (n == 4) == (bound.image.own_constant_bytes == 0)


def test_an_image_is_a_value_and_packs_nothing():
    def build(constants):
        builder = ProgramBuilder([], [ArraySpec(BYTES, (8,))], constants, "value", "x86-64+avx2", {"B": 8})
        add(builder, builder.deferred("weights", 8, lambda block: 1 / 0), builder.output(0), 8, 1)
        return builder.finish()

    one, other = build(Constants()), build(Constants())
    assert one == other and hash(one) == hash(other) and str(one) == str(other)
    assert image_of(json.loads(json.dumps(image_data(one)))) == one


def test_constants_are_written_once_when_the_block_is_packed():
    constants, written = Constants(), []

    def fill(block):
        written.append(block.tolist())
        block[:] = np.arange(1, 1 + len(block))

    assert add_array(constants, np.full(3, 9, BYTES)) == 0
    assert constants.add("key", 5, fill) == 64 and constants.add("key", 5, fill) == 64
    assert constants.add("other", 2, fill) == 128 and not written
    constants.close()
    assert constants.nbytes == 130 and not written
    data = constants.block().data
    assert written == [[0] * 5, [0, 0]]
    assert data[:3].tolist() == [9] * 3
    assert data[64:69].tolist() == [1, 2, 3, 4, 5] and data[128:130].tolist() == [1, 2]
    assert constants.add("key", 5, fill) == 64 and constants.add("new", 5, fill) is None
    assert constants.block().data is data and len(written) == 2


def test_large_blocks_are_written_whole_by_two_threads():
    constants = Constants()
    for number in range(200):
        constants.add(str(number), 40_000, lambda block, number=number: block.fill(number + 1))
    data = constants.block().data
    assert data.nbytes >= 200 * 40_000
    offsets = [constants.add(str(number), 40_000, lambda block: None) for number in range(200)]
    assert all((data[offset : offset + 40_000] == number + 1).all() for number, offset in enumerate(offsets))


def test_what_a_later_binding_defers_lies_in_its_own_block():
    constants = Constants()
    for n in (4, 5, 4):
        builder = ProgramBuilder([], [ArraySpec(BYTES, (8,))], constants)
        add(builder, builder.deferred(f"of {n}", 8, lambda block, n=n: block.fill(n)), builder.output(0), 8, 1)
        bound = linked(builder)
        assert bound.run([])[0].tolist() == [n + 1] * 8 and (bound.own is None) == (n == 4)


def test_constants_are_plain_numbers():
    with pytest.raises(LoweringError, match="plain numbers"):
        content_key(np.array([{}]))


# -- barriers ---------------------------------------------------------------------------------------------------------


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
    """c takes over the memory of a: its step must wait for the last reader of a, though no name links them."""

    def build(b):
        a, c = b.buffer(64, "a"), b.buffer(64, "c")
        add(b, b.input(0), a, 64, 1)
        add(b, a, b.output(0), 64, 1)
        add(b, b.input(1), c, 64, 1)
        add(b, c, b.output(1), 64, 1)

    assert barriers(build, outputs=2) == [True, True, True, False]


def test_disjoint_writes_to_one_buffer_need_no_barrier():
    """Parts of one buffer, by steps of different nodes. Its readers wait, and so does a step that says nothing."""

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
    """What is disjoint within a buffer says nothing of another one that takes over its memory."""

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


# -- Python steps -----------------------------------------------------------------------------------------------------


def mixed(function, n=32, guard=False):
    """native -> Python -> native, over f32[4, n/16] in the middle."""
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
def test_ten_thousand_runs_take_no_more_memory(threads):
    bound, x = chain(5000, 8), bytes_in(5000)
    for _ in range(500):
        bound.run([x], threads=threads)
    gc.collect()
    before = resident_bytes()
    for _ in range(10_000):
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
    """Arrays that end at a page that faults."""
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
