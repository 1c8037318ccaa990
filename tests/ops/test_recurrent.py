"""lstm, gru and rnn against torch's modules in float64, and what they refuse."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from qcompiler.errors import ShapeError
from qcompiler.opdef import opdef
from qcompiler.types import tensor

torch = pytest.importorskip("torch")
U = 2.0**-24
MODULES = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
STEPS, ROWS, DEPTH, UNITS = 6, 4, 5, 7
LENGTHS = np.array([6, 1, 4, 3], np.int64)

Case = tuple[str, bool, bool, bool, int]
CASES: list[Case] = [
    (op, reverse, packed, bias, projected)
    for op, reverse, packed, bias in itertools.product(MODULES, (False, True), (False, True), (False, True))
    for projected in ((0, 3) if op == "lstm" else (0,))
]


def arrays(op: str, bias: bool, projected: int, seed: int) -> dict[str, np.ndarray]:
    """Random operands by name, and `w_hr` if the states are projected."""
    rng = np.random.default_rng(seed)
    gates, size = opdef(op).gate_count * UNITS, projected or UNITS
    shapes: dict[str, tuple[int, ...]] = {
        "x": (STEPS, ROWS, DEPTH),
        "w_ih": (gates, DEPTH),
        "w_hh": (gates, size),
        "h0": (ROWS, size),
    }
    if bias:
        shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
    if op == "lstm":
        shapes["c0"] = (ROWS, UNITS)
    if projected:
        shapes["w_hr"] = (projected, UNITS)
    return {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def by_torch(op: str, given: dict[str, np.ndarray], reverse: bool, lengths: np.ndarray | None) -> list[np.ndarray]:
    """The results of torch's module in float64. torch has no reversed layer: x is flipped, each row within its
    length."""
    more: dict[str, Any] = {"proj_size": len(given["w_hr"])} if "w_hr" in given else {}
    module = MODULES[op](DEPTH, UNITS, bias="bias_ih" in given, **more).double()
    names = {"w_ih": "weight_ih_l0", "w_hh": "weight_hh_l0", "bias_ih": "bias_ih_l0", "bias_hh": "bias_hh_l0"}
    names["w_hr"] = "weight_hr_l0"
    module.load_state_dict({names[n]: torch.from_numpy(a).double() for n, a in given.items() if n in names})
    ends = np.full(ROWS, STEPS) if lengths is None else lengths

    def flipped(a: np.ndarray) -> np.ndarray:
        return np.stack([np.concatenate([a[:n, i][::-1], a[n:, i]]) for i, n in enumerate(ends)], axis=1)

    x = torch.from_numpy(flipped(given["x"]) if reverse else given["x"]).double()
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.from_numpy(ends), enforce_sorted=False)
    states = [torch.from_numpy(given[n]).double()[None] for n in ("h0", "c0") if n in given]
    y, last = module(packed, tuple(states) if op == "lstm" else states[0])
    y = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=STEPS)[0].detach().numpy()
    ended = [part[0].detach().numpy() for part in (last if op == "lstm" else (last,))]
    return [flipped(y) if reverse else y, *ended]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_the_results_are_those_of_torch(case: Case) -> None:
    """Both work in float64, so the results differ by one rounding to f32 and float64's own error."""
    op, reverse, packed, bias, projected = case
    definition, lengths = opdef(op), LENGTHS if packed else None
    given = arrays(op, bias, projected, seed=CASES.index(case))
    operands = [lengths if spec.name == "lengths" else given.get(spec.name) for spec in definition.operands]
    found = definition.run_reference(operands, definition.complete_attrs({"reverse": reverse}))
    expected = by_torch(op, given, reverse, lengths)
    assert len(found) == len(expected) == len(definition.results)
    for got, want in zip(found, expected):
        assert got.dtype == np.float32 and got.shape == want.shape
        assert (np.abs(got - want) <= U * np.abs(want) + 2.0**-40).all()


@pytest.mark.parametrize("op", MODULES)
def test_no_steps_keep_the_state(op: str) -> None:
    definition, given = opdef(op), arrays(op, True, 0, 1)
    given["x"] = given["x"][:0]
    y, *states = definition.run_reference(
        [given.get(s.name) for s in definition.operands], definition.complete_attrs({})
    )
    assert y.shape == (0, ROWS, UNITS)
    for name, state in zip(("h0", "c0"), states):
        assert np.array_equal(state, given[name])


@pytest.mark.parametrize("op", MODULES)
def test_a_length_above_the_steps_counts_as_all_of_them(op: str) -> None:
    definition, given = opdef(op), arrays(op, True, 0, 2)

    def run(*lengths: int) -> tuple[np.ndarray, ...]:
        operands = {**given, "lengths": np.array(lengths, np.int64)}
        return definition.run_reference(
            [operands.get(s.name) for s in definition.operands], definition.complete_attrs({})
        )

    for got, want in zip(run(99, 3, -5, 6), run(6, 3, 0, 6)):
        assert np.array_equal(got, want)


X, W_IH, W_HH = tensor("f32", 2, 3, 4), tensor("f32", 20, 4), tensor("f32", 20, 5)


@pytest.mark.parametrize(
    ("types", "attrs", "message"),
    [
        ((tensor("f32", 3, 4), W_IH, W_HH), {}, "x of lstm"),
        ((tensor("f64", 2, 3, 4), W_IH, W_HH), {}, "x of lstm"),
        ((X, tensor("f32", 20, 3), W_HH), {}, "w_ih of lstm"),
        ((X, W_IH, tensor("f32", 18, 5)), {}, "w_hh of lstm"),
        ((X, W_IH, tensor("f32", 20, 4)), {}, "w_hh of lstm"),
        ((X, W_IH, W_HH, tensor("f32", 5)), {}, "bias_ih of lstm"),
        ((X, W_IH, W_HH, None, tensor("f32", 5)), {}, "bias_hh of lstm"),
        ((X, W_IH, W_HH, None, None, tensor("f32", 5)), {}, "h0 of lstm"),
        ((X, W_IH, W_HH, None, None, None, tensor("i32", 3)), {}, "lengths of lstm"),
        ((X, W_IH, W_HH, None, None, None, None, tensor("f32", 3, 4)), {}, "c0 of lstm"),
        ((X, W_IH, W_HH, None, None, None, None, None, tensor("f32", 5)), {}, "peephole of lstm"),
        ((X, W_IH, tensor("f32", 20, 2), *[None] * 6, tensor("f32", 2, 4)), {}, "w_hr of lstm"),
        ((X, W_IH, W_HH), {"clip": 0.0}, "clip of lstm"),
        ((X, W_IH, W_HH), {"alphas": (1.0,)}, "alphas of lstm"),
    ],
)
def test_operands_that_do_not_fit(types: tuple[Any, ...], attrs: dict[str, Any], message: str) -> None:
    definition = opdef("lstm")
    with pytest.raises(ShapeError, match=message):
        definition.infer_types(types, definition.complete_attrs(attrs))
