"""Random QDQ graphs against ONNX Runtime (a seeded sample of `qdq_answers.py`), and codes that are read in every
way."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompiler as qc
from qcompiler.errors import QCompilerError
from tests.frontend.onnx.qdq_answers import exact, one

CHUNKS = 10
GRAPHS = 60
"""How many graphs a chunk has. `python -m tests.fuzz --door qdq` runs more of them."""
NATIVE = range(100_000, 100_060)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_graphs_equal_onnx_runtime(chunk: int) -> None:
    ends = collections.Counter(one(seed) for seed in range(chunk * GRAPHS, (chunk + 1) * GRAPHS))
    assert ends["integer"] >= GRAPHS / 6 and ends["mixed"] >= GRAPHS / 6
    assert ends["tie"] <= 3 and ends["unsupported"] <= 3 and ends["refused"] <= GRAPHS / 3, ends


def test_random_graphs_run_natively() -> None:
    ends = collections.Counter(one(seed, "native") for seed in NATIVE)
    assert ends["integer"] >= len(NATIVE) / 6 and ends["tie"] <= 3


# -- codes: their type, their parameters, and the ops between the conversions

X = np.array([[-3.0, -1.0, 0.04, 2.0], [0.5, 1.26, -0.7, 9.0]], np.float32)
NODE = helper.make_node


def model(nodes: list[Any], constants: dict[str, Any], out: int = TensorProto.FLOAT, opset: int = 21) -> Any:
    """A model with input x, f32[2,4], and output y. constants: arrays, or TensorProtos."""
    tensors = []
    for name, data in constants.items():
        tensor = data if isinstance(data, onnx.TensorProto) else numpy_helper.from_array(np.asarray(data))
        tensor.name = name
        tensors.append(tensor)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)
    y = helper.make_tensor_value_info("y", out, None)
    graph = helper.make_graph(nodes, "codes", [x], [y], tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def number(kind: int, value: int) -> onnx.TensorProto:
    return helper.make_tensor("", kind, [], [value])


T = TensorProto
TYPES = {T.UINT8: 100, T.INT8: -7, T.UINT16: 40_000, T.INT16: 5, T.UINT4: 8, T.INT4: -1}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("zero_point", [True, False])
def test_types_of_codes(kind: int, zero_point: bool) -> None:
    """A zero point gives the type; without one, output_dtype does. A DequantizeLinear without a zero point takes the
    type of the codes."""
    z, attrs = (["z"], {}) if zero_point else ([], {"output_dtype": kind})
    nodes = [NODE("QuantizeLinear", ["x", "s", *z], ["q"], **attrs), NODE("DequantizeLinear", ["q", "s", *z], ["y"])]
    made = model(nodes, {"s": np.float32(0.05), **({"z": number(kind, TYPES[kind])} if z else {})})
    compiled = qc.compile(made, "keep")
    assert np.array_equal(compiled(X)["y"], exact(made, {"x": X})["y"])
    assert [node.op for node in compiled.graph.nodes] == ["quantize", "dequantize"]


@pytest.mark.parametrize("kind", [T.UINT8, T.INT8, T.UINT16, T.INT16])
@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_parameters_along_an_axis(kind: int, axis: int) -> None:
    count = X.shape[axis]
    z = helper.make_tensor("", kind, [count], [TYPES[kind] + i for i in range(count)])
    nodes = [
        NODE("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        NODE("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    made = model(nodes, {"s": np.linspace(0.02, 0.1, count, dtype=np.float32), "z": z})
    assert np.array_equal(qc.compile(made, "keep")(X)["y"], exact(made, {"x": X})["y"])


BETWEEN = {
    "concat": ([NODE("Concat", ["q", "q"], ["t"], axis=1)], {}),
    "concat with a constant": ([NODE("Concat", ["q", "k"], ["t"], axis=1)], {"k": np.array([[1], [-9]], np.int8)}),
    "pad": ([NODE("Pad", ["q", "p"], ["t"])], {"p": np.array([0, 1, 0, 2])}),
    "pad with a code": ([NODE("Pad", ["q", "p", "v"], ["t"])], {"p": np.array([1, 1, 0, 2]), "v": np.int8(-128)}),
    "slice": (
        [NODE("Slice", ["q", "a", "b", "c"], ["t"])],
        {"a": np.array([1]), "b": np.array([3]), "c": np.array([1])},
    ),
    "transpose": ([NODE("Transpose", ["q"], ["t"], perm=[1, 0])], {}),
    "reshape": ([NODE("Reshape", ["q", "p"], ["t"])], {"p": np.array([4, 2])}),
    "gather": ([NODE("Gather", ["q", "p"], ["t"], axis=1)], {"p": np.array([3, 0, 0])}),
    "split": ([NODE("Split", ["q", "p"], ["t", "u"], axis=1)], {"p": np.array([1, 3])}),
    "tile": ([NODE("Tile", ["q", "p"], ["t"])], {"p": np.array([1, 2])}),
    "cast to the same type": ([NODE("Cast", ["q"], ["t"], to=T.INT8)], {}),
    "identity": ([NODE("Identity", ["q"], ["t"])], {}),
}


@pytest.mark.parametrize("case", BETWEEN)
def test_codes_that_move_stay_codes(case: str) -> None:
    between, constants = BETWEEN[case]
    nodes = [
        NODE("QuantizeLinear", ["x", "s", "z"], ["q"]),
        *between,
        NODE("DequantizeLinear", ["t", "s", "z"], ["y"]),
    ]
    made = model(nodes, {"s": np.float32(0.03), "z": np.int8(12), **constants})
    compiled = qc.compile(made, "keep")
    assert np.array_equal(compiled(X)["y"], exact(made, {"x": X})["y"])
    assert not any(node.op in ("cast", "round") for node in compiled.graph.nodes)


@pytest.mark.parametrize("scale, zero", [(0.03, 13), (0.07, 12), (0.01, -100)])
def test_codes_are_read_with_other_parameters(scale: float, zero: int) -> None:
    nodes = [NODE("QuantizeLinear", ["x", "s", "z"], ["q"]), NODE("DequantizeLinear", ["q", "s2", "z2"], ["y"])]
    constants = {"s": np.float32(0.03), "z": np.int8(12), "s2": np.float32(scale), "z2": np.int8(zero)}
    made = model(nodes, constants)
    assert np.array_equal(qc.compile(made, "keep")(X)["y"], exact(made, {"x": X})["y"])


def test_codes_of_two_quantizations_are_joined_as_integers() -> None:
    nodes = [
        NODE("QuantizeLinear", ["x", "s", "z"], ["q"]),
        NODE("QuantizeLinear", ["x", "s2", "z"], ["r"]),
        NODE("Concat", ["q", "r"], ["t"], axis=0),
        NODE("DequantizeLinear", ["t", "s", "z"], ["y"]),
    ]
    made = model(nodes, {"s": np.float32(0.03), "s2": np.float32(0.07), "z": np.int8(12)})
    assert np.array_equal(qc.compile(made, "keep")(X)["y"], exact(made, {"x": X})["y"])


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("axis", [None, 1])
def test_other_ops_read_codes_as_integers(kind: Any, axis: int | None) -> None:
    count, attrs = (1, {}) if axis is None else (4, {"axis": axis})
    scale, zero = np.linspace(0.03, 0.09, count, dtype=np.float32), np.full(count, 12, kind)
    nodes = [NODE("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs), NODE("Cast", ["q"], ["y"], to=T.FLOAT)]
    made = model(nodes, {"s": scale, "z": zero})
    assert np.array_equal(qc.compile(made, "keep")(X)["y"], exact(made, {"x": X})["y"])


@pytest.mark.parametrize("kind", [T.UINT8, T.INT8, T.INT16])
def test_codes_are_outputs(kind: int) -> None:
    nodes = [NODE("QuantizeLinear", ["x", "s", "z"], ["y"])]
    made = model(nodes, {"s": np.float32(0.05), "z": number(kind, TYPES[kind])}, kind)
    got, want = qc.compile(made, "keep")(X)["y"], exact(made, {"x": X})["y"]
    assert got.dtype == want.dtype and np.array_equal(got, want)


SHAPES_OF_C = [(), (1,), (1, 1), (3,), (1, 3), (2, 1), (2, 3)]


@pytest.mark.parametrize("shape", SHAPES_OF_C)
@pytest.mark.parametrize("how", ["f32", "i32", "i8", "per channel", "alpha", "beta"])
def test_the_c_of_a_gemm_has_every_shape(shape: tuple[int, ...], how: str) -> None:
    rng = np.random.default_rng(0)
    c = rng.integers(-90, 90, shape)
    kind = {"f32": np.float32, "i8": np.int8}.get(how, np.int32)
    constants = {
        "s": np.float32(0.05), "z": np.uint8(120), "w": rng.integers(-100, 100, (4, 3)).astype(np.int8),
        "c": c.astype(kind),
        "sc": np.float32(0.05) * np.float32(0.05),
    }  # fmt: skip
    axis = {}
    if how == "per channel" and shape and shape[-1] == 3:
        constants["sc"], axis = np.float32([0.01, 0.02, 0.03]), {"axis": len(shape) - 1}
    attrs = {how: 0.5} if how in ("alpha", "beta") else {}
    nodes = [
        NODE("QuantizeLinear", ["x", "s", "z"], ["q"]),
        NODE("DequantizeLinear", ["q", "s", "z"], ["d"]),
        NODE("DequantizeLinear", ["w", "s"], ["wf"]),
        NODE("DequantizeLinear", ["c", "sc"], ["cf"], **axis),
        NODE("Gemm", ["d", "wf", "c" if how == "f32" else "cf"], ["y"], **attrs),
    ]
    made = model(nodes if how != "f32" else [*nodes[:3], nodes[4]], constants)
    assert np.allclose(qc.compile(made, "keep")(X)["y"], exact(made, {"x": X})["y"], rtol=0, atol=2**-24 * 8 * 200)


REFUSED = {
    "blocks": (
        [NODE("QuantizeLinear", ["x", "s"], ["q"], block_size=2), NODE("DequantizeLinear", ["q", "s"], ["y"])],
        {"s": np.ones((2, 2), np.float32)},
        "block_size=2 is not supported",
    ),
    "float8": (
        [NODE("QuantizeLinear", ["x", "s", "z"], ["q"]), NODE("DequantizeLinear", ["q", "s", "z"], ["y"])],
        {"s": np.float32(1), "z": number(T.FLOAT8E4M3FN, 0)},
        "the type of the zero point",
    ),
    "float8 by output_dtype": (
        [NODE("QuantizeLinear", ["x", "s"], ["y"], output_dtype=T.FLOAT8E5M2)],
        {"s": np.float32(1)},
        "the type of the codes is not supported",
    ),
    "a zero point of another type": (
        [NODE("QuantizeLinear", ["x", "s", "z"], ["y"], output_dtype=T.INT8)],
        {"s": np.float32(1), "z": np.uint8(3)},
        "the type of the zero point",
    ),
    "an axis outside": (
        [NODE("QuantizeLinear", ["x", "s"], ["q"], axis=2), NODE("DequantizeLinear", ["q", "s"], ["y"], axis=2)],
        {"s": np.ones(4, np.float32)},
        "the axis of the scales is outside of the tensor",
    ),
    "too few scales": (
        [NODE("QuantizeLinear", ["x", "s"], ["q"]), NODE("DequantizeLinear", ["q", "s"], ["y"])],
        {"s": np.ones(3, np.float32)},
        "one scale per channel",
    ),
    "more zero points than scales": (
        [NODE("QuantizeLinear", ["x", "s", "z"], ["q"]), NODE("DequantizeLinear", ["q", "s"], ["y"])],
        {"s": np.float32(1), "z": np.zeros(4, np.uint8)},
        "a zero point for each scale",
    ),
    "codes of 16 bits without a sign as integers": (
        [NODE("QuantizeLinear", ["x", "s", "z"], ["q"]), NODE("Cast", ["q"], ["y"], to=T.FLOAT)],
        {"s": np.float32(1), "z": np.uint16(3)},
        "uint16 codes are read as integers",
    ),
    "a scale from data": (
        [NODE("ReduceMax", ["x"], ["s"], keepdims=0), NODE("QuantizeLinear", ["x", "s"], ["y"])],
        {},
        "is computed from data",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    nodes, constants, message = REFUSED[case]
    with pytest.raises(QCompilerError, match=message):
        qc.compile(model(nodes, constants), "keep")
