"""Runs lists of passes and gives every tool one hook: verify, dump, time and bisect all hang on it.

A pass is a frozen dataclass whose fields are its options, with a `name` in kebab-case; `run` may change the graph it is
given, which the manager owns, and returns the result.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import time
from collections.abc import Sequence
from typing import ClassVar, Protocol

from qcompiler import knobs
from qcompiler.errors import PassError, QCompilerError, VerifyError
from qcompiler.ir import Graph

_log = logging.getLogger(__name__)
_MOST_DRAWN = 400  # nodes: Graphviz takes its time with more


class Pass(Protocol):
    """One step of a pipeline."""

    name: ClassVar[str]

    def run(self, graph: Graph) -> Graph: ...


class Instrument(Protocol):
    """Sees the graph before and after each pass."""

    def after(self, index: int, step: Pass, before: Graph, graph: Graph, seconds: float) -> None: ...


def describe(step: Pass) -> str:
    """`name{field=value}` with the options that differ from their defaults."""
    options = [
        f"{field.name.replace('_', '-')}={getattr(step, field.name)}"
        for field in dataclasses.fields(step)
        if isinstance(field.default, (bool, int, float, str)) and getattr(step, field.name) != field.default
    ]
    return step.name + (f"{{{','.join(options)}}}" if options else "")


@dataclasses.dataclass
class Verify:
    """Verifies the graph after every pass."""

    def after(self, index: int, step: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        from qcompiler.verify import verify

        verify(graph)


@dataclasses.dataclass
class Dump:
    """Writes NN_pass.qir, and up to 400 nodes NN_pass.svg, after every pass; numbers continue those in the folder."""

    folder: pathlib.Path

    def after(self, index: int, step: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        from qcompiler.draw import draw

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            stem = f"{len(list(self.folder.glob('*.qir'))):02d}_{step.name}"
            (self.folder / f"{stem}.qir").write_text(str(graph), encoding="utf-8")
        except OSError as error:
            raise QCompilerError(
                "the dump cannot be written",
                where=f"folder {self.folder}",
                got=error.strerror or str(error),
                hint="QC_DUMP names the folder",
            ) from error
        if len(graph) <= _MOST_DRAWN:
            draw(graph, self.folder / f"{stem}.svg")


@dataclasses.dataclass
class Log:
    """Logs each pass with its time, and with `texts` the graph after it."""

    texts: bool = False

    def after(self, index: int, step: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        _log.info("pass %d %s: %d nodes, %.1f ms", index, describe(step), len(graph), seconds * 1e3)
        if self.texts:
            _log.info("%s", graph)


@dataclasses.dataclass
class Record:
    """Keeps (pass, nodes after it, seconds) for `qcompiler passes`; with `texts`, the graph's text as well."""

    texts: bool = False
    rows: list[tuple[str, int, float, str]] = dataclasses.field(default_factory=list)

    def after(self, index: int, step: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        self.rows.append((describe(step), len(graph), seconds, str(graph) if self.texts else ""))


class PassManager:
    """Runs passes in order on a copy of the graph.

    Knobs: QC_VERIFY, QC_DUMP, QC_DEBUG, QC_STOP_AFTER, QC_PASS_LIMIT (see knobs.py), read at each run.
    """

    def __init__(self, passes: Sequence[Pass], instruments: Sequence[Instrument] = ()) -> None:
        self.passes = list(passes)
        self.instruments = list(instruments)

    def run(self, graph: Graph) -> Graph:
        """The graph after all passes.

        Raises:
            PassError: a pass left a graph that does not verify; names the pass. Other errors pass through.
        """
        stop, limit = knobs.STOP_AFTER.get(), knobs.PASS_LIMIT.get()
        instruments = [*([Verify()] if knobs.VERIFY.get() else []), *self.instruments, *_from_knobs()]
        watched = any(not isinstance(instrument, Verify) for instrument in instruments)
        graph = graph.clone()
        for index, step in enumerate(self.passes[:limit]):
            before = graph.clone() if watched else graph
            start = time.perf_counter()
            graph = step.run(graph)
            seconds = time.perf_counter() - start
            for instrument in instruments:
                try:
                    instrument.after(index, step, before, graph, seconds)
                except VerifyError as error:
                    raise PassError(f"the graph is broken after pass {index} {describe(step)}: {error}") from error
            if step.name == stop:
                break
        return graph


def _from_knobs() -> list[Instrument]:
    found: list[Instrument] = []
    folder, level = knobs.DUMP.get(), knobs.DEBUG.get()
    if folder is not None:
        found.append(Dump(folder))
    if level:
        found.append(Log(texts=level > 1))
    return found
