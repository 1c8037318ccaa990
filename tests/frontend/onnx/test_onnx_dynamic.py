"""ONNX models that were quantized dynamically, and the ops that ONNX Runtime fuses, against ONNX Runtime.

Graph optimizations are off where a node is compared with itself, so that the node is what runs.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompiler as qc
from qcompiler.errors import QCompilerError

RNG = np.random.default_rng(3)
MS = "com.microsoft"
UNIT = 2.0**-23


def floats(*shape: int, low: float = -2, high: float = 2) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


def codes(*shape: int, dtype: Any = np.uint8, low: int | None = None, high: int | None = None) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min if low is None else low, (info.max if high is None else high) + 1, shape).astype(dtype)


def model_of(
    op: str,
    operands: dict[str, np.ndarray | None],
    outputs: int = 1,
    domain: str = "",
    known: tuple[str, ...] = (),
    types: tuple[int, ...] = (),
    **attrs: Any,
) -> onnx.ModelProto:
    """A model of one node. known: operands that are initializers. types: of the outputs, floats if not given."""
    names = [name if value is not None else "" for name, value in operands.items()]
    while not names[-1]:
        names.pop()
    results = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(op, names, results, domain=domain, **attrs)
    values = {name: np.asarray(value) for name, value in operands.items() if value is not None}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
        if name not in known
    ]
    made = [
        helper.make_tensor_value_info(name, types[i] if types else TensorProto.FLOAT, None)
        for i, name in enumerate(results)
    ]
    held = [numpy_helper.from_array(values[name], name) for name in known if name in values]
    graph = helper.make_graph([node], "one", inputs, made, held)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)]
    found = helper.make_model(graph, opset_imports=opsets)
    found.ir_version = 9
    return found


def runtime(model: onnx.ModelProto, feeds: dict[str, Any], optimized: bool = False) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(each) for each in session.run(None, feeds)]


def compiled(model: onnx.ModelProto, feeds: dict[str, Any], target: str = "native") -> tuple[Any, list[np.ndarray]]:
    stage = qc.trace(model, feeds).stage
    made = qc.compile(model, None if stage == "float" else "keep", feeds, target=target)
    found = made(**feeds)
    return made, list(found.values()) if isinstance(found, dict) else list(found)


def check(model: onnx.ModelProto, feeds: dict[str, Any], atol: float = 0.0, rtol: float = 0.0) -> Any:
    expected = runtime(model, feeds)
    for target in ("native", "reference"):
        made, found = compiled(model, feeds, target)
        for got, want in zip(found, expected, strict=True):
            assert got.dtype == want.dtype and got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
        if target == "native":
            assert not made.program.python_nodes
            native = made
    return native


def feeds_of(operands: dict[str, Any], known: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in operands.items() if value is not None and name not in known}


# -- products of integers


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 33), (1, 1)])
def test_dynamic_quantize_linear(shape: tuple[int, ...]) -> None:
    x = floats(*shape)
    model = model_of("DynamicQuantizeLinear", {"x": x}, 3, types=(TensorProto.UINT8, 1, TensorProto.UINT8))
    check(model, {"x": x})


ZEROS = {
    "none": (None, None),
    "numbers": (np.uint8(131), np.int8(-3)),
    "an axis of one": (np.array([7], np.uint8), np.array([5], np.int8)),
    "columns": (np.uint8(131), codes(5, dtype=np.int8, low=-20, high=20)),
}


@pytest.mark.parametrize("known", [("b", "a_zero", "b_zero"), ("b", "b_zero"), ()], ids=["const", "dynamic", "input"])
@pytest.mark.parametrize("zeros", ZEROS)
@pytest.mark.parametrize("types", ["u8 i8", "u8 u8", "i8 i8"])
def test_matmul_integer(types: str, zeros: str, known: tuple[str, ...]) -> None:
    a_type, b_type = ({"u8": np.uint8, "i8": np.int8}[each] for each in types.split())
    a_zero, b_zero = ZEROS[zeros]
    # 64 keeps pairs of products within 16 bits, where ONNX Runtime has instructions that saturate
    a = codes(2, 4, 9, dtype=a_type, low=0, high=127)
    b = codes(9, 5, dtype=b_type, low=-64 if b_type is np.int8 else 0, high=64)
    operands: dict[str, Any] = {
        "a": a,
        "b": b,
        "a_zero": None if a_zero is None else (a_zero // np.uint8(2)).astype(a_type),
        "b_zero": None if b_zero is None else np.abs(b_zero).astype(b_type),
    }
    model = model_of("MatMulInteger", operands, known=known, types=(TensorProto.INT32,))
    check(model, feeds_of(operands, known))


def test_sums_beyond_24_bits_are_exact() -> None:
    """A sum of 3000 products that f32 would round."""
    a, b = np.full((1, 3000), 255, np.uint8), np.full((3000, 2), 63, np.int8)
    b[7] = 62
    operands = {"a": a, "b": b}
    for known in (("b",), ()):
        check(model_of("MatMulInteger", operands, known=known, types=(TensorProto.INT32,)), feeds_of(operands, known))


def test_a_zero_point_for_each_row() -> None:
    a, zero = codes(4, 9, high=127), codes(4, high=127)
    b = codes(9, 5, dtype=np.int8, low=-60, high=60)
    model = model_of("MatMulInteger", {"a": a, "b": b, "a_zero": zero}, known=("b",), types=(TensorProto.INT32,))
    feeds = {"a": a, "a_zero": zero}
    expected = (a.astype(np.int32) - zero[:, None]) @ b.astype(np.int32)
    for target in ("native", "reference"):
        made, (found,) = compiled(model, feeds, target)
        assert np.array_equal(found, expected)
        assert "dynamic_linear" in {node.op for node in made.graph.nodes}


CONVS: list[dict[str, Any]] = [
    {"pads": [1, 1, 1, 1]},
    {"strides": [2, 2], "dilations": [2, 1], "pads": [0, 1, 2, 0]},
    {"group": 2},
]


@pytest.mark.parametrize("attrs", CONVS, ids=str)
@pytest.mark.parametrize("w_type", [np.int8, np.uint8])
def test_conv_integer(attrs: dict[str, Any], w_type: Any) -> None:
    x, zero = codes(2, 4, 7, 6, high=127), np.uint8(41)
    weight = codes(6, 4 // attrs.get("group", 1), 3, 2, dtype=w_type, low=0, high=60)
    operands = {"x": x, "w": weight, "x_zero": zero, "w_zero": w_type(17)}
    model = model_of("ConvInteger", operands, known=("w", "w_zero"), types=(TensorProto.INT32,), **attrs)
    check(model, feeds_of(operands, ("w", "w_zero")))


def test_a_conv_whose_sums_pass_24_bits() -> None:
    x, weight = np.full((1, 600, 4, 4), 255, np.uint8), np.full((1, 600, 3, 3), 60, np.int8)
    weight[0, 5, 0, 0] = 3
    model = model_of("ConvInteger", {"x": x, "w": weight}, known=("w",), types=(TensorProto.INT32,))
    expected = (weight.astype(np.int32).sum() * 255) * np.ones((1, 1, 2, 2), np.int32)
    for target in ("native", "reference"):
        assert np.array_equal(compiled(model, {"x": x}, target)[1][0], expected)


@pytest.mark.parametrize("scale", ["number", "columns"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("zero", [True, False])
def test_matmul_integer_to_float(scale: str, bias: bool, zero: bool) -> None:
    columns = () if scale == "number" else (5,)
    operands: dict[str, Any] = {
        "a": codes(2, 4, 9, high=127),
        "b": codes(9, 5, dtype=np.int8, low=-60, high=60),
        "a_scale": floats(low=0.01, high=0.1),
        "b_scale": floats(*columns, low=0.01, high=0.1),
        "a_zero": np.uint8(55) if zero else None,
        "b_zero": codes(*columns, dtype=np.int8, low=-3, high=3) if zero else None,
        "bias": floats(5) if bias else None,
    }
    known = ("b", "b_scale", "b_zero", "bias")
    model = model_of("MatMulIntegerToFloat", operands, domain=MS, known=known)
    made = check(model, feeds_of(operands, known), rtol=2 * UNIT, atol=2 * UNIT)
    assert [node.op for node in made.graph.nodes] == ["dynamic_linear"]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_dynamic_quantize_matmul(dtype: Any) -> None:
    operands: dict[str, Any] = {
        "a": floats(2, 4, 9),
        "b": codes(9, 5, dtype=dtype, low=1, high=60),
        "b_scale": floats(5, low=0.01, high=0.1),
        "b_zero": codes(5, dtype=dtype, low=0, high=40),
        "bias": floats(5),
    }
    known = ("b", "b_scale", "b_zero", "bias")
    model = model_of("DynamicQuantizeMatMul", operands, domain=MS, known=known)
    made = check(model, feeds_of(operands, known), rtol=4 * UNIT, atol=16 * UNIT)
    assert [node.op for node in made.graph.nodes] == ["dynamic_quantize", "dynamic_linear"]


# -- what the transformer optimizer fuses

FUNCTION = 8 * UNIT
"""Results below 4: ours and theirs are each within a few units in the last place of the real function."""


@pytest.mark.parametrize(
    ("op", "biased"),
    [("Gelu", False), ("BiasGelu", True), ("FastGelu", False), ("FastGelu", True), ("QuickGelu", False)],
)
def test_functions(op: str, biased: bool) -> None:
    operands: dict[str, Any] = {"x": floats(3, 5, 17, low=-6, high=6), "bias": floats(17) if biased else None}
    known = ("bias",)
    check(model_of(op, operands, domain=MS, known=known), feeds_of(operands, known), rtol=2e-6, atol=FUNCTION)


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
@pytest.mark.parametrize("bias", [True, False])
def test_skip_norm(op: str, bias: bool) -> None:
    operands: dict[str, Any] = {"x": floats(2, 5, 16), "skip": floats(2, 5, 16), "gamma": floats(16)}
    if op == "SkipLayerNormalization":
        operands["beta"] = floats(16)
    operands["bias"] = floats(16) if bias else None
    known = ("gamma", "beta", "bias")
    outputs = onnx.helper.make_node(op, list(operands), ["y0", "", "", "y3"], domain=MS, epsilon=1e-5)
    model = model_of(op, operands, domain=MS, known=known, epsilon=1e-5)
    check(model, feeds_of(operands, known), atol=2e-6)
    del model.graph.node[:]
    for name in list(outputs.input):
        if operands[name] is None:
            outputs.input.remove(name)
    model.graph.node.append(outputs)
    model.graph.output.append(helper.make_tensor_value_info("y3", TensorProto.FLOAT, None))
    check(model, feeds_of(operands, known), atol=2e-6)


def test_simplified_layer_normalization() -> None:
    operands = {"x": floats(2, 5, 16), "gamma": floats(16)}
    check(
        model_of("SimplifiedLayerNormalization", operands, known=("gamma",), axis=-1), {"x": operands["x"]}, atol=2e-6
    )


@pytest.mark.parametrize("attrs", [{}, {"transA": 1}, {"transB": 1, "alpha": 0.125}])
@pytest.mark.parametrize("known", [("b",), ()])
def test_fused_matmul(attrs: dict[str, Any], known: tuple[str, ...]) -> None:
    a, b = (
        floats(2, 9, 4) if "transA" in attrs else floats(2, 4, 9),
        floats(5, 9) if "transB" in attrs else floats(9, 5),
    )
    check(
        model_of("FusedMatMul", {"a": a, "b": b}, domain=MS, known=known, **attrs),
        feeds_of({"a": a, "b": b}, known),
        atol=4e-6,
    )


EMBEDDED = {
    "ids": codes(2, 5, dtype=np.int32, low=0, high=9),
    "segments": codes(2, 5, dtype=np.int32, low=0, high=1),
    "words": floats(10, 16),
    "positions": floats(7, 16),
    "kinds": floats(2, 16),
    "gamma": floats(16),
    "beta": floats(16),
    "mask": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32),
    "position_ids": codes(2, 5, dtype=np.int32, low=0, high=6),
}
TABLES = ("words", "positions", "kinds", "gamma", "beta")


@pytest.mark.parametrize("without", [(), ("segments", "kinds"), ("mask",), ("position_ids",), ("mask", "position_ids")])
def test_embed_layer_normalization(without: tuple[str, ...]) -> None:
    operands = {name: None if name in without else value for name, value in EMBEDDED.items()}
    types = (1, TensorProto.INT32)
    model = model_of("EmbedLayerNormalization", operands, 2, MS, TABLES, types, epsilon=1e-5)
    check(model, feeds_of(operands, TABLES), atol=2e-6)


@pytest.mark.parametrize("segments", [True, False])
def test_quantized_embed_layer_normalization(segments: bool) -> None:
    tables = {name: codes(*EMBEDDED[name].shape) for name in TABLES}
    scales = {f"{name}_scale": floats(low=0.01, high=0.02) for name in TABLES}
    points = {f"{name}_zero": codes() for name in TABLES}
    operands: dict[str, Any] = {
        "ids": EMBEDDED["ids"], "segments": EMBEDDED["segments"], **tables, "mask": EMBEDDED["mask"], **scales, **points
    }  # fmt: skip
    if not segments:
        operands |= dict.fromkeys(("segments", "kinds", "kinds_scale", "kinds_zero"))
    known = (*TABLES, *scales, *points)
    model = model_of("QEmbedLayerNormalization", operands, 2, MS, known, (1, TensorProto.INT32), epsilon=1e-5)
    check(model, feeds_of(operands, known), atol=4e-6)


MASKS = {
    "none": None,
    "lengths": np.array([3, 5], np.int32),
    "keys": EMBEDDED["mask"],
    "queries and keys": np.maximum(RNG.integers(0, 2, (2, 5, 5)), np.eye(1, 5, dtype=np.int64)).astype(np.int32),
}
"""Every query may read the first key: among scores of -10000 the order of additions changes digits."""


@pytest.mark.parametrize("attrs", [{}, {"unidirectional": 1}, {"scale": 0.3, "mask_filter_value": -3.0}], ids=str)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("biased", [False, True])
def test_attention(mask: str, attrs: dict[str, Any], biased: bool) -> None:
    operands: dict[str, Any] = {
        "x": floats(2, 5, 8),
        "w": floats(8, 24, low=-0.5, high=0.5),
        "b": floats(24),
        "mask": MASKS[mask],
        "past": None,
        "bias": floats(2, 2, 5, 5) if biased else None,
    }
    known = ("w", "b")
    model = model_of("Attention", operands, domain=MS, known=known, num_heads=2, **attrs)
    check(model, feeds_of(operands, known), atol=4e-6)


def test_attention_with_values_of_another_size() -> None:
    operands = {"x": floats(2, 5, 8), "w": floats(8, 28, low=-0.5, high=0.5), "b": floats(28)}
    model = model_of("Attention", operands, domain=MS, known=("w", "b"), num_heads=2, qkv_hidden_sizes=[8, 8, 12])
    check(model, {"x": operands["x"]}, atol=4e-6)


@pytest.mark.parametrize("mask", ["none", "lengths", "keys"])
@pytest.mark.parametrize("per_column", [False, True])
def test_quantized_attention(mask: str, per_column: bool) -> None:
    operands: dict[str, Any] = {
        "x": codes(2, 5, 8, high=127),
        "w": codes(8, 24, dtype=np.int8, low=-60, high=60),
        "b": floats(24),
        "x_scale": floats(low=0.02, high=0.03),
        "w_scale": floats(*((24,) if per_column else ()), low=0.003, high=0.006),
        "mask": MASKS[mask],
        "x_zero": np.uint8(61),
        "w_zero": np.zeros(24 if per_column else (), np.int8),
    }
    known = ("w", "b", "w_scale", "w_zero")
    model = model_of("QAttention", operands, domain=MS, known=known, num_heads=2)
    made = check(model, feeds_of(operands, known), atol=4e-6)
    assert "dynamic_linear" in {node.op for node in made.graph.nodes}


@pytest.mark.parametrize("mask", ["none", "lengths", "keys"])
@pytest.mark.parametrize("biased", [False, True])
def test_multi_head_attention(mask: str, biased: bool) -> None:
    operands: dict[str, Any] = {
        "q": floats(2, 4, 8),
        "k": floats(2, 5, 8),
        "v": floats(2, 5, 8),
        "bias": floats(24) if biased else None,
        "mask": MASKS[mask],
        "added": floats(1, 2, 4, 5) if biased else None,
    }
    model = model_of("MultiHeadAttention", operands, domain=MS, known=("bias",), num_heads=2)
    check(model, feeds_of(operands, ("bias",)), atol=4e-6)


@pytest.mark.parametrize(
    ("op", "operands", "attrs", "message"),
    [
        ("Attention", {"x": floats(1, 2, 8), "w": floats(8, 24), "b": floats(24)}, {"do_rotary": 1}, "do_rotary"),
        ("Attention", {"x": floats(1, 2, 8), "w": floats(8, 25), "b": floats(25)}, {}, "add up to 25"),
        (
            "Attention",
            {"x": floats(1, 2, 8), "w": floats(8, 24), "b": floats(24), "m": None, "past": floats(2, 1, 2, 3, 4)},
            {},
            "past",
        ),
        (
            "Attention",
            {"x": floats(1, 2, 8), "w": floats(8, 24), "b": floats(24), "m": np.ones((3,), np.int32)},
            {},
            "the mask",
        ),
        ("FusedMatMul", {"a": floats(2, 2, 2), "b": floats(2, 2, 2)}, {"transBatchA": 1}, "transBatchA"),
        (
            "MatMulIntegerToFloat",
            {"a": floats(2, 2), "b": codes(2, 2), "s": floats(), "t": floats()},
            {},
            "type of the",
        ),
    ],
)
def test_refusals(op: str, operands: dict[str, Any], attrs: dict[str, Any], message: str) -> None:
    known = tuple(name for name in operands if name in "wb")
    attrs = {"num_heads": 2, **attrs} if op == "Attention" else attrs
    with pytest.raises(QCompilerError, match=message):
        qc.trace(model_of(op, operands, domain=MS, known=known, **attrs), feeds_of(operands, known))


# -- recurrent layers


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_lstm_that_was_quantized(bidirectional: bool, per_channel: bool, tmp_path: pathlib.Path) -> None:
    """With one row ONNX Runtime has one range for the states of a step too. Its activations are approximations, which
    could move a code beside a tie; there is none in this data."""
    import torch

    torch.manual_seed(0)
    net = torch.nn.LSTM(12, 16, 2, bidirectional=bidirectional)
    model = exported(net, (torch.randn(6, 1, 12),), tmp_path, {"x": {0: "T"}})
    model = quantized(model, tmp_path, per_channel=per_channel, reduce_range=True)
    assert "DynamicQuantizeLSTM" in {node.op_type for node in model.graph.node}
    feeds = {"x": floats(6, 1, 12)}
    made, found = compiled(model, feeds)
    assert not made.program.python_nodes
    for got, want in zip(found, runtime(model, feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


# -- whole models


def quantized(model: onnx.ModelProto, folder: pathlib.Path, **options: Any) -> onnx.ModelProto:
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(model, folder / "float.onnx")
    quantize_dynamic(folder / "float.onnx", folder / "quantized.onnx", **options)
    return onnx.load(folder / "quantized.onnx")


def exported(module: Any, example: tuple[Any, ...], folder: pathlib.Path, axes: dict[str, Any]) -> onnx.ModelProto:
    import torch

    torch.onnx.export(
        module.eval(), example, folder / "exported.onnx", dynamo=False, input_names=list(axes), dynamic_axes=axes,
        opset_version=17,
    )  # fmt: skip
    return onnx.load(folder / "exported.onnx")


OPTIONS: dict[str, dict[str, Any]] = {
    "i8": {"reduce_range": True},
    "i8 per channel": {"reduce_range": True, "per_channel": True},
    "u8": {"weight_type": "QUInt8"},
    "u8 per channel": {"weight_type": "QUInt8", "per_channel": True},
}


def options_of(name: str) -> dict[str, Any]:
    """Options of quantize_dynamic. Weights of 8 signed bits would saturate in ONNX Runtime on some CPUs."""
    from onnxruntime.quantization import QuantType

    given = dict(OPTIONS[name])
    return given | ({"weight_type": QuantType.QUInt8} if "weight_type" in given else {})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OPTIONS)
def test_a_perceptron(name: str, tmp_path: pathlib.Path) -> None:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(33, 40), torch.nn.ReLU(), torch.nn.Linear(40, 7), torch.nn.Sigmoid())
    model = quantized(exported(net, (torch.randn(5, 33),), tmp_path, {"x": {0: "B"}}), tmp_path, **options_of(name))
    feeds = {"x": floats(5, 33)}
    made, (found,) = compiled(model, feeds)
    assert [node.op for node in made.graph.nodes] == ["dynamic_quantize", "dynamic_linear"] * 2 + ["sigmoid"]
    assert not made.program.python_nodes
    (expected,) = runtime(model, feeds)
    np.testing.assert_allclose(found, expected, rtol=2 * UNIT, atol=0)  # all is equal but the last rounding of sigmoid
    (of_reference,) = compiled(model, feeds, "reference")[1]
    np.testing.assert_allclose(of_reference, expected, rtol=2 * UNIT, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_a_convolutional_network(tmp_path: pathlib.Path) -> None:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 5, 3, stride=2), torch.nn.Flatten(),
        torch.nn.Linear(5 * 9, 4),
    )  # fmt: skip
    model = exported(net, (torch.randn(2, 3, 8, 8),), tmp_path, {"x": {0: "B"}})
    model = quantized(model, tmp_path, **options_of("u8"))
    assert "ConvInteger" in {node.op_type for node in model.graph.node}
    feeds = {"x": floats(2, 3, 8, 8)}
    made, (found,) = compiled(model, feeds)
    assert not made.program.python_nodes
    np.testing.assert_array_equal(found, runtime(model, feeds)[0])


def encoder() -> Any:
    """A small BERT, written as the package transformers writes it, so that the optimizer's patterns match."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.dense = (nn.Linear(16, 16) for _ in range(4))
            self.wide, self.narrow = nn.Linear(16, 24), nn.Linear(24, 16)
            self.norm, self.last = nn.LayerNorm(16), nn.LayerNorm(16)

        def by_heads(self, x: Any) -> Any:
            return x.view(*x.size()[:-1], 2, 8).permute(0, 2, 1, 3)

        def forward(self, x: Any, mask: Any) -> Any:
            q, k, v = (self.by_heads(part(x)) for part in (self.query, self.key, self.value))
            weights = nn.functional.softmax(torch.matmul(q, k.transpose(-1, -2)) / 8**0.5 + mask, dim=-1)
            context = torch.matmul(weights, v).permute(0, 2, 1, 3).contiguous()
            context = context.view(*context.size()[:-2], 16)
            x = self.norm(self.dense(context) + x)
            return self.last(self.narrow(nn.functional.gelu(self.wide(x))) + x)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.positions, self.kinds = nn.Embedding(50, 16), nn.Embedding(12, 16), nn.Embedding(2, 16)
            self.norm, self.layers = nn.LayerNorm(16), nn.ModuleList([Layer(), Layer()])
            self.register_buffer("position_ids", torch.arange(12).expand((1, -1)))

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * -10000.0
            places = self.position_ids[:, : input_ids.size()[1]]
            x = self.norm(self.words(input_ids) + self.kinds(token_type_ids) + self.positions(places))
            for layer in self.layers:
                x = layer(x, mask)
            return x

    torch.manual_seed(0)
    return Encoder()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["i8 per channel", "u8"])
def test_an_encoder_that_the_optimizer_fused(name: str, tmp_path: pathlib.Path) -> None:
    import torch
    from onnxruntime.transformers import optimizer

    ids, kinds = torch.randint(0, 50, (2, 6)), torch.randint(0, 2, (2, 6))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    axes = {each: {0: "B", 1: "S"} for each in ("input_ids", "attention_mask", "token_type_ids")}
    exported(encoder(), (ids, mask, kinds), tmp_path, axes)
    path = str(tmp_path / "exported.onnx")
    fused = optimizer.optimize_model(path, model_type="bert", num_heads=2, hidden_size=16, opt_level=0)
    if MS not in {each.domain for each in fused.model.opset_import}:
        fused.model.opset_import.append(helper.make_opsetid(MS, 1))
    more = {"extra_options": {"DefaultTensorType": TensorProto.FLOAT}}  # of results of fused ops
    model = quantized(fused.model, tmp_path, **options_of(name), **more)
    found_ops = {node.op_type for node in model.graph.node}
    assert {"SkipLayerNormalization", "QAttention"} < found_ops, sorted(found_ops)
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}
    feeds = {each.name: given[each.name].numpy() for each in model.graph.input}
    made, (found,) = compiled(model, feeds)
    assert not made.program.python_nodes
    assert "linear" not in {node.op for node in made.graph.nodes}
    (expected,) = runtime(model, feeds)
    print(np.abs(found - expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)
