"""Comparisons of symbolic sizes: those that non-negativity decides need no example and leave no guard."""

import itertools
import pathlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompiler as qc
from qcompiler.dims import Dim, parse_dim
from qcompiler.errors import InputError, TraceError
from qcompiler.frontend.sizes import Size
from qcompiler.notes import Guard

RELATIONS = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
DIMS = [
    "B", "-B", "B+1", "2*B+3", "B-1", "-B-1", "B*S", "B*S+S+2", "B-S", "(B)//2", "(B+1)//2+1", "(B-3)//2",
    "-2*((B)//2)-1", "S*((B-3)//2)", "S*((B)//2)+1", "(-B)//3", "(-B-1)//3", "B*B-1", "((-B-1)//2)*((-S-1)//2)", "-B*S",
]  # fmt: skip
OTHERS: list[int | str] = [-2, -1, 0, 1, 2, "B", "S", "B+S", "-S", "(S)//2"]
SMALL = [dict(zip("BS", sizes)) for sizes in itertools.product(range(6), repeat=2)]


class Trace:
    """A trace with or without an example. It keeps its guards."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        self.guards: list[Guard] = []
        self.missing_example = "give an example"

    def bake(self, size: Dim, number: int) -> None:
        self.guard(Guard(size, "==", number))

    def guard(self, guard: Guard) -> None:
        self.guards.append(guard)


def operand(dim: int | str, trace: Trace) -> int | Size:
    parsed = parse_dim(dim) if isinstance(dim, str) else dim
    return Size(parsed, trace) if isinstance(parsed, Dim) else parsed


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("dim", DIMS)
def test_a_decision_without_an_example_holds_for_all_small_sizes(dim: str, relation: str) -> None:
    for other in OTHERS:
        trace = Trace({})
        try:
            answer = RELATIONS[relation](operand(dim, trace), operand(other, trace))
        except TraceError:
            continue
        assert trace.guards == []
        for sizes in SMALL:
            with_example = Trace(sizes)
            left, right = (parse_dim(text).evaluate(sizes) if isinstance(text, str) else text for text in (dim, other))
            assert RELATIONS[relation](left, right) is answer, (dim, relation, other, sizes)
            assert RELATIONS[relation](operand(dim, with_example), operand(other, with_example)) is answer
            assert with_example.guards == []


@pytest.mark.parametrize("relation", RELATIONS)
def test_sums_with_non_negative_coefficients_are_decided_whenever_they_can_be(relation: str) -> None:
    for dim in ("B", "B+1", "2*B+3", "B*S", "B*S+S+2", "(B)//2", "S*((B)//2)+1"):
        minimum = min(parse_dim(dim).evaluate(sizes) for sizes in SMALL)
        for other in range(-2, minimum + 1 if relation in ("<", ">=") else minimum):
            answer = RELATIONS[relation](operand(dim, Trace({})), other)
            assert answer is RELATIONS[relation](minimum, other), (dim, relation, other)


def test_what_depends_on_the_size_asks_for_an_example_and_notes_a_guard() -> None:
    with pytest.raises(TraceError, match="needs a number for the size"):
        _ = operand("B", Trace({})) == 1
    trace = Trace({"B": 3})
    assert operand("B", trace) > 1
    assert trace.guards == [Guard(Dim.name("B"), ">", 1)]


def test_an_onnx_expand_to_an_open_batch_needs_no_example(tmp_path: pathlib.Path) -> None:
    """`token.expand(batch, -1, -1)` as torch's exporter without dynamo writes it: sizes of -1 are replaced by 1."""
    constants = {"zero": 0, "axis": [0], "rest": [-1, -1], "minus": [-1, -1, -1], "ones": [1, 1, 1]}
    token = np.arange(8, dtype=np.float32).reshape(1, 1, 8)
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axis"], ["first"]),
        helper.make_node("Concat", ["first", "rest"], ["sizes"], axis=0),
        helper.make_node("Equal", ["sizes", "minus"], ["is_minus"]),
        helper.make_node("Where", ["is_minus", "ones", "sizes"], ["target"]),
        helper.make_node("Expand", ["token", "target"], ["tokens"]),
        helper.make_node("Concat", ["tokens", "x"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "expand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5, 8])],
        [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
        + [numpy_helper.from_array(token, "token")],
    )
    path = tmp_path / "expand.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    model = qc.compile(path, None)
    for batch in (1, 3):
        x = np.random.default_rng(batch).normal(size=(batch, 4, 8)).astype(np.float32)
        (y,) = model(x).values()
        np.testing.assert_array_equal(y, np.concatenate([np.repeat(token, batch, 0), x], 1))


@pytest.mark.parametrize("length", [8, 3])
@pytest.mark.parametrize(
    ("start", "stop", "step"),
    [
        (-5, None, 1),
        (None, -5, 1),
        (-5, -2, 1),
        (2, -2, 1),
        (-7, 3, 1),
        (2, 6, 1),
        (4, 6, 1),
        (-5, None, 2),
        (-5, 2, 1),
        (-1, -6, -1),
    ],
)
def test_bounds_outside_of_an_open_axis_are_clamped_or_refused(
    length: int, start: int | None, stop: int | None, step: int
) -> None:
    def model(x):
        return x[:, start:stop:step] * 2

    compiled = qc.compile(model, None, (np.ones((2, length), np.float32),), dynamic={0: {1: "S"}})
    served = set()
    for size in range(1, 10):
        x = np.arange(2 * size, dtype=np.float32).reshape(2, size)
        try:
            result = compiled(x)
        except InputError:
            continue
        assert np.array_equal(result, model(x))
        served.add(size)
    assert length in served or (step < 0 and length < 6)


def test_an_example_shorter_than_a_bound_of_onnx_slice_is_served() -> None:
    graph = helper.make_graph(
        [helper.make_node("Slice", ["x", "start", "end", "axis"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "S"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([n]), k) for k, n in (("start", -5), ("end", 2**63 - 1), ("axis", 1))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    compiled = qc.compile(model, None, (np.ones((2, 3), np.float32),))
    for size in (1, 3, 4, 5):
        x = np.arange(2 * size, dtype=np.float32).reshape(2, size)
        assert np.array_equal(compiled(x)["y"], x)
    with pytest.raises(InputError, match="S <= 5"):
        compiled(np.ones((2, 6), np.float32))


@pytest.mark.parametrize("form", ["numpy", "torch", "torch axis", "onnx"])
def test_an_open_axis_that_has_one_element_is_not_squeezed(form: str) -> None:
    """The owner drops it then, so a call of one element is refused."""
    x = np.arange(12, dtype=np.float32).reshape(3, 1, 4)
    if form == "numpy":
        model = qc.compile(lambda x: np.squeeze(x), None, x, dynamic={0: {0: "B"}})
    elif form == "onnx":
        made = helper.make_graph(
            [helper.make_node("Squeeze", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 1, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        )
        model = qc.compile(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]), None)
    else:
        torch = pytest.importorskip("torch")

        class Squeeze(torch.nn.Module):  # type: ignore[misc, name-defined]
            def forward(self, x: object) -> object:
                return x.squeeze((0, 1)) if form == "torch axis" else x.squeeze()  # type: ignore[attr-defined]

        model = qc.compile(Squeeze().eval(), None, x, dynamic={0: {0: "B"}})
    found = model(np.concatenate([x, x]))
    assert (found["y"] if form == "onnx" else found).shape == (6, 4)
    with pytest.raises(InputError, match="B != 1"):
        model(x[:1])
