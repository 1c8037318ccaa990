"""The door of graph text: texts that the grammar derives at random, and printed graphs with damaged tokens."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from qcompiler.errors import PassError, QCompilerError, VerifyError
from qcompiler.ir import Graph, Module
from qcompiler.opdef import all_ops
from qcompiler.stages import STAGES
from qcompiler.text.lark_reader import lark_parser
from qcompiler.text.parser import parse
from qcompiler.text.printer import print_graph
from qcompiler.verify import verify
from tests.fuzz.accepted import OBSERVED, check_readers, check_runs, check_text
from tests.fuzz.damage import ODD_FLOATS, ODD_INTS, ODD_NAMES, Chance
from tests.fuzz.door import generator
from tests.fuzz.minimize import shorter_lines
from tests.sample_graphs import CASES, UNQUANTIZED, append_sample, sample_graph

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TOKEN = re.compile(r'[%@]?"(?:[^"\\\n]|\\.)*"|[%@]?[\w.]+\[[^\]\n]*\]|[%@]?[\w.]+|-[\w.]+|\s+|.', re.DOTALL)
_QUOTED = re.compile(r'"|\\')


class Text:
    """parse, print, verify, compile and run."""

    suffix = ".qir"

    def draw(self, seed: int) -> bytes:
        chance = Chance(generator("text", seed))
        if chance.often(0.15):
            text = Derivation(chance).text()
        else:
            text = damaged_text(_base(chance), chance)
        return text.encode("utf-8", "surrogatepass")

    def run(self, data: bytes) -> str:
        text = data.decode("utf-8", "surrogatepass")
        check_readers(text)
        found = parse(text, "zeros")
        check_text(found)
        graphs = list(found.graphs.values()) if isinstance(found, Module) else [found]
        for graph in graphs:
            verify(graph)
        return self._run(graphs[0], Chance(np.random.default_rng(zlib.crc32(data))))

    def _run(self, graph: Graph, chance: Chance) -> str:
        if graph.stage not in ("float", "qdq", "integer"):
            return "legal"
        try:
            return check_runs(
                graph, chance, native=chance.often(0.2), config=chance.one(OBSERVED) if chance.often(0.2) else None
            )
        except VerifyError as error:
            raise AssertionError(f"a legal graph is refused: {error}") from error

    def is_clear(self, error: QCompilerError) -> bool:
        return not isinstance(error, PassError)

    def smaller(self, data: bytes) -> Iterator[bytes]:
        text = data.decode("utf-8", "surrogatepass")
        for shorter in shorter_lines(text):
            yield shorter.encode("utf-8", "surrogatepass")


# -- printed graphs


@cache
def _golden() -> list[str]:
    return [path.read_text() for path in sorted(GOLDEN.rglob("*.qir")) if path.read_text().startswith("qcompiler ")]


def _base(chance: Chance) -> str:
    kind = chance.below(10)
    if kind == 0:
        return str(chance.one(_golden()))
    if kind < 7:
        return print_graph(sample_graph(*chance.one(CASES)))
    graph, reuse = Graph("main"), []
    for _ in range(1 + chance.below(5)):
        op, index = chance.one(UNQUANTIZED)
        if op.name not in ("lookup", "observe"):
            append_sample(graph, op, index, chance.rng, reuse)
    if not reuse:
        return print_graph(sample_graph(*chance.one(CASES)))
    graph.set_outputs([value for value in reuse if not value.uses] or reuse[-1:])
    return print_graph(graph)


def damaged_text(text: str, chance: Chance) -> str:
    """A text with up to three tokens or lines changed."""
    for _ in range(chance.below(4)):
        if chance.often(0.2):
            text = _damaged_lines(text, chance)
        else:
            text = _damaged_token(text, chance)
    return text


def _damaged_lines(text: str, chance: Chance) -> str:
    lines = text.split("\n")
    at, other = chance.below(len(lines)), chance.below(len(lines))
    kind = chance.below(3)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(other, lines[at])
    else:
        lines[at], lines[other] = lines[other], lines[at]
    return "\n".join(lines)


def _damaged_token(text: str, chance: Chance) -> str:
    tokens = TOKEN.findall(text)
    places = [index for index, token in enumerate(tokens) if not token.isspace()]
    if not places:
        return text
    at = chance.one(places)
    token, kind = tokens[at], chance.below(8)
    if kind == 0:
        tokens[at] = ""
    elif kind == 1:
        tokens[at] = f"{token} {token}"
    elif kind == 2:
        tokens[at] = tokens[chance.one(places)]
    elif kind == 3:
        alike = [tokens[index] for index in places if _kind(tokens[index]) == _kind(token)]
        tokens[at] = chance.one(alike)
    elif kind == 4 and len(token) > 1:
        cut = chance.below(len(token))
        tokens[at] = token[:cut] + chance.one(["", chr(chance.below(0x300)), '"', "\\", "\ud800"]) + token[cut + 1 :]
    else:
        derived = Derivation(chance)
        tokens[at] = derived.like(_kind(token))
    return "".join(tokens)


def _kind(token: str) -> str:
    """The terminal of the grammar that a token is, nearly."""
    if token[0] in "%@":
        return "VALUE" if token[0] == "%" else "CONST"
    if token[0] == '"':
        return "STRING"
    if "[" in token:
        return "SHAPED"
    if re.fullmatch(r"-?\d+", token):
        return "INT"
    if re.fullmatch(r"-?(\d+\.\d*|\d+)(e[-+]?\d+)?|-?inf|nan", token):
        return "FLOAT"
    return "WORD" if token[0].isalpha() or token[0] == "_" else token


# -- the grammar


@cache
def _rules() -> dict[str, list[list[Any]]]:
    """Rule -> its expansions, of the grammar itself."""
    found: dict[str, list[list[Any]]] = {}
    for rule in lark_parser().rules:
        found.setdefault(rule.origin.name, []).append(list(rule.expansion))
    return found


@cache
def _literals() -> dict[str, str]:
    return {
        terminal.name: terminal.pattern.value for terminal in lark_parser().terminals if terminal.pattern.type == "str"
    }


@cache
def _words() -> list[str]:
    attrs = {spec.name for op in all_ops() for spec in op.attrs}
    return sorted({*(op.name for op in all_ops()), *attrs, *STAGES, "stage", "axis", "none", "channels_last", "halo"})


class Derivation:
    """Text that the grammar derives, with names and numbers that are odd now and then."""

    def __init__(self, chance: Chance) -> None:
        self.chance, self.left = chance, 300

    def text(self) -> str:
        return " ".join(self.symbol("start", 0))

    def like(self, kind: str) -> str:
        """A token of a kind, or a value of an attr, or any token."""
        if kind in ("INT", "FLOAT", "STRING") and self.chance.often(0.5):
            return " ".join(self.symbol("_value", 0))
        if kind in self._makers and self.chance.often(0.8):
            return self.terminal(kind)
        return self.terminal(str(self.chance.one([*self._makers, *_literals()])))

    def symbol(self, name: str, depth: int) -> list[str]:
        if name not in _rules():
            self.left -= 1
            return [self.terminal(name)]
        choices = _rules()[name]
        if depth > 25 or self.left < 0:
            least = min(len(choice) for choice in choices)
            choices = [choice for choice in choices if len(choice) == least]
        found: list[str] = []
        for part in self.chance.one(choices):
            found += self.symbol(part.name, depth + 1) if depth < 60 else []
        return found

    def terminal(self, name: str) -> str:
        literal = _literals().get(name)
        return literal if literal is not None else self._makers[name](self)

    def _int(self) -> str:
        return str(self.chance.one(ODD_INTS)) if self.chance.often(0.2) else str(self.chance.below(5))

    def _float(self) -> str:
        number = self.chance.one(ODD_FLOATS) if self.chance.often(0.3) else self.chance.one([0.5, 1.0, 0.1])
        return str(number)

    def _string(self) -> str:
        name = self.chance.one(ODD_NAMES) if self.chance.often(0.5) else self._word()
        return '"' + _QUOTED.sub(lambda found: "\\" + found[0], name).replace("\n", "\\n") + '"'

    def _reference(self, mark: str) -> str:
        return mark + (self._string() if self.chance.often(0.1) else str(self.chance.one(["x", "y", "c", "0", "a.b"])))

    def _word(self) -> str:
        return str(self.chance.one(_words()))

    def _shaped(self) -> str:
        sizes = [self.chance.one(["2", "3", "1", "0", "B", "2*B", "(W+1)//2", "-1", "B-1", str(2**40), "B%2", "B*B"])
                 for _ in range(self.chance.below(4))]  # fmt: skip
        return f"{self._dtype()}[{','.join(sizes)}]"

    def _dtype(self) -> str:
        return str(self.chance.one(["f32"] * 6 + ["f16", "f64", "i64", "i32", "i16", "i8", "u8", "i4", "u4", "bool"]))

    _makers: dict[str, Callable[[Derivation], str]] = {
        "VALUE": lambda self: self._reference("%"),
        "CONST": lambda self: self._reference("@"),
        "STRING": _string,
        "SHAPED": _shaped,
        "DTYPE": _dtype,
        "FLOAT": _float,
        "INT": _int,
        "WORD": _word,
    }
