"""Every error that qcompiler raises on purpose.

Owns the classes and the one layout of their text: what happened, where, expected and got, what to do next. Does not own
the carets drawn in printed IR (`qcompiler.text.printer`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class QCompilerError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: what happened, one sentence.
        where: the op, value and the user's `file:line`, or a file and position.
        expected: what was expected, types in IR form.
        got: what was found.
        hint: what to do next.
    """

    def __init__(
        self,
        message: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.where = where
        self.expected = expected
        self.got = got
        self.hint = hint
        super().__init__(self._render())

    def _render(self) -> str:
        lines = [self.message]
        if self.where is not None:
            lines.append(f"  where:    {self.where}")
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.got is not None:
            lines.append(f"  got:      {self.got}")
        if self.hint is not None:
            lines.append(f"  try:      {self.hint}")
        # names of a file may have halves of a character, with which the message could be neither printed nor logged
        return "\n".join(lines).encode("utf-8", "backslashreplace").decode()

    def located(self, where: object) -> QCompilerError:
        """This error, with a place if it has none yet."""
        if self.where is None:
            self.where = where
            self.args = (self._render(),)
        return self


class TraceError(QCompilerError):
    """A frontend cannot turn the user's model into a graph."""


class ParseError(QCompilerError):
    """Graph text, or a part of it, is malformed.

    Attributes:
        line, column: where, counted from 1, if the error is in the text of a graph.
    """

    line: int | None = None
    column: int | None = None


class VerifyError(QCompilerError):
    """A graph or a kernel breaks a rule of its stage."""


class ShapeError(VerifyError):
    """Operand types do not fit an op."""


class PassError(QCompilerError):
    """A pass or a pipeline cannot do what it was asked for.

    Attributes:
        reproducer: if a pass failed, the graph before it and the passes from it on, as text (bisection.py); else "".
    """

    reproducer: str = ""


class QuantizationError(QCompilerError):
    """A qconfig, an observer or calibration data cannot be used."""


class LoweringError(QCompilerError):
    """A target cannot run a graph, or is unknown."""


def no_memory(what: str, error: MemoryError) -> LoweringError:
    """The error for something that the memory of this machine does not suffice for."""
    return LoweringError(
        "there is not enough memory on this machine", where=what, got=str(error) or None, hint="smaller sizes"
    )


class ArtifactError(QCompilerError):
    """A saved file is damaged, unknown or of another version."""


class InputError(QCompilerError):
    """The inputs of a call do not fit the compiled model."""


class ArgumentError(QCompilerError, TypeError):
    """An argument of a public function is of another type than the function takes."""


_NEAR = 0.75
"""How much of two spellings must agree (`difflib`'s ratio), so that one may be a slip for the other."""


def near_name(name: str, known: Iterable[str], synonyms: Mapping[str, str] | None = None) -> str | None:
    """The known name that was likely meant: what `synonyms` has for it, or the same but for a slip; None if there is
    none. A name that only looks like it is no help."""
    if synonyms and name.lower() in synonyms:
        return synonyms[name.lower()]
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=_NEAR)
    return close[0] if close else None


def nearest(name: str, known: Iterable[str], synonyms: Mapping[str, str] | None = None) -> str:
    """A hint that names what was likely meant, if anything (`near_name`), then all known names."""
    names = sorted(known)
    near, listed = near_name(name, names, synonyms), ", ".join(names)
    return f"did you mean {near!r}? known: {listed}" if near else f"known: {listed}"
