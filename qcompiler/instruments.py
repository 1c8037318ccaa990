"""What hangs on the pass manager's one hook: verify, dump, log, record, diff, reasons, numerics; and bisection.

An instrument has `after(index, step, before, graph, seconds)`; it must not change the graphs. Those that keep rows
print them as a table with `str`.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qcompiler import knobs
from qcompiler.errors import PassError, QCompilerError
from qcompiler.interpreter import bind_inputs, run
from qcompiler.ir import Graph, Value
from qcompiler.passmanager import Instrument, Pass, PassManager, describe

_log = logging.getLogger("qcompiler.passmanager")
_MOST_DRAWN = 400  # nodes: Graphviz takes its time with more
_PIPELINE = "// pipeline: "
Inputs = Sequence[np.ndarray] | Mapping[str, np.ndarray]


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
            number = sum(1 for path in self.folder.glob("*.qir") if path.stem[:1].isdigit())
            stem = f"{number:02d}_{step.name}"
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
    """Keeps (pass, nodes after it, seconds); with `texts`, the graph's text as well."""

    texts: bool = False
    rows: list[tuple[str, int, float, str]] = dataclasses.field(default_factory=list)

    def after(self, index: int, step: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        self.rows.append((describe(step), len(graph), seconds, str(graph) if self.texts else ""))

    def __str__(self) -> str:
        width = max((len(row[0]) for row in self.rows), default=0)
        return "\n".join(
            f"{name:<{width}}  {nodes:6d} nodes  {seconds * 1e3:9.1f} ms" for name, nodes, seconds, _ in self.rows
        )


@dataclasses.dataclass
class Diff:
    """Keeps (pass, unified diff of the graph's text) of every pass that changed something."""

    context: int = 1
    rows: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def after(self, index: int, step: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        lines = difflib.unified_diff(str(before).splitlines(), str(graph).splitlines(), lineterm="", n=self.context)
        text = "\n".join(list(lines)[2:])
        if text:
            self.rows.append((describe(step), text))

    def __str__(self) -> str:
        return "\n".join(f"== {name}\n{text}" for name, text in self.rows)


@dataclasses.dataclass
class Reasons:
    """Keeps (pass, why each place that its patterns match was left alone), from passes that have `explain`."""

    rows: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def after(self, index: int, step: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        explain = getattr(step, "explain", None)
        if explain is not None:
            self.rows += [(step.name, str(refusal)) for refusal in explain(graph)]

    def __str__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text in self.rows)


def sqnr(reference: np.ndarray, got: np.ndarray) -> float:
    """Signal to quantization noise in dB: 10 log10(sum reference^2 / sum (reference - got)^2); inf where they are
    equal.

    Entries that are not finite count as noise only where they differ, and then give -inf.
    """
    reference, got = np.asarray(reference, np.float64), np.asarray(got, np.float64)
    finite = np.isfinite(reference) & np.isfinite(got)
    if not np.array_equal(reference[~finite], got[~finite], equal_nan=True):
        return -math.inf
    signal, noise = np.square(reference[finite]).sum(), np.square(reference[finite] - got[finite]).sum()
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def real_values(graph: Graph, inputs: Inputs) -> dict[str, np.ndarray]:
    """Name -> value of inputs, results and outputs (as `output:<public name>`), quantized ones dequantized."""
    from qcompiler.quantization.qmath import dequantize

    kept: dict[str, np.ndarray] = {}
    outputs = run(graph, inputs, keep=kept)
    arrays, _ = bind_inputs(graph, inputs)
    kept.update((value.name, array) for value, array in zip(graph.inputs, arrays))

    def real(value: Value, array: np.ndarray) -> np.ndarray:
        return array if value.type.quant is None else dequantize(array, value.type.quant)

    found = {value.name: real(value, kept[value.name]) for value in graph.values() if value.name in kept}
    for name, value, array in zip(graph.output_names, graph.outputs, outputs):
        found[f"output:{name}"] = real(value, array)
    return found


@dataclasses.dataclass
class Numerics:
    """Compares every value, by name, with the graph before the first pass, on given inputs.

    rows: (pass, value, SQNR in dB, largest difference) of the float values that both graphs have. Values keep their
    names through the passes, so the first pass where one falls is the one that made the difference.
    """

    inputs: Inputs
    reference: dict[str, np.ndarray] | None = None
    rows: list[tuple[str, str, float, float]] = dataclasses.field(default_factory=list)

    def after(self, index: int, step: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        if self.reference is None:
            self.reference = real_values(before, self.inputs)
        for name, got in real_values(graph, self.inputs).items():
            wanted = self.reference.get(name)
            if wanted is None or wanted.dtype.kind != "f" or wanted.shape != got.shape:
                continue
            with np.errstate(all="ignore"):
                worst = np.nan_to_num(np.abs(wanted.astype(np.float64) - got), nan=0.0).max(initial=0.0)
            self.rows.append((describe(step), name, sqnr(wanted, got), float(worst)))

    def worst(self, name: str) -> list[tuple[str, float, float]]:
        """(value, SQNR, largest difference) after the last pass of that name, the worst SQNR first."""
        rows = {value: (decibels, worst) for step, value, decibels, worst in self.rows if step.split("{")[0] == name}
        return sorted(((value, *row) for value, row in rows.items()), key=lambda row: row[1])

    def __str__(self) -> str:
        width = max((len(row[1]) for row in self.rows), default=0)
        return "\n".join(
            f"{step:<20}  {value:<{width}}  {decibels:8.2f} dB  {worst:.3g}"
            for step, value, decibels, worst in self.rows
        )


def instruments_from_knobs() -> list[Instrument]:
    """Those that QC_DUMP and QC_DEBUG ask for."""
    found: list[Instrument] = []
    folder, level = knobs.DUMP.get(), knobs.DEBUG.get()
    if folder is not None:
        found.append(Dump(folder))
    if level:
        found.append(Log(texts=level > 1))
    return found


# -- finding the pass at fault


def reproducer(graph: Graph, passes: Sequence[Pass]) -> str:
    """The graph and the passes to run on it, as one text; constants keep their types, not their data."""
    from qcompiler.passes.registry import format_pipeline

    return f"{_PIPELINE}{format_pipeline(passes)}\n{graph}"


def run_reproducer(
    text: str, data: Mapping[str, np.ndarray] | str = "zeros", instruments: Sequence[Instrument] = ()
) -> Graph:
    """Run what `reproducer` wrote; data: the constants, as `graph_data` gives them, else zeros.

    Raises:
        PassError: the text has no pipeline line; what the passes raise.
    """
    from qcompiler.passes.registry import parse_pipeline
    from qcompiler.text.parser import parse

    first = text.partition("\n")[0]
    if not first.startswith(_PIPELINE):
        raise PassError("not a reproducer", expected=f"a first line {_PIPELINE}...", got=first[:80])
    graph = parse(text, data)
    if not isinstance(graph, Graph):
        raise PassError("not a reproducer", expected="one graph", got="a module")
    return PassManager(parse_pipeline(first.removeprefix(_PIPELINE)), instruments).run(graph)


@dataclasses.dataclass(frozen=True)
class Culprit:
    """What `bisect` found: the pass after which a graph is bad for the first time, and the graphs around it."""

    index: int
    step: Pass
    before: Graph
    after: Graph

    def __str__(self) -> str:
        return f"pass {self.index} {describe(self.step)}"


def bisect(graph: Graph, passes: Sequence[Pass], is_bad: Callable[[Graph], bool]) -> Culprit | None:
    """The first pass after which `is_bad(graph)`, in log2(passes) runs, as QC_PASS_LIMIT does it by hand. None if all
    is well.

    Assumes that what is bad stays bad. A pass that raises counts as bad; then `after` is the graph before it.

    Raises:
        PassError: the graph is bad before the first pass.
    """

    def limited(count: int) -> Graph | None:
        try:
            with knobs.PASS_LIMIT(count):
                return PassManager(passes).run(graph)
        except QCompilerError:
            return None

    def bad(count: int) -> bool:
        result = limited(count)
        return result is None or is_bad(result)

    if bad(0):
        raise PassError(
            "the graph is bad before the first pass", hint="bisect needs a predicate that accepts the given graph"
        )
    good, first_bad = 0, len(passes)
    if not bad(first_bad):
        return None
    while first_bad - good > 1:
        middle = (good + first_bad) // 2
        good, first_bad = (good, middle) if bad(middle) else (middle, first_bad)
    before, after = limited(good), limited(first_bad)
    assert before is not None  # bad(good) was false
    return Culprit(good, passes[good], before, before if after is None else after)
