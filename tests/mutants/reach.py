"""Records which tests evaluate which mutants, once for each state of the sources.

In a copy of the tree each place that a mutant changes also notes the mutant's key, which costs little; line coverage
would slow the tests down, and knows only the first line of a statement. Each test file runs in a process of its own.
What a test notes it also notes when it runs alone. The reverse is not so: kernels are emitted and tables are filled by
whichever test needs them first, and later ones use them.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from tests.mutants.runner import Runner
from tests.mutants.sites import Site

SOURCES = ("qcompiler", "frontend", "passes", "backends")

MOST_SECONDS = 90.0
"""Processor time after which no further test of a file is recorded: a mutant's run does not get so far either."""
_START = "import builtins\n\nbuiltins._noted_mutants = set().update\n"
"""sitecustomize.py of the copy, which Python runs before anything else: `_noted_mutants(keys)` notes that it ran."""


@dataclass(frozen=True)
class Recorded:
    """What one test file evaluates.

    Attributes:
        imported: the keys of the mutants that ran while the file was imported.
        tests: the tests that passed -> (seconds of processor time, the keys of the mutants that it evaluates).
    """

    imported: Sequence[str]
    tests: Mapping[str, tuple[float, Sequence[str]]]


def noting(sites: Iterable[Site], text: str) -> str:
    """The text of a file in which each of these mutants' places notes the mutants' keys when it is evaluated."""
    keys: dict[tuple[int, int, bool], list[str]] = {}
    for site in sites:
        keys.setdefault((site.start, site.end, site.is_statement), []).append(site.key)
    insertions = []  # (offset, starts after ends, outer starts first and inner ends first), text
    for (start, end, is_statement), found in keys.items():
        call = f"_noted_mutants({tuple(found)!r})"
        insertions.append(((start, 1, -end), f"{call}; " if is_statement else f"({call}, "))
        if not is_statement:
            insertions.append(((end, 0, -start), ")[1]"))
    for (offset, _, _), new in sorted(insertions, reverse=True):
        text = text[:offset] + new + text[offset:]
    return text


def make_noting(root: pathlib.Path, sites: Sequence[Site]) -> None:
    """Change a copy of the tree so that `record` can use it."""
    for path in sorted({site.path for site in sites}):
        text = (root / path).read_text()
        (root / path).write_text(noting([site for site in sites if site.path == path], text))
    (root / "sitecustomize.py").write_text(_START)


def record(runner: Runner, tests: Iterable[str], folder: pathlib.Path) -> dict[str, Recorded]:
    """What each test file evaluates. What `folder` holds for the same test and the same sources is read instead.

    runner: of a copy that `make_noting` changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = hashlib.sha256()
    for source in sorted(path for top in SOURCES for path in (runner.root / top).rglob("*.py")):
        state.update(str(source.relative_to(runner.root)).encode() + b"\0" + source.read_bytes())
    found = {}
    for test in tests:
        name = hashlib.sha256(
            b"\0".join((state.digest(), test.encode(), (runner.root / test).read_bytes()))
        ).hexdigest()
        path = folder / f"{name[:32]}.json"
        if not path.exists():
            given = {"MUTANTS_RECORD": str(path), "MUTANTS_SECONDS": str(MOST_SECONDS)}
            ended = runner.run([test], given, 2 * MOST_SECONDS)
            if not path.exists():
                path.write_text(json.dumps(asdict(Recorded((), {}))))
            print(f"recorded {test}: {ended.seconds:.0f} s", flush=True)
        found[test] = Recorded(**json.loads(path.read_text()))
    return found


def rounds(site: Site, recorded: Mapping[str, Recorded], seconds: float) -> list[list[str]]:
    """The tests that may notice a mutant, in two runs: those of the file that is most likely to notice it, then others.

    For a mutant that only imports evaluate, tests whose names hold that of its class or function come first. Then a
    file named like the mutant's comes first, then those of the mirroring folder. In a file in which a test evaluates
    the mutant, the others come after such tests: they may use what a test before them made, kernels for example. Of
    each test function, the quickest case comes before all second cases. The tests of both runs need at most `seconds`
    without the mutant.
    """
    source = pathlib.Path(site.path)
    mirror = str(pathlib.Path("tests", source.parent)).replace("tests/qcompiler", "tests")
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", site.function.partition(".")[0]).lower().strip("_")
    found: list[tuple[bool, bool, bool, bool, int, float, str, str]] = []
    for file, one in recorded.items():
        noted = {test for test, (_, keys) in one.tests.items() if site.key in keys}
        if not noted and site.key not in one.imported:
            continue
        path = pathlib.Path(file)
        far = (path.stem != f"test_{source.stem}", str(path.parent) != mirror)
        case: dict[str, int] = {}
        for test, (spent, _) in sorted(one.tests.items(), key=lambda item: (item[0] not in noted, item[1][0])):
            function = test.partition("[")[0]
            case[function] = case.get(function, -1) + 1
            is_other = not noted and name not in test
            found.append((is_other, *far, test not in noted, case[function], spent, test, file))
    found.sort()
    chosen: list[list[str]] = [[], []]
    for *_, spent, test, file in found:
        if spent <= seconds:
            seconds -= spent
            chosen[file != found[0][-1]].append(test)
    return [tests for tests in chosen if tests]
