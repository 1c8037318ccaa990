"""Where an error of the text form stands: ParseErrors with line, column and excerpt, from a token of either reader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from qcompiler.errors import ParseError, QCompilerError
from qcompiler.text.phrases import Failure
from qcompiler.text.quick import Token, place

T = TypeVar("T")


def at_token(token: Any, make: Callable[[], T]) -> T:
    """The result of `make()`. Its errors, also those that odd values cause in numpy, become a Failure at `token`."""
    try:
        return make()
    except QCompilerError as error:
        raise Failure(token, error.message, expected=error.expected, got=error.got, hint=error.hint) from error
    except (
        ValueError,
        OverflowError,
        MemoryError,
        TypeError,
        IndexError,
        KeyError,
        AttributeError,
        ZeroDivisionError,
        RecursionError,
    ) as error:
        raise Failure(token, f"cannot be built: {error}") from error


def raise_at(text: str, line: int, column: int, message: str, **details: Any) -> NoReturn:
    """Raise a ParseError with the line and a caret under the column, both counted from 1."""
    lines = text.split("\n")
    excerpt = lines[line - 1] if 0 < line <= len(lines) else ""
    start = max(0, column - 60)
    shown = excerpt[start : start + 120].replace("\t", " ")
    where = f"line {line}, column {column}\n    {shown}\n    {' ' * (column - 1 - start)}^"
    error = ParseError(message, where=where, **details)
    error.line, error.column = line, column
    raise error from None


def raise_failure(text: str, failure: Failure) -> NoReturn:
    """Raise the ParseError for a failure."""
    raise_at(text, *position(text, failure.token), failure.message, **failure.details)


def position(text: str, token: Any) -> tuple[int, int]:
    """The line and column of a token of either reader."""
    if isinstance(token, Token):
        return place(text, token)
    return getattr(token, "line", 1) or 1, getattr(token, "column", 1) or 1
