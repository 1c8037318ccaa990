"""Work on a second thread while this one goes on, for long calls that release the interpreter lock: hashing, copies of
large arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from qcompiler.cpus import usable_cpus

T = TypeVar("T")


class Background(Generic[T]):
    """A call on a thread of its own. On a single CPU, or if no thread can be started, it runs when its result is asked
    for."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._outcome: list[T] = []
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if usable_cpus() > 1:
            thread = threading.Thread(target=self._run, daemon=True)
            try:
                thread.start()
                self._thread = thread
            except RuntimeError:
                pass  # no thread can be started: `result` does the work

    def _run(self) -> None:
        try:
            self._outcome.append(self._function())
        except BaseException as error:  # noqa: BLE001  raised again in `result`
            self._error = error

    def result(self) -> T:
        """Wait for the call, and return or raise what it does."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        if not self._outcome:  # there is no thread, or it is that of the process that forked this one
            self._outcome.append(self._function())
        return self._outcome[0]


def run_all(tasks: Sequence[Callable[[], None]]) -> None:
    """Run independent tasks on this thread and another one, and wait for all. Raises what a task raised."""
    rest: Iterator[Callable[[], None]] = iter(tasks)

    def work() -> None:
        for task in rest:
            task()

    other = Background(work)
    try:
        work()
    finally:
        other.result()
