"""Applies semantic mutants to the sources, one at a time, and tells which of them no test notices.

    python -m tests.mutants --folder ~/mutants            draw, run what has no result yet, print the score
    python -m tests.mutants --folder ~/mutants --list     the survivors, as diffs
    python -m tests.mutants --folder ~/mutants --again    run the survivors once more, after tests were added

The mutants are drawn by a fixed seed from all sites of the folders below, so many from each. Each runs in a copy of the
tree, against the test files that execute its line, those that mirror its file first. Results are appended to
results.jsonl in the folder, so a run that was stopped goes on. A timeout, counted in processor time so that a loaded
machine gives the same score, counts as a survivor.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any

from tests.mutants.coverage_map import PYTEST, Coverage, environment, record
from tests.mutants.sites import Site, sites_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
EQUIVALENT = pathlib.Path(__file__).with_name("equivalent.toml")
DRAWN = {
    "qcompiler/quantization": 35,
    "backends/rules": 50,
    "backends/kernels": 60,
    "passes": 40,
    "qcompiler/ops": 40,
}
"""How many mutants are drawn from each folder."""
LONG = 30.0
"""Seconds of processor time, under coverage, from which a test file is long."""
WALL = 5
"""A mutant is also stopped after so many times its processor time by the clock: a mutant that sleeps ends too."""
SKIPPED = (
    "tests/artifact", "tests/cli", "tests/examples", "tests/type_checkers", "tests/complaints", "tests/mutants",
    "tests/backends/arm", "tests/backends/cache", "tests/backends/object_export", "tests/backends/runtime",
    "tests/test_wheel.py", "tests/test_docs.py", "tests/test_readme.py", "tests/test_demo_stages.py",
    "tests/backends/kernels/test_texts.py",
)  # fmt: skip
"""Test files that are slow, need emulators or processes, or compare texts. A mutant that only these kill counts as a
survivor: a golden text of a kernel notices any change and says nothing about its meaning."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Run semantic mutants.")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="where results, coverage and copies lie")
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds of processor time for each mutant")
    parser.add_argument("--only", default="", help="only mutants whose path starts so")
    parser.add_argument("--again", action="store_true", help="run the survivors again")
    parser.add_argument("--list", action="store_true", help="print the survivors, run nothing")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    drawn = [site for site in draw(options.seed) if site.path.startswith(options.only)]
    results = options.folder / "results.jsonl"
    known = read_results(results)
    equivalent = {entry["key"] for entry in tomllib.loads(EQUIVALENT.read_text())["mutant"]}
    if not options.list:
        todo = [site for site in drawn if site.key not in equivalent]
        todo = [s for s in todo if s.key not in known or (options.again and not known[s.key]["killed"])]
        copies = [_copy_of_tree(options.folder / f"copy{i}") for i in range(options.jobs)]
        tests = [t for t in tracked("tests") if pathlib.Path(t).name.startswith("test_") and not t.startswith(SKIPPED)]
        sources = [path for folder in ("qcompiler", "frontend", "passes", "backends") for path in tracked(folder)]
        covered = record(copies[0], tests, sources, options.folder / "coverage", options.jobs)
        run_all(todo, covered, copies, results, options.timeout)
    _print_report(drawn, read_results(results), equivalent, options.list)
    return 0


def tracked(folder: str) -> list[str]:
    """The Python files of a folder that git tracks."""
    found = subprocess.run(["git", "ls-files", "-z", f"{folder}/*.py"], cwd=ROOT, capture_output=True, check=True)
    return [path for path in found.stdout.decode().split("\0") if path and (ROOT / path).is_file()]


def draw(seed: int) -> list[Site]:
    """The mutants of a seed: those of the smallest ranks in each folder."""
    drawn: list[Site] = []
    for folder, count in DRAWN.items():
        sites = [site for path in tracked(folder) for site in sites_of(path, (ROOT / path).read_text())]
        drawn += sorted(sites, key=lambda site: site.rank(seed))[:count]
    return drawn


def _copy_of_tree(folder: pathlib.Path) -> pathlib.Path:
    """A fresh copy of the files that git tracks, as they are now, compiled so that bytecode is never stale."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    compiled = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash"]
    subprocess.run([*compiled, "qcompiler", "frontend", "passes", "backends", "tests"], cwd=folder, check=True)
    return folder


def covering(site: Site, covered: Mapping[str, Coverage]) -> list[str]:
    """The test files that execute the line of a mutant: first those named like its file, then those of the mirroring
    folder, then the others, the quickest first. Files that would use most of a mutant's time come last."""
    source = pathlib.Path(site.path)
    mirror = str(pathlib.Path("tests", source.parent)).replace("tests/qcompiler", "tests")

    def order(test: str) -> tuple[bool, bool, bool, float]:
        path, seconds = pathlib.Path(test), covered[test].seconds
        return seconds > LONG, path.stem != f"test_{source.stem}", str(path.parent) != mirror, seconds

    found = [test for test, one in covered.items() if one.passed and site.line in one.lines.get(site.path, ())]
    return sorted(found, key=order)


def run_all(
    sites: Iterable[Site], covered: Mapping[str, Coverage], copies: Sequence[pathlib.Path], results: pathlib.Path,
    timeout: float,
) -> None:  # fmt: skip
    """Run mutants, one at a time in each copy, and append each result."""
    free: Queue[pathlib.Path] = Queue()
    for copy in copies:
        free.put(copy)

    def one(site: Site) -> dict[str, Any]:
        copy = free.get()
        try:
            return run_mutant(site, covering(site, covered), copy, timeout)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool, results.open("a") as file:
        for found in pool.map(one, sites):
            file.write(json.dumps(found) + "\n")
            file.flush()
            state = "killed" if found["killed"] else "SURVIVED"
            print(f"{state} {found['key']} {found['path']}:{found['line']} {found['kind']} ({found['by']}, "
                  f"{found['seconds']} s)", flush=True)  # fmt: skip


def run_mutant(site: Site, tests: Sequence[str], copy: pathlib.Path, timeout: float) -> dict[str, Any]:
    """Run the tests with the mutant in place. It is killed if a test failed; `by` names the test, or says how the run
    ended."""
    found = {"key": site.key, "path": site.path, "line": site.line, "function": site.function, "kind": site.kind,
             "old": site.old, "new": site.new.strip()}  # fmt: skip
    path = copy / site.path
    text = path.read_text()
    started = time.monotonic()
    if not tests:
        return {**found, "killed": False, "by": "no test executes the line", "seconds": 0.0}
    try:
        path.write_text(site.apply(text))
        killed, by = _run_tests(tests, copy, timeout)
    finally:
        path.write_text(text)
    return {**found, "killed": killed, "by": by, "seconds": round(time.monotonic() - started, 1)}


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


def _run_tests(tests: Sequence[str], copy: pathlib.Path, timeout: float) -> tuple[bool, str]:
    process = subprocess.Popen(
        [*PYTEST, "--tb=no", *tests], cwd=copy, env=environment(copy), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    spent, started = 0.0, time.monotonic()
    while True:
        try:
            output, _ = process.communicate(timeout=0.5)
            break
        except subprocess.TimeoutExpired:
            spent = max(spent, _cpu_seconds(process.pid))
            if spent > timeout or time.monotonic() - started > WALL * timeout:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                return False, "timeout"
    failed = [line.split(" ", 1)[1] for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if process.returncode == 0:
        return False, "all tests passed"
    return True, failed[0].split(" - ")[0] if failed else f"exit status {process.returncode}"


def read_results(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The last result under each key."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {found["key"]: found for found in map(json.loads, lines)}


def _diff(site: Site) -> Iterator[str]:
    text = (ROOT / site.path).read_text()
    lines = difflib.unified_diff(text.splitlines(), site.apply(text).splitlines(), n=1, lineterm="")
    return (line for line in lines if not line.startswith(("---", "+++")))


def _print_report(drawn: Sequence[Site], known: Mapping[str, Any], equivalent: set[str], as_diffs: bool) -> None:
    """Print the score by folder, and the survivors."""
    table: dict[str, Counter[str]] = {folder: Counter() for folder in DRAWN}
    for site in drawn:
        folder = next(folder for folder in DRAWN if site.path.startswith(f"{folder}/"))
        found = known.get(site.key)
        state = "equivalent" if site.key in equivalent else "not run" if found is None else (
            "killed" if found["killed"] else "survived")  # fmt: skip
        table[folder][state] += 1
        if state == "survived":
            print(f"survived {site.key} {site.path}:{site.line} {site.function}: {site.kind}, {found['by']}")
            print("\n".join(_diff(site)) if as_diffs else f"    {site.old!r} -> {site.new.strip()!r}")
    whole: Counter[str] = sum(table.values(), Counter())
    for name, counts in [*table.items(), ("all", whole)]:
        print(f"{name:24}", *(f"{counts[s]:4} {s}" for s in ("killed", "survived", "equivalent", "not run")))
    meant = whole["killed"] + whole["survived"]
    print(f"killed: {100 * whole['killed'] / max(1, meant):.1f}% of {meant} mutants that are not equivalent")


if __name__ == "__main__":
    sys.exit(main())
