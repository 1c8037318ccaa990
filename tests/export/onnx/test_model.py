"""Exported ONNX files: every op, whole networks node by node, open sizes, names, and the way back."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import onnx
import pytest

import qcompiler as qc
from qcompiler.errors import ArgumentError, LoweringError
from qcompiler.export.onnx.model import onnx_model
from qcompiler.interpreter import run
from qcompiler.ir import Graph, Value
from qcompiler.opdef import OpDef
from qcompiler.types import tensor
from tests.export.networks import network
from tests.export.onnx.sessions import close, run_exported, run_onnx
from tests.export.single import ON_CODES, ON_CODES_IDS, coded_sample, each_node
from tests.sample_graphs import CASE_IDS, CASES, random_array, sample_graph

REFUSED = {
    ("observe", None), ("value_range", None), ("channel_range", None), ("value_counts", None), ("shift_left", "i"),
    ("shift_right", "i"), ("group_norm", 2), ("dynamic_linear", "empty"),
}  # fmt: skip
"""(op, which of its samples) that have no form in ONNX."""


def is_refused(op: OpDef, graph: Graph) -> bool:
    node = graph.node_list[-1]
    kinds = {name: kind for name, kind in REFUSED if name == op.name}
    if op.name not in kinds:
        return False
    kind = kinds[op.name]
    first = node.operands[0]
    assert first is not None
    return (
        kind is None
        or (kind == "i" and first.type.dtype.value[0] == "i")
        or (kind == 2 and first.type.rank == 2)
        or (kind == "empty" and first.type.shape[-1] == 0)
    )


@pytest.mark.sampled(6)
@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_sample(case: tuple[OpDef, int]) -> None:
    op, index = case
    graph, rng = sample_graph(op, index), np.random.default_rng(1)
    inputs = [random_array(value.type, rng) for value in graph.inputs]
    if is_refused(op, graph):
        with pytest.raises(LoweringError):
            onnx_model(graph)
        return
    wanted = run(graph, inputs)
    if not all(np.isfinite(array).all() for const in graph.consts.values() for array in (const.data,)):
        return  # ONNX does not say what NaN and infinity become
    close(graph.outputs, wanted, run_exported(graph, inputs), inputs)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("case", ON_CODES, ids=ON_CODES_IDS)
def test_sample_on_codes(case: tuple[OpDef, int]) -> None:
    op, index = case
    graph, inputs = coded_sample(op, index)
    if is_refused(op, graph):
        with pytest.raises(LoweringError):
            onnx_model(graph)
        return
    inputs = [np.asarray(array) for array in inputs]
    for form in ("qdq", "qoperator"):
        close(graph.outputs, run(graph, inputs), run_exported(graph, inputs, form))


@pytest.mark.sampled(20)
@pytest.mark.parametrize("seed", range(0, 200))
def test_nodes_of_networks_within_one_code(seed: int) -> None:
    """Each node on identical inputs, in both forms; the file of the whole network runs too."""
    graph, inputs = network(seed)
    for form in ("qdq", "qoperator"):
        for node, alone, read, made in each_node(graph, inputs):
            close(node.results, made, run_exported(alone, read, form))
        found = run_exported(graph, inputs, form)
        assert [array.shape for array in found] == [array.shape for array in run(graph, inputs)]


@pytest.mark.sampled(20)
@pytest.mark.parametrize("seed", range(0, 200, 2))
def test_the_way_back(seed: int) -> None:
    """An imported file has the codes that the graph had, by name. Products with real results stay float on import, so
    only graphs whose results are all codes are compared at their outputs."""
    graph, inputs = network(seed, "int8:plain")
    kept = qc.compile(onnx_model(graph), "keep", target="reference", io="float")
    assert all(np.array_equal(a, b) for a, b in zip(run(graph, inputs), run(kept.graph, inputs)))
    before: dict[str, np.ndarray] = {}
    after: dict[str, np.ndarray] = {}
    run(graph, inputs, keep=before)
    run(kept.graph, inputs, keep=after)
    codes = {value.name for node in graph.nodes for value in node.results if value.type.is_quantized}
    found = [name for name in codes if name in after and after[name].dtype == before[name].dtype]
    assert len(found) >= len(codes) // 2
    for name in found:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_words(demo_stages: dict[str, Graph]) -> None:
    """16-bit codes: between conversions of opset 21, and a table of knots as its formula, to the bit."""
    from qcompiler.quantization.tables import build_knots
    from qcompiler.types import DType, QuantParams, TensorType

    source = TensorType(DType.I16, (3, 257), QuantParams.per_tensor(2.0**-12, 100, DType.I16))
    for dtype in (DType.I16, DType.U8):
        out = TensorType(dtype, (3, 257), QuantParams.per_tensor(2.0**-7 if dtype is DType.U8 else 2.0**-14, 3, dtype))
        graph = Graph("words", "integer")
        x = graph.add_input("x", source)
        knots, _ = build_knots(np.tanh, source, out)
        y = graph.create("lookup", [x, graph.add_const("knots", knots)], types=out).result
        graph.set_outputs([y])
        codes = np.random.default_rng(0).integers(-(2**15), 2**15, (3, 257)).astype(np.int16)
        codes[0, :2] = -(2**15), 2**15 - 1
        np.testing.assert_array_equal(run(graph, [codes])[0], run_exported(graph, [codes])[0])
        assert not {tensor.data_type for tensor in onnx_model(graph).graph.initializer} & {onnx.TensorProto.INT64}


def test_words_are_not_read_where_they_are_made() -> None:
    """A BitwiseOr with 0 stands between QuantizeLinear and DequantizeLinear of 16 bits, since OpenVINO removes such a
    pair, saturation and all; the formula of knots has no i64, which OpenVINO computes as i32. Both come back as they
    were."""
    from qcompiler.types import DType, QuantParams, TensorType

    graph = Graph("words", "integer")
    x = graph.add_input("x", tensor("f32", 2, 9))
    words = TensorType(DType.I16, (2, 9), QuantParams.per_tensor(2.0**-13, 100, DType.I16))
    y = graph.create("quantize", [x], types=words).result
    graph.set_outputs([graph.create("sin", [graph.create("dequantize", [y]).result]).result])
    inputs = [np.linspace(-8, 8, 18, dtype=np.float32).reshape(2, 9)]  # of which codes hold [-4.01, 3.99]
    close(graph.outputs, run(graph, inputs), run_exported(graph, inputs), inputs)
    nodes = {name: node for node in onnx_model(graph).graph.node for name in node.output}
    (read,) = (node for node in nodes.values() if node.op_type == "DequantizeLinear")
    kept = nodes[read.input[0]]
    assert (kept.op_type, nodes[kept.input[0]].op_type) == ("BitwiseOr", "QuantizeLinear")
    back = qc.compile(onnx_model(graph), "keep", target="reference").graph
    assert [node.op for node in back.nodes] == ["quantize", "dequantize", "sin"]
    np.testing.assert_array_equal(run(graph, inputs)[0], run(back, inputs)[0])


def test_a_table_of_no_known_function_is_gathered() -> None:
    from qcompiler.types import DType, QuantParams

    codes = tensor("u8", 2, 9).quantized(DType.U8, QuantParams.per_tensor(0.1, 3, DType.U8))
    graph = Graph("table", "integer")
    table = np.random.default_rng(0).integers(0, 256, 256).astype(np.uint8)
    y = graph.create("lookup", [graph.add_input("x", codes), graph.add_const("t", table)], types=codes).result
    graph.set_outputs([y])
    x = np.random.default_rng(1).integers(0, 256, (2, 9)).astype(np.uint8)
    np.testing.assert_array_equal(run_exported(graph, [x])[0], table[x])
    assert [node.op_type for node in onnx_model(graph).graph.node] == ["Cast", "Gather"]


def test_forms_of_the_demo(demo_stages: dict[str, Graph], tmp_path: pathlib.Path) -> None:
    """The demo's classes on 64 images, with an open batch; weights are i8 with a scale per channel, biases i32."""
    graph = demo_stages["integer"]
    images = np.random.default_rng(0).uniform(-1, 2, (64, 1, 28, 28)).astype(np.float32)
    wanted = run(graph, [images])[0]
    for form in ("qdq", "qoperator"):
        path = tmp_path / f"{form}.onnx"
        qc.export_onnx(graph, path, form=form)
        model = onnx.load(path)
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "B"
        (found,) = run_onnx(model, {"x": images})
        assert (found.argmax(1) == wanted.argmax(1)).mean() >= 0.995
        kinds = {node.op_type for node in model.graph.node}
        assert ("QLinearConv" in kinds) == (form == "qoperator")
    types = {tensor.data_type for tensor in onnx.load(tmp_path / "qdq.onnx").graph.initializer}
    assert {onnx.TensorProto.INT8, onnx.TensorProto.INT32} <= types
    assert sorted(os.listdir(tmp_path)) == ["qdq.onnx", "qoperator.onnx"]


def test_open_sizes() -> None:
    """Shapes with several open sizes, and expressions of them."""
    graph = qc.parse(
        "qcompiler 1\n"
        "graph g(%x: f32[lambda,S,8], %y: f32[2*S,lambda]) stage=float {\n"
        '  %r = reshape(%x) {shape=("lambda", "2*S", 4)} : f32[lambda,2*S,4]\n'
        '  %s = slice(%r) {axes=(1,), starts=("S",), stops=("2*S",), steps=(1,)} : f32[lambda,S,4]\n'
        '  %e = expand(%y) {shape=(3, "2*S", "lambda")} : f32[3,2*S,lambda]\n'
        "  %n = size(%e) {axis=1} : i64[]\n"
        "  return %s, %e, %n\n}\n"
    )
    assert isinstance(graph, Graph)
    for batch, size in ((1, 2), (3, 5)):
        rng = np.random.default_rng(batch)
        inputs = [rng.normal(size=s).astype(np.float32) for s in ((batch, size, 8), (2 * size, batch))]
        close(graph.outputs, run(graph, inputs), run_exported(graph, inputs))
    assert [dim.dim_param for dim in onnx_model(graph).graph.input[1].type.tensor_type.shape.dim] == ["2*S", "lambda"]


@pytest.mark.parametrize("first_is_reverse", [False, True])
def test_two_directions_are_one_op(first_is_reverse: bool) -> None:
    """Two layers over one sequence are one op, with states, lengths and peepholes; not if one needs the other's state,
    or if they differ in more than the direction."""
    rng, units = np.random.default_rng(0), 7
    graph = Graph("directions", "float")
    x = graph.add_input("x", tensor("f32", 6, 3, 5))
    lengths = graph.add_input("lengths", tensor("i64", 3))
    states = [graph.add_input(name, tensor("f32", 3, units)) for name in ("h0", "c0", "h1", "c1")]

    def layer(h: Value, c: Value, has_bias: bool, **attrs: object) -> tuple[Value, ...]:
        shapes = ((4 * units, 5), (4 * units, units), (4 * units,), (4 * units,), (3 * units,))
        consts = [graph.add_const(graph.fresh_name("w"), rng.normal(size=s).astype(np.float32) / 3) for s in shapes]
        biases = consts[2:4] if has_bias else [None, None]
        return graph.create("lstm", [x, *consts[:2], *biases, h, lengths, c, consts[4], None], attrs).results

    one = layer(*states[:2], has_bias=True, reverse=first_is_reverse)
    other = layer(*states[2:], has_bias=False, reverse=not first_is_reverse)
    late = layer(*other[1:], has_bias=True, reverse=True)
    clipped = layer(*states[:2], has_bias=True, clip=0.5)
    graph.set_outputs([*one, *other, *late, *clipped])
    inputs = [rng.normal(size=v.type.sizes).astype(np.float32) for v in (x, *states)]
    inputs.insert(1, np.array([6, 0, 4], np.int64))
    close(graph.outputs, run(graph, inputs), run_exported(graph, inputs))
    directions = [
        attr.s.decode()
        for node in onnx_model(graph).graph.node
        for attr in node.attribute
        if node.op_type == "LSTM" and attr.name == "direction"
    ]
    assert directions == ["bidirectional", "reverse", "forward"]


def test_names() -> None:
    """Names of tensors that clash with generated ones, outputs that are inputs, an output given twice."""
    graph = Graph("", "float")
    x = graph.add_input("x", tensor("f32", 2))
    y = graph.create("silu", [x], names="y").result
    z = graph.create("add", [y, x], names="y.sigmoid").result
    w = graph.create("relu", [z], names='a"\n</script>é').result
    graph.set_outputs([x, w, w, z], ["same", "w", "again", "y"])
    given = np.array([1.5, -2], np.float32)
    found = run_exported(graph, [given])
    close(graph.outputs, run(graph, [given]), found)
    model = onnx_model(graph)
    assert [output.name for output in model.graph.output] == ["same", "w", "again", "y"]
    assert model.graph.input[0].name == "x"


def test_refusals(demo_stages: dict[str, Graph], tmp_path: pathlib.Path) -> None:
    """All nodes without a form are named, and nothing is written."""
    graph = Graph("g")
    x = graph.add_input("x", tensor("i32", 4))
    left = graph.create("shift_left", [x, x], names="left").result
    right = graph.create("shift_right", [left, x], names="right").result
    graph.set_outputs([graph.create("neg", [right]).result])
    with pytest.raises(LoweringError, match="2 nodes have no form in ONNX[\\s\\S]*%left[\\s\\S]*%right"):
        qc.export_onnx(graph, tmp_path / "m.onnx")
    with pytest.raises(LoweringError, match="unknown form"):
        qc.export_onnx(demo_stages["float"], tmp_path / "m.onnx", form="qlinear")
    with pytest.raises(LoweringError, match="is not exported"):
        qc.export_onnx(demo_stages["observed"], tmp_path / "m.onnx")
    with pytest.raises(ArgumentError):
        qc.export_onnx(3, tmp_path / "m.onnx")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []
