"""How the outputs of a model nest: the flat outputs of a graph to and from tuples, lists and dicts.

A structure is plain JSON. An int is an output's position; `{"tuple": [...]}`, `{"list": [...]}` and `{"dict": {...}}`
nest; `{"value": v}` is a plain Python value that the model returned. Without a recorded structure, a single output is
itself and several are a tuple.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Union

from qcompiler.errors import ParseError, TraceError

Structure = Union[int, dict[str, Any]]
_MAX_DEPTH = 64


def default_structure(outputs: int) -> Structure:
    """The structure of a graph that records none: its only output, or a tuple of all."""
    return 0 if outputs == 1 else {"tuple": list(range(outputs))}


def parse_structure(text: str) -> Structure:
    """The structure in a JSON text; ParseError for any other text."""
    try:
        structure = json.loads(text)
    except (ValueError, RecursionError):
        raise ParseError("malformed structure of outputs", expected="JSON", got=text[:200]) from None
    for _ in _positions(structure, text, 0):
        pass
    return structure  # type: ignore[no-any-return]  # _positions has looked at every part


def check_structure(structure: Structure, outputs: int) -> None:
    """ParseError if `structure` names an output that a graph of so many outputs does not have."""
    for position in _positions(structure, structure, 0):
        if position >= outputs:
            raise _malformed(structure, f"positions below {outputs}")


def _positions(part: Any, whole: object, depth: int) -> Iterator[int]:
    """The positions of outputs in a structure, in order; ParseError where it is malformed."""
    if depth > _MAX_DEPTH:
        raise _malformed(whole)
    if isinstance(part, int) and not isinstance(part, bool):
        if part < 0:
            raise _malformed(whole)
        yield part
        return
    if not isinstance(part, dict) or len(part) != 1:
        raise _malformed(whole)
    ((kind, content),) = part.items()
    if kind == "value":
        return
    if kind in ("tuple", "list") and isinstance(content, list):
        items = content
    elif kind == "dict" and isinstance(content, dict):
        items = list(content.values())
    else:
        raise _malformed(whole)
    for item in items:
        yield from _positions(item, whole, depth + 1)


def _malformed(structure: object, expected: str = "positions, tuple, list, dict, value") -> ParseError:
    return ParseError("malformed structure of outputs", expected=expected, got=str(structure)[:200])


def flatten_outputs(returned: Any, is_leaf: Callable[[Any], bool]) -> tuple[list[Any], list[str], Structure]:
    """(leaves, their dotted paths, structure) of what a model returned.

    Raises:
        TraceError: something that is neither a leaf, a container nor a plain Python value.
    """
    leaves: list[Any] = []
    paths: list[str] = []

    def visit(item: Any, path: str) -> Structure:
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


def restore_outputs(structure: Structure, outputs: Sequence[Any]) -> Any:
    """The nested results that a model returned, filled with `outputs`."""
    if isinstance(structure, int):
        return outputs[structure]
    ((kind, content),) = structure.items()
    if kind == "value":
        return content
    if kind == "dict":
        return {key: restore_outputs(part, outputs) for key, part in content.items()}
    parts = [restore_outputs(part, outputs) for part in content]
    return tuple(parts) if kind == "tuple" else parts
