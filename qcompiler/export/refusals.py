"""What cannot be exported: all of it is named at once, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qcompiler.arguments import described
from qcompiler.errors import ArgumentError, LoweringError
from qcompiler.ir import Graph, Node

if TYPE_CHECKING:
    from qcompiler.compiled import CompiledModel

STAGES = ("float", "qdq", "integer")
_SHOWN = 20


def graph_of(model: CompiledModel | Graph) -> Graph:
    """The graph that a model runs; ArgumentError for anything else."""
    graph = getattr(model, "__qc_graph__", model)
    if not isinstance(graph, Graph):
        raise ArgumentError("the model to export", expected="a compiled model or a Graph", got=described(model))
    return graph


def check_graph(graph: Graph, form: str, why_not: Callable[[Node], str | None]) -> None:
    """LoweringError if a graph cannot be written in a form; it names every node that prevents it, with the reason."""
    if graph.stage not in STAGES:
        raise LoweringError(f"a graph of stage {graph.stage} is not exported", expected=f"stage {', '.join(STAGES)}")
    refused = [(node, reason) for node in graph.nodes if (reason := why_not(node)) is not None]
    if not refused:
        return
    lines = [f"{node.describe()}: {reason}" for node, reason in refused[:_SHOWN]]
    if len(refused) > _SHOWN:
        lines.append(f"and {len(refused) - _SHOWN} more: {', '.join(sorted({n.op for n, _ in refused[_SHOWN:]}))}")
    raise LoweringError(f"{len(refused)} nodes have no form in {form}", where="\n            ".join(lines))
