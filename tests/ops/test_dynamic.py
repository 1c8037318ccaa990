"""dynamic_quantize and dynamic_linear against ONNX Runtime, and their meaning where ONNX has none."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.errors import ShapeError, VerifyError
from qcompiler.ir import Graph
from qcompiler.opdef import opdef
from qcompiler.quantization import qmath
from qcompiler.types import DType, QuantParams, TensorType, tensor
from qcompiler.verify import verify

QUANTIZE, LINEAR = opdef("dynamic_quantize"), opdef("dynamic_linear")


def onnx_answers(x: np.ndarray, nodes, outputs, stored=()) -> list[np.ndarray]:
    """What ONNX Runtime computes of x, graph optimizations off. nodes: (op, inputs, outputs, attrs)."""
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node(op, read, written, **attrs) for op, read, written, attrs in nodes],
        "g",
        [helper.make_tensor_value_info("x", 1, x.shape)],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in stored],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})


def quantized(x: np.ndarray, **attrs: object) -> tuple[np.ndarray, ...]:
    return QUANTIZE.run_reference([x], QUANTIZE.complete_attrs(attrs))


RANGES = {
    "around 0": (-1, 1),
    "above 0": (0.5, 3),
    "below 0": (-7, -2),
    "wide": (-1e30, 1e30),
    "narrow": (1, 1 + 1e-6),
    "skewed": (-1e-3, 40),
}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("size", [1, 7, 33, 770])
def test_codes_are_those_of_onnx_runtime(name: str, size: int) -> None:
    """(7) is the same f32 arithmetic: codes, scale and zero point are equal to the bit, ties too."""
    rng = np.random.default_rng(size)
    for _ in range(20):
        x = rng.uniform(*RANGES[name], (1, size)).astype(np.float32)
        if size > 2:  # numbers that lie between two codes
            low, high = min(0, x.min()), max(0, x.max())
            scale = (np.float32(high) - np.float32(low)) / np.float32(255)
            x[0, 1 : size // 2] = (np.arange(1, size // 2) % 200 + np.float32(0.5)) * scale * (1 if high > 0 else -1)
            x = np.clip(x, low, high)
        node = ("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], {})
        want = onnx_answers(x, [node], [("q", 2), ("scale", 1), ("zero", 2)])
        for axis in ("row", "tensor"):
            got = quantized(x, axis=axis)
            for ours, theirs in zip(got, want):
                assert np.array_equal(ours.reshape(theirs.shape), theirs)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_products_are_those_of_onnx_runtime(bias: bool, per_channel: bool) -> None:
    """(8) to the bit: DynamicQuantizeLinear, MatMulInteger, Cast, Mul(scale * weight scale), Mul, Add. Weights have
    seven bits, since ONNX Runtime adds pairs of products in 16 bits with saturation where the CPU lacks VNNI."""
    rng = np.random.default_rng(5)
    for rows, inputs, outputs in ((1, 8, 5), (4, 33, 17), (9, 770, 40)):
        x = rng.normal(0, 2, (rows, inputs)).astype(np.float32)
        w = rng.integers(-64, 65, (outputs, inputs)).astype(np.int8)
        scale = rng.uniform(0.001, 0.1, outputs if per_channel else 1).astype(np.float32)
        b = rng.normal(0, 3, outputs).astype(np.float32)
        nodes = [
            ("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], {}),
            ("MatMulInteger", ["q", "w", "z"], ["acc"], {}),
            ("Cast", ["acc"], ["real"], {"to": 1}),
            ("Mul", ["s", "ws"], ["scale"], {}),
            ("Mul", ["real", "scale"], ["product" if bias else "y"], {}),
            *([("Add", ["product", "b"], ["y"], {})] if bias else []),
        ]
        stored = [("w", np.ascontiguousarray(w.T)), ("ws", scale), *([("b", b)] if bias else [])]
        [want] = onnx_answers(x, nodes, [("y", 1)], stored)
        q, s, z = quantized(x, axis="tensor")
        params = QuantParams.per_channel(scale, 0, 0, DType.I8) if per_channel else None
        params = params or QuantParams.per_tensor(scale[0], 0, DType.I8)
        types = [tensor("u8", rows, inputs), tensor("f32"), tensor("u8"), TensorType(DType.I8, w.shape, params)]
        got = LINEAR.run_integer(
            [q, s, z, w, b if bias else None],
            [*types, tensor("f32", outputs) if bias else None],
            tensor("f32", rows, outputs),
            LINEAR.complete_attrs({}),
        )
        assert np.array_equal(got, want)


def test_each_row_is_that_of_its_own() -> None:
    x = np.random.default_rng(1).normal(0, 2, (3, 5, 33)).astype(np.float32)
    q, scale, zero = quantized(x)
    assert scale.shape == zero.shape == (3, 5, 1)
    for i in np.ndindex(3, 5):
        alone = quantized(x[i])
        assert np.array_equal(alone[0], q[i]) and alone[1] == scale[i] and alone[2] == zero[i]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, "overflow"])
def test_a_row_that_is_not_finite_harms_no_other(bad: float | str) -> None:
    x = np.random.default_rng(1).normal(0, 2, (3, 9)).astype(np.float32)
    clean = quantized(x)
    if bad == "overflow":
        x[1, 2], x[1, 3] = 3e38, -3e38
    else:
        x[1, 4] = bad
    q, scale, zero = quantized(x)
    assert np.isnan(scale[1]) and zero[1] == 0 and not q[1].any()
    for row in (0, 2):
        assert all(np.array_equal(ours[row], theirs[row]) for ours, theirs in zip((q, scale, zero), clean))


@pytest.mark.parametrize("largest", [0.0, -0.0, 1e-45, 200 * 2.0**-126])
def test_tiny_ranges_are_zero(largest: float) -> None:
    q, scale, zero = quantized(np.array([[largest, -largest / 4, 0]], np.float32))
    assert scale == 1 and zero == 0 and not q.any()


def test_the_least_scale_is_normal() -> None:
    q, scale, zero = quantized(np.array([[255 * 2.0**-126, 0]], np.float32))
    assert scale == np.float32(2.0**-126) and q.tolist() == [[255, 0]] and zero == 0


@pytest.mark.parametrize(("qmin", "qmax"), [(0, 127), (3, 200), (254, 255)])
def test_codes_stay_in_their_range(qmin: int, qmax: int) -> None:
    x = np.random.default_rng(1).normal(0, 2, (3, 90)).astype(np.float32)
    q, scale, zero = quantized(x, qmin=qmin, qmax=qmax)
    assert qmin <= q.min() and q.max() <= qmax
    assert np.abs((q.astype(np.float64) - zero) * scale - x).max() <= scale.max() * 1.01  # half a code, and half of zp


def _linear(inputs: int, **quant: object) -> Graph:
    graph = Graph("g", "integer")
    x = graph.add_input("x", tensor("u8", "B", inputs))
    scale, zero = graph.add_input("s", tensor("f32", "B", 1)), graph.add_input("z", tensor("u8", "B", 1))
    params = None if quant else QuantParams.per_tensor(0.1, 0, DType.I8)
    weight = graph.add_const("w", np.zeros((2, inputs), np.int8), TensorType(DType.I8, (2, inputs), params))
    graph.set_outputs(graph.create("dynamic_linear", [x, scale, zero, weight]).results)
    return graph


def test_more_inputs_than_an_accumulator_holds_are_refused() -> None:
    verify(_linear(qmath.MOST_DYNAMIC_TERMS))
    with pytest.raises(ShapeError, match="its i32 accumulator could overflow"):
        _linear(qmath.MOST_DYNAMIC_TERMS + 1)


def test_the_longest_product_does_not_overflow() -> None:
    count = qmath.MOST_DYNAMIC_TERMS
    q, w = np.full((1, count), 255, np.uint8), np.full((1, count), 255, np.int32)
    zero, one = np.zeros((1, 1), np.uint8), np.ones((1, 1), np.float32)
    assert qmath.dynamic_product(q, one, zero, w, one[0]) == np.float32(255 * 255 * count)
    assert qmath.dynamic_product(q * 0, one, zero + 255, w, one[0]) == -np.float32(255 * 255 * count)


def test_a_weight_that_is_not_quantized_is_refused() -> None:
    with pytest.raises(VerifyError, match="operand weight of dynamic_linear"):
        verify(_linear(4, plain=True))


def test_a_quantized_result_is_refused() -> None:
    graph = _linear(4)
    result = graph.node_list[-1].result
    graph.set_type(result, result.type.quantized(DType.U8, QuantParams.per_tensor(0.1, 0, DType.U8)))
    with pytest.raises(VerifyError, match="dynamic_linear gives real numbers"):
        verify(graph)


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ((tensor("f32", 2, 4), tensor("f32", 2, 1), tensor("u8", 2, 1)), "codes of dynamic_linear"),
        ((tensor("u8", 2, 4), tensor("f32", 2), tensor("u8", 2)), "scale of dynamic_linear"),
        ((tensor("u8", 2, 4), tensor("f32", 2, 1), tensor("u8")), "zero point of dynamic_linear"),
        ((tensor("u8", 2, 5), tensor("f32", 2, 1), tensor("u8", 2, 1)), "weight of dynamic_linear"),
    ],
)
def test_operands_that_do_not_fit_are_refused(types: tuple[TensorType, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        LINEAR.infer_types([*types, tensor("f32", 3, 4)], LINEAR.complete_attrs({}))


@pytest.mark.parametrize(("qmin", "qmax"), [(-1, 255), (0, 256), (5, 5)])
def test_ranges_of_codes_that_are_none_are_refused(qmin: int, qmax: int) -> None:
    with pytest.raises(ShapeError, match="codes of dynamic_quantize"):
        QUANTIZE.infer_types([tensor("f32", 4)], QUANTIZE.complete_attrs({"qmin": qmin, "qmax": qmax}))
