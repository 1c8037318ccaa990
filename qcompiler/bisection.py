"""Finding the pass at fault: a graph and its passes as one text that runs again, and bisection over the passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qcompiler import knobs
from qcompiler.errors import PassError, QCompilerError
from qcompiler.ir import Graph
from qcompiler.passmanager import Instrument, Pass, PassManager, describe

_PIPELINE = "// pipeline: "


def reproducer(graph: Graph, passes: Sequence[Pass]) -> str:
    """The graph and the passes to run on it, as one text, with the types of constants but not their data."""
    from qcompiler.passes.registry import format_pipeline

    return f"{_PIPELINE}{format_pipeline(passes)}\n{graph}"


def run_reproducer(
    text: str, data: Mapping[str, np.ndarray] | str = "zeros", instruments: Sequence[Instrument] = ()
) -> Graph:
    """Run the passes of a text that `reproducer` wrote on its graph.

    Args:
        data: the constants, as `graph_data` gives them; zeros by default.

    Raises:
        PassError: the text has no pipeline line, or a pass fails.
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
    """The first pass after which a graph is bad, and the graphs before and after it."""

    index: int
    at_fault: Pass
    before: Graph
    after: Graph

    def __str__(self) -> str:
        return f"pass {self.index} {describe(self.at_fault)}"


def bisect(graph: Graph, passes: Sequence[Pass], is_bad: Callable[[Graph], bool]) -> Culprit | None:
    """Find the first pass after which `is_bad(graph)`, in log2(passes) runs; None if the last graph is not bad.

    It assumes that a bad graph stays bad. A pass that raises counts as bad; then `after` is the graph before it.

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
