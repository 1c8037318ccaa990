"""Runs step tables: on the calling thread alone, or together with a pool of worker threads.

Owns the threads and how they call the dispatcher (`qcompiler.backends.runtime.dispatcher`). Does not know programs,
arenas or arrays: a table, its length and the bases come as addresses, which the caller keeps alive.

A worker is a Python daemon thread that stays inside one native call while it works or spins (for QC_SPIN_US
microseconds), then parks on a lock. The pool serves one caller at a time; others run on their own thread alone, with
the same result, since no kernel's result depends on how its work is split. Workers exist only in the process that
started them: a fork's child starts its own.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompiler import knobs
from qcompiler.backends.runtime import dispatcher
from qcompiler.backends.runtime.loader import STEP_WORDS
from qcompiler.backends.runtime.pages import Block, aligned_block
from qcompiler.errors import LoweringError
from qcompiler.fork_safety import fork_safe_lock

STEP_BYTES = 8 * STEP_WORDS
DEFAULT_SPIN_US = 100.0
_BARRIER_SPINS = 200
_PATIENCE_NS = 20_000_000
_JOIN_SECONDS = 1.0

_log = logging.getLogger("qcompiler.runtime")


@dataclass(frozen=True, eq=False)
class Native:
    """The dispatcher's functions as ctypes callables, and the control block of runs without helpers (read only)."""

    run: Any
    call: Any
    worker: Any
    stop: Any
    control: int
    dialect: dispatcher.Dialect
    owners: tuple[Any, ...]


def _system_function(name: str) -> int:
    try:
        address = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
    except (AttributeError, OSError, TypeError):
        address = None
    if address is None:
        raise LoweringError(
            f"the native runtime needs the C library's {name}", got=sys.platform, hint='target="reference"'
        )
    return address


def make_control(dialect: dispatcher.Dialect, spin_us: float = 0.0, slice_ticks: int | None = None) -> Block:
    """A control block: all counters are zero, all mailboxes PARKED, and the settings are written."""
    block = aligned_block(dispatcher.CONTROL_BYTES, huge=False)
    words = block.data.view(np.int64)
    words[dispatcher.YIELD // 8] = _system_function("sched_yield")
    words[dispatcher.SLEEP // 8] = _system_function("nanosleep")
    words[dispatcher.CLOCK // 8] = _system_function("clock_gettime")
    words[dispatcher.CLOCK_ID // 8] = time.CLOCK_MONOTONIC
    words[dispatcher.SLICE_TICKS // 8] = dialect.slice_ticks if slice_ticks is None else slice_ticks
    words[dispatcher.BARRIER_SPINS // 8] = _BARRIER_SPINS
    words[dispatcher.WORKER_SPIN_NS // 8] = int(spin_us * 1000)
    words[dispatcher.MAILBOXES // 8 :: dispatcher.MAILBOX_STRIDE // 8] = dispatcher.PARKED
    return block


def _load() -> Native:
    from qcompiler.backends import host
    from qcompiler.backends.codegen.dispatcher_store import load_dispatcher
    from qcompiler.backends.target import target_class

    dialect = target_class(host.arch()).dialect
    addresses, owner = load_dispatcher(dialect)

    def function(name: str, arity: int) -> Any:
        return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arity)(addresses[name])

    # Workers may be in this code until the process is gone, so it is never freed.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))
    control = make_control(dialect)
    return Native(
        function("qc_run", 7), function("qc_call", 7), function("qc_worker", 2), function("qc_stop", 2),
        control.address, dialect, (control, owner),
    )  # fmt: skip


_lock = fork_safe_lock()
_native: Native | None = None
_pool: ThreadPool | None = None


def native() -> Native:
    """The dispatcher, loaded when first asked for."""
    global _native
    if _native is None:
        with _lock:
            if _native is None:
                _native = _load()
    return _native


def _work(worker: Any, control: Block, index: int, parked: Any) -> None:
    """A worker's life. Holds no reference to the pool."""
    while worker(control.address, index) != dispatcher.STOP:
        parked.acquire()


class ThreadPool:
    """Workers and their control block. Safe to call from any thread; one caller at a time gets the workers.

    spin_us: how long a worker spins for the next job before it parks. slice_ticks: ticks after which a run comes back
    to Python to look for signals.
    """

    def __init__(self, spin_us: float | None = None, slice_ticks: int | None = None) -> None:
        self._native = native()
        self._control = make_control(
            self._native.dialect, spin_microseconds() if spin_us is None else spin_us, slice_ticks
        )
        self._parked: list[Any] = []
        self._threads: list[threading.Thread] = []
        self._grow_lock = fork_safe_lock()
        self._usable = True

    @property
    def workers(self) -> int:
        """Worker threads started."""
        return len(self._threads)

    def abandon(self) -> None:
        """Never use the workers again (they don't exist in a fork's child): later runs stay on their own thread."""
        self._usable = False

    def run(self, steps: int, count: int, bases: int, threads: int, times: int = 0) -> int:
        """Run a table (see `run_steps`). Returns on how many threads it began."""
        if threads > 1 and self._usable:
            threads = min(threads, self._grow(threads - 1) + 1)
        began, patience = 0, 0
        while threads > 1 and self._usable:
            done = self._native.call(self._control.address, steps, count, bases, threads, times, patience)
            if done == dispatcher.CALL_PARKED:
                self._wake(threads)
                patience = _PATIENCE_NS
                continue
            if done == dispatcher.CALL_BUSY:
                break
            began = began or threads
            if done == count:
                return began
            steps, count, times = _advance(steps, count, times, done)
        run_alone(self._native, steps, count, bases, times)
        return began or 1

    def close(self) -> bool:
        """End the workers and wait for them. False if a caller has them, or one didn't end in a second."""
        self._usable = False
        if not self._native.stop(self._control.address, len(self._threads) + 1):
            return False
        for parked in self._parked:
            _release(parked)
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _wake(self, threads: int) -> None:
        mail = self._control.data.view(np.int64)[dispatcher.MAILBOXES // 8 :: dispatcher.MAILBOX_STRIDE // 8]
        for index in range(1, threads):
            if mail[index] == dispatcher.PARKED:
                _release(self._parked[index - 1])

    def _grow(self, workers: int) -> int:
        """Start workers until there are `workers` of them. Returns how many there are."""
        if len(self._threads) >= workers:
            return len(self._threads)
        with self._grow_lock:
            while len(self._threads) < workers:
                index = len(self._threads) + 1
                parked = threading.Lock()
                parked.acquire()
                thread = threading.Thread(
                    target=_work,
                    args=(self._native.worker, self._control, index, parked),
                    name=f"qcompiler-{index}",
                    daemon=True,
                )
                try:
                    thread.start()
                except RuntimeError as error:
                    _log.warning("only %d of %d worker threads: %s", index - 1, workers, error)
                    break
                self._parked.append(parked)
                self._threads.append(thread)
        return len(self._threads)


def _release(parked: Any) -> None:
    """Wake the worker that waits for this lock, or will; one pending wake is enough."""
    with contextlib.suppress(RuntimeError):
        parked.release()


def _advance(steps: int, count: int, times: int, done: int) -> tuple[int, int, int]:
    return steps + STEP_BYTES * done, count - done, times and times + 8 * done


def run_alone(functions: Native, steps: int, count: int, bases: int, times: int = 0) -> None:
    """Run a table on the calling thread. Python's signal handlers run between time slices."""
    done = functions.run(steps, count, bases, 0, 1, functions.control, times)
    while done < count:
        steps, count, times = _advance(steps, count, times, done)
        done = functions.run(steps, count, bases, 0, 1, functions.control, times)


def spin_microseconds() -> float:
    """QC_SPIN_US: how long idle workers spin. QCompilerError if it is not a number from 0 to a million."""
    given = knobs.SPIN_US.get()
    return DEFAULT_SPIN_US if given is None else given


def pool() -> ThreadPool:
    """The process's pool, made when first asked for."""
    global _pool
    native()
    with _lock:
        if _pool is None:
            _pool = ThreadPool()
        return _pool


def run_steps(steps: int, count: int, bases: int, threads: int = 1, times: int = 0) -> int:
    """Run a step table.

    Args:
        steps: address of the table, STEP_BYTES a step.
        count: steps in it.
        bases: address of the array of base pointers.
        threads: how many threads to split each step over, 1 to 256. One never touches the pool.
        times: 0, or the address of count u64 words that get the nanoseconds that thread 0 spent on each step, its
            wait for the others included.

    Returns the number of threads used: 1 if the pool was serving another caller.
    """
    if threads == 1:
        run_alone(_native or native(), steps, count, bases, times)
        return 1
    if not 1 <= threads <= dispatcher.MAX_THREADS:
        raise LoweringError("a bad number of threads", expected=f"1 to {dispatcher.MAX_THREADS}", got=threads)
    return (_pool or pool()).run(steps, count, bases, threads, times)


def _after_fork() -> None:
    global _pool
    if _pool is not None:
        _pool.abandon()
        _pool = None


def _at_exit() -> None:
    if _pool is not None:
        _pool.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
