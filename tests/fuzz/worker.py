"""The process that runs inputs, and its limits.

A worker runs one input after another. The first limits are its own: CPU time, by a timer, and memory, by the peak of
the resident set that Linux counts. Address space has a hard limit, and the parent ends a worker that does not answer.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import re
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from qcompiler.errors import QCompilerError
from tests.fuzz.door import Door, open_door

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 10.0
"""CPU time of one input."""
MEMORY = 256 * 2**20
"""Bytes that an input may take besides its own size."""
ADDRESS_SPACE = 4 * 2**30
"""Bytes of address space that a worker may map after its first input."""
MOST_TEXT = 10_000
"""Characters of a message: a longer one is not clear."""


@dataclass(frozen=True)
class Verdict:
    """How an input ended.

    Attributes:
        ended: a word of the door's, "refused", or "finding".
        kind, place, text: of a finding: the class of the exception or the limit, where, and the traceback.
        data: of a finding: the input.
        seconds: CPU time of the worker since the verdict before. Systems that count it in ticks give 0 for most inputs;
            the sum over many is right.
    """

    ended: str
    kind: str = ""
    place: str = ""
    text: str = ""
    data: bytes = b""
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """Findings with one key count as one."""
        return self.kind, self.place


class TooSlow(BaseException):
    """The CPU time of an input is over. Not an Exception, so that no code under test takes it for one of its own."""


def judge(door: Door, given: int | bytes) -> Verdict:
    """Run the input of a seed, or a given one."""
    data = b""

    def verdict(ended: str, kind: str = "", place: str = "", text: str = "") -> Verdict:
        return Verdict(ended, kind, place, text, data if kind else b"")

    def found(error: BaseException, kind: str) -> Verdict:
        return verdict("finding", kind, _place(error), "".join(traceback.format_exception(error))[-20_000:])

    before = _start_counting_memory()
    signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        data = door.draw(given) if isinstance(given, int) else given
        ended = door.run(data)
    except QCompilerError as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if not door.is_clear(error):
            return found(error, f"refused by {type(error).__name__}")
        if not error.message.strip() or len(str(error)) > MOST_TEXT:
            return found(error, "unclear message")
        ended = "refused"
    except TooSlow as error:
        return found(error, "hang")
    except BaseException as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return found(error, type(error).__name__)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = _peak() - before
    if grown > MEMORY + len(data):
        return verdict("finding", "memory", ended, f"{grown} bytes for an input of {len(data)}")
    return verdict(ended)


def _stop(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def _place(error: BaseException) -> str:
    """The innermost function of this tree in a traceback. Of a wrong answer also what it says, without numbers."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(ROOT))]
    frames = [frame for frame in frames if ".venv" not in frame.filename and not frame.filename.endswith("worker.py")]
    place = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].name}" if frames else ""
    if isinstance(error, AssertionError):
        place += " " + re.sub(r"[-\d.]+", "#", str(error))[:60]
    return place


def _start_counting_memory() -> int:
    """Reset the peak of the resident set; its size now, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()  # not Linux, or forbidden: then only what is above all inputs before counts
    return _status("VmRSS")


def _peak() -> int:
    try:
        return _status("VmHWM")
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s*(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise ValueError(field)
    return int(found[1]) * 1024


def serve(name: str, connection: Connection, errors: str) -> None:
    """Judge the inputs of each sequence that comes through the connection, until the process is ended."""
    with open(errors, "w") as file:
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        door = open_door(name)
        judge(door, 0)  # imports what is needed, which counts as nobody's memory or time
        try:
            limit = _status("VmSize") + ADDRESS_SPACE
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        except (OSError, ValueError):
            pass
        connection.send(None)
        spent = time.process_time()
        while True:
            for given in connection.recv():
                verdict, before, spent = judge(door, given), spent, time.process_time()
                connection.send(replace(verdict, seconds=spent - before))


class Worker:
    """A worker as the parent sees it. It starts at the first input, and again after each death.

    Args:
        door: the name of a door.
        patience: seconds that an input may take on the clock before the worker is ended.
    """

    def __init__(self, door: str, patience: float = 120.0) -> None:
        self.door, self.patience = door, patience
        self._process: multiprocessing.process.BaseProcess | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def judge(self, given: int | bytes) -> Verdict:
        """The verdict on one input: of the worker, or that it died or does not answer."""
        return self.judge_all([given])[0]

    def judge_all(self, inputs: Sequence[int | bytes]) -> list[Verdict]:
        """The verdicts on inputs, which the worker runs without a pause. A worker that dies is replaced."""
        found: list[Verdict] = []
        while len(found) < len(inputs):
            if self._process is None:
                self._start()
            kind = "hang"
            try:
                self._connection.send(inputs[len(found) :])
                while len(found) < len(inputs) and self._connection.poll(self.patience):
                    found.append(self._connection.recv())
            except (EOFError, OSError):
                kind = "crash"
            if len(found) < len(inputs):
                found.append(self._died(inputs[len(found)], kind))
        return found

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        handle, self._errors = tempfile.mkstemp(suffix=".txt")
        os.close(handle)
        self._process = context.Process(target=serve, args=(self.door, theirs, self._errors), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(self.patience):
            raise TimeoutError(f"the worker of {self.door} does not start")
        self._connection.recv()

    def _died(self, given: int | bytes, kind: str) -> Verdict:
        process = self._process
        assert process is not None
        if kind == "hang" and process.pid is not None:
            os.kill(process.pid, signal.SIGABRT)  # faulthandler tells where it hangs
        process.join(2)
        text = f"exit code {process.exitcode}\n" + Path(self._errors).read_text(errors="replace")[-5000:]
        first = re.search(r'File "([^"]+)", line \d+ in (\w+)', text)
        place = f"{Path(first[1]).name}:{first[2]}" if first else ""
        self._end()
        data = open_door(self.door).draw(given) if isinstance(given, int) else given
        return Verdict("finding", kind, place, text, data, SECONDS)

    def _end(self) -> None:
        if self._process is None:
            return
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._connection.close()
        os.unlink(self._errors)
        self._process = None
