"""The reader that lark makes from `grammar.lark`: for text that `quick.py` gives up on. It has the error messages."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from qcompiler.ir import Loc, Origin
from qcompiler.text.messages import raise_at, raise_failure
from qcompiler.text.phrases import MAX_TOKEN, Failure, NodePhrase, TypePhrase, int64, nested, unquote, word
from qcompiler.types import DType

_SPELLED = {
    "VALUE": "%name",
    "CONST": "@name",
    "STRING": '"text"',
    "SHAPED": "a type",
    "INT": "an int",
    "FLOAT": "a float",
    "WORD": "a word",
    "DTYPE": "a dtype",
    "LPAR": "(",
    "RPAR": ")",
    "LBRACE": "{",
    "RBRACE": "}",
    "COMMA": ",",
    "COLON": ":",
    "_EQUAL": "=",
    "$END": "the end",
    "RETURN": "return",
}


def _expected(names: Iterable[str] | None) -> str:
    return ", ".join(sorted(_SPELLED.get(name, name.lower()) for name in names or ()))


def read(text: str) -> list[Any]:
    """The phrases of `text`; ParseError for text that the grammar does not accept."""
    from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken, VisitError

    try:
        found: list[Any] = lark_parser().parse(text)
        return found
    except UnexpectedToken as error:
        if error.token.type == "$END":
            lines = text.rstrip("\n").split("\n")
            raise_at(text, len(lines), len(lines[-1]) + 1, "unexpected end of text", expected=_expected(error.expected))
        raise_at(
            text, error.line, error.column, f"unexpected {str(error.token)[:80]!r}", expected=_expected(error.expected)
        )
    except UnexpectedCharacters as error:
        raise_at(
            text, error.line, error.column, f"unexpected character {error.char!r}", expected=_expected(error.allowed)
        )
    except UnexpectedInput as error:
        raise_at(text, getattr(error, "line", 1), getattr(error, "column", 1), "malformed text")
    except VisitError as error:
        if isinstance(error.orig_exc, Failure):
            raise_failure(text, error.orig_exc)
        raise
    except Failure as failure:
        raise_failure(text, failure)


@lru_cache(maxsize=1)
def lark_parser() -> Any:
    """The parser, made once: its tables take longer than reading a large model with `quick.py`."""
    from lark import Lark

    def short(token: Any) -> Any:
        if len(token) > MAX_TOKEN:
            raise Failure(token, "token too long", expected=f"at most {MAX_TOKEN} characters", got=len(token))
        return token

    grammar = pathlib.Path(__file__).with_name("grammar.lark").read_text()
    names = ("VALUE", "CONST", "STRING", "SHAPED", "WORD", "INT", "FLOAT")
    return Lark(
        grammar,
        parser="lalr",
        transformer=_actions(),
        maybe_placeholders=False,
        lexer_callbacks={name: short for name in names},
    )


def _actions() -> Any:
    """The transformer that lark calls while it parses; loaded with lark itself."""
    from lark import Transformer

    class Actions(Transformer[Any, Any]):
        def int(self, children: list[Any]) -> Any:
            return int64(children[0])

        def float(self, children: list[Any]) -> Any:
            return float(children[0])

        def string(self, children: list[Any]) -> Any:
            return unquote(children[0])

        def true(self, children: list[Any]) -> Any:
            return True

        def false(self, children: list[Any]) -> Any:
            return False

        def none(self, children: list[Any]) -> Any:
            return None

        def dtype(self, children: list[Any]) -> Any:
            return DType(str(children[0]))

        def tuple(self, children: list[Any]) -> Any:
            return nested(children[0], children[1:])

        def results(self, children: list[Any]) -> Any:
            return children

        operands = attrs = types = items = inputs = results

        def attr(self, children: list[Any]) -> Any:
            return children[0], children[1]

        def origin(self, children: list[Any]) -> Any:
            return Origin(unquote(children[0]), unquote(children[1]))

        def origins(self, children: list[Any]) -> Any:
            return tuple(children)

        def loc(self, children: list[Any]) -> Any:
            return Loc(unquote(children[0]), int64(children[1])) if children else None

        def type(self, children: list[Any]) -> Any:
            return TypePhrase(children[0], children[1:])

        def node(self, children: list[Any]) -> Any:
            return NodePhrase(*children)

        def axis(self, children: list[Any]) -> Any:
            return "axis", children[0]

        def scale(self, children: list[Any]) -> Any:
            return "scale", children[0]

        def zero_point(self, children: list[Any]) -> Any:
            return "zero_point", children[0]

        def qmin(self, children: list[Any]) -> Any:
            return "qmin", children[0]

        def qmax(self, children: list[Any]) -> Any:
            return "qmax", children[0]

        def layout(self, children: list[Any]) -> Any:
            return "layout", (children[0], children[1:])

        def note(self, children: list[Any]) -> Any:
            return "note", children[0]

        def const(self, children: list[Any]) -> Any:
            return "const", children[0], children[1]

        def input(self, children: list[Any]) -> Any:
            return children[0], children[1]

        def output(self, children: list[Any]) -> Any:
            return children[0], unquote(children[1]) if len(children) > 1 else None

        def return_(self, children: list[Any]) -> Any:
            return children

        def graph(self, children: list[Any]) -> Any:
            return children

        def entry(self, children: list[Any]) -> Any:
            return "entry", word(children[0])

        def start(self, children: list[Any]) -> Any:
            return children

    return Actions(visit_tokens=False)
