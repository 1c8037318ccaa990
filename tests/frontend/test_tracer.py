"""The tracer: inputs, names, source lines, symbolic sizes and guards, structures, inlining, and what it refuses."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.dims import Dim
from qcompiler.errors import InputError, ParseError, QCompilerError, TraceError
from qcompiler.frontend import functional as F
from qcompiler.frontend import nn
from qcompiler.frontend.tracer import inline, trace
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.notes import Guard, Remark, parse_note
from qcompiler.signature import check_guards, guards, structure_of
from qcompiler.structure import restore_outputs
from qcompiler.types import DType, QuantParams, TensorType, tensor

X = np.arange(12, dtype=np.float32).reshape(3, 4)
W = np.linspace(-1, 1, 8).reshape(4, 2)


def affine(x):
    return np.maximum(x @ W + 1.0, 0)


def test_graph_of_a_function() -> None:
    graph = trace(affine, (X,))
    assert graph.name == "affine" and graph.stage == "float"
    assert [value.name for value in graph.inputs] == ["x"]
    assert [node.op for node in graph.nodes] == ["linear", "add", "maximum"]
    assert list(graph.consts) == ["W.T", "c", "c_1"]
    np.testing.assert_allclose(run(graph, [X])[0], affine(X), rtol=1e-6)


def test_source_lines_are_the_users() -> None:
    graph = trace(affine, (X,))
    lines = Path(__file__).read_text().splitlines()
    for node in graph.nodes:
        assert node.loc.file.endswith("test_tracer.py") and not node.loc.file.startswith("/")
        assert "np.maximum" in lines[node.loc.line - 1]


def test_float64_becomes_f32_with_a_note() -> None:
    table = np.ones((4,))
    graph = trace(lambda x: x + table, (np.zeros((3, 4)),))
    assert graph.inputs[0].type.dtype is DType.F32
    assert graph.notes == [Remark("input x: float64 became f32"), Remark("constant @table: float64 became f32")]


def test_one_array_is_one_constant_unless_it_changed() -> None:
    table = np.ones(4, np.float32)

    def model(x):
        y = x * table + table
        table[0] = 5
        return y - table

    graph = trace(model, (X,))
    assert list(graph.consts) == ["table", "table_1"]
    assert graph.consts["table"].data[0] == 1 and graph.consts["table_1"].data[0] == 5
    np.testing.assert_array_equal(run(graph, [X])[0], X * [1, 1, 1, 1] + 1 - [5, 1, 1, 1])


def test_python_numbers_are_shared_constants() -> None:
    graph = trace(lambda x: (x * 2 + 2) * 2.0, (X,))
    assert [const.type for const in graph.consts.values()] == [TensorType(DType.F32, ())]


def test_inputs_by_name_and_input_names() -> None:
    def model(a, b, scale=2.0):
        return a * scale - b

    by_name = trace(model, {"b": X, "a": X})
    assert [value.name for value in by_name.inputs] == ["b", "a"]
    np.testing.assert_array_equal(run(by_name, {"b": X, "a": 2 * X})[0], 4 * X - X)
    renamed = trace(model, (X, X), input_names=["left", "right"], name="difference")
    assert [value.name for value in renamed.inputs] == ["left", "right"] and renamed.name == "difference"
    types = trace(model, (tensor("f32", "B", 4), tensor("f32", "B", 4)))
    assert types.outputs[0].type.shape == (Dim.name("B"), 4)
    partial = trace(functools.partial(model, scale=3.0), (X, X))
    np.testing.assert_array_equal(run(partial, [X, X])[0], 2 * X)
    variadic = trace(lambda *xs: xs[0] + xs[1], (X, X))
    assert [value.name for value in variadic.inputs] == ["xs_0", "xs_1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"example_inputs": None}, "needs example inputs"),
        ({"example_inputs": (X, X)}, "more example inputs"),
        ({"example_inputs": {"z": X}}, "no parameter 'z'"),
        ({"example_inputs": ()}, "missing"),
        ({"example_inputs": ("text",)}, "no array"),
        ({"example_inputs": (np.array(["a"]),)}, "array of numbers"),
        ({"example_inputs": (X,), "input_names": ["a", "b"]}, "one different name"),
        ({"example_inputs": (X,), "dynamic": {"y": {0: "B"}}}, "no input 'y'"),
        ({"example_inputs": (X,), "dynamic": {"x": {5: "B"}}}, "no axis 5"),
        ({"example_inputs": (X,), "dynamic": {"x": {0: 3}}}, "size name"),
        ({"example_inputs": (X,), "dynamic": {"x": "B"}}, "axes of 'x'"),
        ({"example_inputs": (X,), "dynamic": {"x": {0: "B", 1: "B"}}}, "two sizes"),
        ({"example_inputs": (X,), "dynamic": {"x": {0: "2*B"}}}, "does not fit"),
    ],
)
def test_bad_calls(arguments: dict, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(lambda x: x + 1, **arguments)


# -- symbolic sizes


def test_sizes_stay_symbolic() -> None:
    def model(x, y):
        batch, width = x.shape
        z = np.concatenate([x.reshape(batch * width), y.reshape(y.shape[0] * 4)])
        return z.reshape(-1, 2), x.mean(axis=0) * 2

    graph = trace(model, (X, X[:2]), dynamic={"x": {0: "B"}, 1: {0: "N"}})
    b, n = Dim.name("B"), Dim.name("N")
    assert graph.outputs[0].type.shape == (2 * b + 2 * n, 2)
    assert not guards(graph)
    for rows in (1, 3, 7):
        x, y = np.ones((rows, 4), np.float32), np.zeros((2 * rows, 4), np.float32)
        first, second = run(graph, [x, y])
        np.testing.assert_array_equal(first, np.concatenate([x.ravel(), y.ravel()]).reshape(-1, 2))
        np.testing.assert_array_equal(second, 2 * x.mean(0))


def test_a_decision_on_a_size_becomes_a_guard() -> None:
    def model(x):
        if x.shape[0] >= 2:
            x = x * 2
        if x.shape[0] * 2 > 100:
            x = x * 0
        assert x.shape[0] == x.shape[0] and x.shape[0] < x.shape[0] + 1
        return x

    graph = trace(model, (X,), dynamic={"x": {0: "B"}})
    assert [note.text for note in graph.notes if isinstance(note, Guard)] == ["guard: B >= 2", "guard: 2*B <= 100"]
    check_guards(graph, {"B": 50})
    with pytest.raises(InputError, match=r"B >= 2[\s\S]*B=1"):
        check_guards(graph, {"B": 1})
    with pytest.raises(InputError, match=r"2\*B <= 100"):
        check_guards(graph, {"B": 51})


def test_a_call_whose_sizes_take_another_path_is_refused(tmp_path: Path) -> None:
    def model(x):
        return x * 2 if x.shape[0] >= 2 else x

    for target in ("reference", "native"):
        compiled = qc.compile(model, None, (X,), dynamic={"x": {0: "B"}}, target=target)
        compiled.save(tmp_path / "m.qc.safetensors")
        for each in (compiled, qc.load(tmp_path / "m.qc.safetensors", target=target)):
            assert np.array_equal(each(X[:2]), 2 * X[:2])
            with pytest.raises(InputError, match=r"B >= 2[\s\S]*B=1"):
                each(X[:1])
    with pytest.raises(InputError, match=r"B >= 2"):
        qc.interpret(compiled.graph, [X[:1]])


def test_using_a_size_as_a_number_bakes_it() -> None:
    def model(x):
        for i in range(x.shape[0]):
            x = x + i
        return x / x.shape[0] ** 0.5

    graph = trace(model, (X,), dynamic={"x": {0: "B"}})
    assert [str(guard) for guard in guards(graph)] == ["B == 3"]


def test_a_size_without_example_cannot_decide() -> None:
    with pytest.raises(TraceError, match="B has no example"):
        trace(lambda x: x if x.shape[0] > 1 else x + 1, (tensor("f32", "B", 4),))


@pytest.mark.parametrize("text", ["B >= 2", "2*B <= 100", "B != S", "(S)//2 == 4", "B*S < 7"])
def test_guards_parse_back(text: str) -> None:
    assert str(Guard.parse(text)) == text
    assert Guard.parse(text).holds({"B": 5, "S": 8}) != Guard.parse(text).negated().holds({"B": 5, "S": 8})


@pytest.mark.parametrize("text", ["", "B", "B >= ", "B >= 2 >= 3", "B = 2", ">= 2", "B >= 2;"])
def test_malformed_guards(text: str) -> None:
    with pytest.raises(ParseError):
        Guard.parse(text)


def test_torch_style_size_calls() -> None:
    graph = trace(lambda x: x.view(x.size(0), -1, 2).permute(0, 2, 1) * float(x.size == 12), (X,))
    assert graph.outputs[0].type.shape == (3, 2, 2)
    dynamic = trace(lambda x: x.view(x.size(0), 2, 2), (X,), dynamic={"x": {0: "B"}})
    assert dynamic.outputs[0].type.shape == (Dim.name("B"), 2, 2) and not guards(dynamic)


# -- results


def test_structures() -> None:
    def model(x):
        y = x + 1
        return {"a": y, "rest": (x, [y, y * 2], {"k": 3, "none": None, "s": "t"})}

    graph = trace(model, (X,))
    assert graph.output_names == ["a", "rest.0", "rest.1.0", "rest.1.1"]
    got = restore_outputs(structure_of(graph), run(graph, [X]))
    assert list(got) == ["a", "rest"] and isinstance(got["rest"], tuple) and isinstance(got["rest"][1], list)
    assert got["rest"][2] == {"k": 3, "none": None, "s": "t"}
    np.testing.assert_array_equal(got["rest"][1][1], (X + 1) * 2)


def test_plain_results_have_no_structure_note() -> None:
    assert trace(lambda x: x + 1, (X,)).notes == []
    pair = trace(lambda x: (x + 1, x), (X,))
    assert structure_of(pair) == {"tuple": [0, 1]} and pair.output_names == ["add", "x"]
    assert structure_of(trace(lambda x: [x + 1], (X,))) == {"list": [0]}


@pytest.mark.parametrize(
    "note",
    [
        "{",
        '{"tuple": [0, 9]}',
        '{"tuple": 3}',
        '{"set": [0]}',
        "true",
        '{"tuple": [0], "list": []}',
        '{"tuple": [' * 100 + "0" + "]}" * 100,
        "-1",
    ],
)
def test_a_damaged_structure_is_an_error(note: str) -> None:
    graph = trace(lambda x: x + 1, (X,))
    with pytest.raises(ParseError):
        graph.notes.append(parse_note(f"structure: {note}"))
        structure_of(graph)


@pytest.mark.parametrize("returned", [lambda x: None, lambda x: 3, lambda x: {1: x}, lambda x: object()])
def test_results_that_are_no_arrays(returned) -> None:
    with pytest.raises(TraceError):
        trace(returned, (X,))


def test_inputs_and_constants_may_be_results() -> None:
    graph = trace(lambda x: (x, W), (X,))
    first, second = run(graph, [X])
    np.testing.assert_array_equal(first, X)
    np.testing.assert_array_equal(second, W.astype(np.float32))


# -- data-dependent control flow


def positive(x):
    if x.sum() > 0:
        return x
    return -x


def looping(x):
    while (x < 3).all():
        x = x + 1  # noqa: E701
    return x


@pytest.mark.parametrize(
    ("model", "condition"),
    [
        (positive, "x.sum() > 0"),
        (looping, "(x < 3).all()"),
        (lambda x: x if x[0, 0] else -x, "x[0, 0]"),
    ],
)
def test_conditions_on_data(model, condition: str) -> None:
    with pytest.raises(TraceError) as caught:
        trace(model, (X,))
    text = str(caught.value)
    assert "test_tracer.py:" in text and f"got:      {condition}" in text and "np.where" in text


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: float(x.mean()), r"float\(\)"),
        (lambda x: int(x[0, 0]), r"int\(\)"),
        (lambda x: range(x[0, 0]), r"int\(\)"),
        (lambda x: [row for row in x], "iteration"),
        (lambda x: 3 in x, "`in`"),
        (lambda x: x.item(), r"item\(\)"),
        (lambda x: x.tolist(), r"tolist\(\)"),
        (lambda x: np.asarray(x), "conversion to a numpy array"),
        (lambda x: x.__setitem__(0, 1), "assignment to elements"),
        (lambda x: x and x, "condition"),
        (lambda x: max(x, x + 1), "condition"),
    ],
)
def test_uses_of_data(model, message: str) -> None:
    with pytest.raises(TraceError, match=message) as caught:
        trace(model, (X,))
    assert "test_tracer.py:" in str(caught.value)


def test_augmented_assignment_rebinds() -> None:
    def model(x):
        y = x
        y += 1
        y *= 2
        return x - y

    np.testing.assert_array_equal(run(trace(model, (X,)), [X])[0], X - (X + 1) * 2)


def test_values_do_not_escape() -> None:
    kept = []

    def model(x):
        kept.append(x)
        return x + 1

    trace(model, (X,))
    with pytest.raises(TraceError, match="outside of its trace"):
        kept[0] + 1
    with pytest.raises(TraceError, match="another trace"):
        trace(lambda x: x + kept[0], (X,))
    with pytest.raises(TraceError, match="another trace"):
        trace(lambda x: kept[0], (X,))


def test_a_failed_trace_leaves_nothing_behind() -> None:
    with pytest.raises(TraceError):
        trace(positive, (X,))
    np.testing.assert_array_equal(F.relu(X - 5), np.maximum(X - 5, 0))
    assert len(trace(affine, (X,))) == 3


def test_shape_errors_name_the_line() -> None:
    with pytest.raises(QCompilerError, match=r"matmul at .*test_tracer\.py:\d+"):
        trace(lambda x: x @ x, (X,))


def test_results_do_not_depend_on_the_run() -> None:
    def describe(graph: Graph) -> list[str]:
        return [f"{value.name} {value.type.dtype} {value.type.shape}" for value in graph.values()] + graph.notes

    assert describe(trace(affine, (X,))) == describe(trace(affine, (X,)))


# -- inlining


def integer_graph() -> Graph:
    """A graph of quantize, linear in int8, and dequantize, with a symbolic batch size."""
    graph = Graph("inner", "integer")
    b = Dim.name("B")
    x = graph.add_input("x", TensorType(DType.F32, (b, 4)))
    params = QuantParams.per_tensor(0.1, 100, DType.U8)
    quantized = graph.create("quantize", [x], types=TensorType(DType.U8, (b, 4), params), names="xq").result
    weight = graph.add_const(
        "w",
        np.arange(-4, 4, dtype=np.int8).reshape(2, 4),
        TensorType(DType.I8, (2, 4), QuantParams.per_channel([0.5, 0.25], 0, 0, DType.I8)),
    )
    out = TensorType(DType.U8, (b, 2), QuantParams.per_tensor(0.5, 3, DType.U8))
    y = graph.create("linear", [quantized, weight], types=out, names="y").result
    graph.set_outputs([graph.create("dequantize", [y], names="o").result])
    return graph


class Compiled:
    """Offers to a trace what a compiled model offers."""

    def __init__(self, graph: Graph) -> None:
        self.__qc_graph__ = graph

    def __call__(self, *args, **kwargs):
        for item in (*args, *kwargs.values()):
            if hasattr(item, "__qc_inline__"):
                return item.__qc_inline__(self, args, kwargs)
        return run(self.__qc_graph__, list(args))[0]


def test_quantized_graphs_inline_with_the_same_bits() -> None:
    inner = integer_graph()
    model = Compiled(inner)
    graph = trace(lambda x: model(x + 1) * 2 + model(x=x), (X,), dynamic={"x": {0: "N"}})
    assert graph.stage == "integer"
    ops = [node.op for node in graph.nodes]
    assert ops.count("linear") == 2 and ops.count("quantize") == 2
    assert [const.name for const in graph.consts.values() if const.type.is_quantized] == ["w"]
    assert all(node.results[0].type.shape[0] == Dim.name("N") for node in graph.nodes)
    for rows in (1, 5):
        x = np.linspace(-3, 4, rows * 4, dtype=np.float32).reshape(rows, 4)
        expected = run(inner, [x + 1])[0] * 2 + run(inner, [x])[0]
        np.testing.assert_array_equal(run(graph, [x])[0], expected)


def test_inlined_sizes_take_the_callers() -> None:
    def tail(x):
        return x.reshape(x.shape[0] * 2, 2) * (2.0 if x.shape[0] >= 2 else 1.0)

    inner = trace(tail, (X,), dynamic={"x": {0: "B"}})
    fixed = trace(lambda x: inline(inner, x), (X,))
    assert fixed.outputs[0].type.shape == (6, 2) and not guards(fixed)
    symbolic = trace(lambda x: inline(inner, x), (X,), dynamic={"x": {0: "M"}})
    assert symbolic.outputs[0].type.shape == (2 * Dim.name("M"), 2)
    assert [str(guard) for guard in guards(symbolic)] == ["M >= 2"]
    with pytest.raises(TraceError, match="other sizes"):
        trace(lambda x: inline(inner, x), (X[:1],))
    with pytest.raises(TraceError, match="does not fit"):
        trace(lambda x: inline(inner, x.T), (X,))
    with pytest.raises(TraceError, match="arguments"):
        trace(lambda x: inline(inner, x, x), (X,))
    with pytest.raises(TraceError, match="needs a trace"):
        inline(inner, X)


def test_modules_inside_functions() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 2)
    graph = trace(lambda x: second(F.relu(first(x))), (X,))
    assert "weight" in graph.consts and len(graph.consts) == 4
    np.testing.assert_array_equal(run(graph, [X])[0], second(F.relu(first(X))))


def test_a_graph_is_its_own_trace() -> None:
    graph = trace(affine, (X,))
    copy = trace(graph)
    assert copy is not graph and [n.op for n in copy.nodes] == [n.op for n in graph.nodes]
