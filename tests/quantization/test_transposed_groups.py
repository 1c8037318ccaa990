"""Transposed convolutions in groups: a scale for each channel of each group, from every frontend, on every level."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import qcompiler as qc
from qcompiler import nn
from qcompiler.backends.target import native_target
from qcompiler.errors import QCompilerError, TraceError
from qcompiler.frontend import functional as F
from qcompiler.types import QuantParams

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 8, 5, 6)).astype(np.float32)
GROUPS = [(1, 6), (2, 6), (4, 8), (8, 8), (8, 24)]


def uneven(outputs: int, groups: int) -> np.ndarray:
    """torch's weight; the filters of neighbouring channels are up to 10^6 times as large."""
    weight = RNG.normal(size=(8, outputs // groups, 3, 3)).astype(np.float32)
    sizes = (10.0 ** RNG.permutation(np.linspace(-3, 3, outputs))).reshape(groups, 1, -1, 1, 1)
    return (weight.reshape(groups, 8 // groups, -1, 3, 3) * sizes).reshape(weight.shape).astype(np.float32)


def layer(outputs: int, groups: int) -> nn.Module:
    made = nn.ConvTranspose2d(8, outputs, 3, stride=2, padding=1, groups=groups)
    made.load_state_dict({**made.state_dict(), "weight": uneven(outputs, groups)})
    return made


def weight_of(graph: qc.Graph) -> QuantParams:
    return next(node for node in graph.nodes if node.op == "conv_transpose").operands[1].type.params


@pytest.mark.parametrize("groups,outputs", GROUPS)
def test_every_channel_has_a_scale_of_its_own(outputs: int, groups: int) -> None:
    """Of each output channel the weights keep 8 bits: at least 35 dB, whatever the other channels hold."""
    model = layer(outputs, groups)
    real = qc.compile(model, None, (X,))(X)
    kept_float = qc.QConfig(qc.QuantSpec(qc.DType.I16, -32768, 32767, observer="minmax"), qc.get_qconfig("int8").weight)
    compiled = qc.compile(model, kept_float, (X,), calibration_data=[X], target="reference")
    params = weight_of(qc.compile(model, "int8", (X,), calibration_data=[X]).graph)
    assert params.axis == 1 and len(set(params.scale)) == outputs
    filters = next(const for const in compiled.graph.consts.values() if const.type.dtype is qc.DType.I8)
    scales, _ = filters.type.params.along(4)
    weight = torch.from_numpy(model.state_dict()["weight"])
    ours = torch.from_numpy(filters.data * scales)
    theirs = torch.cat(weight.chunk(groups, 0), 1)
    error = (ours - theirs).square().sum((0, 2, 3)) / theirs.square().sum((0, 2, 3))
    assert float(-10 * error.log10().max()) >= 35
    assert real.shape == compiled(X).shape


@pytest.mark.parametrize("groups,outputs", GROUPS)
def test_the_same_bits_on_every_level_and_after_saving(outputs: int, groups: int, tmp_path) -> None:
    graph = qc.compile(layer(outputs, groups), "int8", (X,), calibration_data=[X]).graph
    expected = qc.compile(graph, target="reference")(X)
    qc.compile(graph, target="reference").save(tmp_path / "m.qc.safetensors")
    available = [level for level in native_target().levels if native_target().levels.is_available(level)]
    for level in available:
        target = f"x86-64+{level}" if level in ("avx2", "avxvnni", "avx512", "avx512vnni") else f"aarch64+{level}"
        for model in (
            qc.compile(graph, target=target),
            qc.load(tmp_path / "m.qc.safetensors", target=target),
        ):
            assert np.array_equal(model(X), expected), target


@pytest.mark.parametrize("groups,outputs", GROUPS)
def test_weights_that_are_inputs(outputs: int, groups: int) -> None:
    weight = uneven(outputs, groups)

    def call(x, w):
        return F.conv_transpose2d(x, w, None, 2, 1, 1, groups)

    compiled = qc.compile(call, None, (X, weight))
    expected = torch.nn.functional.conv_transpose2d(torch.tensor(X), torch.tensor(weight), None, 2, 1, 1, groups)
    np.testing.assert_allclose(
        compiled(X, weight), expected.numpy(), rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )


# -- quantized files


def quantized_file(outputs: int, groups: int, axis: int | None, bias: bool) -> onnx.ModelProto:
    """x -> QDQ -> ConvTranspose, with weight codes along `axis` -> QDQ."""
    weight = RNG.integers(-127, 128, (8, outputs // groups, 3, 3)).astype(np.int8)
    channels = 1 if axis is None else weight.shape[axis]
    scales = (2.0 ** -RNG.integers(6, 12, channels)).astype(np.float32)
    consts = {
        "w": weight,
        "ws": scales if axis is not None else scales[0],
        "wz": np.zeros_like(scales, np.int8) if axis is not None else np.int8(0),
        "xs": np.float32(1 / 32),
        "xz": np.uint8(128),
        "ys": np.float32(0.25),
        "yz": np.uint8(100),
    }
    attrs = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], **attrs),
    ]
    if bias:
        consts |= {"b": RNG.integers(-9999, 9999, outputs).astype(np.int32)}
        consts |= {"bs": np.tile(scales / 32, groups if axis == 1 else 1).astype(np.float32)}
        consts["bz"] = np.zeros(len(consts["bs"]), np.int32)
        if axis is None:
            consts |= {"bs": consts["bs"][0], "bz": np.int32(0)}
        nodes.append(helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], **({"axis": 0} if attrs else {})))
    nodes += [
        helper.make_node(
            "ConvTranspose", ["xd", "wd", *(["bd"] if bias else [])], ["y"], group=groups, strides=[2, 2], pads=[1] * 4
        ),
        helper.make_node("QuantizeLinear", ["y", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["out"]),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8, 5, 6])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in consts.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("groups,outputs", GROUPS)
def test_a_quantized_file_keeps_its_codes(outputs: int, groups: int, axis: int | None, bias: bool) -> None:
    """Scales are powers of two, so ONNX Runtime's float sums are exact and its codes are the only right ones."""
    file = quantized_file(outputs, groups, axis, bias)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file.SerializeToString(), options)
    expected = session.run(None, {"x": X})[0]
    for target in ("reference", "native"):
        model = qc.compile(file, "keep", target=target)
        node = next(node for node in model.graph.nodes if node.op == "conv_transpose")
        assert node.result.type.is_quantized, "an integer op"
        assert weight_of(model.graph).axis == (axis if outputs > groups else None)
        np.testing.assert_array_equal(model(X)["out"], expected)


def test_scales_of_input_channels_stay_float() -> None:
    file = quantized_file(6, 2, 0, False)
    session = onnxruntime.InferenceSession(file.SerializeToString())
    np.testing.assert_allclose(qc.compile(file, "keep")(X)["out"], session.run(None, {"x": X})[0], atol=0.25 + 1e-6)


# -- errors


@pytest.mark.parametrize("groups", [3, 0, -1, 16])
def test_groups_that_do_not_divide_the_channels(groups: int) -> None:
    weight = np.ones((8, 2, 3, 3), np.float32)
    with pytest.raises(TraceError, match=r"(?s)groups.*a divisor of the 8 input channels"):
        qc.trace(lambda x: F.conv_transpose2d(x, weight, None, 1, 0, 0, groups), (X,))
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=groups)
    made = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8, 5, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    with pytest.raises(QCompilerError):
        qc.trace(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_a_graph_with_the_weight_of_torch_is_refused() -> None:
    """Not taken for another weight: with groups, torch's shape never fits."""
    geometry = "stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), output_padding=(0, 0)"
    text = f"""qcompiler 1
graph g(%x: f32[1,4,5,5]) stage=float {{
  const @w : f32[4,2,2,2]
  %y = conv_transpose(%x, @w) {{{geometry}, groups=2}} : f32[1,4,6,6]
  return %y
}}"""
    with pytest.raises(QCompilerError, match="channels of conv_transpose"):
        qc.compile(qc.parse(text, data="zeros"), None)
