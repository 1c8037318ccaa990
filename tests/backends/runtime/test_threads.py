"""The dispatcher and the thread pool: equal results on any number of threads; signals, forks, exits, and the float
mode."""

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from qcompiler.backends.runtime import dispatcher
from qcompiler.backends.runtime import threads as runtime
from qcompiler.backends.runtime.executable import address_of
from qcompiler.backends.target import target_class
from qcompiler.errors import LoweringError, QCompilerError
from tests.backends.native_kernels import kernel

HERE = Path(__file__).parents[1]


class Table:
    """A step table written by hand. It moves n elements to and fro between two i32 arrays by the kernel `rotate`."""

    def __init__(self, steps, n=1000, seed=0):
        self.n, self.count = n, steps
        self.arrays = [np.arange(n, dtype=np.int32) + seed, np.zeros(n, np.int32)]
        self.shifts = [7 + 13 * i for i in range(steps)]
        self.args = np.array([[i % 2, 0, 1 - i % 2, 0, n, k, 0, 0] for i, k in enumerate(self.shifts)], np.int64)
        self.table = np.array(
            [[kernel("rotate").address, address_of(self.args) + 64 * i, 1] for i in range(steps)], np.int64
        )
        self.bases = np.array([address_of(a) for a in self.arrays], np.int64)

    def addresses(self):
        return address_of(self.table), self.count, address_of(self.bases)

    def run(self, threads, pool=None):
        if pool is None:
            runtime.run_steps(*self.addresses(), threads)
        else:
            pool.run(*self.addresses(), threads)
        return self.arrays[self.count % 2]

    def expected(self, seed=0):
        index = np.arange(self.n)
        value = index.astype(np.int32) + np.int32(seed)
        with np.errstate(over="ignore"):
            for k in self.shifts:
                value = value[(index + k) % self.n] * np.int32(3) + index.astype(np.int32)
        return value


@pytest.fixture
def make_pool():
    pools = []

    def make(**options):
        pools.append(runtime.ThreadPool(**options))
        return pools[-1]

    yield make
    for pool in pools:
        assert pool.close()


def python(code, timeout=60, **environment):
    """Run code in a fresh interpreter that can import the kernels of these tests."""
    root = str(HERE.parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), root]), **environment}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=timeout, env=env
    )


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("steps", [1, 2, 31])
def test_every_number_of_threads_gives_the_same(threads, steps):
    table = Table(steps)
    assert np.array_equal(table.run(threads), table.expected())


@pytest.mark.parametrize("threads", [2, 3])
def test_barriers_hold_under_stress(threads, make_pool):
    """Each step reads what another thread wrote in the step before; a lost barrier shows in the sum."""
    pool = make_pool()
    for seed in range(60):
        table = Table(100, n=64, seed=seed)
        assert np.array_equal(table.run(threads, pool), table.expected(seed))


def test_short_time_slices_change_nothing(make_pool):
    """With a slice of no ticks every run stops at each barrier and goes on from there."""
    pool = make_pool(slice_ticks=0)
    for threads in (2, 3):
        table = Table(40)
        assert np.array_equal(table.run(threads, pool), table.expected())


def test_a_run_stops_at_the_end_of_its_slice_and_goes_on():
    native = runtime.native()
    control = runtime.make_control(native.dialect, slice_ticks=0)
    table = Table(5)
    steps, count, bases = table.addresses()
    done = [native.run(steps + 24 * i, count - i, bases, 0, 1, control.address, 0) for i in range(5)]
    assert done == [1] * 5
    assert np.array_equal(table.arrays[1], table.expected())


@pytest.mark.parametrize("spin_us", [0, 50, 5000])
def test_parked_and_spinning_workers_both_answer(make_pool, spin_us):
    pool = make_pool(spin_us=spin_us)
    for pause in (0, 0.002, 0, 0.01, 0):
        time.sleep(pause)
        table = Table(6)
        assert np.array_equal(table.run(3, pool), table.expected())
    assert pool.workers == 2


def test_workers_really_split_the_steps(make_pool):
    out = np.zeros(6, np.int64)
    args = np.array([0, 0, 0, 0, 6, 0], np.int64)
    bases = np.array([address_of(out)], np.int64)
    table = np.array([[kernel("count_threads").address, address_of(args), 0]], np.int64)
    assert make_pool().run(address_of(table), 1, address_of(bases), 3) == 3
    assert out.tolist() == [3] * 6


def test_a_busy_pool_lets_others_run_alone(make_pool):
    """A run of 0.3 s has the workers; a second caller in the meantime gets the same result on one thread."""
    pool = make_pool()
    out = np.zeros(2, np.int64)
    args = np.array([0, 0, 0, 0, 2, 150_000_000], np.int64)
    bases = np.array([address_of(out)], np.int64)
    long = np.array([[kernel("spin").address, address_of(args), 1]], np.int64)
    used = []
    thread = threading.Thread(target=lambda: used.append(pool.run(address_of(long), 1, address_of(bases), 2)))
    thread.start()
    while pool.workers == 0:
        time.sleep(0.001)
    alone = []
    while thread.is_alive():
        table = Table(3)
        alone.append(pool.run(*table.addresses(), 2))
        assert np.array_equal(table.arrays[1], table.expected())
    thread.join()
    assert used[0] in (1, 2) and out.tolist() == [1, 1]
    assert 1 in [*alone, *used]


@pytest.mark.parametrize("threads", [1, 2])
def test_many_callers_at_once(threads):
    failures = []

    def call(seed):
        for turn in range(40):
            table = Table(9, n=100, seed=seed * 100 + turn)
            if not np.array_equal(table.run(threads), table.expected(seed * 100 + turn)):
                failures.append((seed, turn))

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    assert failures == []


def test_times_of_each_step(make_pool):
    out = np.zeros(2, np.int64)
    rounds = [1, 3_000_000, 1, 30_000_000]
    args = np.array([[0, 0, 0, 0, 2, k, 0, 0] for k in rounds], np.int64)
    bases = np.array([address_of(out)], np.int64)
    table = np.array([[kernel("spin").address, address_of(args) + 64 * i, 1] for i in range(4)], np.int64)
    for run in (runtime.run_steps, make_pool(slice_ticks=0).run):
        for threads in (1, 2):
            least = np.full(4, np.iinfo(np.uint64).max, np.uint64)  # a busy machine may suspend a thread in any step
            for _ in range(5):
                times = np.zeros(5, np.uint64)
                began = time.perf_counter_ns()
                run(address_of(table), 4, address_of(bases), threads, address_of(times))
                total = time.perf_counter_ns() - began
                assert times[4] == 0
                assert 0 < times[:4].sum() <= total
                least = np.minimum(least, times[:4])
            if threads == 1:  # two wait for each other, as long as another process has a CPU
                assert least[3] > least[0] and least[3] > least[2]


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_a_bad_number_of_threads(threads):
    with pytest.raises(LoweringError, match="number of threads"):
        runtime.run_steps(0, 0, 0, threads)


def test_no_steps_are_no_trouble():
    assert runtime.run_steps(0, 0, 0, 1) == 1
    assert runtime.run_steps(0, 0, 0, 2) in (1, 2)


@pytest.mark.parametrize("text", ["-1", "soon", "1e9", "nan"])
def test_a_bad_spin_knob(monkeypatch, text):
    monkeypatch.setenv("QC_SPIN_US", text)
    with pytest.raises(QCompilerError, match="QC_SPIN_US"):
        runtime.spin_microseconds()


# -- float environment ------------------------------------------------------------------------------------------------


def mxcsr_functions():
    """Read and write the thread's MXCSR, through a small module of our own."""
    import llvmlite.binding as llvm

    text = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
define i32 @get() {
  %p = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %p)
  %v = load i32, ptr %p
  ret i32 %v
}
define void @set(i32 %v) {
  %p = alloca i32
  store i32 %v, ptr %p
  call void @llvm.x86.sse.ldmxcsr(ptr %p)
  ret void
}
"""
    kernel("halve")
    module = llvm.parse_assembly(text, llvm.create_context())
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    get = ctypes.CFUNCTYPE(ctypes.c_uint32)(engine.get_function_address("get"))
    put = ctypes.CFUNCTYPE(None, ctypes.c_uint32)(engine.get_function_address("set"))
    return get, put, engine


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="MXCSR is x86's")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mode", [0x8040, 0x6000, 0x2000])
def test_the_callers_float_environment_is_ignored_and_restored(threads, mode):
    """The caller flushes subnormals to zero and rounds in one direction. Subnormals still come out right to the bit,
    and the mode stays as it was."""
    get, put, _engine = mxcsr_functions()
    x = (np.arange(1, 1001, dtype=np.uint32) * 3).view(np.float32)  # subnormals, half of them odd: halving rounds
    expected = np.array([int(round(v / 2)) for v in (np.arange(1, 1001) * 3).tolist()], np.uint32)  # ties to even
    y = np.zeros(1000, np.float32)
    args = np.array([0, 0, 1, 0, 1000, 0], np.int64)
    bases = np.array([address_of(x), address_of(y)], np.int64)
    table = np.array([[kernel("halve").address, address_of(args), 0]], np.int64)
    addresses = address_of(table), address_of(bases)
    runtime.run_steps(addresses[0], 1, addresses[1], threads)  # workers exist before the mode is set
    y[:] = -1
    before = get()
    try:
        put(0x1F80 | mode)
        runtime.run_steps(addresses[0], 1, addresses[1], threads)
        after = get()
    finally:
        put(before)
    assert after & 0xFFC0 == 0x1F80 | mode
    assert np.array_equal(y.view(np.uint32), expected)


# -- processes and signals --------------------------------------------------------------------------------------------


def test_a_forked_child_starts_its_own_workers():
    assert np.array_equal(Table(5).run(3), Table(5).expected())
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        ok = all(np.array_equal(Table(5).run(3), Table(5).expected()) for _ in range(20))
        os._exit(0 if ok and runtime.pool().workers == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(Table(5).run(3), Table(5).expected())


def test_fork_while_other_threads_run():
    stop = threading.Event()

    def call():
        while not stop.is_set():
            Table(9).run(2)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                os._exit(0 if np.array_equal(Table(5).run(2), Table(5).expected()) else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for caller in callers:
            caller.join(30)


_LONG = """
import os, signal, sys, threading, time
import numpy as np
from tests.backends.native_kernels import kernel
from qcompiler.backends.runtime import threads as runtime
from qcompiler.backends.runtime.executable import address_of
threads = {threads}
out = np.zeros(2, np.int64)
args = np.array([0, 0, 0, 0, 2, 5_000_000], np.int64)
bases = np.array([address_of(out)], np.int64)
table = np.array([[kernel("spin").address, address_of(args), 1]] * 20_000, np.int64)
"""


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_ctrl_c_ends_a_long_program_and_leaves_the_pool_usable(threads):
    code = _LONG.format(threads=threads) + textwrap.dedent("""
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts jobs in the background without it
        sent = []
        def interrupt():
            time.sleep(0.5)
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
        for turn in range(2):
            threading.Thread(target=interrupt).start()
            try:
                runtime.run_steps(address_of(table), len(table), address_of(bases), threads)
                sys.exit("not interrupted")
            except KeyboardInterrupt:
                print(time.monotonic() - sent[-1])
        out[:] = 0
        assert runtime.run_steps(address_of(table), 3, address_of(bases), threads) == threads
        assert out.tolist() == [3, 3], out
    """)
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert all(float(line) < 1.0 for line in done.stdout.split()), done.stdout


def test_a_storm_of_signals_never_breaks_the_pool():
    """Handlers raise at any point of a call. The call either raises or is right, and the next one works."""
    code = """
        import signal
        import numpy as np
        from tests.backends.runtime.test_threads import Table
        from qcompiler.backends.runtime import threads as runtime
        class Stop(Exception): pass
        def handler(*_): raise Stop
        Table(3).run(3)
        signal.signal(signal.SIGALRM, handler)
        stopped = 0
        for turn in range(1500):
            table = Table(8, n=50)
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + (turn % 50) * 4e-6)
                got = table.run(3)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Stop:
                stopped += 1
                continue
            assert np.array_equal(got, table.expected())
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        assert stopped > 0
        table = Table(8)
        assert runtime.run_steps(*table.addresses(), 3) == 3
        assert np.array_equal(table.arrays[0], table.expected())
    """
    done = python(code, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("spin", ["0", "100", "1000000"])
def test_the_process_ends_at_once(spin):
    code = _LONG.format(threads=3) + textwrap.dedent("""
        for _ in range(20):
            time.sleep(0.001)  # workers with a short spin park in between
            runtime.run_steps(address_of(table), 2, address_of(bases), 3)
        print("done")
    """)
    began = time.monotonic()
    done = python(code, QC_SPIN_US=spin)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert time.monotonic() - began < 20


def test_the_process_ends_while_a_daemon_thread_is_in_a_run():
    code = _LONG.format(threads=2) + textwrap.dedent("""
        threading.Thread(
            target=lambda: runtime.run_steps(address_of(table), len(table), address_of(bases), 2), daemon=True
        ).start()
        time.sleep(0.3)
        print("done")
    """)
    done = python(code, timeout=30)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_closed_pool_still_gives_results():
    pool = runtime.ThreadPool()
    Table(3).run(2, pool)
    assert pool.close()
    table = Table(5)
    assert pool.run(*table.addresses(), 2) == 1
    assert np.array_equal(table.arrays[1], table.expected())


# -- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, triple", [("x86-64", "x86_64-unknown-linux-gnu"), ("aarch64", "aarch64-linux-gnu")])
def test_every_dialect_assembles(name, triple):
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(dispatcher.emit_dispatcher(target_class(name).dialect), llvm.create_context())
    module.verify()
    machine = llvm.Target.from_triple(triple).create_target_machine(reloc="pic", codemodel="small")
    assembly = machine.emit_assembly(module)
    for symbol in ("qc_run", "qc_call", "qc_worker", "qc_stop"):
        assert f"{symbol}:" in assembly
    needed = {"x86-64": ["ldmxcsr", "stmxcsr", "rdtsc", "pause"], "aarch64": ["fpcr", "cntvct_el0", "yield"]}
    assert all(text in assembly.lower() for text in needed[name])
