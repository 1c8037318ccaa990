"""Gives random and damaged input to one door after another, and keeps what ends in anything but an answer or one clear
error.

    python -m tests.fuzz --door text --minutes 15          from seed 0 on, 15 minutes of CPU time
    python -m tests.fuzz --door qdq --count 20000          so many inputs, whatever they take
    python -m tests.fuzz --door text --replay FILE         one input again, with its traceback

A finding is an exception that is no QCompilerError of a class that the entry documents, an input that takes 10 seconds
of CPU time or more than its size and 256 MiB of memory, a crash, a graph that does not survive printing and parsing,
or an answer that differs from that of the op's owner. Findings at one place count as one; the first is made smaller
and written to the folder, beside a text that says what happened and how to replay it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.door import HOMES, open_door
from tests.fuzz.minimize import minimized
from tests.fuzz.worker import Verdict, Worker

_AT_ONCE = 50
"""Inputs that a worker runs between two messages."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the doors of qcompiler.")
    parser.add_argument("--door", default="all", choices=["all", *HOMES])
    parser.add_argument("--minutes", type=float, default=1.0, help="CPU time for each door")
    parser.add_argument("--count", type=int, help="how many inputs for each door; --minutes does not count then")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--folder", type=Path, default=Path(".fuzz"), help="where findings are written")
    parser.add_argument("--replay", type=Path, help="a file to give to the door, instead of drawing")
    options = parser.parse_args(arguments)
    os.environ["QC_CACHE"] = ""  # no kernel of an earlier run
    if options.replay is not None:
        if options.door == "all":
            parser.error("--replay needs --door")
        return replay(options.door, options.replay)
    doors = list(HOMES) if options.door == "all" else [options.door]
    return int(any([fuzz(door, options.minutes, options.count, options.seed, options.folder) for door in doors]))


def replay(door: str, path: Path) -> int:
    """Run one file and print how it ended. Gives the exit status."""
    with Worker(door) as worker:
        verdict = worker.judge(path.read_bytes())
    print(f"{door}: {verdict.ended} {verdict.kind} {verdict.place}\n{verdict.text}".strip())
    return int(verdict.ended == "finding")


def fuzz(name: str, minutes: float, count: int | None, first: int, folder: Path) -> int:
    """Run a door for so many minutes of CPU time, or so many inputs. Gives the number of findings."""
    ends: Counter[str] = Counter()
    findings: dict[tuple[str, str], int] = {}
    seed, spent, shown, door = first, 0.0, time.monotonic(), open_door(name)
    with Worker(name) as worker:
        while seed - first < count if count is not None else spent < 60 * minutes:
            many = _AT_ONCE if count is None else min(_AT_ONCE, first + count - seed)
            for verdict in worker.judge_all(range(seed, seed + many)):
                ends[verdict.ended] += 1
                spent += verdict.seconds
                if verdict.ended == "finding":
                    if verdict.key not in findings:
                        path = _keep(minimized(verdict, door, worker), name, seed, door.suffix, folder)
                        print(f"{name}: seed {seed}: {verdict.kind} at {verdict.place}: {path}", flush=True)
                    findings[verdict.key] = findings.get(verdict.key, 0) + 1
                seed += 1
            if time.monotonic() - shown > 60:
                print(f"{name}: {_summary(seed - first, spent, ends, findings)}", flush=True)
                shown = time.monotonic()
    print(f"{name}: seeds {first} to {seed - 1}: {_summary(seed - first, spent, ends, findings)}", flush=True)
    return len(findings)


def _keep(verdict: Verdict, door: str, seed: int, suffix: str, folder: Path) -> Path:
    """Write the input of a finding, and beside it what happened."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{door}-{hashlib.sha256('|'.join(verdict.key).encode()).hexdigest()[:8]}{suffix}"
    path.write_bytes(verdict.data)
    command = f"python -m tests.fuzz --door {door} --replay {path}"
    told = f"{command}\nfrom seed {seed}\n{verdict.kind} at {verdict.place}\n\n{verdict.text}\n"
    path.with_suffix(".txt").write_text(told)
    return path


def _summary(inputs: int, spent: float, ends: Counter[str], findings: dict[tuple[str, str], int]) -> str:
    counts = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    return f"{inputs} inputs in {spent / 60:.1f} minutes of CPU time: {counts}; {len(findings)} different findings"


if __name__ == "__main__":
    sys.exit(main())
