"""Activations that are quantized per channel, as nncf quantizes the operands of depthwise convolutions."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompiler as qc

C, SIZE = 6, 9
TYPES = {"u8": (np.uint8, 0), "i8": (np.int8, 0), "u8-offset": (np.uint8, 77), "i8-offset": (np.int8, -5)}


def network(
    seed: int,
    kind: str,
    *,
    activation: str = "none",
    points: bool = False,
    filters: int = 1,
    bias: bool = True,
    rounded: bool = False,
) -> onnx.ModelProto:
    """x, Conv of codes, an activation, a pair per channel, depthwise Conv, a pair per tensor.

    activation: none, relu, relu6 or sigmoid. points: the channels have zero points of their own. filters: of a channel.
    rounded: the biases are multiples of scale(x) * scale(weight).
    """
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    consts: list[onnx.TensorProto] = []

    def const(name: str, array: np.ndarray) -> str:
        consts.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(op: str, operands: list[str], result: str, **attrs: object) -> str:
        nodes.append(helper.make_node(op, operands, [result], **attrs))
        return result

    def pair(x: str, scale: np.ndarray, zero: np.ndarray) -> str:
        names = [const(f"{x}.s", scale), const(f"{x}.z", zero)]
        attrs = {"axis": 1} if scale.ndim else {}
        codes = node("QuantizeLinear", [x, *names], f"{x}.q", **attrs)
        return node("DequantizeLinear", [codes, *names], f"{x}.d", **attrs)

    def weight(name: str, shape: tuple[int, ...]) -> str:
        codes = const(name, rng.integers(-127, 128, shape).astype(np.int8))
        scale = const(f"{name}.s", (0.002 + 0.004 * rng.random(shape[0])).astype(np.float32))
        zero = const(f"{name}.z", np.zeros(shape[0], np.int8))
        return node("DequantizeLinear", [codes, scale, zero], f"{name}.d", axis=0)

    def biased(name: str, scale: np.ndarray) -> list[str]:
        """A bias for products of this scale, one number for each output."""
        real = rng.normal(size=scale.size).astype(np.float32)
        if rounded:
            real = (np.rint(real / scale) * scale).astype(np.float32)
        return [const(name, real)] if bias else []

    def weight_scale(name: str) -> np.ndarray:
        (found,) = (each for each in consts if each.name == f"{name}.s")
        return numpy_helper.to_array(found).astype(np.float64)

    dtype, point = TYPES[kind]
    x = pair("x", np.float32(0.021), np.int8(3))
    w = weight("w1", (C, 4, 1, 1))
    y = node("Conv", [x, w, *biased("b1", np.float32(0.021) * weight_scale("w1"))], "y1")
    if activation == "relu6":
        y = node("Clip", [y, const("low", np.float32(0)), const("high", np.float32(6))], "a1")
    elif activation != "none":
        y = node(activation.capitalize(), [y], "a1")
    scales = (6 / 255 * (0.3 + 0.7 * rng.random(C))).astype(np.float32)
    zeros = np.full(C, point) + (np.arange(C) if points else 0)
    y = pair(y, scales, zeros.astype(dtype))
    outputs = C * filters
    w = weight("w2", (outputs, 1, 3, 3))
    b = biased("b2", scales.repeat(filters) * weight_scale("w2"))
    y = node("Conv", [y, w, *b], "y2", group=C, pads=[1, 1, 1, 1])
    node("Identity", [pair(y, np.float32(0.03), np.uint8(120))], "y")
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", outputs, SIZE, SIZE])],
        consts,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def exact_run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def codes_apart(model: onnx.ModelProto, compiled: qc.CompiledModel, x: np.ndarray) -> np.ndarray:
    """By how many codes of the last pair the results differ from ONNX Runtime's."""
    return np.rint(np.abs(compiled(x)["y"] - exact_run(model, x)) / np.float32(0.03))


X = np.random.default_rng(5).normal(size=(3, 4, SIZE, SIZE)).astype(np.float32)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_depthwise_convolutions_are_integer(kind: str, activation: str) -> None:
    model = network(1, kind, activation=activation, filters=2 if kind == "u8" else 1, bias=kind != "i8")
    compiled = qc.compile(model, "keep")
    assert not compiled.report().python_nodes
    assert "2 int8 nodes, 0 float nodes" in str(compiled.report())
    apart = codes_apart(model, compiled, X)
    # Beside a tie a code of the first pair may differ, and with it what reads the pixel: 9 of 243 results of a channel.
    assert apart.max() <= 1 and (apart > 0).mean() <= 0.005


@pytest.mark.parametrize("kind", ["u8", "i8-offset"])
def test_only_the_rounding_of_float_biases_moves_codes(kind: str) -> None:
    """A float bias becomes an i32 multiple of the scale of its products, which moves a result by M/2 codes at most."""
    x = np.random.default_rng(6).normal(size=(40, 4, SIZE, SIZE)).astype(np.float32)
    apart = {}
    for rounded in (False, True):
        model = network(7, kind, activation="relu", filters=2, rounded=rounded)
        compiled = qc.compile(model, "keep")
        assert "2 int8 nodes, 0 float nodes" in str(compiled.report())
        apart[rounded] = codes_apart(model, compiled, x)
    # Each of 10 roundings of sums below 2^8 codes is 2^-17 codes at most: together they pass a tie once in 2^12.
    assert apart[True].max() <= 1 and (apart[True] > 0).mean() <= 2.0**-12
    assert apart[False].max() <= 1 and (apart[False] > 0).sum() > 4 * (apart[True] > 0).sum()


def test_relu6_is_left_to_the_codes() -> None:
    model = network(2, "u8", activation="relu6")
    compiled = qc.compile(model, "keep")
    assert "2 int8 nodes, 0 float nodes" in str(compiled.report())
    apart = codes_apart(model, compiled, 3 * X)
    assert apart.max() <= 1 and (apart > 0).mean() <= 0.005


@pytest.mark.parametrize(
    ("activation", "kind", "points"),
    [("relu6", "u8-offset", False), ("sigmoid", "u8", False), ("none", "u8", True), ("relu6", "i8-offset", True)],
)
def test_others_stay_float_on_kernels(activation: str, kind: str, points: bool) -> None:
    model = network(3, kind, activation=activation, points=points)
    if activation == "relu6":  # the largest codes are far above 6
        (scales,) = (each for each in model.graph.initializer if each.name == "a1.s")
        scales.CopyFrom(numpy_helper.from_array(4 * numpy_helper.to_array(scales), scales.name))
    compiled = qc.compile(model, "keep")
    assert not compiled.report().python_nodes
    assert "stayed float" in str(compiled.report())
    apart = codes_apart(model, compiled, X)
    assert apart.max() <= 1 and (apart > 0).mean() <= 0.005


@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_a_pair_alone_has_the_same_bits(points: bool, dtype: type) -> None:
    scales = np.array([2.0**-59, 0.1, 0.3, 1e6], np.float32)
    zeros = (np.arange(4) * 20 if points else np.full(4, 3)).astype(dtype)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 4])],
        [numpy_helper.from_array(scales, "s"), numpy_helper.from_array(zeros, "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32) * scales * 100
    x[:8] = np.arange(-16, 16).reshape(8, 4) * scales / 2  # ties
    x[8, :], x[9, :] = np.inf, -np.inf
    compiled = qc.compile(model, "keep")
    assert not compiled.report().python_nodes
    assert np.array_equal(compiled(x)["y"], exact_run(model, x))
