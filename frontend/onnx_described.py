"""Nodes of ONNX files that say which op of the graph they compute: the Scan of a recurrent layer that we exported.

The node has the metadata property `KEY`, a JSON object with the op, its attributes, the names of its operands in the
file, and the SHA-256 of the Scan's body. A node whose body has another digest was changed since, and is not read so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qcompiler.errors import QCompilerError, TraceError
from qcompiler.frontend.array_ops import lift
from qcompiler.frontend.recorder import Trace
from qcompiler.ir import AttrValue

KEY = "qcompiler.node"
_OPS = ("lstm", "gru", "rnn")


class Stored(NamedTuple):
    """A weight [rows, columns] that the file holds in another form, of transposed parts along its rows. u8 parts are i8
    codes plus 128."""

    name: str
    parts: list[str]

    def data(self, parts: Sequence[Any]) -> np.ndarray:
        """The weight, of the arrays of its parts."""
        turned = np.concatenate([np.asarray(part).T for part in parts])
        if turned.dtype == np.uint8:
            turned = (turned.astype(np.int16) - 128).astype(np.int8)
        return np.ascontiguousarray(turned)


class Described(NamedTuple):
    """What a node computes. operands: names of tensors of the file, "" where absent, or what stands for one."""

    op: str
    operands: list[str | Stored]
    attrs: dict[str, Any]

    def names(self) -> list[str]:
        """The tensors of the file that are read."""
        return [name for each in self.operands for name in ([each] if isinstance(each, str) else each.parts)]


def description(op: str, operands: Sequence[str | Stored], attrs: Mapping[str, AttrValue], body: Any) -> str:
    """The property's value for a Scan with this body."""
    found = {"op": op, "operands": list(operands), "attrs": dict(attrs), "body": _digest(body)}
    return json.dumps(found, sort_keys=True)


def described(node: Any) -> Described | None:
    """What a node's property says, None if it has none or if it does not fit the node."""
    if node.op_type != "Scan" or node.domain not in ("", "ai.onnx"):
        return None
    text = next((each.value for each in node.metadata_props if each.key == KEY), None)
    body = next((each.g for each in node.attribute if each.name == "body"), None)
    if text is None or body is None:
        return None
    try:
        found = json.loads(text)
        op, operands, attrs, digest = (found[key] for key in ("op", "operands", "attrs", "body"))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if op not in _OPS or digest != _digest(body) or not isinstance(attrs, dict) or not isinstance(operands, list):
        return None
    given = [each if isinstance(each, str) else _stored(each) for each in operands]
    if any(each is None for each in given):
        return None
    known = [each for each in given if each is not None]
    return Described(op, known, {key: tuple(v) if isinstance(v, list) else v for key, v in attrs.items()})


def operands_of(node: Any) -> Sequence[str]:
    """The names of the operands from which a node is imported."""
    known = described(node)
    return node.input if known is None else known.names()


def emitted(layer: Described, values: Mapping[str, Any], trace: Trace, where: str) -> tuple[Any, ...]:
    """The outputs of the Scan of a layer: the last states, then y. values: the tensors of the file.

    Raises:
        TraceError: the property names operands or attributes that the op does not take.
    """
    try:
        operands: list[Any] = []
        for each in layer.operands:
            if isinstance(each, Stored):
                data = each.data([values[name] for name in each.parts])
                operands.append(trace.constant(data, name=each.name))
            else:
                operands.append(lift(values[each], trace) if each else None)
        y, *states = trace.emit_results(layer.op, operands, layer.attrs)
    except QCompilerError as error:
        raise TraceError(f"Scan: its {KEY} does not fit: {error.message}", where=where) from error
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise TraceError(f"Scan: its {KEY} does not fit: {error}", where=where) from error
    return (*states, y)


def _stored(given: Any) -> Stored | None:
    """A weight, as JSON has it: [name, parts]."""
    if not isinstance(given, list) or len(given) != 2 or not isinstance(given[1], list) or not given[1]:
        return None
    return Stored(*given) if all(isinstance(name, str) for name in (given[0], *given[1])) else None


def _digest(body: Any) -> str:
    return hashlib.sha256(body.SerializeToString(deterministic=True)).hexdigest()
