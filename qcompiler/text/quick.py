"""A quick reader of the text form: the same phrases as the grammar's, from a few regular expressions, for text without
errors.

It accepts a part of what `grammar.lark` accepts, all that the printer writes, and gives None for everything else: then
`lark_reader.py` reads the text. tests/text/test_quick_reader.py compares the two readers. Building lark's tables takes
longer than reading a large model here.
"""

from __future__ import annotations

import re
from typing import Any

from qcompiler.ir import Loc, Origin
from qcompiler.text.phrases import MAX_NESTING, MAX_TOKEN, Failure, NodePhrase, TypePhrase, int64, nested, unquote, word
from qcompiler.types import DType

_NAME = r'(?:[A-Za-z0-9_][A-Za-z0-9_.]*|"(?:[^"\\\n]|\\.)*")'
_DTYPES = r"(?:f32|f16|f64|i64|i32|i16|i8|u8|i4|u4|bool)"
_FLOAT = r"-?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|inf|nan)(?![A-Za-z0-9_.])"
_INT = r"-?\d+(?![A-Za-z0-9_.])"
_WORD = r"[A-Za-z_][A-Za-z0-9_]*"
_SHAPED = _DTYPES + r'\[[^\[\]{}"%@\n]*\]'
_TOKEN = re.compile(
    r"(?:[ \t\r\n]+|(?://|#)[^\n]*)*"
    rf'([@%]{_NAME}|{_SHAPED}|{_FLOAT}|{_INT}|{_WORD}|"(?:[^"\\\n]|\\.)*"|[(){{}},:=]|\Z|[\w.-]+|(?s:.))'
)
_IS_FLOAT, _IS_INT, _IS_WORD = (re.compile(pattern).fullmatch for pattern in (_FLOAT, _INT, _WORD))
_DTYPE_NAMES = frozenset(dtype.value for dtype in DType)
_PLAIN = {"true": True, "false": False, "none": None}


class Token(str):
    """A token.

    Attributes:
        type: its name in the grammar.
        ordinal: its index among the tokens of the text.
    """

    __slots__ = ("type", "ordinal")
    type: str
    ordinal: int

    @staticmethod
    def new_borrow_pos(type: str, text: str, origin: Token) -> Token:
        """A token with another text at the place of `origin`."""
        return _token(type, text, origin.ordinal)


def _token(type: str, text: str, ordinal: int) -> Token:
    token = Token(text)
    token.type, token.ordinal = type, ordinal
    return token


def place(text: str, token: Token) -> tuple[int, int]:
    """The line and column of a token of `text`, counted from 1."""
    for ordinal, match in enumerate(_TOKEN.finditer(text)):
        if ordinal == token.ordinal:
            start = match.start(1)
            return text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
    return 1, 1


def read_quickly(text: str) -> list[Any] | None:
    """The phrases of `text` as lark's actions make them; None if it must be read with lark."""
    tokens: list[str] = _TOKEN.findall(text)
    if len(text) > MAX_TOKEN and max(map(len, tokens)) > MAX_TOKEN:
        return None
    try:
        return _Reader(tokens).start()
    except (_Unreadable, Failure, RecursionError):
        return None


def read_type(text: str) -> TypePhrase | None:
    """The phrase of a text that is one type, as `str` prints it; None for other text."""
    reader = _Reader(_TOKEN.findall(text))
    try:
        phrase = reader.type()
    except (_Unreadable, Failure, RecursionError):
        return None
    return phrase if not reader.tokens[reader.at] else None


class _Unreadable(Exception):
    """The text is not what this reader knows."""


class _Reader:
    """A recursive descent over tokens; `at` is the index of the next one. The last token is empty and fits nowhere."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def skip(self, text: str) -> None:
        if self.tokens[self.at] != text:
            raise _Unreadable
        self.at += 1

    def next_is(self, text: str) -> bool:
        """Whether the next token is `text`; if so it is skipped."""
        if self.tokens[self.at] != text:
            return False
        self.at += 1
        return True

    def token(self, type: str) -> Token:
        self.at += 1
        return _token(type, self.tokens[self.at - 1], self.at - 1)

    def reference(self) -> Token:
        start = self.tokens[self.at][:1]
        if start == "%" and len(self.tokens[self.at]) > 1:
            return self.token("VALUE")
        return self.const()

    def value_name(self) -> Token:
        text = self.tokens[self.at]
        if text[:1] != "%" or len(text) == 1:
            raise _Unreadable
        return self.token("VALUE")

    def const(self) -> Token:
        text = self.tokens[self.at]
        if text[:1] != "@" or len(text) == 1:
            raise _Unreadable
        return self.token("CONST")

    def word(self) -> Token:
        if not _IS_WORD(self.tokens[self.at]):
            raise _Unreadable
        return self.token("WORD")

    def string(self) -> Token:
        text = self.tokens[self.at]
        if text[:1] != '"' or len(text) == 1:
            raise _Unreadable
        return self.token("STRING")

    def int_token(self) -> Token:
        if not _IS_INT(self.tokens[self.at]):
            raise _Unreadable
        return self.token("INT")

    def name(self) -> Token:
        return self.string() if self.tokens[self.at][:1] == '"' else self.word()

    # -- phrases, as in the grammar

    def start(self) -> list[Any]:
        self.skip("qcompiler")
        found: list[Any] = [self.int_token()]
        if self.next_is("entry"):
            found.append(("entry", word(self.name())))
        found.append(self.graph())
        while self.tokens[self.at]:
            found.append(self.graph())
        return found

    def graph(self) -> list[Any]:
        self.skip("graph")
        name = self.name()
        inputs: list[tuple[Token, TypePhrase]] = []
        self.skip("(")
        while not self.next_is(")"):
            if inputs:
                self.skip(",")
            value = self.value_name()
            self.skip(":")
            inputs.append((value, self.type()))
        self.skip("stage")
        self.skip("=")
        stage, items = self.word(), []
        self.skip("{")
        while not self.next_is("return"):
            items.append(self.item())
        outputs: list[tuple[Token, str | None]] = []
        while not self.next_is("}"):
            if outputs:
                self.skip(",")
            value = self.reference()
            outputs.append((value, unquote(self.string()) if self.next_is("as") else None))
        return [name, inputs, stage, items, outputs]

    def item(self) -> Any:
        if self.next_is("const"):
            name = self.const()
            self.skip(":")
            return "const", name, self.type()
        if self.next_is("note"):
            return "note", self.string()
        return self.node()

    def node(self) -> NodePhrase:
        results = [self.value_name()]
        while self.next_is(","):
            results.append(self.value_name())
        self.skip("=")
        op = self.word()
        operands: list[Token | None] = []
        self.skip("(")
        while not self.next_is(")"):
            if operands:
                self.skip(",")
            operands.append(None if self.next_is("none") else self.reference())
        attrs = self.attrs("}") if self.next_is("{") else []
        types = []
        if self.next_is(":"):
            types.append(self.type())
            while self.next_is(","):
                types.append(self.type())
        return NodePhrase(results, op, operands, attrs, types, self.loc(), self.origins())

    def attrs(self, end: str) -> list[tuple[Token, Any]]:
        """`name=value, ...` up to a bracket; at least one."""
        found: list[tuple[Token, Any]] = []
        while not found or not self.next_is(end):
            if found:
                self.skip(",")
            name = self.word()
            self.skip("=")
            found.append((name, self.value(0)))
        return found

    def loc(self) -> Loc | None:
        if not self.next_is("loc"):
            return None
        self.skip("(")
        file = unquote(self.string())
        self.skip(":")
        line = int64(self.int_token())
        self.skip(")")
        return Loc(file, line)

    def origins(self) -> tuple[Origin, ...]:
        found: list[Origin] = []
        if self.next_is("origin"):
            self.skip("(")
            while not found or not self.next_is(")"):
                if found:
                    self.skip(",")
                path = unquote(self.string())
                self.skip(":")
                found.append(Origin(path, unquote(self.string())))
        return tuple(found)

    def type(self) -> TypePhrase:
        text = self.tokens[self.at]
        if text == "]" or text[-1:] != "]":
            raise _Unreadable
        shaped = self.token("SHAPED")
        fields: list[tuple[str, Any]] = []
        if self.next_is("{"):
            while not fields or not self.next_is("}"):
                if fields:
                    self.skip(",")
                fields.append(self.field())
        return TypePhrase(shaped, fields)

    def field(self) -> tuple[str, Any]:
        name = self.tokens[self.at]
        if not name:
            raise _Unreadable
        self.at += 1
        self.skip("=")
        if name in ("axis", "qmin", "qmax"):
            return name, int64(self.int_token())
        if name in ("scale", "zero_point"):
            text = self.tokens[self.at]
            if text[:1] == "@":
                return name, self.const()
            if _IS_INT(text) or text == "(" or (name == "scale" and _IS_FLOAT(text)):
                return name, self.value(0)
        if name == "layout":
            order = self.word()
            self.skip("(")
            return name, (order, [] if self.next_is(")") else self.attrs(")"))
        raise _Unreadable

    def value(self, depth: int) -> Any:
        text = self.tokens[self.at]
        if text == "(":
            return self.tuple(depth)
        if text[:1] == '"':
            return unquote(self.string())
        if _IS_INT(text):
            return int64(self.token("INT"))
        self.at += 1
        if _IS_FLOAT(text):
            return float(text)
        if text in _PLAIN:
            return _PLAIN[text]
        if text in _DTYPE_NAMES:
            return DType(text)
        raise _Unreadable

    def tuple(self, depth: int) -> Any:
        if depth > MAX_NESTING:
            raise _Unreadable
        bracket = self.token("LPAR")
        items: list[Any] = []
        while not self.next_is(")"):
            if items:
                self.skip(",")
                if self.next_is(")"):
                    break
            items.append(self.value(depth + 1))
        return nested(bracket, items)
