"""The quick reader gives the phrases that lark gives for every text that it takes, and takes everything that the
printer writes."""

from __future__ import annotations

import pathlib
import random
from typing import Any

import pytest

from qcompiler.errors import ParseError
from qcompiler.text.lark_reader import lark_parser
from qcompiler.text.parser import parse, parse_type
from qcompiler.text.phrases import NodePhrase, TypePhrase
from qcompiler.text.printer import print_graph
from qcompiler.text.quick import place, read_quickly
from tests.sample_graphs import CASES, sample_graph

TESTS = pathlib.Path(__file__).resolve().parents[1]
BAD = [block for path in sorted((TESTS / "text" / "bad").glob("*.txt")) for block in path.read_text().split("-----\n")]
GOLDEN = [path.read_text() for path in sorted((TESTS / "golden").rglob("*.qir"))]
SAMPLES = [print_graph(sample_graph(*case)) for case in CASES]
ODD = """qcompiler 1   # comment
entry "a b"
graph "a b"(%"x y": f32[B, (W+1)//2],%z:i8[ 3 ]{ scale = 0.5,zero_point=3 , qmin=-4,qmax=9}) stage = integer {
  note "a \\"quoted\\" note \\u00e9"  // comment
  const @c.1:i8[3]{axis=0,scale=(0.5, 1, inf,), zero_point=(1,2,3),layout=
    channels_last(channel_stride=4, halo=((1,1),))}
  const @d : i8[3]{axis=0, scale=@d.scale, zero_point=@"d zero", layout=row_major()}
  %1 , %2.b=split ( %"x y",none, @c.1 ){a=(),b=(1,),c=(1, (2, -3.5e-7)), d="s", e=true,f=false,g=none,
    h=bool,i=-inf, j=nan}:
    f32[],i8[3]{scale=1}loc ( "f.py" : 3 ) origin("a":"b" , "c" : "d")
  %y = relu(%1)
  return %y as "out" , @c.1,%2.b
}
graph const() stage=float { return }
"""
TEXTS = [*SAMPLES, *GOLDEN, *BAD, ODD]


def plain(phrase: Any) -> Any:
    """Phrases in a form that compares, with tokens and their types."""
    if isinstance(phrase, NodePhrase | TypePhrase):
        return type(phrase).__name__, plain(list(vars(phrase).values()))
    if isinstance(phrase, tuple | list):
        return type(phrase).__name__, getattr(phrase, "depth", None), [plain(item) for item in phrase]
    if isinstance(phrase, str):
        return "token" if hasattr(phrase, "type") else "str", getattr(phrase, "type", None), str(phrase)
    return type(phrase).__name__, repr(phrase)


def places(phrase: Any, text: str) -> list[tuple[str, int, int]]:
    """Every token with its line and column."""
    if isinstance(phrase, NodePhrase | TypePhrase):
        return places(list(vars(phrase).values()), text)
    if isinstance(phrase, tuple | list):
        return [found for item in phrase for found in places(item, text)]
    if not hasattr(phrase, "type") or not isinstance(phrase, str):
        return []
    line, column = (phrase.line, phrase.column) if hasattr(phrase, "line") else place(text, phrase)
    return [(str(phrase), line, column)]


def agree(text: str) -> bool:
    """Whether the quick reader takes the text. If so, checks that lark gives the same phrases."""
    quick = read_quickly(text)
    if quick is not None:
        assert plain(quick) == plain(lark_parser().parse(text)), text
    return quick is not None


def test_it_takes_what_the_printer_writes():
    assert len(SAMPLES) > 50 and all(agree(text) for text in SAMPLES)
    assert GOLDEN and all(agree(text) for text in GOLDEN if text.startswith("qcompiler "))


def test_it_takes_every_form_of_the_grammar():
    assert agree(ODD)


def test_tokens_stand_where_lark_sees_them():
    for text in (ODD, *GOLDEN[:3]):
        assert places(read_quickly(text), text) == places(lark_parser().parse(text), text)


@pytest.mark.parametrize("seed", range(40))
def test_changed_texts(seed):
    """Characters and tokens are dropped, doubled, swapped and inserted. The quick reader never takes a text that lark
    refuses or reads otherwise."""
    rng, taken = random.Random(seed), 0
    pieces = [
        *'(){},:=%@"#/.-+ \n\\',
        "none",
        "const",
        "return",
        "as",
        "1",
        "-",
        "inf",
        "1.",
        "true",
        "f32",
        "f32[2]",
        "loc",
        "graph",
        "x",
        "é",
    ]
    for _ in range(60):
        text = rng.choice(TEXTS)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(text) + 1)
            end = at + rng.choice([0, 0, 1, 1, 2, 5])
            text = text[:at] + rng.choice([*pieces, "", "", text[at:end] * 2]) + text[end:]
        taken += agree(text)
    assert taken > 0


def test_deep_brackets_are_left_to_lark():
    text = (
        "qcompiler 1\ngraph g(%x: f32[2]) stage=float {\n  %y = relu(%x) {a="
        + "(" * 300
        + ",)" * 300
        + "}\n  return %y\n}\n"
    )
    assert read_quickly(text) is None
    with pytest.raises(ParseError):
        parse(text)


def test_a_bracket_is_no_type() -> None:
    text = "qcompiler 1\ngraph g() stage=float {\n  const @w : ]\n  return @w\n}\n"
    assert read_quickly(text) is None
    with pytest.raises(ParseError):
        parse(text, data="zeros")


def test_errors_of_graphs_have_places():
    with pytest.raises(ParseError) as caught:
        parse("qcompiler 1\ngraph g(%x: f32[2]) stage=float {\n  # %z\n  %y = relu(%z)\n  return %y\n}\n")
    assert (caught.value.line, caught.value.column) == (4, 13)


def test_text_that_is_cut_off_anywhere_is_left_to_lark() -> None:
    """Exceptions are cuts between graphs, and behind the last one."""
    for text in (ODD, SAMPLES[0]):
        found = {length: read_quickly(text[:length]) for length in range(len(text))}
        for length, phrases in found.items():
            assert phrases is None or plain(phrases) == plain(lark_parser().parse(text[:length]))
        assert sum(phrases is not None for phrases in found.values()) <= 4
    for text in ("qcompiler 1\ngraph g(%x: f32[2]{", 'qcompiler 1\nentry "a"'):
        with pytest.raises(ParseError, match="unexpected end of text"):
            parse(text)


def test_a_graph_may_be_called_entry() -> None:
    assert read_quickly("qcompiler 1\ngraph entry(%x: f32[2]) stage=float { return %x }") is not None


TYPES = [
    "f32[]",
    "f32[B,(W+1)//2]",
    "u8[1,3]{scale=0.03125, zero_point=128}",
    "u8[2,5,4,4]{scale=0.1, zero_point=7, layout=channels_last(channel_stride=8, halo=((1, 1), (0, 2)))}",
    "bool[0,7]",
]


@pytest.mark.parametrize("text", TYPES)
def test_a_type_alone(text: str) -> None:
    type = parse_type(text)
    assert parse_type(str(type)) == type and str(type.dtype) == text.partition("[")[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f32",
        "f32[",
        "f32[2]{",
        "f32[2]{scale",
        "f32[2] x",
        "f32[2],",
        "f33[2]",
        "%x",
        "u8[2]{zero_point=3}",
        "u8[-1]",
        "u8[2]{scale=@s}",
        "u8[2]{scale=0.5, scale=0.5}",
        "u8[2]{axis=0, scale=@s}",
        "f32[2]{scale=1.0}",
    ],
)
def test_text_that_is_no_type(text: str) -> None:
    with pytest.raises(ParseError):
        parse_type(text)
