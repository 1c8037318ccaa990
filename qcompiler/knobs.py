"""Every environment variable that qcompiler reads, in one typed table.

A knob is for debugging and experiments and never needed for correct results. Its value is that of the innermost
`with knob(value):` in this process, else the environment's, read at each use, else the default. `docs/knobs.md` is
made from this table: `python -m qcompiler.knobs > docs/knobs.md`.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from qcompiler.errors import QCompilerError
from qcompiler.fork_safety import fork_safe_lock

T = TypeVar("T")
_lock = fork_safe_lock()


@dataclass(frozen=True, eq=False)
class Knob(Generic[T]):
    """One environment variable.

    Attributes:
        name: the variable's name.
        kind: what its text must be, in the words of messages and docs.
        default: the value if the variable is unset, or empty and without `blank`.
        doc: one sentence.
        parse: from text to value; ValueError for text that is not of the kind.
        blank: the value if the variable is set but empty, for knobs that distinguish this from unset.
    """

    name: str
    kind: str
    default: T
    doc: str
    parse: Callable[[str], T]
    blank: T | None = None
    _overrides: list[tuple[object, T]] = field(default_factory=list, repr=False)

    def get(self) -> T:
        """The current value. QCompilerError, naming the variable, for text of another kind."""
        with _lock:
            if self._overrides:
                return self._overrides[-1][1]
        given = os.environ.get(self.name)
        text = (given or "").strip()
        if not text:
            return self.default if given is None else self._blank()
        try:
            return self.parse(text)
        except ValueError:
            raise QCompilerError(
                f"the environment variable {self.name} has a bad value",
                expected=self.kind,
                got=text[:80],
                hint=f"unset {self.name} for the default",
            ) from None

    def _blank(self) -> T:
        return self.default if self.blank is None else self.blank

    @contextlib.contextmanager
    def __call__(self, value: T) -> Iterator[T]:
        """`with knob(value):` all threads of the process see this value, which is checked like the variable's text."""
        text = "" if value is None else str(value).strip()
        try:
            checked = self.parse(text) if text else self.default if value is None else self._blank()
        except ValueError:
            raise QCompilerError(f"a bad value for the knob {self.name}", expected=self.kind, got=text[:80]) from None
        entry = (object(), checked)
        with _lock:
            self._overrides.append(entry)
        try:
            yield checked
        finally:
            with _lock:
                self._overrides[:] = [other for other in self._overrides if other[0] is not entry[0]]


def _flag(text: str) -> bool:
    """False: 0, false, no or off; True: 1, true, yes or on."""
    word = text.lower()
    if word in ("0", "false", "no", "off"):
        return False
    if word in ("1", "true", "yes", "on"):
        return True
    raise ValueError(text)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not low <= float(text) <= high:
            raise ValueError(text)
        return float(text)

    return parse


DEBUG: Knob[int] = Knob(
    "QC_DEBUG",
    "0, 1 or 2",
    0,
    "1: tracebacks of errors on the command line, each pass with its time in the log; 2: the graph after it too.",
    _whole(0, 2),
)
DUMP: Knob[pathlib.Path | None] = Knob(
    "QC_DUMP",
    "a folder",
    None,
    "The graph after each pass is written there, as NN_pass.qir and, up to 400 nodes, NN_pass.svg.",
    pathlib.Path,
)
VERIFY: Knob[bool] = Knob("QC_VERIFY", "0 or 1", True, "0: the graph is not verified after each pass.", _flag)
STOP_AFTER: Knob[str | None] = Knob(
    "QC_STOP_AFTER", "the name of a pass", None, "Each pipeline ends after the pass of this name.", str
)
PASS_LIMIT: Knob[int | None] = Knob(
    "QC_PASS_LIMIT",
    "a whole number from 0",
    None,
    "Each pipeline ends after this many passes, to bisect what breaks a graph.",
    _whole(0, 2**31),
)
ISA: Knob[str | None] = Knob(
    "QC_ISA",
    "a level, as avx2 or x86-64+avx2",
    None,
    "Pretend to be a weaker CPU: higher levels are unavailable, and native is this one.",
    str,
)
THREADS: Knob[int | None] = Knob(
    "QC_THREADS",
    "a whole number from 1 to 256",
    None,
    "Threads of a compiled model where threads= is not given; else all CPUs that the process may use.",
    _whole(1, 256),
)
SEED: Knob[int] = Knob(
    "QC_SEED",
    "a whole number from 0",
    0,
    "Seed of the random inputs that the command line makes.",
    _whole(0, 2**63 - 1),
)
SPIN_US: Knob[float | None] = Knob(
    "QC_SPIN_US",
    "0 to 1000000 (microseconds)",
    None,
    "How long idle workers spin for the next call before they sleep.",
    _number(0, 1e6),
)
CACHE: Knob[str | None] = Knob(
    "QC_CACHE",
    "a folder; empty: off",
    None,
    "Compiled kernels, and the programs of saved models with their packed weights, are stored there for later "
    "processes. Default: `qcompiler` in the user's cache folder.",
    str,
    blank="",
)
POISON: Knob[bool] = Knob(
    "QC_POISON",
    "0 or 1",
    False,
    "1: intermediate memory and fresh outputs are filled with 0xA5 before each run.",
    _flag,
)
GUARD: Knob[bool] = Knob(
    "QC_GUARD",
    "0 or 1",
    False,
    "1: every buffer lies between pages that fault, and the bytes up to them are checked; poisons too.",
    _flag,
)
REQUIRE_ALL: Knob[bool] = Knob(
    "QC_REQUIRE_ALL", "0 or 1", False, "1: tests fail where they would skip because an optional tool is missing.", _flag
)

KNOBS: tuple[Knob[Any], ...] = (
    DEBUG,
    DUMP,
    VERIFY,
    STOP_AFTER,
    PASS_LIMIT,
    ISA,
    THREADS,
    SEED,
    SPIN_US,
    CACHE,
    POISON,
    GUARD,
    REQUIRE_ALL,
)


def knobs_page() -> str:
    """docs/knobs.md."""
    lines = [
        "# Knobs",
        "",
        "Environment variables for debugging and experiments. The page is what `python -m qcompiler.knobs` prints.",
        "",
        'Each is a context manager too: `from qcompiler import knobs`, then `with knobs.DUMP("folder"): ...`.',
        "",
        "| variable | value | default | meaning |",
        "|---|---|---|---|",
    ]
    for knob in KNOBS:
        default = "" if knob.default is None else int(knob.default) if isinstance(knob.default, bool) else knob.default
        lines.append(f"| `{knob.name}` | {knob.kind} | {default} | {knob.doc} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(knobs_page(), end="")
