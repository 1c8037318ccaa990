"""Runs lists of passes and gives every tool one hook: verify, dump, time and bisect all hang on it.

A pass is a frozen dataclass whose fields are its options, with a `name` in kebab-case; `run` may change the graph it is
given, which the manager owns, and returns the result.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Sequence
from typing import ClassVar, Protocol

from qcompiler.errors import PassError, QCompilerError
from qcompiler.ir import Graph


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
    """Writes NN_pass.qir into a folder after every pass."""

    folder: pathlib.Path

    def after(self, index: int, step: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{index:02d}_{step.name}.qir").write_text(str(graph))


@dataclasses.dataclass
class Record:
    """Keeps (pass, nodes after it, seconds) for reports and `qcompiler passes`; with `texts`, the graph's text as well."""

    texts: bool = False
    rows: list[tuple[str, int, float, str]] = dataclasses.field(default_factory=list)

    def after(self, index: int, step: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        self.rows.append((describe(step), len(graph), seconds, str(graph) if self.texts else ""))


class PassManager:
    """Runs passes in order on a copy of the graph.

    Knobs: QC_DUMP (folder), QC_STOP_AFTER (pass name), QC_PASS_LIMIT (number of passes).
    """

    def __init__(self, passes: Sequence[Pass], instruments: Sequence[Instrument] = ()) -> None:
        self.passes = list(passes)
        self.instruments: list[Instrument] = [Verify(), *instruments]
        if os.environ.get("QC_DUMP"):
            self.instruments.append(Dump(pathlib.Path(os.environ["QC_DUMP"])))

    def run(self, graph: Graph) -> Graph:
        """The graph after all passes.

        Raises:
            PassError: a pass left a graph that does not verify; names the pass. Other errors pass through.
        """
        stop, limit = os.environ.get("QC_STOP_AFTER"), int(os.environ.get("QC_PASS_LIMIT", len(self.passes)))
        graph = graph.clone()
        for index, step in enumerate(self.passes[:limit]):
            before = graph.clone() if len(self.instruments) > 1 else graph
            start = time.perf_counter()
            graph = step.run(graph)
            seconds = time.perf_counter() - start
            for instrument in self.instruments:
                try:
                    instrument.after(index, step, before, graph, seconds)
                except QCompilerError as error:
                    raise PassError(f"the graph is broken after pass {index} {describe(step)}: {error}") from error
            if step.name == stop:
                break
        return graph
