"""Sizes that an ONNX file leaves open: what the example decides, and what is refused with the line that helps."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import qcompiler as qc
from qcompiler.errors import TraceError
from qcompiler.frontend.onnx_import import import_onnx

node = helper.make_node


def model(
    nodes: Sequence[Any],
    shapes: dict[str, Sequence[Any]],
    consts: dict[str, Any] | None = None,
    shape: Sequence[Any] | None = None,
) -> Any:
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in (consts or {}).items()]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in shapes.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    return helper.make_model(
        helper.make_graph(list(nodes), "g", inputs, outputs, held), opset_imports=[helper.make_opsetid("", 17)]
    )


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("size", [0, -1, -(2**40)])
def test_a_size_of_0_or_less_is_open(size: int) -> None:
    made = model([node("Relu", ["x"], ["y"])], {"x": ["N", 3]}, shape=["N", 3])
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    made.graph.output[0].type.tensor_type.shape.dim[0].dim_value = size
    graph = import_onnx(made)
    assert str(graph.inputs[0].type) == "f32[x_0,3]"
    compiled = qc.compile(made, None, target="reference")
    assert compiled(zeros(5, 3))["y"].shape == (5, 3)


def test_sizes_that_are_equal_in_the_example_become_one() -> None:
    made = model([node("Add", ["a", "b"], ["y"])], {"a": ["B", "S"], "b": ["C", "T"]})
    graph = import_onnx(made, {"a": zeros(2, 3), "b": zeros(2, 3)})
    assert len({str(value.type) for value in graph.inputs}) == 1
    assert sum("as in the example inputs: g, node 0 Add" in note.text for note in graph.notes) == 2
    with pytest.raises(TraceError, match="example_inputs="):
        import_onnx(made)


def test_a_size_that_equals_a_sum_of_others() -> None:
    nodes = [node("Concat", ["past", "x"], ["k"], axis=1), node("Add", ["k", "mask"], ["y"])]
    made = model(nodes, {"past": [1, "P"], "x": [1, "S"], "mask": [1, "T"]})
    graph = import_onnx(made, {"past": zeros(1, 5), "x": zeros(1, 2), "mask": zeros(1, 7)})
    assert str(graph.inputs[2].type) == "f32[1,P+S]"
    compiled = qc.compile(graph, None, target="reference")
    assert compiled(zeros(1, 4), zeros(1, 3), zeros(1, 7))["y"].shape == (1, 7)


def test_a_reshape_that_needs_a_size_as_a_number() -> None:
    nodes = [
        node("AveragePool", ["x"], ["p"], kernel_shape=[2, 1], strides=[2, 1]),
        node("Transpose", ["p"], ["t"], perm=[0, 2, 3, 1]),
        node("Shape", ["x"], ["w"], start=3),
        node("Concat", ["batch", "w", "channels"], ["to"], axis=0),
        node("Reshape", ["t", "to"], ["y"]),
    ]
    made = model(nodes, {"x": ["B", 3, "H", "W"]}, {"batch": np.array([0]), "channels": np.array([3])})
    graph = import_onnx(made, {"x": zeros(1, 3, 2, 7)})
    assert str(graph.inputs[0].type) == "f32[B,3,2,W]"
    assert any("the size H is 2, as in the example inputs: g, node 4 Reshape" in note.text for note in graph.notes)
    assert qc.compile(graph, None, target="reference")(zeros(4, 3, 2, 5))["y"].shape == (4, 5, 3)
    with pytest.raises(TraceError, match="the number of elements"):
        import_onnx(made, {"x": zeros(1, 3, 4, 7)})
    with pytest.raises(TraceError, match="example_inputs="):
        import_onnx(made)


def test_a_size_that_a_node_needs_is_the_examples_everywhere() -> None:
    nodes = [node("Shape", ["x"], ["s"], start=1), node("Tile", ["w", "s"], ["t"]), node("Mul", ["t", "x"], ["y"])]
    made = model(nodes, {"x": [1, "S"]}, {"w": np.float32([2])})
    graph = import_onnx(made, {"x": zeros(1, 3)})
    assert graph.inputs[0].type.is_static and not [note for note in graph.notes if note.text.startswith("guard")]
    assert any("the size S is 3" in note.text and "node 1 Tile" in note.text for note in graph.notes)
    with pytest.raises(TraceError, match="S has no example") as caught:
        import_onnx(made)
    assert 'example_inputs={"x": np.zeros((1, 3,), np.float32)}' in str(caught.value)
    with pytest.raises(TraceError, match="the size S cannot stay open") as caught:
        import_onnx(made, {"x": zeros(1, 3)}, dynamic={"x": {1: "S"}})
    assert "node 1 Tile" in str(caught.value)


@pytest.mark.parametrize("end", [10**9, 2**31 - 1, 2**63 - 1, 10**8])
@pytest.mark.parametrize("example", [False, True])
def test_a_large_bound_means_the_end(end: int, example: bool) -> None:
    made = model([node("Slice", ["x", "one", "end", "one"], ["y"])], {"x": [2, "S"]}, {"one": [1], "end": [end]})
    graph = import_onnx(made, {"x": zeros(2, 7)} if example else None)
    assert str(graph.outputs[0].type) == "f32[2,S-1]"
    assert qc.compile(graph, None, target="reference")(zeros(2, 9))["y"].shape == (2, 8)


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize(("start", "divisor"), [("minus", 1), ("half", 2)])
def test_a_start_of_minus_the_length_counts_from_the_end(start: str, divisor: int, example: bool) -> None:
    """torch's TorchScript exporter writes x[:, -x.shape[1]:] so. ONNX's division rounds towards 0."""
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "one"], ["length"]),
        node("Neg", ["length"], ["minus"]),
        node("Div", ["minus", "two"], ["half"]),
        node("Slice", ["x", start, "end", "one"], ["y"]),
    ]
    made = model(nodes, {"x": [2, "S"]}, {"end": [2**63 - 1], "one": [1], "two": [2]})
    graph = import_onnx(made, {"x": zeros(2, 7)} if example else None)
    for size in (3, 7, 10):
        assert qc.compile(graph, None, target="reference")(zeros(2, size))["y"].shape == (2, size // divisor)


def test_an_example_says_on_which_side_of_a_bound_a_size_is() -> None:
    made = model(
        [node("Slice", ["x", "zero", "end", "one"], ["y"])], {"x": [2, "S"]}, {"zero": [0], "one": [1], "end": [5]}
    )
    for size, shape, guard in ((3, "f32[2,S]", "S <= 5"), (8, "f32[2,5]", "S > 5")):
        graph = import_onnx(made, {"x": zeros(2, size)})
        assert str(graph.outputs[0].type) == shape
        assert f"guard: {guard}" in [note.text for note in graph.notes]


def test_masks_and_positions_of_open_length_as_torch_writes_them(tmp_path: pathlib.Path) -> None:
    """Position buffers cut to the length, a range of it, rows picked by several tensors, and a mask of both."""

    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("places", torch.arange(32)[None])
            self.table = torch.nn.Embedding(32, 4)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            batch, length = x.shape[:2]
            x = x + self.table(self.places[:, :length])
            causal = torch.arange(length)[:, None] >= torch.arange(length)[None, :]
            seen = causal[None] & (mask[:, None, :].expand(batch, length, length) > 0)
            scores = (x @ x.transpose(1, 2)).masked_fill(~seen, -1e9)
            y = scores.softmax(-1) @ x
            return y[torch.arange(batch), mask.sum(1).long() - 1]

    module, path = Masked().eval(), tmp_path / "masked.onnx"
    open_axes = {"x": {0: "B", 1: "S"}, "mask": {0: "B", 1: "S"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.randn(2, 7, 4), torch.ones(2, 7)), path, dynamo=False, opset_version=17,
            input_names=["x", "mask"], dynamic_axes=open_axes,
        )  # fmt: skip
    compiled = qc.compile(path, None)
    assert [str(value.type) for value in compiled.graph.inputs] == ["f32[B,S,4]", "f32[B,S]"]
    for batch, length in ((2, 7), (3, 5), (1, 9)):
        x, mask = torch.randn(batch, length, 4), torch.ones(batch, length)
        mask[:, length - 2 :] = 0
        (got,) = compiled(x.numpy(), mask.numpy()).values()
        np.testing.assert_allclose(got, module(x, mask).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["native", "reference"])
def test_a_grid_of_an_open_batch_may_lie_far_out(target: str) -> None:
    """NaN and infinities are outside of the image, so no index is read there."""
    made = model([node("GridSample", ["x", "g"], ["y"])], {"x": ["B", 2, 3, 4], "g": ["B", 2, 3, 2]})
    rng = np.random.default_rng(0)
    x, grid = rng.normal(size=(5, 2, 3, 4)), rng.uniform(-1.5, 1.5, (5, 2, 3, 2))
    x, grid = x.astype(np.float32), grid.astype(np.float32)
    want = torch.nn.functional.grid_sample(torch.from_numpy(x), torch.from_numpy(grid), align_corners=False).numpy()
    far = [np.nan, np.inf, -np.inf, 3e38, -3e38]
    grid[:, 0, 0, 0], want[:, :, 0, 0] = far, 0
    got = qc.compile(made, None, target=target)(x=x, g=grid)["y"]
    np.testing.assert_allclose(got, want, rtol=0, atol=64 * 2**-24 * np.abs(x).max())


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_an_initial_state_of_a_fixed_batch_decides_an_open_one(kind: str) -> None:
    gates = 3 if kind == "GRU" else 4
    consts = {"w": zeros(1, gates * 5, 2), "r": zeros(1, gates * 5, 5)}
    states = ["h", "c"][: 1 if kind == "GRU" else 2]
    nodes = [node(kind, ["x", "w", "r", "", "", *states], ["y"], hidden_size=5)]
    made = model(nodes, {"x": ["T", "N", 2], **{name: [1, 1, 5] for name in states}}, consts)
    graph = import_onnx(made)
    assert str(graph.inputs[0].type) == "f32[T,1,2]"
    assert any(note.text.startswith("the size N is 1: g, node 0 ") for note in graph.notes)
    compiled = qc.compile(made, None, target="reference")
    assert compiled(zeros(4, 1, 2), *(np.ones((1, 1, 5), np.float32) for _ in states))["y"].shape == (4, 1, 1, 5)
    with pytest.raises(TraceError, match="the size N cannot stay open: a node needs it as a number"):
        import_onnx(made, dynamic={"x": {0: "T", 1: "N"}})
    with pytest.raises(TraceError, match="h0 of "):
        import_onnx(made, {"x": zeros(4, 2, 2)})
