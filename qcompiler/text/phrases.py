"""Phrases: what both readers of the text form make of it. Their tokens know their place in the text.

Does not own the grammar (`grammar.lark`) nor the graphs (`builder.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qcompiler.ir import Loc, Origin

MAX_TOKEN = 64 * 2**10
MAX_NESTING = 200
_INT64 = 2**63


@dataclass(frozen=True)
class NodePhrase:
    """A node, as the grammar's `node`."""

    results: list[Any]
    op: Any
    operands: list[Any]
    attrs: list[tuple[Any, Any]]
    types: list[TypePhrase]
    loc: Loc | None
    origin: tuple[Origin, ...]


@dataclass(frozen=True)
class TypePhrase:
    """A type: `dtype[sizes]` in one token, and its fields."""

    token: Any
    fields: list[tuple[str, Any]]


class Nested(tuple[Any, ...]):
    """An attr tuple that knows how deep it nests."""

    depth: int


class Failure(Exception):
    """A message at a token, which becomes a ParseError where the text is known."""

    def __init__(self, token: Any, message: str, **details: Any) -> None:
        super().__init__(message)
        self.token, self.message, self.details = token, message, details


def unquote(token: Any) -> str:
    """The text of a STRING token."""
    try:
        text: str = json.loads(str(token))
        text.encode()
    except ValueError:
        raise Failure(token, "malformed string", expected="a JSON string") from None
    return text


def reference(token: Any) -> str:
    """The name in a VALUE or CONST token."""
    return unquote(tail(token)) if token[1] == '"' else str(token[1:])


def tail(token: Any) -> Any:
    return type(token).new_borrow_pos(token.type, str(token)[1:], token)


def int64(token: Any) -> int:
    if len(token) > 20 or not -_INT64 <= int(token) < _INT64:
        raise Failure(token, "integer out of range", expected="64 bits")
    return int(token)


def nested(token: Any, items: Sequence[Any]) -> Nested:
    made = Nested(items)
    made.depth = 1 + max((item.depth for item in items if isinstance(item, Nested)), default=0)
    if made.depth > MAX_NESTING:
        raise Failure(token, "brackets nested too deep", expected=f"at most {MAX_NESTING}")
    return made


def word(token: Any) -> str:
    return unquote(token) if token.type == "STRING" else str(token)
