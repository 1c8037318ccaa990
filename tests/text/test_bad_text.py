"""Bad text, one file for each area: each block gives one clear error with the messages that it names, and so does
mutated text."""

from __future__ import annotations

import pathlib
import random

import numpy as np
import pytest

from qcompiler.errors import ParseError, QCompilerError, VerifyError
from qcompiler.ir import Graph, Module
from qcompiler.text import builder, parser
from qcompiler.text.parser import parse
from qcompiler.text.printer import graph_data, print_graph
from qcompiler.verify import verify
from tests.sample_graphs import CASES, sample_graph

FOLDER = pathlib.Path(__file__).with_name("bad")
MARK = "// expect: "


def blocks() -> list[tuple[str, str, list[str]]]:
    """The (id, text, expected messages) of every block."""
    found = []
    for path in sorted(FOLDER.glob("*.txt")):
        for index, block in enumerate(path.read_text().split("-----\n")):
            lines = block.split("\n")
            expected = [line[len(MARK) :] for line in lines if line.startswith(MARK)]
            text = "\n".join(line for line in lines if not line.startswith(MARK))
            found.append((f"{path.stem}-{index}", text, expected))
    return found


BLOCKS = blocks()


def test_files_are_found_and_every_block_expects_something():
    assert len({name.split("-")[0] for name, _, _ in BLOCKS}) >= 5 and len(BLOCKS) >= 80
    assert all(expected for _, _, expected in BLOCKS)


@pytest.mark.parametrize("name, text, expected", BLOCKS, ids=[name for name, _, _ in BLOCKS])
def test_bad_text(name, text, expected):
    with pytest.raises((ParseError, VerifyError)) as caught:
        graph = parse(text, "zeros")
        verify(graph)
    message = str(caught.value)
    for part in expected:
        assert part in message, message


def test_the_caret_stands_under_the_token():
    text = "qcompiler 1\ngraph g(%x: f32[2]) stage=float {\n\t%y = relu(%nowhere)\n  return %y\n}\n"
    with pytest.raises(ParseError) as caught:
        parse(text)
    _, excerpt, caret = str(caught.value.where).split("\n")
    assert excerpt[caret.index("^") :].startswith("%nowhere")
    assert (caught.value.line, caught.value.column) == (3, 12)


def test_very_long_lines_are_shortened():
    text = "qcompiler 1\ngraph g(%x: f32[2]) stage=float { " + "%y = relu(%x) " * 200 + "return %y }\n"
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert len(str(caught.value)) < 600
    _, excerpt, caret = str(caught.value.where).split("\n")
    assert excerpt[caret.index("^") :].startswith("%y")


# -- data


def test_missing_data_names_the_arrays():
    text = (
        "qcompiler 1\ngraph g(%x: f32[2]) stage=float {\n"
        + "".join(f"const @c{i} : f32[1]\n" for i in range(9))
        + "return %x\n}\n"
    )
    with pytest.raises(ParseError, match="8 arrays of graph g have no data") as caught:
        parse(text, {"c3": np.zeros(1, np.float32)})
    assert caught.value.got == "@c0, @c1, @c2, @c4, @c5"
    with pytest.raises(ParseError, match="have no data"):
        parse(text)
    assert len(parse(text, "zeros").consts) == 9
    with pytest.raises(ParseError, match="unknown data"):
        parse(text, "ones")


@pytest.mark.parametrize("data", [np.zeros(2, np.float32), np.zeros(1, np.float64), np.zeros((1, 1), np.float32)])
def test_data_of_another_type(data):
    with pytest.raises(ParseError, match="does not fit its type"):
        parse("qcompiler 1\ngraph g(%x: f32[2]) stage=float {\nconst @c : f32[1]\nreturn %x\n}\n", {"c": data})


@pytest.mark.parametrize(
    "scale",
    [
        np.zeros(2, np.float32),
        np.ones(3, np.float32),
        np.ones(2, np.float64),
        np.ones((2, 1), np.float32),
        np.array([1, np.nan], np.float32),
        np.array([1, np.inf], np.float32),
    ],
)
def test_parameter_arrays_that_do_not_fit(scale):
    text = "qcompiler 1\ngraph g(%x: f32[2]) stage=integer {\nconst @c : i8[2]{axis=0, scale=@s}\nreturn %x\n}\n"
    with pytest.raises(ParseError, match="line 3, column (12|32)"):
        parse(text, {"c": np.zeros(2, np.int8), "s": scale})


# -- limits


def test_token_and_text_limits(monkeypatch):
    def text(name: str) -> str:
        return f"qcompiler 1\ngraph g(%x: f32[2]) stage=float {{\nnote {name}\nreturn %x\n}}\n"

    longest = '"' + "a" * (64 * 1024 - 2) + '"'
    assert len(parse(text(longest)).notes[0].text) == 64 * 1024 - 2
    with pytest.raises(ParseError, match="token too long"):
        parse(text(longest[:-1] + 'a"'))
    monkeypatch.setattr(parser, "MAX_BYTES", 200)
    fitting = text('"' + "a" * (200 - len(text('""'))) + '"')
    assert len(fitting) == 200 and parse(fitting).notes
    with pytest.raises(ParseError, match="text too long"):
        parse(fitting + " ")
    with pytest.raises(ParseError, match="text too long"):
        parse(fitting.replace("aa", "üü"))


@pytest.mark.parametrize("depth, fits", [(199, True), (200, True), (201, False), (50_000, False)])
def test_nesting_limit(depth, fits):
    value = "(" * depth + "1" + ",)" * depth
    text = f"qcompiler 1\ngraph g(%x: f32[2]) stage=float {{\n%y = transpose(%x) {{perm={value}}}\nreturn %y\n}}\n"
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert ("nested too deep" in str(caught.value)) is not fits


def test_name_limit():
    def text(length: int) -> str:
        return f"qcompiler 1\ngraph g(%{'x' * length}: f32[2]) stage=float {{ return %{'x' * length} }}\n"

    assert len(parse(text(1024)).inputs[0].name) == 1024
    with pytest.raises(ParseError, match="name too long"):
        parse(text(1025))


def test_node_limit(monkeypatch):
    def text(count: int) -> str:
        nodes = "".join(f"%y{i} = relu(%x)\n" for i in range(count))
        return f"qcompiler 1\ngraph g(%x: f32[2]) stage=float {{\n{nodes}return %x\n}}\n"

    monkeypatch.setattr(builder, "MAX_NODES", 10)
    assert len(parse(text(10))) == 10
    with pytest.raises(ParseError, match="too many nodes"):
        parse(text(11))


@pytest.mark.parametrize(
    "size",
    [
        "(" * 5000 + "B" + ")" * 5000,
        "+".join(["B"] * 5000),
        "-" * 5000 + "B",
        "B*" * 2000 + "B",
        "9" * 5000,
        "(B+W)*" * 30 + "(B+W)",
        "B" * 1025,
        "B" * 60_000,
    ],
)
def test_huge_sizes_are_refused_quickly(size):
    with pytest.raises(ParseError):
        parse(f"qcompiler 1\ngraph g(%x: f32[{size}]) stage=float {{ return %x }}\n")


def test_zeros_do_not_allocate_without_bound():
    with pytest.raises(ParseError, match="too large to fill"):
        parse("qcompiler 1\ngraph g(%x: f32[1]) stage=float {\nconst @c : f64[2000000000]\nreturn %x\n}\n", "zeros")


# -- mutations


def harmless_or_refused(text: str, data: dict[str, np.ndarray]) -> bool:
    """Whether the text was taken. Errors that are not ours propagate."""
    try:
        found = parse(text, data)
        for graph in found.graphs.values() if isinstance(found, Module) else [found]:
            verify(graph)
            if isinstance(found, Graph):
                again = parse(print_graph(graph), graph_data(graph))
                assert print_graph(again) == print_graph(graph)
    except QCompilerError as error:
        if isinstance(error, ParseError) and "line" in str(error.where):
            assert error.line >= 1 and error.column >= 1
        return False
    return True


def mutate(text: str, rng: random.Random) -> str:
    start = rng.randrange(len(text))
    kind = rng.randrange(6)
    if kind == 0:
        return text[:start] + text[start + 1 :]
    if kind == 1:
        return text[:start] + rng.choice('%@(){}[],:="\\-+*/.0987654321eEnaBx \n\t\0ü\u2028') + text[start + 1 :]
    if kind == 2:
        return text[:start] + text[start : start + 40] + text[start:]
    if kind == 3:
        end = start + rng.randrange(1, 60)
        return text[:start] + text[end:]
    words = text.split(" ")
    one, other = rng.randrange(len(words)), rng.randrange(len(words))
    if kind == 4:
        words[one], words[other] = words[other], words[one]
    else:
        words[one] = rng.choice(
            ["none", "-1", "0", "9223372036854775807", "nan", "inf", "1e999", "()", "true", '""', "i4", "%x", "@w"]
        )
    return " ".join(words)


def test_mutated_samples():
    rng = random.Random(5)
    taken = 0
    for op, index in CASES:
        graph = sample_graph(op, index)
        text, data = print_graph(graph), graph_data(graph)
        assert harmless_or_refused(text, data)
        for _ in range(6):
            taken += harmless_or_refused(mutate(text, rng), data)
    assert taken > len(CASES) / 4  # not every mutation is an error, or the test would show nothing


def test_mutated_integer_graph(demo_stages):
    rng = random.Random(6)
    graph = demo_stages["integer"]
    text, data = print_graph(graph), graph_data(graph)
    for _ in range(60):
        mutated = text
        for _ in range(rng.randrange(1, 3)):
            mutated = mutate(mutated, rng)
        harmless_or_refused(mutated, data)
