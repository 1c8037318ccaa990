"""ONNX files that contradict themselves, are damaged, reach outside of their folder, or grow: each gives one TraceError
that says what and where, in little memory."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompiler as qc
from qcompiler.errors import QCompilerError, TraceError
from qcompiler.frontend.onnx_checks import FLAGS
from qcompiler.frontend.onnx_ops import table
from tests.frontend.onnx.one_op_models import draw
from tests.frontend.onnx.recipes import RECIPES

X = np.zeros((2, 3), np.float32)
node = helper.make_node


def info(name: str, dims: Any, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, dims)


def model(nodes: list[Any], tensors: Any = (), *, inputs: Any = None, outputs: Any = None, opset: int = 17) -> Any:
    inputs = [info("x", (2, 3))] if inputs is None else inputs
    outputs = [info("y", None)] if outputs is None else outputs
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def tensor(dims: Any = (2, 3), kind: int = TensorProto.FLOAT, raw: bytes | None = b"\0" * 24, **fields: Any) -> Any:
    made = TensorProto(name="w", data_type=kind, dims=dims, **fields)
    if raw is not None:
        made.raw_data = raw
    return made


def external(location: str, **entries: object) -> Any:
    made = tensor(raw=None, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        made.external_data.add(key=key, value=str(value))
    return made


ADD = node("Add", ["x", "w"], ["y"])
PLACES: dict[str, Callable[[Any], Any]] = {
    "initializer": lambda t: model([ADD], [t]),
    "constant": lambda t: model([node("Constant", [], ["w"], value=t), ADD]),
}


# -- external data


@pytest.fixture
def folders(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A model's folder with data of ones, beside a working folder whose data of the same name belong to another
    model."""
    for name, value in (("models", 1), ("elsewhere", 666)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.bin").write_bytes(np.full(6, value, np.float32).tobytes())
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_read_from_the_models_folder(folders: pathlib.Path, place: str) -> None:
    path = folders / "models" / "m.onnx"
    for entries in ({}, {"offset": 0, "length": 24}):
        path.write_bytes(PLACES[place](external("w.bin", **entries)).SerializeToString())
        assert (qc.compile(path, None, target="reference")(X)["y"] == 1).all()
    (folders / "models" / "deep").mkdir()
    os.rename(folders / "models" / "w.bin", folders / "models" / "deep" / "w.bin")
    path.write_bytes(PLACES[place](external("deep/w.bin")).SerializeToString())
    assert (qc.compile(path, None, target="reference")(X)["y"] == 1).all()


@pytest.mark.parametrize("place", PLACES)
def test_external_data_does_not_leave_the_folder_or_the_file(folders: pathlib.Path, place: str) -> None:
    inside = folders / "models"
    (inside / "link").symlink_to(folders / "elsewhere" / "w.bin")
    (inside / "linked").symlink_to(folders / "elsewhere")
    os.mkfifo(inside / "pipe")
    bad: list[tuple[str, dict[str, object]]] = [
        *((name, {}) for name in ("../elsewhere/w.bin", str(folders / "elsewhere" / "w.bin"), "link", "linked/w.bin")),
        *((name, {}) for name in ("pipe", ".", "missing", "w.bin/", "a\\..\\..\\elsewhere\\w.bin", "w\0bin", "")),
        *(("w.bin", {"offset": offset}) for offset in (1, 24, 2**62, -1, "1e3", "")),
        *(("w.bin", {"length": length}) for length in (0, 23, 25, 2**63, -24)),
        ("w.bin", {"unknown": 1}),
    ]
    for location, entries in bad:
        (inside / "m.onnx").write_bytes(PLACES[place](external(location, **entries)).SerializeToString())
        if location == "w.bin/":  # the same file, spelled otherwise
            continue
        with pytest.raises(TraceError) as caught:
            qc.trace(inside / "m.onnx")
        assert "external data" in str(caught.value) and "m.onnx" in str(caught.value.where)


@pytest.mark.parametrize("place", PLACES)
def test_a_model_in_memory_has_no_folder(folders: pathlib.Path, place: str) -> None:
    with pytest.raises(TraceError, match="load_external_data_for_model"):
        qc.trace(PLACES[place](external("w.bin")))


# -- damaged bytes


DAMAGED: dict[str, Any] = {
    "too few bytes": tensor(raw=b"\0" * 20),
    "no whole element": tensor(raw=b"\0" * 23),
    "too many bytes": tensor(raw=b"\0" * 28),
    "type 0": tensor(kind=0),
    "type 99": tensor(kind=99),
    "complex": tensor(kind=TensorProto.COMPLEX64, raw=b"\0" * 48),
    "negative size": tensor((-2, 3)),
    "two negative sizes": tensor((-2, -3)),
    "product beyond 64 bits": tensor((2**32, 2**32, 2**32), raw=b""),
    "sizes beyond 64 bits beside a 0": tensor((0, 2**62), raw=b""),
    "many axes": tensor((1,) * 9, raw=b"\0" * 4),
    "too few numbers": tensor(raw=None, float_data=[0.0] * 5),
    "numbers of another field": tensor(raw=None, int32_data=[0] * 6),
    "no data": tensor(raw=None),
    "a bool of 2": tensor(kind=TensorProto.BOOL, raw=b"\2" * 6),
    "texts": tensor(kind=TensorProto.STRING, raw=None, string_data=[b"\xff"] * 6),
    "a bool of 2 in int32_data": tensor(kind=TensorProto.BOOL, raw=None, int32_data=[2] * 6),
    "a code beyond its type": tensor(kind=TensorProto.INT8, raw=None, int32_data=[1000] * 6),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_tensors(kind: str, place: str) -> None:
    with pytest.raises(TraceError) as caught:
        qc.trace(PLACES[place](DAMAGED[kind]))
    assert place == "initializer" or "node 0 Constant" in str(caught.value.where)


def test_names_and_texts_that_are_not_utf8(tmp_path: pathlib.Path) -> None:
    good = model([node("Relu", ["x"], ["v1"], name="n1"), node("Gelu", ["v1"], ["y"], approximate="none")], opset=20)
    path = tmp_path / "m.onnx"
    for old in (b"v1", b"n1", b"none", b"Gelu", b"approximate"):
        path.write_bytes(good.SerializeToString().replace(old, b"\xff" * len(old)))
        with pytest.raises(TraceError, match="UTF-8"):
            qc.trace(path)


def test_truncated_files(tmp_path: pathlib.Path) -> None:
    whole = PLACES["initializer"](tensor()).SerializeToString()
    path = tmp_path / "m.onnx"
    refused = 0
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            qc.trace(path)
        except TraceError:
            refused += 1
    assert refused >= len(whole) - 8  # the opset stands last, in a field of its own


def test_the_command_line_gives_a_message(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(PLACES["constant"](DAMAGED["type 99"]).SerializeToString())
    done = subprocess.run([sys.executable, "-m", "qcompiler", "check", str(path)], capture_output=True, text=True)
    assert done.returncode == 1 and "unknown element type" in done.stderr
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr


# -- contradictions


IMAGE = [info("x", (1, 2, 8, 8))]
WEIGHTS = [numpy_helper.from_array(np.ones((4, 2, 3, 3), np.float32), "w")]
BAD_ATTRIBUTES: list[tuple[str, dict[str, Any]]] = [
    *(("Conv", {"kernel_shape": shape}) for shape in ([5, 7], [3], [3, 3, 3])),
    ("Conv", {"auto_pad": "WHAT"}),
    ("Conv", {"bogus": 3}),
    ("Conv", {"group": [1]}),
    *(("Conv", {name: value}) for name in ("strides", "dilations") for value in ([0, 1], [1], [1, -1], [1, 1, 1])),
    ("Conv", {"pads": [1, 1]}),
    *((op, {"axis": axis}) for op in ("Concat", "Split", "Softmax", "Flatten") for axis in (2**62, 5, -5)),
    ("Transpose", {"perm": [0, 0, 1, 2]}),
    ("Relu", {"alpha": 1.0}),
    ("LeakyRelu", {"alpha": 1}),
    ("Cast", {}),
    ("Cast", {"to": 99}),
]


@pytest.mark.parametrize("op,attributes", BAD_ATTRIBUTES, ids=lambda value: str(value)[:40])
def test_attributes_that_contradict_the_op_or_its_operands(op: str, attributes: dict[str, Any]) -> None:
    operands = ["x", "w"] if op == "Conv" else ["x"]
    with pytest.raises(QCompilerError, match=f"(?i){op}"):
        qc.trace(model([node(op, operands, ["y"], **attributes)], WEIGHTS, inputs=IMAGE))


def _with_flag(flag: str) -> Iterator[tuple[str, Any]]:
    """Models of one node that have an attribute, by their ops."""
    for op in sorted(RECIPES):
        for seed in range(40):
            made = draw(seed, op)
            schema = onnx.defs.get_schema(op, made.opset)
            if flag in schema.attributes:
                proto = made.model()
                try:
                    qc.trace(proto)
                except QCompilerError:
                    continue
                yield op, proto
                break


OTHER_FLAGS = {"new_axis", "input_forget", "layout", "linear_before_reset", "output_sequence"}
"""Flags of sequences and of recurrent nets, which have no recipe."""


@pytest.mark.sampled(3)
@pytest.mark.parametrize("flag", sorted(FLAGS - OTHER_FLAGS))
def test_a_flag_is_0_or_1(flag: str) -> None:
    found = list(_with_flag(flag))
    assert found
    for op, proto in found:
        [changed] = proto.graph.node
        kept = [attribute for attribute in changed.attribute if attribute.name != flag]
        for value in (2, -1, 2**40):
            del changed.attribute[:]
            changed.attribute.extend([*kept, helper.make_attribute(flag, value)])
            with pytest.raises(TraceError, match=f"{op}: {flag} is a flag"):
                qc.trace(proto)


def test_every_flag_of_a_mapped_op_is_known() -> None:
    """An integer attribute whose default is 0 or 1, and which is no number of something, is a flag."""
    numbers = {"axis", "batch_dims", "block_size", "broadcast", "group", "is_test", "k", "output_dtype", "precision",
               "spatial", "start", "stash_type"}  # fmt: skip
    found = set()
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.name in table():
            for name, attr in schema.attributes.items():
                default = attr.default_value
                if attr.type == onnx.defs.OpSchema.AttrType.INT and default.name and default.i in (0, 1):
                    found.add(name)
    assert found - numbers == FLAGS


@pytest.mark.parametrize("op", sorted(set(RECIPES) - {"Constant"}))
def test_operands_that_an_op_needs_are_given(op: str) -> None:
    """Each operand of a model that imports is left out in turn, by an empty name: only optional ones may be."""
    tried = 0
    for seed in range(12):
        case = draw(seed, op)
        proto = case.model()
        try:
            qc.trace(proto)
        except QCompilerError:
            continue
        [changed] = proto.graph.node
        schema = onnx.defs.get_schema(op, case.opset)
        for index, name in enumerate(changed.input):
            if name and schema.inputs[min(index, len(schema.inputs) - 1)].option.name != "Optional":
                changed.input[index] = ""
                tried += 1
                with pytest.raises(TraceError, match=rf"{op}: operand {index} .* is missing"):
                    qc.trace(proto)
                changed.input[index] = name
    assert tried


FOREIGN = [
    ("QLinearSoftmax", {"axis": [0.5]}),
    ("QLinearConcat", {"axis": "x"}),
    ("QGemm", {"transB": 3}),
    ("QLinearAveragePool", {"ceil_mode": [1]}),
]


@pytest.mark.parametrize("op, attributes", FOREIGN, ids=lambda value: str(value))
def test_attributes_of_ops_without_a_schema(op: str, attributes: dict[str, Any]) -> None:
    made = model([helper.make_node(op, ["x"] * 9, ["y"], domain="com.microsoft", **attributes)])
    made.opset_import.add(domain="com.microsoft", version=1)
    with pytest.raises(TraceError, match=op):
        qc.trace(made)


def test_an_attribute_that_the_graphs_op_does_not_take() -> None:
    with pytest.raises(TraceError, match="Gelu") as caught:
        qc.trace(model([node("Gelu", ["x"], ["y"], approximate="edge")], opset=20))
    assert "none | tanh" in str(caught.value) and "edge" in str(caught.value)


@pytest.mark.parametrize("axes", [[-3, 1], [0, 0], [1, 0, -4]])
def test_an_axis_is_inserted_once(axes: list[int]) -> None:
    with pytest.raises(TraceError, match="twice"):
        qc.trace(model([node("Unsqueeze", ["x", "a"], ["y"])], [_ints(axes, "a")]))


RELU = node("Relu", ["x"], ["y"])
CONTRADICTIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "two nodes make y": (lambda: model([RELU, node("Exp", ["x"], ["y"])]), "two makers"),
    "a node makes an input": (lambda: model([node("Relu", ["x"], ["x"]), RELU]), "two makers"),
    "a node makes an initializer": (lambda: model([node("Relu", ["x"], ["w"]), ADD], [tensor()]), "two makers"),
    "two inputs": (lambda: model([RELU], inputs=[info("x", (2, 3))] * 2), "two makers"),
    "two initializers": (lambda: model([ADD], [tensor()] * 2), "two makers"),
    "two outputs": (lambda: model([RELU], outputs=[info("y", (2, 3))] * 2), "two outputs"),
    "no outputs": (lambda: model([RELU], outputs=[]), "no outputs"),
    "a missing output": (lambda: model([RELU], outputs=[info("z", (2, 3))]), "no node makes"),
    "an output without a name": (
        lambda: model([node("Split", ["x"], ["", "y"], axis=1, num_outputs=3)], outputs=[info("", None)], opset=18),
        "an output has no name",
    ),
    "a cycle": (
        lambda: model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]),
        "cycle",
    ),
    "a node without outputs": (lambda: model([RELU, node("Exp", ["x"], [])]), "no outputs"),
    "too many operands": (lambda: model([node("Relu", ["x", "x"], ["y"])]), "number of operands"),
    "too few operands": (lambda: model([node("Add", ["x"], ["y"])]), "number of operands"),
    "another type": (lambda: model([RELU], outputs=[info("y", (2, 3), TensorProto.INT32)]), "declared element type"),
    "a negative axis before opset 11": (lambda: model([node("Flatten", ["x"], ["y"], axis=-1)], opset=10), "negative"),
    "a newer opset": (lambda: model([RELU], opset=9999), "opset"),
    "an op of another opset": (lambda: model([node("Gelu", ["x"], ["y"])], opset=17), "not an op of opset"),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_graphs_that_contradict_themselves(kind: str) -> None:
    make, text = CONTRADICTIONS[kind]
    with pytest.raises(TraceError, match=text):
        qc.trace(make())


def test_opsets_of_all_domains() -> None:
    twice = model([RELU])
    twice.opset_import.add(domain="", version=18)
    none = model([RELU])
    del none.opset_import[:]
    other = model([RELU, helper.make_node("QLinearAdd", [""] * 8, ["z"], domain="com.microsoft")])
    other.opset_import.add(domain="com.microsoft", version=7)
    for made in (twice, none, other):
        with pytest.raises(TraceError, match="opset|version of com.microsoft"):
            qc.trace(made)
    unused = model([RELU])
    unused.opset_import.add(domain="com.example", version=7)
    qc.trace(unused)


def test_a_function_of_the_model_does_not_pass_for_the_op_of_its_name() -> None:
    made = model([RELU])
    made.functions.add(name="Relu", domain="")
    with pytest.raises(TraceError, match="more operands or outputs than the function has"):
        qc.trace(made)


def _split(
    of: str, count: int, opset: int = 17, given: list[int] | None = None, axis: int = 1, **attributes: int
) -> Any:
    """A split of x, or of a constant of its shape (2, 3)."""
    sizes = [] if given is None else ["s"]
    split = node("Split", [of, *sizes], [f"o{i}" for i in range(count)], axis=axis, **attributes)
    return model([split, node("Relu", ["o0"], ["y"])], [tensor(), _ints(given or [0], "s")], opset=opset)


@pytest.mark.parametrize("of", ["x", "w"])
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"count": 5}, "parts do not fit"),
        ({"count": 50_000}, "parts do not fit"),
        ({"count": 3, "given": [1, 1, 2]}, "parts do not fit"),
        ({"count": 3, "given": [1, 3, -1]}, "parts do not fit"),
        ({"count": 2, "given": [1, 1, 1]}, "parts do not fit"),
        ({"count": 2, "opset": 18, "num_outputs": 3}, "num_outputs"),
        ({"count": 3, "axis": 2**62}, "no axis"),
        ({"count": 3, "axis": -3}, "no axis"),
    ],
)
def test_splits_that_do_not_fit(arguments: dict[str, Any], text: str, of: str) -> None:
    with pytest.raises(TraceError, match=text):
        qc.trace(_split(of, **arguments))


@pytest.mark.parametrize("of", ["x", "w"])
@pytest.mark.parametrize("arguments", [{"opset": 18, "num_outputs": 2}, {"given": [2, 1]}])
def test_splits_into_unequal_parts(arguments: dict[str, Any], of: str) -> None:
    assert qc.trace(_split(of, 2, **arguments)).outputs[0].type.shape == (2, 2)


# -- depth, names and many nodes


def test_deeply_nested_bodies_give_one_error(tmp_path: pathlib.Path) -> None:
    def field(number: int, data: bytes) -> bytes:
        """A length-delimited field of protobuf."""
        size, left = b"", len(data)
        while left > 127:
            size, left = size + bytes([left & 127 | 128]), left >> 7
        return bytes([number << 3 | 2]) + size + bytes([left]) + data

    for depth in (10, 1000):
        graph = b""
        for _ in range(depth):
            body = field(1, b"then_branch") + b"\xa0\x01\x05" + field(6, graph)
            graph = field(1, field(4, b"If") + field(5, body) + field(2, b"o")) + field(2, b"b")
        path = tmp_path / "deep.onnx"
        path.write_bytes(b"\x08\x08" + field(7, graph) + field(8, b"\x10\x11"))
        with pytest.raises(TraceError, match="If has another number|no outputs|not an ONNX file"):
            qc.trace(path)


def test_functions_whose_calls_multiply() -> None:
    made = model([node("F0", ["x"], ["y"], domain="d")])
    made.opset_import.append(helper.make_opsetid("d", 1))
    for index in range(40):
        calls = [node(f"F{index + 1}", [a], [b], domain="d") for a, b in (("a", "t"), ("t", "b"))]
        body = calls if index < 39 else [node("Relu", ["a"], ["b"])]
        made.functions.append(helper.make_function("d", f"F{index}", ["a"], ["b"], body, made.opset_import))
    with pytest.raises(TraceError, match="^too many nodes") as caught:
        qc.trace(made)
    assert "node" not in str(caught.value.where)  # no node was imported before


@pytest.mark.parametrize(
    "opset, starts, ends, axes, steps, message",
    [
        (9, [0, 1], [2], [0, 1], None, "lengths"),
        (9, [0, 1], [2, 3], [0, -2], None, "twice"),
        (13, [0, 1], [2], [0, 1], [1, 1], "lengths"),
        (13, [0], [2], [0, 1], [1], "lengths"),
        (13, [0], [2], [0], [1, 1], "lengths"),
        (13, [0, 1], [2, 3], [0, 0], [1, 1], "twice"),
    ],
)
def test_bounds_of_slice_that_contradict_each_other(
    opset: int, starts: list[int], ends: list[int], axes: list[int], steps: list[int] | None, message: str
) -> None:
    if steps is None:
        made = model([node("Slice", ["x"], ["y"], starts=starts, ends=ends, axes=axes)], opset=opset)
    else:
        names = ["s", "e", "a", "t"]
        tensors = [_ints(values, name) for values, name in zip((starts, ends, axes, steps), names)]
        made = model([node("Slice", ["x", *names], ["y"])], tensors, opset=opset)
    with pytest.raises(TraceError, match=message):
        qc.trace(made)


@pytest.mark.parametrize("length", [1, 2, 2000])
def test_functions_that_call_themselves(length: int) -> None:
    made = model([node("F0", ["x"], ["y"], domain="d")])
    made.opset_import.append(helper.make_opsetid("d", 1))
    for index in range(length):
        call = node(f"F{(index + 1) % length}", ["a"], ["b"], domain="d")
        made.functions.append(helper.make_function("d", f"F{index}", ["a"], ["b"], [call], made.opset_import))
    with pytest.raises(TraceError, match="calls itself"):
        qc.trace(made)


def test_functions_that_double_their_nodes_are_refused() -> None:
    made = model([node("F0", ["x"], ["y"], domain="d")])
    made.opset_import.append(helper.make_opsetid("d", 1))
    for index in range(40):
        name, domain = (f"F{index + 1}", "d") if index < 39 else ("Relu", "")
        calls = [node(name, ["a"], ["m"], domain=domain), node(name, ["m"], ["b"], domain=domain)]
        made.functions.append(helper.make_function("d", f"F{index}", ["a"], ["b"], calls, made.opset_import))
    with pytest.raises(TraceError, match="too many nodes"):
        qc.trace(made)


@pytest.mark.parametrize("count", [100_001, 10**6])
def test_too_many_nodes_are_refused_at_once(count: int) -> None:
    made = model([node("Relu", ["x"], ["y"])])
    made.graph.node.extend([made.graph.node[0]] * (count - 1))
    began = time.process_time()
    with pytest.raises(TraceError, match="too many nodes"):
        qc.trace(made)
    assert time.process_time() - began < 2


def test_a_chain_takes_linear_time() -> None:
    def seconds(count: int) -> float:
        names = ["x", *(f"v{i}" for i in range(1, count)), "y"]
        made = model([node("Relu", [a], [b]) for a, b in zip(names, names[1:])])
        began = time.process_time()
        qc.trace(made)
        return time.process_time() - began

    seconds(100)
    assert seconds(32_000) < 20 * seconds(4_000)  # 8 times as long; in quadratic time 64 times


@pytest.mark.parametrize("name", ["a\0b", "a\nb", '"', "%a", "\u2028", "n" * 1024])
def test_odd_names_stay_as_they_are(name: str) -> None:
    graph = qc.trace(model([node("Relu", ["x"], [name]), node("Exp", [name], ["y"])]))
    assert name in [value.name for each in graph.node_list for value in each.results]
    assert str(qc.parse(str(graph))) == str(graph)


@pytest.mark.parametrize("name", ["n" * 1025, "n" * 2**16, "ü" * 513])
def test_names_that_are_too_long(name: str) -> None:
    with pytest.raises(TraceError, match="name is too long"):
        qc.trace(model([node("Relu", ["x"], [name]), node("Exp", [name], ["y"])]))


# -- growth


BOMB = """
import resource, sys
import onnx, qcompiler as qc
from qcompiler.frontend.onnx_import import import_onnx
import qcompiler.frontend.onnx_ops as ops
ops.table()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    qc.trace(onnx.ModelProto.FromString(sys.stdin.buffer.read()))
    print("traced", end=" ")
except qc.QCompilerError as error:
    print("refused", end=" ")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def _ints(values: Any, name: str) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _bombs() -> dict[str, Any]:
    one, end = (
        numpy_helper.from_array(np.ones(1, np.float32), "c0"),
        [node("ReduceSum", ["c"], ["q"], keepdims=0), node("Add", ["x", "q"], ["y"])],
    )
    found: dict[str, Any] = {}
    for power in (28, 40):
        size = _ints([2**power], "s")
        found[f"ConstantOfShape 2^{power}"] = model([node("ConstantOfShape", ["s"], ["c"]), *end], [size])
        bounds = [_ints(0, "a"), _ints(2**power, "b"), _ints(1, "d")]
        ranged = [node("Range", ["a", "b", "d"], ["r"]), node("Cast", ["r"], ["c"], to=1)]
        found[f"Range 2^{power}"] = model([*ranged, *end], bounds)
        for op in ("Tile", "Expand"):
            found[f"{op} 2^{power}"] = model([node(op, ["c0", "s"], ["c"]), *end], [size, one])
        names = ["c0", *(f"d{i}" for i in range(power - 1)), "c"]
        doubled = [node("Concat", [a, a], [b], axis=0) for a, b in zip(names, names[1:])]
        found[f"Concat {power} times"] = model([*doubled, *end], [one])
    half = numpy_helper.from_array(np.ones((2**14, 1), np.int64), "h")
    broadcast = [node("Transpose", ["h"], ["t"]), node("Add", ["h", "t"], ["a"]), node("Cast", ["a"], ["c"], to=1)]
    found["broadcast"] = model([*broadcast, *end], [half])
    taken = [node("Gather", ["h", "i"], ["a"]), node("Cast", ["a"], ["c"], to=1)]
    found["Gather"] = model([*taken, *end], [half, _ints(np.zeros(2**14), "i")])
    many = [node("ConstantOfShape", ["s"], [f"c{i}"]) for i in range(1, 100)]
    found["many constants"] = model(
        [*many, node("ReduceSum", ["c1"], ["q"], keepdims=0), node("Add", ["x", "q"], ["y"])], [_ints([2**22], "s")]
    )
    return found


@pytest.mark.parametrize("kind", sorted(_bombs()))
def test_a_small_file_takes_little_memory(kind: str) -> None:
    data = _bombs()[kind].SerializeToString()
    done = subprocess.run([sys.executable, "-c", BOMB], input=data, capture_output=True, timeout=60)
    outcome, grown = done.stdout.decode().split()
    assert outcome in ("traced", "refused") and int(grown) * 1024 <= len(data) + 256 * 2**20


def test_the_limit_of_one_constant() -> None:
    from qcompiler.frontend.onnx_ops.node import MAX_FOLDED_BYTES

    most = MAX_FOLDED_BYTES // 8
    for count, known in ((most, True), (most + 1, False)):
        made = model([node("Range", ["a", "b", "d"], ["r"]), node("Gather", ["r", "a"], ["y"])], inputs=[])
        made.graph.initializer.extend([_ints(0, "a"), _ints(count, "b"), _ints(1, "d")])
        if known:
            qc.trace(made)
        else:
            with pytest.raises(TraceError, match="too large"):
                qc.trace(made)
