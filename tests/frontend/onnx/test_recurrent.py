"""LSTM, GRU and RNN nodes against ONNX Runtime without optimizations: directions, activations, states, peepholes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompiler as qc
from qcompiler.errors import QCompilerError
from qcompiler.frontend.onnx_import import import_onnx
from qcompiler.frontend.onnx_ops.recurrent import _ACTIVATIONS
from qcompiler.interpreter import run

STEPS, ROWS, DEPTH, UNITS = 5, 3, 4, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
BOUND = 5e-6
"""The results are of the order of 1. ONNX Runtime approximates sigmoid and tanh by rational functions with errors of a
few units of 2^-24, and sums products in f32."""


def model(op: str, optional: tuple[str, ...] = (), known: bool = True, **attrs: Any) -> onnx.ModelProto:
    """A model of one node. optional: which of B, lengths, h, c and P it has. known: whether parameters are
    initializers."""
    rng = np.random.default_rng(5)
    count, gates = 2 if attrs.get("direction") == "bidirectional" else 1, GATES[op] * UNITS
    parameters = {"W": (count, gates, DEPTH), "R": (count, gates, UNITS)}
    parameters |= {"B": (count, 2 * gates)} if "B" in optional else {}
    parameters |= {"P": (count, 3 * UNITS)} if "P" in optional else {}
    arrays = {name: rng.uniform(-0.7, 0.7, shape).astype(np.float32) for name, shape in parameters.items()}
    names = ["X", "W", "R", *(name if name in optional else "" for name in ("B", "lengths", "h", "c", "P"))]
    names = names[: 8 if op == "LSTM" else 6]
    batch_first = attrs.get("layout") == 1
    state = ["N", count, UNITS] if batch_first else [count, "N", UNITS]
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, [*("NT" if batch_first else "TN"), DEPTH])]
    for name, kind, shape in (("lengths", TensorProto.INT32, ["N"]), ("h", TensorProto.FLOAT, state)):
        if name in optional:
            inputs.append(helper.make_tensor_value_info(name, kind, shape))
    if "c" in optional:
        inputs.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, state))
    outputs = ["Y", "Y_h", *(["Y_c"] if op == "LSTM" else [])]
    if not known:
        inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape) for name, a in arrays.items()]
    graph = helper.make_graph(
        [helper.make_node(op, names, outputs, hidden_size=UNITS, **attrs)],
        op,
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(a, name) for name, a in arrays.items()] if known else [],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def feeds(made: onnx.ModelProto, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes, found = {"T": STEPS, "N": ROWS}, {}
    for value in made.graph.input:
        type = value.type.tensor_type
        shape = [sizes.get(dim.dim_param, dim.dim_value) for dim in type.shape.dim]
        if type.elem_type == TensorProto.INT32:
            found[value.name] = np.array([STEPS, 1, 3], np.int32)
        else:
            found[value.name] = rng.uniform(-1, 1, shape).astype(np.float32)
    return found


def by_runtime(made: onnx.ModelProto, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, given)


ALL = ("B", "lengths", "h", "c", "P")
CASES: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    *((op, (), {}) for op in GATES),
    *((op, ("B",), {"direction": "reverse"}) for op in GATES),
    *((op, ("B", "lengths", "h"), {"direction": "bidirectional"}) for op in GATES),
    *((op, ("B", "h"), {"clip": 0.25}) for op in GATES),
    ("LSTM", ALL, {}),
    ("LSTM", ALL, {"direction": "bidirectional", "clip": 0.3}),
    ("LSTM", ("B", "c"), {"input_forget": 1}),
    ("LSTM", ("P", "lengths"), {"direction": "reverse", "input_forget": 1}),
    ("GRU", ("B", "h"), {"linear_before_reset": 1}),
    ("GRU", ("B", "lengths", "h"), {"linear_before_reset": 1, "direction": "bidirectional", "clip": 0.3}),
    ("LSTM", ("B",), {"activations": ["HardSigmoid", "Relu", "Softsign"]}),
    (
        "LSTM",
        ("B",),
        {
            "direction": "bidirectional",
            "activations": ["HardSigmoid", "ScaledTanh", "Tanh", "Sigmoid", "Affine", "LeakyRelu"],
            "activation_alpha": [0.3, 0.9, 0.7, 0.2],
            "activation_beta": [0.4, 0.8, 0.1],
        },
    ),
    ("GRU", ("B",), {"activations": ["HardSigmoid", "Softsign"], "activation_alpha": [0.3], "activation_beta": [0.4]}),
    *(("RNN", ("B",), {"activations": [name]}) for name in ("Relu", "Sigmoid", "Softsign", "Softplus", "Elu", "Tanh")),
    *(("RNN", ("B",), {"activations": [name]}) for name in ("HardSigmoid", "LeakyRelu")),
    ("RNN", ("B",), {"activations": ["ThresholdedRelu"], "activation_alpha": [0.125]}),
    ("RNN", ("B",), {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.25]}),
    ("RNN", ("B",), {"activations": ["ScaledTanh"], "activation_alpha": [0.5], "activation_beta": [0.25]}),
]


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("known", [True, False], ids=["constant", "computed"])
def test_nodes_give_what_onnx_runtime_gives(case: int, known: bool) -> None:
    op, optional, attrs = CASES[case]
    made = model(op, optional, known, **attrs)
    given = feeds(made)
    graph = import_onnx(made)
    assert [node.op for node in graph.nodes].count(op.lower()) == (2 if "bi" in attrs.get("direction", "") else 1)
    for got, want in zip(run(graph, given), by_runtime(made, given), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=BOUND)


def test_every_activation_is_compared() -> None:
    used = {name.lower() for _, _, attrs in CASES for name in attrs.get("activations", ())}
    assert used == set(_ACTIVATIONS)


def test_sizes_of_the_sequence_stay_open() -> None:
    made = model("LSTM", ("B", "h"))
    compiled = qc.compile(made, None)
    given = feeds(made)
    short = {**given, "X": given["X"][:2]}
    for each in (given, short):
        for got, want in zip(compiled(**each).values(), by_runtime(made, each), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=BOUND)


@pytest.mark.parametrize("op", GATES)
def test_the_batch_first_layout_is_a_transpose(op: str) -> None:
    """ONNX Runtime does not have it. onnx's node tests do."""
    options = {"direction": "bidirectional"}
    plain, batched = model(op, ("B", "h"), **options), model(op, ("B", "h"), layout=1, **options)
    given = feeds(plain)
    y, *states = by_runtime(plain, given)
    swapped = {name: np.swapaxes(array, 0, 1).copy() for name, array in given.items()}
    got, *after = run(import_onnx(batched), swapped)
    np.testing.assert_allclose(got, y.transpose(2, 0, 1, 3), rtol=0, atol=BOUND)
    for found, want in zip(after, states, strict=True):
        np.testing.assert_allclose(found, want.swapaxes(0, 1), rtol=0, atol=BOUND)


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"direction": "sideways"}, "direction="),
        ({"layout": 2}, "layout is a flag"),
        ({"input_forget": 3}, "input_forget is a flag"),
        ({"activations": ["Tanh"]}, "activations"),
        ({"activations": ["Sigmoid", "Tanh", "Swish"]}, "Swish"),
        ({"clip": -1.0}, "clip"),
    ],
)
def test_mistakes(attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(QCompilerError, match=message):
        import_onnx(model("LSTM", **attrs))
