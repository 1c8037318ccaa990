"""Reads what `printer.py` prints. The grammar is `grammar.lark`; this file turns its phrases into graphs. Text without
errors is read by `quick.py`, which lark backs up.

Malformed text of any kind gives a ParseError with line, column and excerpt. Limits: 64 MiB of text, 64 KiB a token, 200
nested brackets, 100,000 nodes. Does not check that a graph is legal in its stage (`qcompiler.verify`).
"""

from __future__ import annotations

import pathlib
import re
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from qcompiler.dims import DimLike, parse_dim
from qcompiler.errors import ParseError, QCompilerError, nearest
from qcompiler.ir import Graph, Loc, Module, Origin, Value
from qcompiler.notes import parse_note
from qcompiler.text.phrases import MAX_TOKEN, Failure, NodePhrase, TypePhrase, int64, nested, reference, unquote, word
from qcompiler.text.printer import VERSION
from qcompiler.text.quick import Token, place, read_quickly, read_type
from qcompiler.types import DType, Layout, QuantParams, TensorType

MAX_BYTES = 64 * 2**20
MAX_NODES = 100_000
MAX_NAME = 1024
MAX_DIM_NESTING = 32
MAX_DIM_TERMS = 1000

Data = Mapping[str, np.ndarray] | str | None


def _actions() -> Any:
    """The transformer that lark calls while it parses; loaded with lark itself."""
    from lark import Transformer

    class Actions(Transformer):
        def int(self, children):
            return int64(children[0])

        def float(self, children):
            return float(children[0])

        def string(self, children):
            return unquote(children[0])

        def true(self, children):
            return True

        def false(self, children):
            return False

        def none(self, children):
            return None

        def dtype(self, children):
            return DType(str(children[0]))

        def tuple(self, children):
            return nested(children[0], children[1:])

        def results(self, children):
            return children

        operands = attrs = types = items = inputs = results

        def attr(self, children):
            return children[0], children[1]

        def origin(self, children):
            return Origin(unquote(children[0]), unquote(children[1]))

        def origins(self, children):
            return tuple(children)

        def loc(self, children):
            return Loc(unquote(children[0]), int64(children[1])) if children else None

        def type(self, children):
            return TypePhrase(children[0], children[1:])

        def node(self, children):
            return NodePhrase(*children)

        def axis(self, children):
            return "axis", children[0]

        def scale(self, children):
            return "scale", children[0]

        def zero_point(self, children):
            return "zero_point", children[0]

        def qmin(self, children):
            return "qmin", children[0]

        def qmax(self, children):
            return "qmax", children[0]

        def layout(self, children):
            return "layout", (children[0], children[1:])

        def note(self, children):
            return "note", children[0]

        def const(self, children):
            return "const", children[0], children[1]

        def input(self, children):
            return children[0], children[1]

        def output(self, children):
            return children[0], unquote(children[1]) if len(children) > 1 else None

        def return_(self, children):
            return children

        def graph(self, children):
            return children

        def entry(self, children):
            return "entry", word(children[0])

        def start(self, children):
            return children

    return Actions(visit_tokens=False)


@lru_cache(maxsize=1)
def _lark() -> Any:
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


class _Builder:
    """One graph from its phrases."""

    def __init__(self, name: str, stage: str, data: Data, prefix: str) -> None:
        self.graph = Graph(name, stage)
        self.values: dict[str, Value] = {}
        self.data, self.prefix = data, prefix
        self.missing: list[str] = []
        self.types: dict[tuple, TensorType] = {}

    def build(self, inputs: list, items: list, outputs: list) -> Graph:
        graph = self.graph
        for token, type in inputs:
            self.claim(token, lambda t=token, ty=type: graph.add_input(reference(t), self.type(ty)))
        for item in items:
            if isinstance(item, NodePhrase):
                self.node(item)
            elif item[0] == "note":
                graph.notes.append(_at(item[1], lambda t=item[1]: parse_note(unquote(t))))
            else:
                self.claim(item[1], lambda i=item: self.const(i[1], i[2]))
        if self.missing:
            self.missing = list(dict.fromkeys(self.missing))
            shown = ", ".join(f"@{name}" for name in self.missing[:5])
            raise ParseError(
                f"{len(self.missing)} arrays of graph {graph.name} have no data",
                got=shown,
                hint='pass data={"name": array}, or data="zeros" for text alone',
            )
        values = [self.find(token) for token, _ in outputs]
        graph.set_outputs(
            values, [name if name is not None else value.name for value, (_, name) in zip(values, outputs)]
        )
        return graph

    def claim(self, token: Any, make: Callable[[], Value | None]) -> None:
        if str(token) in self.values:
            raise Failure(token, f"{token} is defined twice")
        value = _at(token, make)
        if value is not None:
            self.values[str(token)] = value

    def find(self, token: Any) -> Value:
        found = self.values.get(str(token))
        if found is None:
            known = list(self.values)[-1000:]
            raise Failure(
                token, f"{token} is not defined here", hint=nearest(str(token), known) if len(known) < 50 else None
            )
        return found

    def array(self, name: str) -> np.ndarray | None:
        if not isinstance(self.data, Mapping):
            return None
        found = self.data.get(self.prefix + name)
        if found is None and self.data is not None:
            found = self.data.get(name)
        return None if found is None else np.asarray(found)

    def const(self, token: Any, phrase: TypePhrase) -> Value | None:
        name, type = reference(token), self.type(phrase)
        data = self.array(name)
        if not type.is_static:
            raise Failure(token, "a constant has sizes, not names", got=str(type))
        if data is None and self.data != "zeros":
            self.missing.append(name)
            return Value(name, type)  # never reaches a graph: missing data is reported when all names are known
        if data is None:
            if type.nbytes > MAX_BYTES:
                raise Failure(token, "constant too large to fill with zeros", expected=f"at most {MAX_BYTES} bytes")
            data = np.zeros(type.shape, type.dtype.numpy)
        if len(name.encode()) > MAX_NAME or self.graph.fresh_name(name) != name:
            raise Failure(token, f"{token} is defined twice or its name is too long")
        return self.graph.add_const(name, data, type)

    def node(self, phrase: NodePhrase) -> None:
        from qcompiler.opdef import opdef

        graph = self.graph
        if len(graph) >= MAX_NODES:
            raise Failure(phrase.op, "too many nodes", expected=f"at most {MAX_NODES}")
        names = []
        for token in phrase.results:
            if str(token) in self.values:
                raise Failure(token, f"{token} is defined twice")
            names.append(reference(token))
            if graph.fresh_name(names[-1]) != names[-1] or len(set(names)) != len(names):
                raise Failure(token, f"the name {names[-1]!r} is taken")
        operands = [None if token is None else self.find(token) for token in phrase.operands]
        attrs = {}
        for name, value in phrase.attrs:
            if str(name) in attrs:
                raise Failure(name, f"attr {name!s} is given twice")
            attrs[str(name)] = _plain(value)
        types = [self.type(type) for type in phrase.types]

        def make() -> Any:
            opdef(str(phrase.op)).check_operands(len(operands))
            return graph.create(
                str(phrase.op), operands, attrs, types=types or None, names=names, loc=phrase.loc, origin=phrase.origin
            )

        node = _at(phrase.op, make)
        if len(node.results) != len(names):
            raise Failure(phrase.op, f"{len(names)} results but {len(node.results)} types")
        for token, value in zip(phrase.results, node.results):
            self.values[str(token)] = value

    def type(self, phrase: TypePhrase) -> TensorType:
        """The type that a phrase names. Plain types are built once."""
        token, fields = phrase.token, phrase.fields
        if not fields and str(token) in self.types:
            return self.types[str(token)]
        dtype, _, sizes = str(token)[:-1].partition("[")
        made = dict(fields)
        if len(made) != len(fields):
            raise Failure(token, "a field of this type is given twice", got=", ".join(name for name, _ in fields))
        shape = tuple(_dim(token, size) for size in sizes.split(",")) if sizes.strip() else ()
        type = _at(
            token, lambda: TensorType(DType(dtype), shape, self.quant(token, DType(dtype), made), self.layout(made))
        )
        if not fields:
            self.types[str(token)] = type
        return type

    def layout(self, fields: dict[str, Any]) -> Layout | None:
        if "layout" not in fields:
            return None
        order, attrs = fields["layout"]
        if str(order) not in ("row_major", "channels_last"):
            raise Failure(order, f"unknown layout {order!s}", expected="row_major | channels_last")
        given = {str(name): _plain(value) for name, value in attrs}
        halo = given.pop("halo", ())
        stride = given.pop("channel_stride", 0)
        pairs = isinstance(halo, tuple) and all(
            isinstance(p, tuple) and len(p) == 2 and all(type(i) is int for i in p) for p in halo
        )
        if given or type(stride) is not int or not pairs:
            raise Failure(order, "malformed layout", expected="channel_stride=int, halo=((int,int),...)")
        return Layout(str(order), stride, halo)

    def quant(self, token: Any, dtype: DType, fields: dict[str, Any]) -> QuantParams | None:
        if not fields.keys() - {"layout"}:
            return None
        if "scale" not in fields:
            raise Failure(token, "quantization parameters without a scale", expected="scale=...")
        axis, scale, zero_point = fields.get("axis"), fields["scale"], fields.get("zero_point", 0)
        scales = self.parameter(token, scale, axis, np.float32)
        if axis is None and len(scales) != 1:
            raise Failure(token, "per-channel parameters need an axis", expected="axis=...")
        points = self.parameter(token, zero_point, axis, np.int32)
        if len(points) == 1:
            points = points * len(scales)
        return QuantParams(scales, points, axis, fields.get("qmin", dtype.min), fields.get("qmax", dtype.max))

    def parameter(self, token: Any, given: Any, axis: int | None, kind: type) -> tuple:
        """A number, a tuple of numbers, or the named array, as a tuple of float32-exact floats or of ints."""
        if isinstance(given, (int, float)):
            given = (given,)
        elif not isinstance(given, tuple):
            name = reference(given)
            array = self.array(name)
            if array is None:
                if self.data != "zeros":
                    self.missing.append(name)
                size = str(token)[:-1].partition("[")[2].split(",")[axis or 0].strip() if axis is not None else "1"
                count = int(size) if size.isdigit() and len(size) < 8 else 1
                return ((1.0,) if kind is np.float32 else (0,)) * count
            if array.ndim != 1 or array.dtype != kind:
                raise Failure(
                    given,
                    f"{given} is not an array of parameters",
                    expected=f"{np.dtype(kind)}[n]",
                    got=f"{array.dtype}{list(array.shape)}",
                )
            return tuple(array.tolist())
        if not all(isinstance(item, (int, float) if kind is np.float32 else int) for item in given):
            raise Failure(token, "malformed parameters", expected="numbers")
        if kind is np.float32:
            return tuple([_single(item) for item in given])
        return tuple(given)


def _single(item: float) -> float:
    """A number rounded to float32; infinite where it is too large."""
    try:
        return struct.unpack("<f", struct.pack("<f", item))[0]
    except OverflowError:
        with np.errstate(over="ignore"):
            return float(np.float32(item))


def _plain(value: Any) -> Any:
    return tuple(_plain(item) for item in value) if isinstance(value, tuple) else value


def _dim(token: Any, text: str) -> DimLike:
    text = text.strip()
    if text.isdigit():
        return int64(type(token).new_borrow_pos(token.type, text, token))
    if _dim_cost(text) > MAX_DIM_TERMS or any(len(part) > 18 for part in _digits(text)):
        raise Failure(
            token, "size expression too large", expected=f"at most {MAX_DIM_TERMS} terms, {MAX_DIM_NESTING} brackets"
        )
    if any(len(name) > MAX_NAME for name in re.findall(r"\w+", text)):
        raise Failure(token, "name of a size too long", expected=f"at most {MAX_NAME} characters")
    return _at(token, lambda: parse_dim(text))


def _digits(text: str) -> list[str]:
    return re.findall(r"\d+", text)


def _dim_cost(text: str) -> int:
    """An upper bound of the terms that expanding a size makes; huge when brackets or signs nest too deep."""
    stack: list[list[int]] = []
    total, product, signs = 0, 1, 0
    for part in re.findall(r"\w+|//|[-+*()]", text):
        signs = signs + 1 if part == "-" else 0
        if signs > 1:
            return MAX_DIM_TERMS + 1
        if part == "(":
            stack.append([total, product])
            total, product = 0, 1
        elif part == ")" and stack:
            inner = max(1, total + product)
            total, product = stack.pop()
            product *= inner
        elif part in "+-":
            total, product = total + product, 1
        if len(stack) > MAX_DIM_NESTING or total + product > MAX_DIM_TERMS:
            return MAX_DIM_TERMS + 1
        if part == "*":
            product += 1
    return total + product


def _at(token: Any, make: Callable[[], Any]) -> Any:
    """`make()`; what it raises on purpose, and what huge or odd values provoke in numpy, is placed at `token`."""
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


def _raise(text: str, line: int, column: int, message: str, **details: Any) -> NoReturn:
    """A ParseError with the line and a caret under the column (both from 1)."""
    lines = text.split("\n")
    excerpt = lines[line - 1] if 0 < line <= len(lines) else ""
    start = max(0, column - 60)
    shown = excerpt[start : start + 120].replace("\t", " ")
    where = f"line {line}, column {column}\n    {shown}\n    {' ' * (column - 1 - start)}^"
    error = ParseError(message, where=where, **details)
    error.line, error.column = line, column
    raise error from None


def _phrases(text: str) -> list[Any]:
    quick = read_quickly(text)
    if quick is not None:
        return quick
    from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken, VisitError

    try:
        return _lark().parse(text)
    except UnexpectedToken as error:
        if error.token.type == "$END":
            lines = text.rstrip("\n").split("\n")
            _raise(text, len(lines), len(lines[-1]) + 1, "unexpected end of text", expected=_expected(error.expected))
        _raise(
            text, error.line, error.column, f"unexpected {str(error.token)[:80]!r}", expected=_expected(error.expected)
        )
    except UnexpectedCharacters as error:
        _raise(
            text, error.line, error.column, f"unexpected character {error.char!r}", expected=_expected(error.allowed)
        )
    except UnexpectedInput as error:
        _raise(text, getattr(error, "line", 1), getattr(error, "column", 1), "malformed text")
    except VisitError as error:
        if isinstance(error.orig_exc, Failure):
            _place(text, error.orig_exc)
        raise
    except Failure as failure:
        _place(text, failure)


def _place(text: str, failure: Failure) -> NoReturn:
    _raise(text, *_where(text, failure.token), failure.message, **failure.details)


def _where(text: str, token: Any) -> tuple[int, int]:
    """Line and column of either reader's token."""
    if isinstance(token, Token):
        return place(text, token)
    return getattr(token, "line", 1) or 1, getattr(token, "column", 1) or 1


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


def _expected(names: Any) -> str:
    return ", ".join(sorted(_SPELLED.get(name, name.lower()) for name in names or ()))


def parse_type(text: str) -> TensorType:
    """What `str(type)` gives, back; a type that names no arrays. ParseError for other text."""
    phrase = read_type(text)
    if phrase is None:
        raise ParseError("malformed type", expected="a type, as f32[B,64]", got=text[:200])
    builder = _Builder("", "integer", None, "")
    try:
        found = builder.type(phrase)
    except Failure as failure:
        _place(text, failure)
    if builder.missing:
        raise ParseError("a type that stands alone names no arrays", got=text[:200])
    return found


def parse(text: str, data: Data = None) -> Graph | Module:
    """The graph in `text`; a Module if it says `entry` or holds several graphs.

    Args:
        data: the arrays that the text names, as `graph_data` gives them; "zeros" fills constants with 0 and per-channel
            scales with 1, for work on text alone.

    Raises:
        ParseError: malformed text, unknown op, name or attr (with `line` and `column`), or missing arrays.
    """
    if isinstance(data, str) and data != "zeros":
        raise ParseError("unknown data", expected='a dict of arrays, "zeros" or None', got=repr(data))
    if len(text) > MAX_BYTES or len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise ParseError("text too long", expected=f"at most {MAX_BYTES} bytes", got=len(text))
    version, *graphs = _phrases(text)
    if str(version) != str(VERSION):
        _raise(
            text,
            *_where(text, version),
            "unknown version of the text form",
            expected=VERSION,
            got=str(version)[:40],
        )
    entry = None
    if graphs and graphs[0][0] == "entry":
        entry = graphs.pop(0)[1]
    module = Module({}, entry or "main")
    try:
        for name_token, inputs, stage, items, outputs in graphs:
            name = word(name_token)
            if name in module.graphs:
                raise Failure(name_token, f"graph {name!r} is defined twice")
            prefix = f"{name}::" if len(graphs) > 1 or entry is not None else ""
            builder = _Builder(name, str(stage), data, prefix)
            module.graphs[name] = builder.build(inputs, items, outputs)
    except Failure as failure:
        _place(text, failure)
    if entry is None and len(graphs) == 1:
        return next(iter(module.graphs.values()))
    if module.entry not in module.graphs:
        raise ParseError(f"the entry graph {module.entry!r} is missing", hint=nearest(module.entry, module.graphs))
    return module
