"""Reads what `printer.py` prints. The language is `grammar.lark`.

`quick.py` reads text without errors; `lark_reader.py` reads all other text and has the messages. Both give phrases, of
which `builder.py` makes graphs. Malformed text of any kind gives a ParseError with line, column and excerpt. Limits: 64
MiB of text, 64 KiB per token, 200 nested brackets, 100,000 nodes. Does not check that a graph is legal in its stage
(`qcompiler.verify`).
"""

from __future__ import annotations

from qcompiler.arguments import check_text
from qcompiler.errors import ParseError, nearest
from qcompiler.ir import Graph, Module
from qcompiler.text.builder import Data, GraphBuilder
from qcompiler.text.messages import position, raise_at, raise_failure
from qcompiler.text.phrases import Failure, word
from qcompiler.text.printer import VERSION
from qcompiler.text.quick import read_quickly, read_type
from qcompiler.types import TensorType

MAX_BYTES = 64 * 2**20


def parse_type(text: str) -> TensorType:
    """The type that `str(type)` printed, if it names no arrays. ParseError for other text."""
    phrase = read_type(text)
    if phrase is None:
        raise ParseError("malformed type", expected="a type, as f32[B,64]", got=text[:200])
    builder = GraphBuilder("", "integer", None, "")
    try:
        found = builder.tensor_type(phrase)
    except Failure as failure:
        raise_failure(text, failure)
    if builder.missing:
        raise ParseError("a type that stands alone names no arrays", got=text[:200])
    return found


def parse(text: str, data: Data = None) -> Graph | Module:
    """The graph in `text`; a Module if it says `entry` or holds several graphs.

    Args:
        data: the arrays that the text names, as `graph_data` gives them. "zeros" fills constants with 0 and per-channel
            scales with 1, for work on text alone.

    Raises:
        ParseError: malformed text, unknown op, name or attr (with `line` and `column`), or missing arrays.
    """
    check_text("text", text, "the text of a graph")
    if isinstance(data, str) and data != "zeros":
        raise ParseError("unknown data", expected='a dict of arrays, "zeros" or None', got=repr(data))
    if len(text) > MAX_BYTES or len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise ParseError("text too long", expected=f"at most {MAX_BYTES} bytes", got=len(text))
    phrases = read_quickly(text)
    if phrases is None:
        from qcompiler.text.lark_reader import read

        phrases = read(text)
    version, *graphs = phrases
    if str(version) != str(VERSION):
        raise_at(
            text,
            *position(text, version),
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
            builder = GraphBuilder(name, str(stage), data, prefix)
            module.graphs[name] = builder.build(inputs, items, outputs)
    except Failure as failure:
        raise_failure(text, failure)
    if entry is None and len(graphs) == 1:
        return next(iter(module.graphs.values()))
    if module.entry not in module.graphs:
        raise ParseError(f"the entry graph {module.entry!r} is missing", hint=nearest(module.entry, module.graphs))
    return module
