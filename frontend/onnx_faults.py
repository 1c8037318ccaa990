"""What an ONNX import cannot do, collected so that one error tells all of it: ops without a meaning, and nodes that
are refused for their operands."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qcompiler.errors import QCompilerError, TraceError
from qcompiler.frontend.onnx_bodies import FunctionKey, branches, function_key

UNKNOWN: Any = object()
"""The value of an output whose node was refused. Nodes that read it are not imported, and not refused either."""
_MOST = 50
"""The most refused nodes that are collected."""


@dataclass
class UnknownOps:
    """Ops without a meaning: how often each occurs, and where first."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    first: dict[str, str] = field(default_factory=dict)

    def listed(self) -> str:
        return "\n            ".join(f"{n} x {op} (first: {self.first[op]})" for op, n in self.counts.most_common())


def unknown_ops(
    nodes: Iterable[tuple[int, Any]], functions: Mapping[FunctionKey, Any], has_meaning: Callable[[Any], bool]
) -> UnknownOps:
    """The ops without a meaning among numbered nodes, their branches, and the functions that they call, each of which
    counts once."""
    found, seen = UnknownOps(), set[FunctionKey]()

    def visit(numbered: Iterable[tuple[int, Any]], place: str) -> None:
        for index, node in numbered:
            key, where = function_key(node), f"{place}node {index} {node.name}"
            if key in functions:
                if key not in seen:
                    seen.add(key)
                    visit(enumerate(functions[key].node), f"function {key[1]}, ")
            elif not has_meaning(node):
                op = node.op_type if key[0] == "" else f"{key[0]}.{node.op_type}"
                found.counts[op] += 1
                found.first.setdefault(op, where)
            for graph in branches(node):
                visit(enumerate(graph.node), f"{where}, branch {graph.name}, ")

    visit(nodes, "")
    return found


class Faults:
    """The errors of the nodes of one import."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.errors: list[QCompilerError] = []

    def add(self, error: QCompilerError) -> None:
        """Keep an error for later. If there are too many, raise now."""
        self.errors.append(error)
        if len(self.errors) >= _MOST:
            self.check()

    def check(self) -> None:
        """Raise the error, or one that tells all of them."""
        if len(self.errors) <= 1:
            if self.errors:
                raise self.errors[0]
            return
        alike: dict[str, list[QCompilerError]] = {}
        for error in self.errors:
            alike.setdefault(error.message, []).append(error)
        lines = [
            f"{len(errors)} x {message} ({'first: ' if len(errors) > 1 else ''}{_details(errors[0])})"
            for message, errors in alike.items()
        ]
        hints = dict.fromkeys(error.hint for error in self.errors if error.hint)
        raise TraceError(
            f"{len(self.errors)} ONNX nodes cannot be imported",
            where=self.file,
            got="\n            ".join(lines),
            hint="\n            ".join(hints) or None,
        )


def _details(error: QCompilerError) -> str:
    parts = [str(error.where)]
    parts += [f"expected {error.expected}"] if error.expected is not None else []
    parts += [f"got {error.got}"] if error.got is not None else []
    return "; ".join(parts)
