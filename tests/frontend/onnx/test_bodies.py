"""Branches of If, functions of a model and of ONNX, sequences, nodes that nothing needs, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompiler as qc
from qcompiler.errors import TraceError
from qcompiler.frontend.onnx_import import import_onnx

X = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
node = helper.make_node


def model(nodes: Sequence[Any], consts: dict[str, Any] | None = None, shape: Sequence[Any] = (2, 6, 4)) -> Any:
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in (consts or {}).items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    made = helper.make_model(
        helper.make_graph(list(nodes), "g", inputs, outputs, held), opset_imports=[helper.make_opsetid("", 18)]
    )
    made.ir_version = 10
    return made


def branch(name: str, *nodes: Any, consts: dict[str, Any] | None = None) -> Any:
    held = [numpy_helper.from_array(np.asarray(value), key) for key, value in (consts or {}).items()]
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    return helper.make_graph(list(nodes), name, [], outputs, held)


def agrees(made: Any, x: np.ndarray = X, **options: Any) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": x})
    got = qc.compile(made, None, target="reference", **options)(x)["y"]
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def choice(condition: str, then: Any, otherwise: Any) -> Any:
    return node("If", [condition], ["y"], then_branch=then, else_branch=otherwise)


RELU, EXP = branch("t", node("Relu", ["x"], ["a"])), branch("e", node("Exp", ["x"], ["a"]))
SIZE = [node("Shape", ["x"], ["s"], start=1, end=2), node("Squeeze", ["s"], ["n"]), node("Equal", ["n", "six"], ["c"])]


@pytest.mark.parametrize("condition", [True, False])
def test_a_constant_condition_selects_a_branch(condition: bool) -> None:
    agrees(model([choice("c", RELU, EXP)], {"c": condition}))
    agrees(model([choice("c", RELU, EXP)], {"c": np.array([condition])}))


@pytest.mark.parametrize("six", [6, 7])
def test_a_comparison_of_sizes_selects_a_branch(six: int) -> None:
    agrees(model([*SIZE, choice("c", RELU, EXP)], {"six": six}))


def test_a_comparison_of_open_sizes_is_decided_by_the_example() -> None:
    made = model([*SIZE, choice("c", RELU, EXP)], {"six": 6}, (2, "S", 4))
    graph = import_onnx(made, {"x": X})
    assert [each.op for each in graph.node_list] == ["relu"] and "guard: S == 6" in [note.text for note in graph.notes]
    with pytest.raises(TraceError, match="example_inputs="):
        import_onnx(made)


def test_branches_read_outer_values_and_may_hold_branches_and_constants() -> None:
    inner = branch("inner", node("Mul", ["b", "w"], ["a"]), consts={"w": np.float32([2, 3, 4, 5])})
    then = branch("then", node("Neg", ["h"], ["b"]), node("If", ["c"], ["q"], then_branch=inner, else_branch=EXP))
    agrees(model([node("Abs", ["x"], ["h"]), choice("c", then, EXP)], {"c": True}))


def test_a_condition_of_data_is_refused_and_what_its_branches_lack_is_told() -> None:
    unknown = branch("t", node("Det", ["x"], ["a"]))
    nodes = [node("ReduceSum", ["x"], ["r"], keepdims=0), node("Greater", ["r", "zero"], ["c"])]
    with pytest.raises(TraceError, match="condition is computed from data") as caught:
        import_onnx(model([*nodes, choice("c", unknown, EXP)], {"zero": np.float32(0)}))
    assert "1 x Det" in str(caught.value) and "node 2 If" in str(caught.value)


def test_only_the_selected_branch_needs_supported_ops() -> None:
    unknown = branch("t", node("Det", ["x"], ["a"]))
    agrees(model([choice("c", unknown, EXP)], {"c": False}, (2, 4, 4)), X[:, :4])
    with pytest.raises(TraceError, match="Det is not supported") as caught:
        import_onnx(model([choice("c", unknown, EXP)], {"c": True}))
    assert "then_branch, node 0 Det" in str(caught.value)


# -- functions


def with_functions(nodes: Sequence[Any], functions: dict[str, Any]) -> Any:
    made = model(nodes)
    made.opset_import.append(helper.make_opsetid("own", 1))
    for name, (inputs, body, attributes) in functions.items():
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        made.functions.append(helper.make_function("own", name, inputs, ["r"], body, opsets, attributes))
    return made


def test_functions_of_the_model_are_inlined() -> None:
    leaky = node("LeakyRelu", ["v"], ["r"])
    reference = leaky.attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT)
    reference.ref_attr_name = "slope"
    twice = [node("F", ["p"], ["m"], domain="own", slope=0.25), node("F", ["m"], ["r"], domain="own", slope=0.5)]
    made = with_functions(
        [node("G", ["x"], ["h"], domain="own"), node("F", ["h"], ["y"], domain="own", slope=2.0)],
        {"F": (["v"], [leaky], ["slope"]), "G": (["p"], twice, [])},
    )
    agrees(made)


def test_a_function_without_a_meaning_names_the_ops_in_it() -> None:
    made = with_functions([node("F", ["x"], ["y"], domain="own")], {"F": (["v"], [node("Det", ["v"], ["r"])], [])})
    with pytest.raises(TraceError, match="1 x Det .first: function F, node 0"):
        import_onnx(made)


@pytest.mark.parametrize("opset", [18, 24])
def test_ops_that_onnx_defines_by_others_are_inlined(opset: int) -> None:
    nodes = [
        node("MeanVarianceNormalization", ["x"], ["h"], axes=[1, 2]),
        node("CenterCropPad", ["h", "sizes"], ["k"], axes=[1, 2]),
        node("HannWindow", ["four"], ["w"]),
        node("Mul", ["k", "w"], ["y"]),
    ]
    made = model(nodes, {"sizes": [3, 4], "four": 4})
    made.opset_import[0].version = opset
    if opset == 18:
        agrees(made)
    else:  # which ONNX Runtime may not have yet
        assert qc.compile(made, None, target="reference")(X)["y"].shape == (2, 3, 4)


# -- sequences


SEQUENCES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "construct, at": ([node("SequenceConstruct", ["x", "w"], ["s"]), node("SequenceAt", ["s", "i"], ["y"])], {"i": -2}),
    "construct, concat": (
        [node("SequenceConstruct", ["x", "w"], ["s"]), node("ConcatFromSequence", ["s"], ["y"], axis=1)],
        {},
    ),
    "new axis": (
        [node("SequenceConstruct", ["x", "w"], ["s"]), node("ConcatFromSequence", ["s"], ["y"], axis=1, new_axis=1)],
        {},
    ),
    "split, at": ([node("SplitToSequence", ["x", "n"], ["s"], axis=1), node("SequenceAt", ["s", "i"], ["y"])],
                  {"n": 4, "i": 1}),
    "split by sizes": (
        [node("SplitToSequence", ["x", "n"], ["s"], axis=1), node("SequenceAt", ["s", "i"], ["y"])],
        {"n": [1, 3, 2], "i": 2},
    ),
    "split to ones": (
        [node("SplitToSequence", ["x"], ["s"], axis=2, keepdims=0), node("SequenceAt", ["s", "i"], ["y"])],
        {"i": 3},
    ),
    "insert, erase": (
        [
            node("SequenceEmpty", [], ["e"]),
            node("SequenceInsert", ["e", "x"], ["f"]),
            node("SequenceInsert", ["f", "w", "zero"], ["g"]),
            node("SequenceErase", ["g", "one"], ["s"]),
            node("ConcatFromSequence", ["s"], ["y"], axis=0),
        ],
        {"zero": 0, "one": 1},
    ),
    "length": (
        [
            node("SequenceConstruct", ["x", "w"], ["s"]),
            node("SequenceLength", ["s"], ["n"]),
            node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["x", "f"], ["y"]),
        ],
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_of_known_length(name: str) -> None:
    nodes, consts = SEQUENCES[name]
    agrees(model(nodes, {"w": X[::-1].copy(), **consts}))


def test_a_sequence_is_no_tensor() -> None:
    made = node("SequenceConstruct", ["x", "x"], ["s"])
    with pytest.raises(TraceError, match="operand 0 is a sequence"):
        import_onnx(model([made, node("Relu", ["s"], ["y"])]))
    with pytest.raises(TraceError, match="the output 'y' is a sequence"):
        import_onnx(model([node("SequenceConstruct", ["x", "x"], ["y"])]))


# -- nodes that nothing needs, and several faults at once


def test_nodes_that_no_output_needs_are_left_out() -> None:
    nodes = [node("Det", ["x"], ["d"]), node("Shape", ["x"], ["s"]), node("Range", ["z", "n", "z"], ["r"])]
    graph = import_onnx(model([*nodes, node("Relu", ["x"], ["y"])], {"z": 1, "n": 5}, ("B", "S", 4)))
    assert [each.op for each in graph.node_list] == ["relu"]
    assert not [note for note in graph.notes if "size" in note.text or note.text.startswith("guard")]


def test_all_refused_nodes_are_told_at_once() -> None:
    nodes = [
        node("Tile", ["x", "a"], ["p"]),
        node("Tile", ["x", "b"], ["q"]),
        node("Reshape", ["x", "n"], ["r"]),
        node("Sum", ["p", "q", "r"], ["y"]),
    ]
    data = [node("Cast", ["x"], ["n"], to=TensorProto.INT64)]
    with pytest.raises(TraceError, match="3 ONNX nodes cannot be imported") as caught:
        import_onnx(model([*data, *nodes], {"a": [1, 2, 0], "b": [0, 1, 1]}))
    assert "node 3 Reshape" in str(caught.value) and "2 x Tile" in str(caught.value)


def test_initializers_of_a_file_are_not_copied() -> None:
    held = np.ones((64, 64), np.float32)
    graph = import_onnx(model([node("Add", ["x", "w"], ["y"])], {"w": held}, (64, 64)))
    (const,) = (const for name, const in graph.consts.items() if name == "w")
    assert not const.data.flags.owndata and not const.data.flags.writeable


# -- constants that are the results of nodes


@pytest.mark.parametrize(
    "nodes",
    [
        [node("CastLike", ["w", "x"], ["c"]), node("Mul", ["c", "x"], ["y"])],
        [node("CastLike", ["w", "x"], ["c"]), node("Relu", ["x"], ["r"]), node("Mul", ["c", "r"], ["y"])],
        [node("CastLike", ["w", "x"], ["c"]), node("CastLike", ["c", "x"], ["d"]), node("Sub", ["x", "d"], ["y"])],
        [
            node("CastLike", ["w", "x"], ["c"]),
            node("SequenceConstruct", ["c", "x"], ["s"]),
            node("SequenceAt", ["s", "zero"], ["a"]),
            node("Add", ["a", "x"], ["y"]),
        ],
        [node("CastLike", ["w", "x"], ["y"])],
    ],
    ids=["read_next", "read_later", "twice", "in_a_sequence", "an_output"],
)
def test_a_constant_that_a_node_gives_outlives_the_nodes_operand(nodes: Sequence[Any]) -> None:
    """The operand is an initializer that no later node reads, so the import forgets it."""
    agrees(model(nodes, {"w": X[0], "zero": np.int64(0)}))
