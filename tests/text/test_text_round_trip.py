"""parse(print(g)) equals g and print(parse(t)) equals t: the demo at each stage, every op, generated and odd graphs."""

from __future__ import annotations

import math
import pathlib
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcompiler.dims import Dim
from qcompiler.errors import VerifyError
from qcompiler.interpreter import run
from qcompiler.ir import Graph, Loc, Module, Origin
from qcompiler.notes import Remark
from qcompiler.opdef import all_ops
from qcompiler.text.compare import first_difference, structurally_equal
from qcompiler.text.parser import parse
from qcompiler.text.printer import (
    annotate,
    format_attr,
    format_name,
    format_scale,
    format_type,
    graph_data,
    module_data,
    print_graph,
    print_module,
)
from qcompiler.types import DType, Layout, QuantParams, TensorType, tensor
from qcompiler.verify import verify
from tests.sample_graphs import CASE_IDS, CASES, graphs, sample_graph

GOLDEN_ARTIFACTS = sorted((pathlib.Path(__file__).parents[1] / "golden").glob("*.qc.safetensors"))


def check_round_trip(graph: Graph) -> Graph:
    text = print_graph(graph)
    again = parse(text, graph_data(graph))
    assert isinstance(again, Graph)
    assert first_difference(graph, again) is None
    assert same_in_memory(graph, again)
    assert print_graph(again) == text
    assert print_graph(parse(text, "zeros")).count("\n") == text.count("\n")
    verify(again)
    return again


def same_in_memory(a: Graph, b: Graph) -> bool:
    """Compare objects and not text: what the printer leaves out on both sides shows here."""
    key = {id(value): index for index, value in enumerate(a.values())}
    key.update({id(value): index for index, value in enumerate(b.values())})
    for one, other in zip(a.values(), b.values(), strict=True):
        assert (one.name, one.type, one.is_const) == (other.name, other.type, other.is_const)
    for one, other in zip(a.node_list, b.node_list, strict=True):
        assert (one.op, one.loc, one.origin) == (other.op, other.loc, other.origin)
        assert repr(dict(one.attrs)) == repr(dict(other.attrs))
        left, right = ([None if v is None else key[id(v)] for v in n.operands] for n in (one, other))
        assert left == right
    assert [key[id(v)] for v in a.outputs] == [key[id(v)] for v in b.outputs]
    assert (a.name, a.stage, a.output_names, a.notes) == (b.name, b.stage, b.output_names, b.notes)
    return True


@pytest.mark.parametrize("stage", ["float", "fused", "observed", "qdq", "integer"])
def test_demo_at_each_stage(demo_stages, demo_images, stage):
    again = check_round_trip(demo_stages[stage])
    for one, other in zip(run(demo_stages[stage], [demo_images]), run(again, [demo_images])):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_every_ops_samples(case):
    check_round_trip(sample_graph(*case))


def test_text_of_every_op(golden):
    module = Module({}, "relu_0")
    for op, index in CASES:
        if index == 0:
            module.graphs[f"{op.name}_0"] = sample_graph(op, 0)
    golden(print_module(module), "qir")
    again = parse(print_module(module), module_data(module))
    assert isinstance(again, Module) and structurally_equal(module, again)


def test_every_op_has_a_round_trip():
    covered = {op.name for op, _ in CASES}
    assert {op.name for op in all_ops()} - covered == {"lookup", "observe"}  # in the demo's stages and below


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graph=graphs())
def test_generated_graphs(graph):
    check_round_trip(graph)


def test_lookup():
    graph = Graph("g", "integer")
    quant = QuantParams.per_tensor(0.5, -3, DType.I8)
    x = graph.add_input("x", tensor("i8", 4).quantized(DType.I8, quant))
    table = graph.add_const("table", np.arange(256, dtype=np.uint8))
    out = TensorType(DType.U8, (4,), QuantParams.per_tensor(0.25, 1, DType.U8))
    graph.set_outputs([graph.create("lookup", [x, table], types=out).result])
    check_round_trip(graph)


def test_layouts():
    graph = Graph("g", "lowered")
    quant = QuantParams.per_tensor(0.5, 3, DType.U8)
    for index, layout in enumerate(
        [Layout("channels_last", 4, ((1, 1), (2, 0))), Layout("channels_last", 8), Layout()]
    ):
        graph.add_input(f"x{index}", TensorType(DType.U8, (1, 3, 5, 5), quant, layout))
    graph.add_input("f", TensorType(DType.F32, (1, 3, 5, 5), None, Layout("channels_last", 4)))
    graph.set_outputs(graph.inputs)
    check_round_trip(graph)


@pytest.mark.parametrize(
    "size",
    [
        Dim.name("B") * 2,
        (Dim.name("W") + 1) // 2,
        Dim.name("B") * Dim.name("W") - 3,
        4 * (Dim.name("B") // 3) + 1,
        ((Dim.name("B") + 2) // 2 + 1) // 2,
        Dim.name("B") * Dim.name("B"),
    ],
)
def test_symbolic_sizes(size):
    graph = Graph()
    graph.add_input("x", tensor("f32", "B", "W"))
    graph.add_input("y", TensorType(DType.F32, (size, 7)))
    graph.set_outputs(graph.inputs)
    assert check_round_trip(graph).inputs[1].type.shape[0] == size


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "%",
        "@",
        '"',
        "\\",
        "//x",
        "# x",
        "a\nb",
        "\t",
        "ü",
        "x:y",
        "0",
        "9.5",
        ".x",
        "none",
        "return",
        "graph",
        "x" * 1024,
        "{",
        "a,b",
        "\u2028",
        "\x7f",
        "😀",
    ],
)
def test_odd_names(name):
    graph = Graph(name)
    x = graph.add_input(name, tensor("f32", 2))
    c = graph.add_const(f"{name}c"[:1024] if len(name) < 1000 else "c", np.ones(2, np.float32))
    node = graph.create(
        "add",
        [x, c],
        names=f"{name}r" if len(name) < 1000 else "r",
        loc=Loc(name, 3),
        origin=[Origin(name, name), Origin("", "")],
    )
    graph.notes += map(Remark, [name, "", name * 2])
    graph.set_outputs([node.result, x], [name, "0"])
    check_round_trip(graph)


def test_outputs_may_repeat_and_be_inputs_or_constants():
    graph = Graph()
    x = graph.add_input("x", tensor("f32", 2))
    c = graph.add_const("c", np.ones(2, np.float32))
    graph.set_outputs([x, c, x], ["x", "y", "y"])
    check_round_trip(graph)


def test_absent_operands_print_as_none_and_trailing_ones_not_at_all():
    graph = Graph()
    x = graph.add_input("x", tensor("f32", 2, 3))
    w = graph.add_const("w", np.ones((4, 3), np.float32))
    residual = graph.add_input("r", tensor("f32", 2, 4))
    with_residual = graph.create("linear", [x, w, None, residual], names="a").result
    plain = graph.create("linear", [x, w, None, None], names="b").result
    graph.set_outputs([with_residual, plain])
    text = print_graph(graph)
    assert "%a = linear(%x, @w, none, %r) :" in text and "%b = linear(%x, @w) :" in text
    check_round_trip(graph)
    graph.set_operand(graph.node_list[0], 3, None)
    verify(graph)
    assert "%a = linear(%x, @w) :" in print_graph(graph)
    assert first_difference(graph, parse(print_graph(graph), graph_data(graph))) is None


def quantized_const(scales: list[float], points: list[int] | int, axis: int = 0) -> TensorType:
    return TensorType(DType.I8, (len(scales), 2), QuantParams.per_channel(scales, points, axis, DType.I8))


def test_equal_parameter_arrays_share_a_name_and_taken_names_are_avoided():
    graph = Graph("g", "integer")
    x = graph.add_input("x", tensor("f32", 1))
    for name in ("a", "b"):
        graph.add_const(name, np.zeros((2, 2), np.int8), quantized_const([0.5, 0.25], [1, -2]))
    graph.add_const("c", np.zeros((2, 2), np.int8), quantized_const([0.5, 0.125], 0))
    graph.add_const("a.scale", np.ones(3, np.float32))
    graph.set_outputs([x])
    text = print_graph(graph)
    assert set(graph_data(graph)) == {"a", "b", "c", "a.scale", "a.scale_1", "a.zero_point", "c.scale"}
    assert text.count("scale=@a.scale_1") == 2 and text.count("zero_point=@a.zero_point") == 2
    check_round_trip(graph)


def test_zero_scales_differ_from_negative_zero_points():
    graph = Graph("g", "integer")
    x = graph.add_input("x", tensor("f32", 1))
    graph.add_const("one", np.zeros((1, 2), np.int8), quantized_const([0.5], -4))
    graph.set_outputs([x])
    text = print_graph(graph)
    assert "axis=0, scale=@one.scale, zero_point=-4" in text
    check_round_trip(graph)


@settings(max_examples=300, deadline=None)
@given(st.floats(min_value=2.0**-60, max_value=2.0**60, width=32))
def test_scales_print_shortest_and_read_back_exactly(scale):
    text = format_scale(scale)
    assert np.float32(float(text)) == np.float32(scale)
    assert len(text) <= len(repr(scale))


@pytest.mark.parametrize(
    "scale, text",
    [
        (0.1, "0.1"),
        (1.0, "1.0"),
        (2.0**-60, "8.6736174e-19"),
        (2.0**60, "1.1529215e+18"),
        (1000001.0, "1000001.0"),
        (0.007843138, "0.007843138"),
    ],
)
def test_scales_by_name(scale, text):
    assert format_scale(scale) == text


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "none"),
        (True, "true"),
        (1, "1"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (1e300, "1e+300"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        ('a"\n', '"a\\"\\n"'),
        ((), "()"),
        ((1,), "(1,)"),
        ((1, (2.0, "x")), '(1, (2.0, "x"))'),
        (DType.I8, "i8"),
        (-(2**63), "-9223372036854775808"),
        (5e-324, "5e-324"),
    ],
)
def test_attr_values(value, text):
    assert format_attr(value) == text


@pytest.mark.parametrize("low", [-math.inf, -0.0, 0.1, 1e-40, 3.0, -1e300, 5e-324])
def test_float_attrs_read_back_to_the_bit(low):
    graph = Graph()
    x = graph.add_input("x", tensor("f32", 3))
    graph.set_outputs([graph.create("hardtanh", [x], {"min_value": low, "max_value": math.inf}).result])
    again = parse(print_graph(graph), graph_data(graph)).node_list[0].attrs["min_value"]
    assert (again, math.copysign(1, again)) == (low, math.copysign(1, low))


def test_types_in_messages_are_short():
    many = TensorType(DType.I8, (9, 2), QuantParams.per_channel([0.5] * 9, list(range(9)), 0, DType.I8, -127, 127))
    assert format_type(many) == "i8[9,2]{axis=0, scale=(0.5, 0.5, 0.5, ...), zero_point=(...), qmin=-127, qmax=127}"
    assert str(tensor("f32", "B", 3)) == "f32[B,3]" and str(TensorType(DType.BOOL, ())) == "bool[]"
    assert format_name("fc.weight") == "fc.weight" and format_name("fc weight") == '"fc weight"'


def test_modules():
    one, two = sample_graph(*CASES[0]), sample_graph(*CASES[7])
    one.name, two.name = "one", "odd name"
    module = Module({"one": one, "odd name": two}, "odd name")
    text = print_module(module)
    again = parse(text, module_data(module))
    assert isinstance(again, Module) and again.entry == "odd name" and list(again.graphs) == ["one", "odd name"]
    assert structurally_equal(module, again) and print_module(again) == text
    assert isinstance(
        parse(print_module(Module({"one": one}, "one")), module_data(Module({"one": one}, "one"))), Module
    )


# -- what counts as a difference


def test_differences_are_found():
    graph = sample_graph(*CASES[0])
    for change in (
        lambda g: g.notes.append(Remark("x")),
        lambda g: g.rename(g.node_list[-1].result, "z"),
        lambda g: g.set_outputs(g.outputs, ["other"]),
    ):
        other = graph.clone()
        change(other)
        assert not structurally_equal(graph, other) and "line" in first_difference(graph, other)
    renamed = graph.clone()
    renamed.set_outputs(renamed.outputs, ["same"])
    graph.set_outputs(graph.outputs, ["same"])
    renamed.rename(renamed.inputs[0], "another")
    assert structurally_equal(graph, renamed, names=False) and not structurally_equal(graph, renamed)


def test_a_changed_bit_of_data_is_a_difference():
    def made(value: float) -> Graph:
        graph = Graph()
        c = graph.add_const("c", np.array([value, 0.0], np.float32))
        graph.set_outputs([c])
        return graph

    assert first_difference(made(1.0), made(1.0)) is None
    assert first_difference(made(0.0), made(-0.0)) == "@c has other data"
    assert structurally_equal(made(0.0), made(-0.0), data=False)


# -- text that people write


def test_comments_spaces_and_inferred_types():
    text = """// a file
qcompiler 1   # version
graph g ( %x : f32 [ 2 , 3 ] ) stage = float { return %x }"""
    with pytest.raises(Exception, match="unexpected"):
        parse(text)  # a type is one word: no space before its bracket
    text = text.replace("f32 [ 2 , 3 ]", "f32[ 2 , 3 ]").replace(
        "{ return %x }", '{\n%y=relu(%x)  %z = add(%y,%x)\nreturn %z,%y as "y" }'
    )
    graph = parse(text)
    assert str(graph.outputs[0].type) == "f32[2,3]" and graph.output_names == ["z", "y"]
    check_round_trip(graph)


def test_scales_may_be_written_as_numbers():
    text = """qcompiler 1
graph g(%x: f32[1]) stage=integer {
  const @w : i8[2,2]{axis=0, scale=(0.5, 1), zero_point=(1, 2)}
  const @v : i8[2,2]{axis=1, scale=(0.5, 0.25), zero_point=3}
  return %x
}
"""
    graph = parse(text, "zeros")
    assert graph.consts["w"].type.quant == QuantParams((0.5, 1.0), (1, 2), 0, -128, 127)
    assert graph.consts["v"].type.quant == QuantParams((0.5, 0.25), (3, 3), 1, -128, 127)
    check_round_trip(graph)


@pytest.mark.parametrize("path", GOLDEN_ARTIFACTS, ids=lambda path: path.name)
def test_golden_artifacts(path):
    from qcompiler.artifact import load_graph

    check_round_trip(load_graph(path))


# -- messages


def test_annotate_works_on_broken_graphs():
    graph = sample_graph(*CASES[0])
    node = graph.node_list[0]
    node.op = "no_such_op"
    node._attrs = {"a": object()}
    shown = annotate(graph, node, "here")
    assert "^ here" in shown


def test_verify_shows_the_line():
    nodes = " %a = relu(%x)\n %b = relu(%a)\n %c = relu(%b)\n"
    graph = parse(f"qcompiler 1\ngraph g(%x: f32[2]) stage=float {{\n{nodes} return %c\n}}\n")
    graph.set_type(graph.value("b"), tensor("f32", 3))
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    lines = str(caught.value.where).split("\n")
    assert [line.strip().split(" ")[0] for line in lines[1:]] == ["%a", "%b", "^^", "%c"]


# -- size


def test_a_long_chain_needs_no_recursion_and_little_time():
    graph = Graph()
    value = graph.add_input("x", tensor("f32", 2))
    for _ in range(20_000):
        value = graph.create("relu", [value]).result
    graph.set_outputs([value])
    start = time.monotonic()
    check_round_trip(graph)
    assert time.monotonic() - start < 120  # quadratic behaviour would take hours
