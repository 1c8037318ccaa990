"""The verifier: a graph that is legal, and for each rule a graph that breaks this rule and no earlier one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from qcompiler.dims import Dim
from qcompiler.errors import VerifyError
from qcompiler.ir import Const, Graph, Node, Use, Value
from qcompiler.stages import STAGES
from qcompiler.types import DType, Layout, QuantParams, TensorType, tensor
from qcompiler.verify import MAX_NODES, verify

U8 = QuantParams.per_tensor(0.5, 128, DType.U8)
WEIGHT = QuantParams.per_channel([0.5, 0.25, 0.125], 0, 0, DType.I8, -127, 127)
BIAS = QuantParams.per_channel([0.25, 0.125, 0.0625], 0, 0, DType.I32)
X = TensorType(DType.U8, (2, 4), U8)
Y = TensorType(DType.U8, (2, 3), U8)


def float_graph() -> Graph:
    """The graph y = relu(x + c)."""
    graph = Graph("g")
    x = graph.add_input("x", tensor("f32", "B", 2))
    total = graph.create("add", [x, graph.add_const("c", np.ones(2, np.float32))], names="total")
    graph.set_outputs([graph.create("relu", [total.result], names="y").result])
    return graph


def integer_graph(
    *, x: TensorType = X, weight: TensorType | None = None, bias: TensorType | None = None, out: TensorType = Y
) -> Graph:
    """The graph o = dequantize(linear(quantize(x), w, b))."""
    graph = Graph("g", "integer")
    source = graph.add_input("x", tensor("f32", 2, 4))
    quantized = graph.create("quantize", [source], types=x, names="xq")
    weight = weight or TensorType(DType.I8, (3, 4), WEIGHT)
    bias = bias or TensorType(DType.I32, (3,), BIAS)
    w = graph.add_const("w", np.zeros(weight.sizes, weight.dtype.numpy), weight)
    b = graph.add_const("b", np.zeros(bias.sizes, bias.dtype.numpy), bias)
    y = graph.create("linear", [quantized.result, w, b], types=out, names="y")
    graph.set_outputs([graph.create("dequantize", [y.result], types=tensor("f32", *out.sizes), names="o").result])
    return graph


def one(
    op: str, operand: TensorType, out: TensorType, *more: TensorType, stage: str = "integer", **attrs: int
) -> Graph:
    """A graph of one node over inputs of these types."""
    graph = Graph("g", stage)
    inputs = [graph.add_input(f"x{index}", type) for index, type in enumerate((operand, *more))]
    graph.set_outputs([graph.create(op, inputs, attrs, types=out, names="y").result])
    return graph


@pytest.mark.parametrize("make", [float_graph, integer_graph])
def test_legal_graphs(make: Callable[[], Graph]) -> None:
    graph = make()
    before = str(graph)
    verify(graph)
    assert str(graph) == before


# -- structure

Change = Callable[[Graph], object]


def _constant(graph: Graph, **fields: object) -> None:
    const = graph.consts["c"]
    for name, value in fields.items():
        setattr(const, name, value)


def _insert(graph: Graph, **fields: object) -> None:
    node = graph.node_list[0]
    for name, value in fields.items():
        setattr(node, name, value)


def _stray_use(graph: Graph) -> None:
    value, node = graph.inputs[0], graph.node_list[1]
    value._uses[(id(node), 5)] = Use(node, 5)


STRUCTURE: dict[str, tuple[Change, str]] = {
    "unknown stage": (lambda g: setattr(g, "stage", "flaot"), "unknown stage 'flaot'"),
    "too many nodes": (lambda g: setattr(g, "_count", MAX_NODES + 1), "too many nodes"),
    "count": (lambda g: setattr(g, "_count", 3), "list of nodes is broken"),
    "last": (lambda g: setattr(g, "_last", g.node_list[0]), "list of nodes is broken"),
    "previous": (lambda g: setattr(g.node_list[1], "_prev", None), "list of nodes is broken"),
    "foreign node": (lambda g: setattr(g.node_list[1], "graph", Graph()), "list of nodes is broken"),
    "loop": (lambda g: setattr(g.node_list[1], "_next", g.node_list[0]), "list of nodes is broken"),
    "empty name": (lambda g: setattr(g.inputs[0], "name", ""), "needs a name and a type"),
    "no type": (lambda g: setattr(g.inputs[0], "type", None), "needs a name and a type"),
    "name twice": (lambda g: setattr(g.inputs[0], "name", "y"), "'y' is used twice"),
    "long name": (lambda g: setattr(g.inputs[0], "name", "x" * 1025), "1024 bytes"),
    "name is no text": (lambda g: setattr(g.inputs[0], "name", "\ud800"), "not valid text"),
    "input with a producer": (lambda g: setattr(g.inputs[0], "producer", g.node_list[0]), "not a plain value"),
    "constant under another name": (lambda g: g.consts.update(d=g.consts.pop("c")), "not under its own name"),
    "data of another shape": (lambda g: _constant(g, data=np.ones(3, np.float32)), "data of @c does not fit"),
    "data of another dtype": (lambda g: _constant(g, data=np.ones(2, np.int8)), "data of @c does not fit"),
    "writable data": (lambda g: _constant(g, data=np.ones(2, np.float32)), "writable"),
    "no results": (lambda g: _insert(g, results=()), "without results"),
    "wrong index": (lambda g: setattr(g.node_list[0].result, "index", 1), "is result 0"),
    "wrong producer": (lambda g: setattr(g.node_list[0].result, "producer", g.node_list[1]), "is result 0"),
    "stale names": (lambda g: g._names.add("ghost"), "'ghost'"),
    "graph name": (lambda g: setattr(g, "name", "g" * 1025), "graph's name"),
    "note": (lambda g: g.notes.append("text"), "notes are text"),
    "use before definition": (lambda g: g.set_operand(g.node_list[0], 1, g.node_list[1].result), "not defined before"),
    "foreign operand": (lambda g: g.set_operand(g.node_list[0], 1, Value("z", tensor("f32", 2))), "not defined before"),
    "missing use": (lambda g: g.inputs[0]._uses.clear(), "uses of %x are stale"),
    "stray use": (_stray_use, "uses of %x are stale"),
    "no outputs": (lambda g: g.set_outputs([]), "returns something"),
    "foreign output": (lambda g: g.set_outputs([Value("z", tensor("f32", 2))]), "not defined in the graph"),
    "names of outputs": (lambda g: g.output_names.append("more"), "one name for each output"),
    "unbound size": (
        lambda g: g.set_type(g.inputs[0], TensorType(DType.F32, (2 * Dim.name("B"), 2))),
        "no input has the size B",
    ),
    "quantized value": (
        lambda g: g.set_type(g.inputs[0], TensorType(DType.U8, g.inputs[0].type.shape, U8)),
        "quantized in a graph of stage float",
    ),
    "layout": (
        lambda g: g.set_type(g.inputs[0], g.inputs[0].type.with_layout(Layout())),
        "layout in a graph of stage float",
    ),
}


@pytest.mark.parametrize("case", STRUCTURE)
def test_structure(case: str) -> None:
    change, message = STRUCTURE[case]
    graph = float_graph()
    change(graph)
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert message in str(caught.value)


# -- ops

OPS: dict[str, tuple[Change, str]] = {
    "unknown op": (lambda g: _insert(g, op="adds"), "unknown op 'adds'"),
    "too many operands": (lambda g: g.set_operand(g.node_list[1], 1, g.inputs[0]), "relu"),
    "unknown attr": (lambda g: _insert(g, _attrs={"nonsense": 1}), "nonsense"),
    "incomplete attrs": (lambda g: _leaky(g, {}), "incomplete"),
    "attr not frozen": (lambda g: _leaky(g, {"slope": True}), "slope"),
    "another type": (lambda g: g.set_type(g.node_list[1].result, tensor("f32", "B", 3)), "is not what relu gives"),
    "types that do not fit": (lambda g: g.set_type(g.inputs[0], tensor("f32", "B", 3)), "add"),
    "forbidden op": (
        lambda g: g.create("observe", [g.inputs[0]], {"spec": "s", "group": "x"}),
        "observe in a graph of stage float",
    ),
}


def _leaky(graph: Graph, attrs: dict[str, object]) -> None:
    node = graph.create("leaky_relu", [graph.node_list[1].result])
    node._attrs = attrs  # type: ignore[assignment]


@pytest.mark.parametrize("case", OPS)
def test_ops(case: str) -> None:
    change, message = OPS[case]
    graph = float_graph()
    change(graph)
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert message in str(caught.value)


def test_a_violation_shows_the_line_with_a_caret() -> None:
    graph = float_graph()
    graph.set_type(graph.node_list[1].result, tensor("f32", 9))
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    lines = str(caught.value).splitlines()
    marked = next(index for index, line in enumerate(lines) if "^" in line)
    assert "%y = relu(%total)" in lines[marked - 1]


# -- quantization

I4 = TensorType(DType.I4, (4,), QuantParams.per_tensor(0.5, 0, DType.I4))
CHANNELS = QuantParams.per_channel([0.5] * 4, 0, 1, DType.U8)
I32 = TensorType(DType.I32, (2, 4), QuantParams.per_tensor(0.5, 0, DType.I32))
F = tensor("f32", 2, 4)


def _codes_outside(dtype: DType, quant: QuantParams | None) -> Graph:
    graph = float_graph()
    graph.stage = "qdq"
    data = np.array([0, 127], np.int8)
    graph.consts["extra"] = Const("extra", TensorType(dtype, (2,), quant), data)
    graph._names.add("extra")
    return graph


def _mixed(op: str, out: TensorType) -> Graph:
    return one(op, X, out, F)


QUANTIZATION: dict[str, tuple[Callable[[], Graph], str]] = {
    "codes beyond qmax": (
        lambda: _codes_outside(DType.I8, QuantParams.per_tensor(0.5, 0, DType.I8, -100, 100)),
        "leave the quantized range",
    ),
    "i4 beyond 7": (lambda: _codes_outside(DType.I4, None), "leave the quantized range"),
    "quantized op at stage qdq": (lambda: one("relu", X, X, stage="qdq"), "works on quantized values"),
    "real result": (lambda: one("relu", X, F), "gives real ones"),
    "real operands": (lambda: one("relu", F, X), "from real ones"),
    "one real operand": (lambda: _mixed("add", X), "expected: quantized"),
    "no integer meaning": (lambda: one("pow", X, X, X), "no meaning on quantized values"),
    "moved codes with other parameters": (
        lambda: one("channel_shuffle", X, replace(X, quant=QuantParams.per_tensor(0.25, 128, DType.U8)), groups=2),
        "moves codes",
    ),
    "per-channel activation": (
        lambda: integer_graph(x=TensorType(DType.U8, (2, 4), CHANNELS)),
        "activations are per tensor",
    ),
    "per-channel result": (
        lambda: integer_graph(out=TensorType(DType.U8, (2, 3), QuantParams.per_channel([0.5] * 3, 0, 1, DType.U8))),
        "a per-tensor result",
    ),
    "wide activation": (lambda: one("add", I32, X, I32), "at most 16 bits"),
    "wide table": (
        lambda: one("sigmoid", TensorType(DType.I16, (4,), QuantParams.per_tensor(0.5, 0, DType.I16)), I4),
        "table of 256 entries",
    ),
    "channel axis of the weight": (
        lambda: integer_graph(
            weight=TensorType(DType.I8, (3, 4), QuantParams.per_channel([0.5] * 4, 0, 1, DType.I8, -127, 127))
        ),
        "channel axis of the weight",
    ),
    "wide weight": (
        lambda: integer_graph(weight=TensorType(DType.I16, (3, 4), QuantParams.per_tensor(0.5, 0, DType.I16))),
        "weight has at most 8 bits",
    ),
    "bias of another dtype": (
        lambda: integer_graph(bias=TensorType(DType.I8, (3,), QuantParams.per_tensor(0.25, 0, DType.I8))),
        "bias is i32",
    ),
    "bias with a zero point": (
        lambda: integer_graph(bias=TensorType(DType.I32, (3,), QuantParams.per_tensor(0.25, 1, DType.I32))),
        "zero point 0",
    ),
    "bias of another scale": (
        lambda: integer_graph(bias=TensorType(DType.I32, (3,), QuantParams.per_tensor(0.25, 0, DType.I32))),
        "scale(x) * scale(weight)",
    ),
    "quantize of a quantized value": (lambda: one("quantize", X, X), "real, quantized"),
    "quantize of integers": (lambda: one("quantize", tensor("i32", 2, 4), X), "quantize reads f32"),
    "quantize to 32 bits": (lambda: one("quantize", F, I32), "at most 16 bits"),
    "dequantize of a real value": (lambda: one("dequantize", F, F), "quantized, real"),
    "requantize per channel": (
        lambda: one("requantize", TensorType(DType.U8, (2, 4), CHANNELS), X),
        "requantize is per tensor",
    ),
    "requantize of 32 bits": (lambda: one("requantize", I32, X), "requantize reads at most 16 bits"),
    "lookup with a table of another dtype": (lambda: one("lookup", X, X, tensor("i8", 256)), "lookup reads 8 bits"),
    "observe that changes the type": (lambda: _observe(), "observe is the identity"),
}


def _observe() -> Graph:
    graph = Graph("g", "observed")
    x = graph.add_input("x", F)
    observe = graph.create("observe", [x], {"spec": "s", "group": "x"}, types=F.with_shape((4, 2)), names="y")
    graph.set_outputs([observe.result])
    return graph


@pytest.mark.parametrize("case", QUANTIZATION)
def test_quantization(case: str) -> None:
    make, message = QUANTIZATION[case]
    graph = make()
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert message in str(caught.value)


def test_moved_codes_may_move_their_axis() -> None:
    channels = QuantParams.per_channel([0.5, 0.25], 0, 0, DType.U8)
    graph = Graph("g", "integer")
    x = graph.add_input("x", TensorType(DType.U8, (2, 3), channels))
    out = TensorType(DType.U8, (3, 2), channels.moved(1))
    graph.set_outputs([graph.create("transpose", [x], {"perm": (1, 0)}, types=out).result])
    verify(graph)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_takes_the_float_graph(stage: str) -> None:
    graph = float_graph()
    graph.stage = stage
    verify(graph)


def test_a_deep_graph_needs_no_recursion() -> None:
    graph = Graph()
    value: Value = graph.add_input("x", tensor("f32", 1))
    node: Node | None = None
    for _ in range(5000):
        node = graph.create("neg", [value])
        value = node.result
    graph.set_outputs([value])
    verify(graph)
