"""Where the user's code is: file:line of a traced op, and the text of a condition that cannot be traced.

Frames inside qcompiler and numpy are skipped. A path is relative to the working directory, or the bare name of a file
outside of it, so that graphs never hold paths of a machine.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import linecache
import os
import sys
import textwrap
from itertools import islice
from types import FrameType

import numpy as np

import qcompiler
from qcompiler.ir import Loc

_PACKAGE = os.path.dirname(os.path.abspath(qcompiler.__file__))
_INTERNAL_FOLDERS = tuple(
    os.path.join(folder, "")
    for folder in (
        _PACKAGE,
        *(os.path.realpath(os.path.join(_PACKAGE, name)) for name in ("frontend", "passes", "backends")),
        os.path.dirname(os.path.abspath(np.__file__)),
    )
)
_INTERNAL_FILES = tuple(os.path.abspath(str(module.__file__)) for module in (functools, contextlib))


@functools.lru_cache(maxsize=4096)
def _is_internal(filename: str) -> bool:
    return filename.startswith(_INTERNAL_FOLDERS) or filename in _INTERNAL_FILES or filename.startswith("<frozen")


def display_path(filename: str) -> str:
    """`filename` relative to the working directory, or its bare name if it is outside."""
    if filename.startswith("<"):
        return filename
    absolute, here = os.path.abspath(filename), os.path.join(os.getcwd(), "")
    shown = absolute[len(here) :] if absolute.startswith(here) else os.path.basename(absolute)
    return shown.replace(os.sep, "/")


def user_frame(others: tuple[str, ...] = ()) -> FrameType | None:
    """The innermost frame that is neither qcompiler's nor numpy's, and whose path has none of `others` in it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        if not _is_internal(filename) and not any(part in filename.replace(os.sep, "/") for part in others):
            return frame
        frame = frame.f_back
    return None


def user_loc() -> Loc | None:
    """The user's line that is running now."""
    frame = user_frame()
    return None if frame is None else Loc(display_path(frame.f_code.co_filename), frame.f_lineno)


def user_place(others: tuple[str, ...] = ()) -> str:
    """`file:line: source` of the user's line, for messages. others: see `user_frame`."""
    frame = user_frame(others)
    if frame is None:
        return "unknown source line"
    filename, line = frame.f_code.co_filename, frame.f_lineno
    place = f"{display_path(filename)}:{line}"
    text = linecache.getline(filename, line, frame.f_globals).strip()
    return f"{place}: {text}" if text else place


def user_expression() -> str | None:
    """The source text of the expression that the user's frame is evaluating, or None if Python did not record it.

    For a statement with a condition (`if`, `while`, `assert`) it is the condition.
    """
    frame = user_frame()
    if frame is None:
        return None
    positions = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), None)
    if positions is None:
        return None
    first, last, start, end = positions
    if first is None or last is None or start is None or end is None:
        return None
    lines = [
        linecache.getline(frame.f_code.co_filename, number, frame.f_globals).encode()
        for number in range(first, last + 1)
    ]
    lines[-1] = lines[-1][:end] if len(lines) > 1 else lines[-1][start:end]
    if len(lines) > 1:
        lines[0] = lines[0][start:]
    text = b"".join(lines).decode(errors="replace").strip()
    return _condition(text) or (text if len(lines) == 1 and text else None)


def _condition(text: str) -> str | None:
    """The condition in an `if`, `while`, `assert` or `x if condition else y`."""
    if " if " in text and " else " in text:
        with contextlib.suppress(SyntaxError):
            choice = ast.parse(f"({text})", mode="eval").body
            if isinstance(choice, ast.IfExp):
                return ast.get_source_segment(f"({text})", choice.test)
    text = text.removeprefix("el") if text.startswith("elif") else text
    if not text.startswith(("if", "while", "assert")):
        return None
    for source in (textwrap.dedent(text), text.splitlines()[0] + " pass"):
        try:
            statement = ast.parse(source).body[0]
        except (SyntaxError, IndexError):
            continue
        if isinstance(statement, (ast.If, ast.While, ast.Assert)):
            return ast.get_source_segment(source, statement.test)
    return None
