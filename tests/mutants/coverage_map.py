"""Records which test files execute which lines, once for each state of the sources.

Each test file runs in a process of its own. Within one process a kernel is emitted once, by whichever test needs it
first, so contexts of single tests would miss that others depend on the same lines. A file's run ends once it has
used `MOST_SECONDS`: a mutant's run does not get further either.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import pytest

PYTEST = (
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-x",
    "-m",
    "not exhaustive",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
)


MOST_SECONDS = 90.0
"""Processor time, under coverage, after which no further test of a file starts."""


@dataclass(frozen=True)
class Coverage:
    """What one test file executes.

    Attributes:
        seconds: the processor time of the file's run, under coverage.
        passed: whether all its tests passed; a file that fails without a mutant can kill none.
        lines: source file -> the lines that ran.
    """

    seconds: float
    passed: bool
    lines: Mapping[str, list[int]]


def environment(root: pathlib.Path) -> dict[str, str]:
    """The environment of tests that import the tree at `root`, and write no bytecode."""
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **single, "PYTHONPATH": str(root), "QC_CACHE": ""}


def record(
    root: pathlib.Path, tests: Iterable[str], sources: Iterable[str], folder: pathlib.Path, jobs: int
) -> dict[str, Coverage]:
    """The coverage of each test file. What `folder` holds for the same test and the same sources is read instead."""
    folder.mkdir(parents=True, exist_ok=True)
    state = hashlib.sha256()
    for source in sorted(sources):
        state.update(source.encode() + b"\0" + (root / source).read_bytes())

    def one(test: str) -> Coverage:
        key = hashlib.sha256(state.digest() + test.encode() + (root / test).read_bytes()).hexdigest()[:32]
        path = folder / f"{key}.json"
        if path.exists():
            return Coverage(**json.loads(path.read_text()))
        found = _run(root, test)
        path.write_text(json.dumps(asdict(found)))
        print(f"covered {test}: {found.seconds:.1f} s{'' if found.passed else ', FAILS without a mutant'}", flush=True)
        return found

    with ThreadPoolExecutor(jobs) as pool:
        tests = list(tests)
        return dict(zip(tests, pool.map(one, tests)))


def _run(root: pathlib.Path, test: str) -> Coverage:
    with tempfile.TemporaryDirectory() as scratch:
        data, report = pathlib.Path(scratch, "data"), pathlib.Path(scratch, "report.json")
        coverage = (sys.executable, "-m", "coverage")
        options = (*PYTEST[1:], "-p", "tests.mutants.stopwatch")
        run = (*coverage, "run", f"--data-file={data}", "--source=qcompiler,passes,backends", *options, test)
        process = subprocess.Popen(
            run, cwd=root, env=environment(root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)  # the time of this child alone
        code = process.returncode = os.waitstatus_to_exitcode(status)
        seconds = usage.ru_utime + usage.ru_stime
        export = (*coverage, "json", "-q", f"--data-file={data}", "-o", str(report))
        subprocess.run(export, cwd=root, env=environment(root), capture_output=True)
        files = json.loads(report.read_text())["files"] if report.exists() else {}
    lines = {_relative(root, name): found["executed_lines"] for name, found in files.items()}
    return Coverage(
        seconds,
        code in (pytest.ExitCode.OK, pytest.ExitCode.INTERRUPTED),
        {name: found for name, found in lines.items() if found},
    )


def _relative(root: pathlib.Path, name: str) -> str:
    """The path of a source below the root, with links such as qcompiler/passes resolved."""
    return str((root / name).resolve().relative_to(root.resolve()))
