"""Runs pytest in a copy of the tree, within a limit of processor time."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

SERVER = pathlib.Path(__file__).with_name("server.py")
PYTEST = ("-q", "-m", "not exhaustive", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "tests.mutants.plugin")
WALL = 30
"""A run is also stopped after so many times its processor time by the clock: one that sleeps ends too."""


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        failed: whether a test failed, or pytest ended otherwise. A run that was stopped did not fail.
        by: the first test that failed, or how the run ended.
        named: whether `by` names a test.
        seconds: its processor time.
    """

    failed: bool
    by: str
    seconds: float
    named: bool = False


class Runner:
    """A copy of the tree, and the server that runs tests in it. A context manager."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(root), "QC_CACHE": ""}
        self._server = subprocess.Popen(
            [sys.executable, str(SERVER)], cwd=root, env={**os.environ, **single}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], seconds: float) -> Ended:
        """Run pytest with these arguments, at most for so many seconds of processor time."""
        assert self._server.stdin is not None and self._server.stdout is not None
        output = self.root / "mutants-output.txt"
        given = {"arguments": [*PYTEST, *arguments], "environment": dict(environment), "output": str(output)}
        self._server.stdin.write(json.dumps(given) + "\n")
        self._server.stdin.flush()
        process, spent, started = int(self._server.stdout.readline()), 0.0, time.monotonic()
        codes: list[int] = []
        reader = threading.Thread(target=lambda file: codes.append(int(file.readline())), args=(self._server.stdout,))
        reader.start()
        while reader.is_alive():
            reader.join(0.3)
            spent = max(spent, _cpu_seconds(process))
            if spent > seconds or time.monotonic() - started > WALL * seconds:
                os.killpg(process, signal.SIGKILL)
                reader.join()
                return Ended(False, "timeout", spent)
        if codes[0] in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return Ended(False, "all tests passed", spent)
        lines = output.read_text(errors="replace").splitlines()
        failed = [line.split(" ", 1)[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
        if failed:
            return Ended(True, failed[0].split(" - ")[0], spent, named=True)
        return Ended(True, f"exit status {codes[0]}", spent)


def _cpu_seconds(session: int) -> float:
    """The processor time of all processes of a session, and of those of their children that have ended."""
    ticks = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[3]) == session:
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime: proc(5), counted from field 3
    return ticks / os.sysconf("SC_CLK_TCK")
