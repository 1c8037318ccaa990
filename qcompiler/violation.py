"""How the verifier reports a violation: a VerifyError that shows the line of IR with a caret."""

from __future__ import annotations

from typing import NoReturn

from qcompiler.errors import VerifyError
from qcompiler.ir import Graph, Node


def fail(
    graph: Graph,
    node: Node | None,
    message: str,
    *,
    expected: object = None,
    got: object = None,
    hint: str | None = None,
) -> NoReturn:
    """Raise VerifyError for a node, with its line of IR and a caret, or for the graph as a whole."""
    from qcompiler.text.printer import annotate

    if node is None:
        raise VerifyError(message, where=f"graph {graph.name}", expected=expected, got=got, hint=hint)
    raise VerifyError(
        message, where=f"{node.describe()}\n{annotate(graph, node, message)}", expected=expected, got=got, hint=hint
    )
