"""What hangs on the pass manager's one hook: verify, dump, log, record, diff and reasons.

An instrument has `after(index, done, before, graph, seconds)`, called with each pass that is done; it must not change
the graphs. Those that collect rows print them as a table with `str`. Numerics is in numerics.py, finding the pass at
fault in bisection.py.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import pathlib

from qcompiler import knobs
from qcompiler.errors import QCompilerError
from qcompiler.ir import Graph
from qcompiler.passmanager import Instrument, Pass, describe
from qcompiler.regular_file import create_regular

_log = logging.getLogger("qcompiler.passmanager")
_MOST_DRAWN = 400  # nodes; Graphviz takes long for more


@dataclasses.dataclass
class Verify:
    """Verifies the graph after every pass."""

    def after(self, index: int, done: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        from qcompiler.verify import verify

        verify(graph)


@dataclasses.dataclass
class Dump:
    """Writes NN_pass.qir after every pass, and NN_pass.svg for at most 400 nodes. Numbers continue the folder's own."""

    folder: pathlib.Path

    def after(self, index: int, done: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        from qcompiler.draw import draw

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            number = sum(1 for path in self.folder.glob("*.qir") if path.stem[:1].isdigit())
            stem = f"{number:02d}_{done.name}"
            with create_regular(self.folder / f"{stem}.qir") as file:
                file.write(str(graph).encode())
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
    """Logs each pass with its time and, with `texts`, the graph after it."""

    texts: bool = False

    def after(self, index: int, done: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        _log.info("pass %d %s: %d nodes, %.1f ms", index, describe(done), len(graph), seconds * 1e3)
        if self.texts:
            _log.info("%s", graph)


@dataclasses.dataclass
class Record:
    """Collects (pass, nodes after it, seconds) and, with `texts`, the graph's text."""

    texts: bool = False
    rows: list[tuple[str, int, float, str]] = dataclasses.field(default_factory=list)

    def after(self, index: int, done: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        self.rows.append((describe(done), len(graph), seconds, str(graph) if self.texts else ""))

    def __str__(self) -> str:
        width = max((len(row[0]) for row in self.rows), default=0)
        return "\n".join(
            f"{name:<{width}}  {nodes:6d} nodes  {seconds * 1e3:9.1f} ms" for name, nodes, seconds, _ in self.rows
        )


@dataclasses.dataclass
class Diff:
    """Collects (pass, unified diff of the graph's text) for every pass that changed something."""

    context: int = 1
    rows: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def after(self, index: int, done: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        lines = difflib.unified_diff(str(before).splitlines(), str(graph).splitlines(), lineterm="", n=self.context)
        text = "\n".join(list(lines)[2:])
        if text:
            self.rows.append((describe(done), text))

    def __str__(self) -> str:
        return "\n".join(f"== {name}\n{text}" for name, text in self.rows)


@dataclasses.dataclass
class Reasons:
    """Collects (pass, refusal) for every match that a pass with `explain` left alone."""

    rows: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def after(self, index: int, done: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        explain = getattr(done, "explain", None)
        if explain is not None:
            self.rows += [(done.name, str(refusal)) for refusal in explain(graph)]

    def __str__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text in self.rows)


def instruments_from_knobs() -> list[Instrument]:
    """The instruments that QC_DUMP and QC_DEBUG ask for."""
    found: list[Instrument] = []
    folder, level = knobs.DUMP.get(), knobs.DEBUG.get()
    if folder is not None:
        found.append(Dump(folder))
    if level:
        found.append(Log(texts=level > 1))
    return found
