"""A fork's child can trace, compile and run, whatever other threads of its parent were doing."""

from __future__ import annotations

import ast
import os
import pathlib
import pkgutil
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import fork_safety, knobs, nn
from qcompiler.backends.codegen import kernel_store
from qcompiler.background import Background
from qcompiler.fork_safety import fork_awaited_lock, fork_safe_lock

ROOT = pathlib.Path(qc.__file__).parents[1]
SOURCES = sorted(path for top in ("qcompiler", "frontend", "passes", "backends") for path in (ROOT / top).rglob("*.py"))

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def in_child(work: Callable[[], bool], seconds: int = 60) -> bool:
    """Whether a forked child does the work and gives True in time."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(seconds)
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


# -- the locks --------------------------------------------------------------------------------------------------------


class _Holder:
    """A thread that holds a lock until it is told to let it go."""

    def __init__(self, lock: threading.RLock) -> None:
        self._held, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(lock,), daemon=True)
        self._thread.start()
        assert self._held.wait(30)

    def _hold(self, lock: threading.RLock) -> None:
        with lock:
            self._held.set()
            self._go.wait(30)

    def let_go(self, after: float = 0.0) -> None:
        threading.Timer(after, self._go.set).start()


def test_a_lock_of_another_thread_is_free_in_the_child() -> None:
    lock = fork_safe_lock()
    holder = _Holder(lock)
    assert in_child(lambda: lock.acquire(timeout=5), 20)
    assert not lock.acquire(blocking=False)  # the parent's is as it was
    holder.let_go()


def test_a_lock_of_the_thread_that_forks_stays_its_own() -> None:
    lock = fork_safe_lock()

    def other_gets_it() -> bool:
        return Background(lambda: lock.acquire(timeout=0.2)).result()

    def work() -> bool:
        taken = other_gets_it()
        lock.release()
        return not taken and other_gets_it()

    with lock:
        assert in_child(work)


def test_a_fork_waits_for_an_awaited_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_safety, "_awaited", list(fork_safety._awaited))
    lock = fork_awaited_lock()
    holder = _Holder(lock)
    began = time.monotonic()
    holder.let_go(after=0.3)
    assert in_child(lambda: lock.acquire(timeout=5), 20)
    assert time.monotonic() - began >= 0.3


def test_work_of_a_thread_that_the_child_lacks_is_done_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompiler.background.usable_cpus", lambda: 2)
    parent, go = os.getpid(), threading.Event()
    call = Background(lambda: go.wait(30) and 42 if os.getpid() == parent else 42)
    assert in_child(lambda: call.result() == 42)
    go.set()
    assert call.result() == 42


# -- every lock is one of these ---------------------------------------------------------------------------------------

_PRIMITIVES = {
    *("Lock", "RLock", "Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier", "allocate_lock"),
    *("Queue", "LifoQueue", "PriorityQueue", "SimpleQueue", "ThreadPoolExecutor", "ProcessPoolExecutor"),
}
_HOLDS_A_LOCK = {"cached_property", "default_rng", "Generator", "RandomState", "SeedSequence"}
_ALLOWED = {
    ("qcompiler/fork_safety.py", "RLock"),  # the locks themselves
    ("qcompiler/fork_safety.py", "cached_property"),  # of Python 3.12, which holds none
    ("backends/runtime/threads.py", "Lock"),  # a worker parks on it; the child abandons the pool
    ("qcompiler/quantization/executors.py", "ProcessPoolExecutor"),  # only asked for as a class
    ("frontend/nn/init.py", "default_rng"),  # drawn from under a lock that forks wait for
}


def _uses(text: str) -> Iterator[tuple[int, str]]:
    """(line, name) of each lock that a source makes, and of each thing with a lock in it that lives in a module."""
    tree = ast.parse(text)
    in_functions = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            origin = (node.module or "").partition(".")[0]
            if origin in ("threading", "queue", "_thread", "functools", "multiprocessing", "concurrent"):
                yield from ((node.lineno, name.name) for name in node.names
                            if name.name in _PRIMITIVES | {"cached_property"})  # fmt: skip
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in _PRIMITIVES or (name in _HOLDS_A_LOCK and id(node) not in in_functions):
                yield node.lineno, name
        elif isinstance(node, ast.Attribute) and node.attr == "cached_property":
            yield node.lineno, node.attr


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import threading\n_lock = threading.Lock()", "Lock"),
        ("import threading as t\nclass A:\n    def __init__(self):\n        self.x = t.Condition()", "Condition"),
        ("from threading import RLock", "RLock"),
        ("from functools import cached_property", "cached_property"),
        ("import functools\nclass A:\n    @functools.cached_property\n    def x(self): ...", "cached_property"),
        ("import numpy as np\n_rng = np.random.default_rng(0)", "default_rng"),
        ("import queue\ndef f():\n    return queue.Queue()", "Queue"),
    ],
)
def test_the_search_finds(text: str, found: str) -> None:
    assert [name for _, name in _uses(text)] == [found]


def test_every_lock_is_fork_safe() -> None:
    assert len(SOURCES) > 200
    found = {
        (str(path.relative_to(ROOT)), name, line) for path in SOURCES for line, name in _uses(path.read_text("utf-8"))
    }
    wrong = [f"{path}:{line}: {name}" for path, name, line in sorted(found) if (path, name) not in _ALLOWED]
    assert not wrong, "make locks by qcompiler.fork_safety, or say here why a fork does not leave them taken"
    assert {(path, name) for path, name, _ in found} == _ALLOWED, "an exception that nothing needs any more"


# -- compiling and calling --------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(2, 3, 20, 20)).astype(np.float32)


_kept: list[object] = []


def _build(channels: int) -> qc.CompiledModel:
    """A model whose kernels are emitted once more. Those of before are kept, as they are in any process."""
    _kept.append(kernel_store._loaded)
    kernel_store._loaded = {}
    layers = nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.Conv2d(channels, 4, 1))
    with knobs.CACHE(""):
        return qc.compile(layers, "int8", (X,), calibration_data=[X])


def _is_right(channels: int) -> bool:
    model = _build(channels)
    return np.array_equal(model(X), qc.compile(model.graph, "keep", target="reference")(X))


FORKS = [4, pytest.param(12, marks=pytest.mark.exhaustive)]


def _forks(count: int, work: Callable[[int], object]) -> int:
    """While another thread works in a loop, fork `count` times at random moments. Returns how many children failed."""
    stop, failed, draw = threading.Event(), 0, random.Random(0)

    def loop() -> None:
        number = 0
        while not stop.is_set():
            work(number)
            number += 1

    assert _is_right(3)  # modules are imported
    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        for number in range(count):
            time.sleep(draw.uniform(0.0, 0.1))
            failed += not in_child(lambda: _is_right(60 + number))  # noqa: B023  the child runs at once
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    return failed


@pytest.mark.parametrize("forks", FORKS)
def test_children_compile_while_a_thread_of_the_parent_compiles(forks: int) -> None:
    assert _forks(forks, lambda number: _build(4 + number % 50)) == 0


@pytest.mark.parametrize("forks", FORKS)
def test_children_compile_while_a_thread_of_the_parent_calls(forks: int) -> None:
    model = _build(8)
    assert _forks(forks, lambda _: model(X)) == 0


@pytest.mark.parametrize(
    "place",
    [
        "qcompiler.backends.codegen.kernel_store._load",
        "qcompiler.backends.codegen.jit._parse",
        "qcompiler.backends.program.constants.aligned_block",
        "qcompiler.backends.lowering.graph.GraphLowering.lower",
        "qcompiler.backends.calibration_program.lower_pipeline",
    ],
)
def test_a_child_compiles_while_a_thread_of_the_parent_is_at(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread stops at a place where it holds locks, or computes what is kept, and the fork happens then."""
    owner, name = pkgutil.resolve_name(place.rpartition(".")[0]), place.rpartition(".")[2]
    original, arrived = getattr(owner, name), threading.Event()

    def stopping(*args: Any, **options: Any) -> Any:
        if threading.current_thread().name == "at the place" and not arrived.is_set():
            arrived.set()
            time.sleep(0.3)
        return original(*args, **options)

    assert _is_right(3)  # modules are imported
    monkeypatch.setattr(owner, name, stopping)
    thread = threading.Thread(target=_build, args=(50,), name="at the place", daemon=True)
    thread.start()
    assert arrived.wait(60)
    assert in_child(lambda: _is_right(51), 20)
    thread.join(60)
    assert not thread.is_alive()
