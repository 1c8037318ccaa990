"""Models that ONNX Runtime's quantizer made, as QDQ and as QLinear ops: imported, kept, and compared with ONNX Runtime.

The reference computes in float between QuantizeLinear and DequantizeLinear (`exact_run`): ONNX Runtime's own u8 x i8
kernels saturate sums of two products to 16 bits on CPUs without VNNI. A code may differ by one where a float sum is
rounded another way; most may not.
"""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import qcompiler as qc
from qcompiler.errors import QuantizationError, TraceError
from qcompiler.report import count_nodes

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 12, 12)).astype(np.float32)


def float_model(path: pathlib.Path) -> pathlib.Path:
    """A model of Conv, ReLU, depthwise conv, residual add, max pool, sigmoid gate, global pool and linear."""
    weights = {
        "w1": RNG.normal(size=(8, 3, 3, 3)),
        "b1": RNG.normal(size=8),
        "w2": RNG.normal(size=(8, 1, 3, 3)),
        "b2": RNG.normal(size=8),
        "w3": RNG.normal(size=(8, 8, 1, 1)),
        "w4": RNG.normal(size=(5, 8)),
        "b4": RNG.normal(size=5),
        "w5": RNG.normal(size=(5, 5)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("Conv", ["c2", "w3"], ["c3"]),
        helper.make_node("Add", ["c3", "r1"], ["a1"]),
        helper.make_node("MaxPool", ["a1"], ["m1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["m1"], ["g1"]),
        helper.make_node("Flatten", ["g1"], ["f1"]),
        helper.make_node("Gemm", ["f1", "w4", "b4"], ["y1"], transB=1),
        helper.make_node("MatMul", ["y1", "w5"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self.items = iter([{"x": RNG.normal(size=(2, 3, 12, 12)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.items, None)


# -- the reference


def as_qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with each QLinear op as DequantizeLinear, the float op and QuantizeLinear."""
    result, nodes = onnx.ModelProto(), []
    result.CopyFrom(model)

    def real(code: str, scale: str, zero: str | None, axis: int = 1) -> str:
        name = f"{code}.real{len(nodes)}"
        given = [code, scale] if zero is None else [code, scale, zero]
        nodes.append(helper.make_node("DequantizeLinear", given, [name], axis=axis))
        return name

    def real_bias(bias: str, x_scale: str, w_scale: str) -> list[str]:
        if not bias:
            return []
        nodes.append(helper.make_node("Mul", [x_scale, w_scale], [f"{bias}.scale"]))
        return [real(bias, f"{bias}.scale", None, axis=0)]

    for node in model.graph.node:
        attrs = {attr.name: helper.get_attribute_value(attr) for attr in node.attribute}
        given = [*node.input]
        if node.op_type in ("QLinearConv", "QGemm"):
            op = node.op_type[-4:]
            x, w = real(*given[:3]), real(*given[3:6], axis=1 if op == "Gemm" and not attrs.get("transB") else 0)
            bias = given.pop(6) if op == "Gemm" else given[8] if len(given) > 8 else ""
            operands, to = [x, w, *real_bias(bias, given[1], given[4])], given[6:8]
        elif node.op_type in ("QLinearMatMul", "QLinearAdd"):
            op, to = node.op_type.removeprefix("QLinear"), given[6:8]
            operands = [real(*given[:3]), real(*given[3:6])]
        elif node.op_type == "QLinearGlobalAveragePool":
            op, to, operands = "GlobalAveragePool", given[3:5], [real(*given[:3])]
            assert not attrs.pop("channels_last", 0)
        else:
            nodes.append(node)
            continue
        [y] = node.output
        nodes.append(helper.make_node(op, operands, [f"{y}.real"], **attrs))
        nodes.append(helper.make_node("QuantizeLinear", [f"{y}.real", *to], [y]))
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


FLOAT_OPS = {"Conv", "Gemm", "MatMul", "Add", "Mul", "GlobalAveragePool", "MaxPool", "Flatten", "Relu"}
"""The ops of `float_model`, and the multiplication of a bias's scale. MaxPool and Flatten may see codes."""


def exact_session(model: onnx.ModelProto, folder: pathlib.Path) -> ort.InferenceSession:
    """A session of ONNX Runtime on `as_qdq(model)` with all optimisations off, so that it executes no integer
    product."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(folder / "executed.onnx")
    session = ort.InferenceSession(as_qdq(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    executed = {node.op_type for node in onnx.load(folder / "executed.onnx").graph.node}
    assert executed <= {"QuantizeLinear", "DequantizeLinear", *FLOAT_OPS}, executed
    return session


@pytest.mark.parametrize("op", ["QLinearConv", "QLinearMatMul", "QGemm"])
def test_the_reference_cannot_saturate(op: str, tmp_path: pathlib.Path) -> None:
    """Two products of 255 and 127 exceed 16 bits; 64 of them need 22."""
    x, w = np.full((2, 64, 1, 1), 255, np.uint8), np.full((8, 64, 1, 1), 127, np.int8)
    shapes = {
        "QLinearConv": (x, w),
        "QLinearMatMul": (x[..., 0, 0], w[..., 0, 0].T),
        "QGemm": (x[..., 0, 0], w[..., 0, 0]),
    }
    codes, weights = shapes[op]
    parameters = {
        "one": np.float32(1), "step": np.float32(2**14), "low": np.uint8(0), "zero": np.int8(0), "w": weights,
        "bias": np.zeros(8, np.int32),
    }  # fmt: skip
    operands = ["x", "one", "low", "w", "one", "zero"]
    operands += ["bias", "step", "low"] if op == "QGemm" else ["step", "low"]
    node = helper.make_node(op, operands, ["y"], domain="com.microsoft" if op == "QGemm" else "")
    if op == "QGemm":
        node.attribute.append(helper.make_attribute("transB", 1))
    graph = helper.make_graph(
        [node],
        "saturating",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, codes.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in parameters.items() if name in operands],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, tmp_path / "saturating.onnx")
    expected = round(255 * 127 * 64 / 2**14)
    assert (exact_session(model, tmp_path).run(None, {"x": codes})[0] == expected).all()
    assert (qc.compile(tmp_path / "saturating.onnx", "keep")(x=codes)["y"] == expected).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("activation", [QuantType.QUInt8, QuantType.QInt8])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_quantized_models_keep_their_parameters(
    tmp_path: pathlib.Path, form: QuantFormat, per_channel: bool, activation: QuantType, symmetric: bool
) -> None:
    source, path = float_model(tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    quantize_static(
        source,
        path,
        Reader(),
        quant_format=form,
        per_channel=per_channel,
        activation_type=activation,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": symmetric},
    )
    graph = qc.trace(path)
    assert graph.stage == "qdq"
    compiled = qc.compile(path, "keep")
    integer, real = count_nodes(compiled.graph)
    assert integer >= 7 and real == 0 and compiled.program.python_nodes == {}
    reference = exact_session(onnx.load(path), tmp_path)
    for batch in (1, 2):
        x = X[:batch]
        want = reference.run(None, {"x": x})[0]
        got = compiled({"x": x}["x"])["y"]
        step = next(node for node in graph.nodes if node.op == "quantize" and node is not None).result.type.quant.scale[
            0
        ]
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= 0.02 * np.abs(want).max() + 2 * step
        assert np.array_equal(got, qc.compile(compiled.graph, target="reference")(x)["y"])


def test_a_number_that_import_quantizes_stays_an_array(tmp_path: pathlib.Path) -> None:
    """ONNX Runtime's quantizer puts a pair around every constant of rank 0; import computes its first half."""
    nodes = [
        helper.make_node("QuantizeLinear", ["half", "s", "z"], ["half_q"]),
        helper.make_node("DequantizeLinear", ["half_q", "s", "z"], ["half_dq"]),
        helper.make_node("Mul", ["x", "half_dq"], ["y"]),
    ]
    numbers = {"half": np.float32(0.5), "s": np.float32(1 / 128), "z": np.int8(-3)}
    graph = helper.make_graph(
        nodes,
        "number",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "number.onnx")
    x = np.array([1.0, -2.0, 3.0], np.float32)
    assert (qc.compile(tmp_path / "number.onnx", "keep")(x)["y"] == x / 2).all()


@pytest.mark.parametrize("codes_first", [True, False])
@pytest.mark.parametrize("op", ["Abs", "Max", "MaxPool", "Transpose"])
def test_an_input_that_is_read_as_codes_and_as_integers(op: str, codes_first: bool) -> None:
    """The reader of plain integers computes with them, whichever reader comes first."""
    given = ["x"] * 2 if op == "Max" else ["x"]
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["real"]),
        helper.make_node(op, given, ["y"], **({"kernel_shape": [2, 2]} if op == "MaxPool" else {})),
    ]
    graph = helper.make_graph(
        nodes if codes_first else nodes[::-1],
        "both",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2, 3, 4])],
        [
            helper.make_tensor_value_info("real", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("y", TensorProto.UINT8, None),
        ],
        [numpy_helper.from_array(np.float32(0.5), "s"), numpy_helper.from_array(np.uint8(3), "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = RNG.integers(0, 256, (1, 2, 3, 4), np.uint8)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    want = ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})
    got = qc.compile(model, "keep")(x)
    for name, array in zip(("real", "y"), want):
        assert got[name].dtype == array.dtype and np.array_equal(got[name], array), name


def test_a_quantized_model_is_not_quantized_twice(tmp_path: pathlib.Path) -> None:
    source, path = float_model(tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    quantize_static(source, path, Reader(), quant_format=QuantFormat.QDQ)
    with pytest.raises(QuantizationError, match="keep"):
        qc.compile(path, "int8", calibration_data=[X])
    with pytest.raises(QuantizationError, match="keep"):
        qc.compile(path, None)


def test_a_float_model_by_name_with_its_own_batch(tmp_path: pathlib.Path) -> None:
    path = float_model(tmp_path / "float.onnx")
    graph = qc.trace(path)
    assert str(graph.inputs[0].type) == "f32[N,3,12,12]" and graph.output_names == ["y"]
    compiled = qc.compile(path, "int8", calibration_data=[{"x": X}])
    want = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]
    assert np.abs(compiled(x=X)["y"] - want).max() < 0.1 * np.abs(want).max()
    assert {node.origin[0].kind for node in qc.trace(path).nodes} >= {"onnx.Conv", "onnx.Gemm"}
    mapping = qc.QConfigMapping().set_global("int8").set_object_type("Gemm", None)
    kept = qc.compile(path, mapping, calibration_data=[X])
    assert next(n for n in kept.graph.nodes if n.op == "linear").result.type.quant is None
    fixed = qc.trace(path, (X[:1],), dynamic={})
    assert str(fixed.inputs[0].type) == "f32[1,3,12,12]"


def test_external_data_stays_in_its_folder(tmp_path: pathlib.Path) -> None:
    path = float_model(tmp_path / "float.onnx")
    model = onnx.load(path)
    onnx.save(model, tmp_path / "external.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert len(qc.trace(tmp_path / "external.onnx")) == len(qc.trace(path))
    (tmp_path / "weights.bin").rename(tmp_path / "gone.bin")
    with pytest.raises(TraceError, match="external data"):
        qc.trace(tmp_path / "external.onnx")
