"""Calibration spread over the workers of an executor: one of concurrent.futures, or a Dask client.

Items are sent in chunks, and what a worker collected comes back as a calibration. Merging these is exact, so the result
has the same bits as that of one process. Does not own the run of an item (`collect.py`).
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qcompiler.cpus import usable_cpus
from qcompiler.errors import ArgumentError, QuantizationError
from qcompiler.fork_safety import cached_property

if TYPE_CHECKING:
    from qcompiler.quantization.calibration import Calibration
    from qcompiler.quantization.collect import Collector
    from qcompiler.quantization.workflow import Prepared

Item = list[np.ndarray]
_CHUNK = 8
_CHUNK_BYTES = 8 << 20
_log = logging.getLogger(__name__)


class Future(Protocol):
    """What an executor gives for a call."""

    def result(self) -> Any: ...


class Executor(Protocol):
    """What runs calls elsewhere: concurrent.futures.Executor, dask.distributed.Client and what behaves like them."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future: ...


def check_executor(executor: object) -> None:
    """Raise ArgumentError unless `executor` has submit(function, *args)."""
    if executor is not None and (isinstance(executor, type) or not callable(getattr(executor, "submit", None))):
        raise ArgumentError(
            "argument 'executor'",
            expected="an object with submit(function, *args), as of concurrent.futures, or None",
            got=type(executor).__name__,
        )


def check_mergeable(prepared: Prepared) -> None:
    """QuantizationError if an observer depends on the order of the data, so that no worker can see a part of it."""
    from qcompiler.quantization.observers import make_observer

    for group, spec in prepared.specs().items():
        try:
            make_observer(spec).merge(make_observer(spec))
        except QuantizationError as error:
            raise QuantizationError(
                "several workers cannot calibrate with this qconfig",
                where=f"%{group}",
                got=error.message,
                hint="calibrate without executor=, or use the observer histogram or minmax",
            ) from None


def observe_on(
    executor: Executor,
    prepared: Prepared,
    items: Iterable[Item],
    threads: int,
    progress: Callable[[int], object] | None,
) -> Calibration:
    """Run the items on the executor's workers, each item with so many threads.

    At most a few chunks per worker are under way, so the data streams. If workers are lost and the executor breaks, as
    a process pool does when one of its processes is killed, this process runs the items that have no result.

    Raises:
        QuantizationError: as `calibrate` does; a worker's errors too.
    """
    with _Graph(prepared, executor) as graph:
        here = _Here(prepared, threads)
        pending: deque[tuple[list[Item], Future | None]] = deque()
        total: Calibration | None = None
        done = 0

        def take() -> None:
            nonlocal total, done
            chunk, future = pending.popleft()
            part = here.observe(chunk) if future is None else _result(future, chunk, here)
            total = part if total is None else total + part
            done += len(chunk)
            if progress is not None:
                progress(done)

        most = 2 * _workers(executor)
        for chunk in _chunks(items):
            pending.append((chunk, _submitted(executor, graph.sent, chunk, threads)))
            if len(pending) >= most:
                take()
        while pending:
            take()
    assert total is not None  # iterate_items refuses empty data
    return total


def observe_chunk(graph: str | bytes, chunk: Sequence[Item], threads: int) -> Calibration:
    """What a worker does: run the items of a chunk. graph: the bytes of a saved observed graph, or its path."""
    from qcompiler.quantization.workflow import observe_items

    prepared, runner = _loaded(graph)
    aligned = (
        [np.require(array, requirements=["C", "A"]) for array in item] for item in chunk
    )  # as messages hold them
    return observe_items(prepared, runner, aligned, threads)


@functools.lru_cache(maxsize=2)
def _loaded(graph: str | bytes) -> tuple[Prepared, Collector]:
    from qcompiler.artifact import SavedModel
    from qcompiler.quantization.collect import collector
    from qcompiler.quantization.resolution import ResolutionTable
    from qcompiler.quantization.workflow import Prepared

    prepared = Prepared(SavedModel(graph).graph(), ResolutionTable([]), {})
    return prepared, collector(prepared.graph, prepared.sampled_products())


class _Graph:
    """The observed graph as workers get it: as a file to the processes of this machine, which so share its weights; to
    Dask's workers once; in the arguments of each call to all others.

    Attributes:
        sent: the argument that stands for it.
    """

    def __init__(self, prepared: Prepared, executor: Executor) -> None:
        from qcompiler.artifact import graph_bytes

        self._path: str | None = None
        self.sent: Any = graph_bytes(prepared.graph)
        if isinstance(executor, ProcessPoolExecutor):
            descriptor, self._path = tempfile.mkstemp(suffix=".qc.safetensors")
            with open(descriptor, "wb") as file:
                file.write(self.sent)
            self.sent = self._path
        elif hasattr(executor, "scatter"):
            # A key of its own: with that of equal bytes, which Dask may be releasing just then, workers would look for
            # these for ever.
            self.sent = executor.scatter(self.sent, broadcast=True, hash=False)

    def __enter__(self) -> _Graph:
        return self

    def __exit__(self, *error: object) -> None:
        _loaded.cache_clear()  # threads of this process filled it
        if self._path is not None:
            os.unlink(self._path)


class _Here:
    """Runs chunks in this process; compiles the graph when the first one comes."""

    def __init__(self, prepared: Prepared, threads: int) -> None:
        self._prepared, self._threads = prepared, threads

    @cached_property
    def _runner(self) -> Collector:
        from qcompiler.quantization.collect import collector

        _log.warning("the executor has lost workers and takes no more work: this process runs the remaining items")
        return collector(self._prepared.graph, self._prepared.sampled_products())

    def observe(self, chunk: Sequence[Item]) -> Calibration:
        from qcompiler.quantization.workflow import observe_items

        return observe_items(self._prepared, self._runner, chunk, self._threads)


def _submitted(executor: Executor, graph: Any, chunk: list[Item], threads: int) -> Future | None:
    """The future of a chunk, or None if the executor is broken."""
    try:
        if hasattr(executor, "scatter"):  # Dask would answer a call it has seen from its memory, and keep the answer
            return executor.submit(observe_chunk, graph, chunk, threads, pure=False)  # type: ignore[call-arg]
        return executor.submit(observe_chunk, graph, chunk, threads)
    except BrokenExecutor:
        return None


def _result(future: Future, chunk: Sequence[Item], here: _Here) -> Calibration:
    try:
        part: Calibration = future.result()
    except (BrokenExecutor, CancelledError):  # Dask cancels calls whose arguments were lost with a worker
        return here.observe(chunk)
    return part


def _workers(executor: Executor) -> int:
    """About how many calls the executor runs at a time."""
    if hasattr(executor, "nthreads"):
        return max(1, sum(executor.nthreads().values()))
    return usable_cpus()


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items in lists of at most `_CHUNK`, and of not much more than `_CHUNK_BYTES`."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += sum(array.nbytes for array in item)
        if len(chunk) == _CHUNK or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
