"""Applies semantic mutants to the sources, one at a time, and tells which of them no test notices.

    python -m tests.mutants --folder ~/mutants            draw, run what has no result yet, print the score
    python -m tests.mutants --folder ~/mutants --list     the survivors, as diffs
    python -m tests.mutants --folder ~/mutants --again    run the survivors once more, after tests were added

The mutants are drawn by a fixed seed from all sites of the folders below, so many from each. Each runs in a copy of the
tree, against the tests that evaluate its place (`reach`), those in the files that mirror its file first. Results are
appended to results.jsonl in the folder, so a run that was stopped goes on. A timeout, counted in processor time so that
a loaded machine gives the same score, counts as a survivor.
"""

from __future__ import annotations

import argparse
import difflib
import json
import pathlib
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tests.mutants.reach import SOURCES, Recorded, make_noting, record, rounds
from tests.mutants.runner import Ended, Runner
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
NEAR = ("tests/backends/rules", "tests/backends/kernels", "tests/passes", "tests/quantization", "tests/ops")
"""The folders of the tests of these sources. The other tests run for the mutants that survive these."""
SHARE = 0.6
"""The tests of a mutant need at most this share of its time without the mutant: the rest is for imports."""
SKIPPED = (
    "tests/artifact", "tests/cli", "tests/examples", "tests/type_checkers", "tests/complaints", "tests/mutants",
    "tests/backends/arm", "tests/backends/cache", "tests/backends/object_export", "tests/backends/runtime",
    "tests/test_wheel.py", "tests/test_docs.py", "tests/test_readme.py", "tests/test_demo_stages.py",
    "tests/backends/kernels/test_texts.py", "tests/fuzz",
)  # fmt: skip
"""Test files that are slow, need emulators or other processes, or compare texts. A mutant that only these kill counts
as a survivor: a golden text of a kernel notices any change and says nothing about its meaning."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Run semantic mutants.")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="where results, recordings and copies lie")
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds of processor time for each mutant")
    parser.add_argument("--only", default="", help="only mutants whose path starts so")
    parser.add_argument("--near", action="store_true", help="run no tests but those of the mirroring folders")
    parser.add_argument("--again", action="store_true", help="run the survivors again")
    parser.add_argument("--list", action="store_true", help="print the survivors, run nothing")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    drawn = draw(options.seed)
    results = options.folder / "results.jsonl"
    known = read_results(results)
    equivalent = {entry["key"] for entry in tomllib.loads(EQUIVALENT.read_text())["mutant"]}
    if not options.list:
        todo = [site for site in drawn if site.key not in equivalent and site.path.startswith(options.only)]
        todo = [s for s in todo if s.key not in known or (options.again and not known[s.key]["killed"])]
        tests = [t for t in tracked("tests") if pathlib.Path(t).name.startswith("test_") and not t.startswith(SKIPPED)]
        noting = _copy_of_tree(options.folder / "noting")
        make_noting(noting, drawn)
        with Runner(noting) as notes, Runner(_copy_of_tree(options.folder / "copy")) as runner:
            for near in (True,) if options.near else (True, False):
                chosen = [test for test in tests if test.startswith(NEAR) == near]
                recorded = record(notes, chosen, options.folder / "reach")
                run_all(todo, recorded, runner, results, options.timeout)
                known = read_results(results)
                todo = [site for site in todo if not known[site.key]["killed"] and known[site.key]["by"] != "timeout"]
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
    """A fresh copy of the files that git tracks, as they are now. Bytecode is checked by the digest of its source."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    compiled = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash"]
    subprocess.run([*compiled, *SOURCES], cwd=folder, check=True)
    return folder


def run_all(
    sites: Iterable[Site], recorded: Mapping[str, Recorded], runner: Runner, results: pathlib.Path, timeout: float
) -> None:
    """Run mutants and append each result."""
    with results.open("a") as file:
        for site in sites:
            found = run_mutant(site, rounds(site, recorded, timeout * SHARE), runner, timeout)
            file.write(json.dumps(found) + "\n")
            file.flush()
            state = "killed" if found["killed"] else "SURVIVED"
            print(f"{state} {found['key']} {found['path']}:{found['line']} {found['kind']} ({found['by']}, "
                  f"{found['seconds']} s)", flush=True)  # fmt: skip


def run_mutant(site: Site, tests: Sequence[Sequence[str]], runner: Runner, timeout: float) -> dict[str, Any]:
    """Run the tests with the mutant in place. It is killed if a test failed; `by` names the test, or says how the run
    ended."""
    path, listed = runner.root / site.path, runner.root / "mutants-tests.json"
    text = path.read_text()
    ended, spent, files = Ended(False, "no test evaluates it", 0.0), 0.0, list[str]()
    try:
        path.write_text(site.apply(text))
        for names in tests:
            listed.write_text(json.dumps(names))
            files = list(dict.fromkeys(name.partition("::")[0] for name in names))
            ended = runner.run(["-x", "--tb=no", *files], {"MUTANTS_TESTS": str(listed)}, timeout - spent)
            spent += ended.seconds
            if ended.failed or ended.by == "timeout":
                break
    finally:
        path.write_text(text)
    if ended.failed and not ended.named:  # the mutant cannot be imported, or crashes: unless that is how all runs end
        without = runner.run(["-x", "--tb=no", *files], {"MUTANTS_TESTS": str(listed)}, timeout)
        if without.failed:
            raise RuntimeError(f"{files}: {without.by} without a mutant too")
    return {"key": site.key, "path": site.path, "line": site.line, "function": site.function, "kind": site.kind,
            "old": site.old, "new": site.new.strip(), "killed": ended.failed, "by": ended.by,
            "seconds": round(spent, 1)}  # fmt: skip


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
