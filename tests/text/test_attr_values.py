"""Every attribute of every op with values that a text can hold: refused where the kind or the value is wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.errors import ParseError, QCompilerError
from qcompiler.opdef import OpDef, all_ops
from qcompiler.text.printer import format_attr, graph_data, print_graph
from qcompiler.verify import verify
from tests.sample_graphs import sample_graph

MOST, LEAST = 2**63 - 1, -(2**63)
WRONG = {
    "int": ["1.5", "true", '"a"', "none", "()", "(1,)", "i8", "nan"],
    "float": ['"a"', "true", "(1.0,)", "i8"],
    "bool": ["1", "0.0", '"a"', "()"],
    "str": ["1", "true", '("a",)', "i8"],
    "dtype": ["1", '"f32"', "true"],
    "ints": ["(1.5,)", "(true,)", '("a",)', "(nan,)", "(none,)", "((1,),)", "1", "(1, (2, 3))"],
    "floats": ['("a",)', "(true,)", "(none,)", "((1.0,),)", "1.0"],
    "pairs": ["((0, 1.5),)", '((0, "a"),)', "((true, false),)", "((0, none),)", "((0, nan),)", "(1, 1)", "((1,),)",
              "((0, 1, 2),)", "((0, (1, 2)),)"],
    "shape": ["(1.5,)", "(true,)", "(none,)", "((1,),)", "1"],
}  # fmt: skip
"""Values of another kind."""
EXTREME = {
    "int": ["0", "-1", str(MOST), str(LEAST), str(2**31)],
    "float": ["nan", "inf", "-inf", "1e308", "-1e308", "0.0", "-0.0", "1e-320", "-1.0", str(MOST)],
    "bool": ["true", "false"],
    "str": ['""', '"x"', '"none"', '"relu"', '"\\u0000"'],
    "dtype": ["f32", "bool", "i4", "u8", "f64", "i64"],
    "ints": ["()", "(0,)", "(-1,)", f"({MOST},)", f"({LEAST},)", "(0, 0)", "(-1, -1)", f"({MOST}, {MOST})",
             f"({2**31}, {2**31})", "(0, 0, 0, 0)", f"(1, {2**40}, 1, {2**40})", f"({'1, ' * 40})"],
    "floats": ["()", "(nan, nan)", "(1e308, 1e308)", "(inf, inf)", "(0.0, 0.0)", "(-1.0, -1.0)", "(1e9, 1e9)"],
    "pairs": ["()", "((0, 0),)", f"(({MOST}, 0),)", f"(({MOST}, {MOST}), ({MOST}, {MOST}))", f"(({LEAST}, 0), (0, 0))",
              f"((0, {2**40}), (0, {2**40}))", "((-100, 0), (0, -100))", f"({'(0, 0), ' * 20})"],
    "shape": ["()", "(0,)", "(-1, -1)", f"({MOST}, {MOST})", f"({2**31}, {2**31}, {2**31})", '("B",)', '("",)',
              '("2*",)', f"({'1, ' * 40})", "(-7,)", "(0, -1)"],
}  # fmt: skip
"""Values of the kind, most of which no op can have."""


def texts(op: OpDef, index: int, values: dict[str, list[str]]) -> list[tuple[str, str]]:
    """(attribute and value, text) of a sample with each attribute replaced by each value. Its types are inferred."""
    graph = sample_graph(op, index)
    text, node = print_graph(graph), graph.node_list[-1]
    line = re.search(rf"^(  [^\n]* = {op.name}\([^\n)]*\))( {{.*}})? : [^\n]*$", text, re.MULTILINE)
    assert line is not None
    found = []
    for spec in op.attrs:
        for value in values[spec.kind]:
            if value == "none" and spec.default is None:
                continue
            attrs = ", ".join(
                f"{name}={value if name == spec.name else format_attr(old)}" for name, old in node.attrs.items()
            )
            found.append((f"{spec.name}={value}", f"{text[: line.start()]}{line[1]} {{{attrs}}}{text[line.end() :]}"))
    return found


def samples(op: OpDef) -> list[int]:
    """One sample for each combination of ranks."""
    ranks = {
        tuple(None if given is None else np.ndim(given) if isinstance(given, np.ndarray) else given.rank
              for given in sample.operands): index
        for index, sample in enumerate(op.samples())
    }  # fmt: skip
    return sorted(ranks.values())


WITH_ATTRS = [pytest.param(op, id=op.name) for op in all_ops() if op.attrs]


@pytest.mark.parametrize("op", WITH_ATTRS)
def test_values_of_another_kind_are_refused_where_they_stand(op: OpDef) -> None:
    for index in samples(op):
        data = graph_data(sample_graph(op, index))
        for what, text in texts(op, index, WRONG):
            with pytest.raises(ParseError, match="kind") as caught:
                pytest.fail(f"{what} is taken: {qc.parse(text, data)}")
            line = text.split("\n")[caught.value.line - 1]
            assert f"= {op.name}(" in line, what


@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # 1e308 is an infinite f32
@pytest.mark.parametrize("op", WITH_ATTRS)
def test_extreme_values_are_refused_or_compile(op: OpDef) -> None:
    for index in samples(op):
        data = graph_data(sample_graph(op, index))
        for what, text in texts(op, index, EXTREME):
            try:
                graph = qc.parse(text, data)
                verify(graph)
                again = print_graph(graph)
                assert print_graph(qc.parse(again, graph_data(graph))) == again, what
                for target in ("reference", "native"):
                    qc.compile(graph, None if graph.stage == "float" else "keep", target=target)
            except QCompilerError as error:
                assert "do not fit: " not in str(error), what  # an internal error of Python's, caught by the verifier
