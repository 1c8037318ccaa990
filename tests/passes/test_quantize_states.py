"""Recurrent layers under static qconfigs: near the float layers, with the interpreter's bits, alone and in batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import ShapeError
from qcompiler.opdef import opdef
from qcompiler.passes.quantize_states import cell_scale
from qcompiler.quantization import qmath
from qcompiler.types import QuantParams, tensor

RNG = np.random.default_rng(4)
OPEN = {"x": {0: "N", 1: "T"}}
BATCHES = [RNG.normal(size=(8, 9, 12)).astype(np.float32) for _ in range(3)]


def layer(name: str, **options: Any) -> Any:
    module = getattr(nn, name)(12, 20, batch_first=True, **options)
    rng = np.random.default_rng(0)
    drawn = {key: rng.uniform(-0.3, 0.3, array.shape).astype(np.float32) for key, array in module.state_dict().items()}
    module.load_state_dict(drawn)
    return module


def static(module: Any, **more: Any) -> Any:
    return qc.compile(module, "int8", (BATCHES[0],), calibration_data=BATCHES, dynamic=OPEN, **more)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["one", "both ways"])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_answers_are_near_and_have_the_interpreters_bits(name: str, options: dict[str, Any]) -> None:
    """A code of a state is at most 2/255 wide, and so is what a step rounds."""
    module, x = layer(name, **options), BATCHES[0][:3]
    compiled = static(module)
    nodes = [node for node in compiled.graph.nodes if node.op == name.lower()]
    assert [str(node.operands[i].type.dtype) for node in nodes for i in (1, 2)] == ["i8", "i8"] * len(nodes)
    assert not compiled.program.python_nodes
    real = qc.compile(module, None, (x,))(x)[0]
    assert np.abs(compiled(x)[0] - real).max() < 0.03
    of_reference = qc.compile(compiled.graph, target="reference")(x)
    assert np.array_equal(compiled(x)[0], of_reference[0])


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_first_states_count_in_the_range_of_states(name: str) -> None:
    """A first state of 3 lies outside of tanh's results. Rounding it costs half a code, 6 / 255 / 2, at each step."""
    inner, x = layer(name), BATCHES[0][:3]
    state = np.linspace(-3, 3, 60, dtype=np.float32).reshape(1, 3, 20)

    class Continued(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any, h: Any, c: Any) -> Any:
            return self.inner(x, (h, c) if name == "LSTM" else h)[0]

    given = (x, state, state[:, ::-1].copy())
    compiled = qc.compile(Continued(), "int8", given, calibration_data=[given])
    assert not compiled.program.python_nodes
    assert np.array_equal(compiled(*given), qc.compile(compiled.graph, target="reference")(*given))
    assert np.abs(compiled(*given) - qc.compile(Continued(), None, given)(*given)).max() < 0.06


def test_one_first_state_of_both_h_and_c() -> None:
    """Torch exports the zeros of both, of all layers, as one constant, which is then in the groups of all states."""
    inner, x = layer("LSTM"), BATCHES[0][:3]

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any, state: Any) -> Any:
            return self.inner(x, (state, state))[0]

    given = (x, np.full((1, 3, 20), 0.5, np.float32))
    compiled = qc.compile(Shared(), "int8", given, calibration_data=[given])
    assert not compiled.program.python_nodes
    assert np.abs(compiled(*given) - qc.compile(Shared(), None, given)(*given)).max() < 0.06


def test_a_row_has_the_same_bits_alone_and_in_a_batch() -> None:
    compiled, x = static(layer("LSTM")), BATCHES[1]
    together = compiled(x)[0]
    for row in range(len(x)):
        assert np.array_equal(compiled(x[row : row + 1])[0][0], together[row])
    assert np.array_equal(compiled(x[:, :5])[0], together[:, :5])


def test_saved_and_reported(tmp_path: Any) -> None:
    compiled = static(nn.Sequential(layer("GRU", num_layers=2), Last(), nn.Linear(20, 5)))
    report = compiled.report().to_dict()
    assert {row["op"]: row["int8"] for row in report["ops"]}["gru"] == 2
    assert report["products"]["float"][0] == 0 and report["float_constant_bytes"] > 2.5 * report["constant_bytes"]
    compiled.save(tmp_path / "model.safetensors")
    assert np.array_equal(qc.load(tmp_path / "model.safetensors")(BATCHES[0]), compiled(BATCHES[0]))


class Last(nn.Module):
    """The states of the last layer."""

    def forward(self, given: Any) -> Any:
        return given[0]


def test_what_stays_float_says_why() -> None:
    def notes(module: Any, qconfig: str = "int8") -> str:
        found = qc.compile(module, qconfig, (BATCHES[0],), calibration_data=BATCHES)
        return str([note for note in found.graph.notes if "lstm" in str(note)])

    assert "states are projected" in notes(layer("LSTM", proj_size=7))
    assert "torch's static qconfigs leave" in notes(layer("LSTM"), "torch:fbgemm")
    infinite = layer("LSTM")
    infinite.bias_hh_l0[3] = np.inf
    assert "its bias is not finite" in notes(infinite)
    mapping = qc.QConfigMapping().set_global("int8").set_object_type("lstm", None)
    compiled = qc.compile(layer("LSTM"), mapping, (BATCHES[0],), calibration_data=BATCHES)
    assert any("its qconfig is None" in str(note) for note in compiled.graph.notes)


def test_a_cells_scale_is_a_power_of_two_above_four_times_what_was_seen() -> None:
    for largest, expected in ((1.0, 2.0**-11), (4.0, 2.0**-11), (4.1, 2.0**-10), (100.0, 2.0**-6)):
        assert cell_scale(QuantParams((largest / 32768,), (0,), None, -32768, 32767)) == expected


def test_the_functions_of_gates_are_within_their_bound() -> None:
    x = np.linspace(-20, 20, 1 << 16).astype(np.float32)
    wide = x.astype(np.float64)
    assert np.abs(qmath.gate_tanh(x) - np.tanh(wide)).max() < 2.5e-7
    assert np.abs(qmath.gate_sigmoid(x) - 1 / (1 + np.exp(-wide))).max() < 2.5e-7
    ends = np.array([np.nan, np.inf, -np.inf, 0.0], np.float32)
    assert np.array_equal(qmath.gate_tanh(ends), np.array([-1, 1, -1, 0], np.float32))


X, CODES, SCALES = tensor("f32", 2, 3, 4), tensor("i8", 20, 4), tensor("f32", 20)
STATIC = {"scale_of": "static", "x_scale": 0.1, "h_scale": 0.1, "c_scale": 0.1}


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"x_scale": None}, "x_scale of a static lstm"),
        ({"h_scale": 0.0}, "h_scale of a static lstm"),
        ({"c_scale": 2.0**61}, "c_scale of a static lstm"),
        ({"x_zero_point": 256}, "x_zero_point of a static lstm"),
        ({"h_zero_point": -1}, "h_zero_point of a static lstm"),
        ({"gate_activation": "relu"}, "gates of sigmoid and tanh"),
        ({"output_activation": "affine"}, "gates of sigmoid and tanh"),
    ],
)
def test_attributes_that_do_not_fit(attrs: dict[str, Any], message: str) -> None:
    definition = opdef("lstm")
    types = (X, CODES, tensor("i8", 20, 5), *[None] * 7, SCALES, SCALES)
    definition.infer_types(types, definition.complete_attrs(STATIC))
    with pytest.raises(ShapeError, match=message):
        definition.infer_types(types, definition.complete_attrs(STATIC | attrs))
    with pytest.raises(ShapeError, match="weights of codes"):
        definition.infer_types((X, tensor("f32", 20, 4), tensor("f32", 20, 5)), definition.complete_attrs(STATIC))
