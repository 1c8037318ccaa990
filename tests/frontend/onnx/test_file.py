"""Reading files of ONNX models: large data stays in the file until it is read, once, and damage is told as ever."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompiler.errors import QCompilerError, TraceError
from qcompiler.frontend.onnx_file import load_proto
from qcompiler.frontend.onnx_import import import_onnx

MOST_TIMES = 1.3
"""The most memory that an import takes, as a multiple of the model's floats."""


def model(layers: int = 3, width: int = 96) -> onnx.ModelProto:
    """Products with large weights and small biases, a weight that two nodes read, and one in a node's attribute."""
    rng, nodes, tensors, last = np.random.default_rng(0), [], [], "x"
    for layer in range(layers):
        weight = rng.normal(size=(width, width)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weight, f"w{layer}"))
        tensors.append(numpy_helper.from_array(rng.normal(size=width).astype(np.float32), f"b{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Add", [f"m{layer}", f"b{layer}"], [f"a{layer}"]))
        last = f"a{layer}"
    nodes.append(helper.make_node("MatMul", [last, "w0"], ["again"]))
    table = numpy_helper.from_array(rng.normal(size=(width, width)).astype(np.float32), "table")
    nodes.append(helper.make_node("Constant", [], ["c"], value=table))
    nodes.append(helper.make_node("MatMul", ["again", "c"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", width])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def saved(proto: onnx.ModelProto, folder: pathlib.Path) -> pathlib.Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_file_gives_the_graph_of_its_message(tmp_path: pathlib.Path) -> None:
    proto = model()
    path = saved(proto, tmp_path)
    loaded = load_proto(path)
    assert loaded.proto.ByteSize() < 45_000 < 140_000 < proto.ByteSize()  # the data of w0 to w2 was not parsed
    one, other = import_onnx(path), import_onnx(proto)
    assert str(one).replace("model.onnx", "layers") == str(other)
    assert one.consts.keys() == other.consts.keys()
    assert all(np.array_equal(const.data, other.consts[name].data) for name, const in one.consts.items())


def test_weights_that_nodes_transposed_leave_no_copy() -> None:
    """Only the transposed weights are left, one of w0 for each of its readers or one for both."""
    graph = import_onnx(model())
    weights = [const for const in graph.consts.values() if const.data.ndim == 2]
    assert all(const.uses for const in graph.consts.values()) and len(weights) == 4


def test_truncated_files_are_refused_like_messages(tmp_path: pathlib.Path) -> None:
    data = model(2).SerializeToString()
    path = tmp_path / "model.onnx"
    for length in (0, 1, 7, 100, 5_000, 40_000, len(data) - 40_000, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(TraceError, match="truncated|no ONNX graph|cannot be read"):
            load_proto(path)


def test_damaged_bytes_give_what_the_message_gives(tmp_path: pathlib.Path) -> None:
    """Flipped bytes outside of the large data: both ways are refused, or give the same graph."""
    data, rng, path = model(2).SerializeToString(), np.random.default_rng(1), tmp_path / "model.onnx"
    places = [*range(0, 200), *rng.integers(0, len(data), 100).tolist()]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)

        def outcome(read) -> str:
            try:
                return str(import_onnx(read()))
            except QCompilerError as error:
                return f"{type(error).__name__} {error.message}"
            except Exception as error:  # protobuf's own, of the message
                return type(error).__name__

        whole = outcome(lambda damaged=damaged: onnx.ModelProto.FromString(bytes(damaged)))
        ours = outcome(lambda: path)
        if whole in ("DecodeError", "ValueError"):
            assert "truncated" in ours, place
        elif not whole.startswith("TraceError"):
            assert ours.replace("model.onnx", "layers") == whole, place


@pytest.mark.parametrize("change", ["too short", "and external"])
def test_data_that_contradicts_itself(change: str, tmp_path: pathlib.Path) -> None:
    proto = model()
    tensor = proto.graph.initializer[0]
    if change == "too short":
        tensor.raw_data = tensor.raw_data[:-4]
    elif change == "and external":
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="elsewhere")
    data = proto.SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    expected = "does not fit its shape" if change == "too short" else "cannot be read|does not fit"
    with pytest.raises(TraceError, match=expected):
        import_onnx(path)


@pytest.mark.parametrize("shape", [["B", 97], ["B", 1, 96], [96]])
def test_a_declared_shape_that_the_nodes_contradict_is_a_warning(shape: list[int | str]) -> None:
    """As ONNX Runtime does, which warns and gives what the nodes make."""
    proto = model()
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, shape))
    with pytest.warns(UserWarning, match="declares the shape .* but its nodes make"):
        graph = import_onnx(proto)
    assert str(graph.outputs[0].type) == "f32[B,96]" and "declares the shape" in str(graph)


PEAK = """
import sys
import numpy as np, onnx, qcompiler
from qcompiler.frontend.onnx_import import import_onnx

def kib(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field + ":"))

import_onnx(sys.argv[2])
before = kib("VmRSS")
import_onnx(sys.argv[1])
print(kib("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_import_holds_the_floats_once(tmp_path: pathlib.Path) -> None:
    (tmp_path / "small").mkdir()
    path, small = saved(model(12, 1024), tmp_path), saved(model(), tmp_path / "small")
    done = subprocess.run([sys.executable, "-c", PEAK, path, small], capture_output=True, text=True, check=True)
    floats = 13 * 1024 * 1024 * 4 / 1024  # KiB, the table in a node included, which is read from the message
    assert int(done.stdout) <= MOST_TIMES * floats + 2 * 4096
