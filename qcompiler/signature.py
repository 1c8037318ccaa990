"""How a graph is called: its inputs, and what its notes say: guards on symbolic sizes, and the structure of its
results.

A frontend records guards and structure as one-line notes, so they print, parse back and travel in artifacts:

    note "guard: B >= 2"                       the trace took a branch that holds for such sizes only
    note "structure: {\"dict\": {\"y\": 0}}"   how the flat outputs nest; none: the one output itself

In a structure an int is an output's position, `{"tuple": [...]}`, `{"list": [...]}` and `{"dict": {...}}` nest, and
`{"value": v}` is a plain Python value that the model returned.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcompiler.dims import Dim, DimLike, evaluate, parse_dim, substitute
from qcompiler.errors import InputError, ParseError, TraceError
from qcompiler.ir import Graph
from qcompiler.types import TensorType

GUARD = "guard: "
STRUCTURE = "structure: "
_RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NEGATED = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MAX_DEPTH = 64


@dataclass(frozen=True)
class Guard:
    """A relation of sizes that must hold for a graph to mean what its model meant."""

    left: DimLike
    relation: str
    right: DimLike

    @staticmethod
    def parse(text: str) -> Guard:
        """Read what `str(guard)` prints; ParseError otherwise."""
        parts = re.split(r"(==|!=|<=|>=|<|>)", text)
        if len(parts) != 3:
            raise ParseError(f"malformed guard {text!r}", expected="size relation size, as in B >= 2")
        return Guard(parse_dim(parts[0].strip()), parts[1], parse_dim(parts[2].strip()))

    def holds(self, sizes: Mapping[str, int]) -> bool:
        return _RELATIONS[self.relation](evaluate(self.left, sizes), evaluate(self.right, sizes))

    def negated(self) -> Guard:
        return Guard(self.left, _NEGATED[self.relation], self.right)

    def substitute(self, sizes: Mapping[str, DimLike]) -> Guard:
        return Guard(substitute(self.left, sizes), self.relation, substitute(self.right, sizes))

    @property
    def is_static(self) -> bool:
        """Both sides are ints: `holds({})` decides."""
        return not isinstance(self.left, Dim) and not isinstance(self.right, Dim)

    def __str__(self) -> str:
        return f"{self.left} {self.relation} {self.right}"


def guards(graph: Graph) -> tuple[Guard, ...]:
    """The guards in a graph's notes, in order."""
    return tuple(Guard.parse(note[len(GUARD) :]) for note in graph.notes if note.startswith(GUARD))


def add_guard(graph: Graph, guard: Guard) -> None:
    """Note a guard, once."""
    note = f"{GUARD}{guard}"
    if note not in graph.notes:
        graph.notes.append(note)


@dataclass(frozen=True)
class Input:
    """An input's name and type."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Signature:
    """What a caller needs to know of a graph, so that its program can be called without it.

    Attributes:
        name: the graph's.
        inputs: in order.
        structure: how the outputs nest (`structure_of`).
        guards: what the sizes must obey.
    """

    name: str
    inputs: tuple[Input, ...]
    structure: Any
    guards: tuple[Guard, ...]

    @staticmethod
    def of(graph: Graph) -> Signature:
        """The signature of a graph. ParseError for a malformed note."""
        return Signature(
            graph.name,
            tuple(Input(value.name, value.type) for value in graph.inputs),
            structure_of(graph),
            guards(graph),
        )


def check_guards(called: Graph | Signature, sizes: Mapping[str, int]) -> None:
    """Raises InputError for the first guard that `sizes` break."""
    for guard in called.guards if isinstance(called, Signature) else guards(called):
        if not guard.holds(sizes):
            raise InputError(
                f"these input sizes take another path through the model than the traced one ({called.name})",
                expected=str(guard),
                got=", ".join(f"{name}={size}" for name, size in sorted(sizes.items())),
                hint="trace again with example inputs of such sizes",
            )


def record_structure(graph: Graph, structure: Any) -> None:
    """Note how outputs nest; nothing for a single plain output."""
    if structure != 0:
        graph.notes.append(STRUCTURE + json.dumps(structure))


def structure_of(graph: Graph) -> Any:
    """The recorded structure. Without one: 0 for a single output, else a tuple of all.

    Raises:
        ParseError: a note that is not a structure of this graph's outputs.
    """
    for note in graph.notes:
        if note.startswith(STRUCTURE):
            try:
                structure = json.loads(note[len(STRUCTURE) :])
            except (ValueError, RecursionError):
                raise ParseError(f"malformed structure of outputs in graph {graph.name}", got=note[:200]) from None
            _check(structure, len(graph.outputs), note, 0)
            return structure
    return 0 if len(graph.outputs) == 1 else {"tuple": list(range(len(graph.outputs)))}


def _check(structure: Any, outputs: int, note: str, depth: int) -> None:
    bad = ParseError(
        "malformed structure of outputs",
        expected=f"positions below {outputs}, tuple, list, dict, value",
        got=note[:200],
    )
    if depth > _MAX_DEPTH:
        raise bad
    if isinstance(structure, int) and not isinstance(structure, bool):
        if not 0 <= structure < outputs:
            raise bad
        return
    if not isinstance(structure, dict) or len(structure) != 1:
        raise bad
    ((kind, content),) = structure.items()
    if kind == "value":
        return
    if kind in ("tuple", "list") and isinstance(content, list):
        items = content
    elif kind == "dict" and isinstance(content, dict):
        items = list(content.values())
    else:
        raise bad
    for item in items:
        _check(item, outputs, note, depth + 1)


def flatten_outputs(returned: Any, is_leaf: Callable[[Any], bool]) -> tuple[list[Any], list[str], Any]:
    """(leaves, their dotted paths, structure) of what a model returned.

    Raises:
        TraceError: something that is neither a leaf, a container nor a plain Python value.
    """
    leaves: list[Any] = []
    paths: list[str] = []

    def visit(item: Any, path: str) -> Any:
        if is_leaf(item):
            leaves.append(item)
            paths.append(path)
            return len(leaves) - 1
        if isinstance(item, (tuple, list)):
            kind = "tuple" if isinstance(item, tuple) else "list"
            return {kind: [visit(part, f"{path}.{i}" if path else str(i)) for i, part in enumerate(item)]}
        if isinstance(item, Mapping):
            for key in item:
                if not isinstance(key, str):
                    raise TraceError("a dict of results needs names", expected="str keys", got=repr(key))
            return {"dict": {key: visit(part, f"{path}.{key}" if path else key) for key, part in item.items()}}
        if item is None or isinstance(item, (bool, int, float, str)):
            return {"value": item}
        raise TraceError("a model returns arrays, or tuples, lists and dicts of them", got=type(item).__name__)

    structure = visit(returned, "")
    return leaves, paths, structure


def restore_outputs(structure: Any, arrays: Sequence[Any]) -> Any:
    """The nested results that a model returned, filled with `arrays`."""
    if isinstance(structure, int):
        return arrays[structure]
    ((kind, content),) = structure.items()
    if kind == "value":
        return content
    if kind == "dict":
        return {key: restore_outputs(part, arrays) for key, part in content.items()}
    parts = [restore_outputs(part, arrays) for part in content]
    return tuple(parts) if kind == "tuple" else parts
