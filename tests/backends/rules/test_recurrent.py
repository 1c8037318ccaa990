"""lstm, gru and rnn on every level: sizes around the tiles, weights that are computed, no steps, NaN."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.opdef import opdef
from qcompiler.ops.recurrent import STATIC
from qcompiler.types import tensor
from tests.backends.rules.harness import check_op

OPS = ["lstm", "gru", "rnn"]


def operands(op: str, steps: int, rows: int, depth: int, units: int) -> tuple[tuple[object, ...], dict[str, float]]:
    """Types of x, weights and biases, and a range of random data for which the states stay between -1 and 1."""
    gates = opdef(op).gate_count * units
    weights = (tensor("f32", gates, depth), tensor("f32", gates, units), tensor("f32", gates), tensor("f32", gates))
    return (tensor("f32", steps, rows, depth), *weights), {"low": -0.5, "high": 0.5}


@pytest.mark.sampled(16)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("units", [1, 4, 7, 8, 9, 16, 17, 33, 65])
@pytest.mark.parametrize("rows", [1, 2, 5, 7])
def test_sizes_around_the_tiles(op: str, units: int, rows: int) -> None:
    types, data = operands(op, 2, rows, 3, units)
    check_op(op, types, {}, **data)


@pytest.mark.parametrize("op", OPS)
def test_weights_that_are_computed(op: str) -> None:
    types, data = operands(op, 3, 2, 5, 9)
    check_op(op, types, {}, fed=(1, 2, 3, 4), **data)


def test_a_gru_that_resets_the_state_has_two_products_of_computed_weights() -> None:
    types, data = operands("gru", 3, 2, 5, 9)
    check_op("gru", types, {"linear_before_reset": False}, fed=(1, 2, 3, 4), **data)


@pytest.mark.parametrize("op", OPS)
def test_no_steps_give_the_first_state(op: str) -> None:
    types, data = operands(op, 0, 2, 5, 9)
    more = (tensor("f32", 2, 9), None, tensor("f32", 2, 9)) if op == "lstm" else (tensor("f32", 2, 9),)
    check_op(op, (*types, *more), {}, **data)


@pytest.mark.parametrize("op", OPS)
def test_nan_stays_in_its_row(op: str) -> None:
    types, data = operands(op, 4, 3, 5, 9)
    x = np.random.default_rng(1).uniform(-1, 1, (4, 3, 5)).astype(np.float32)
    x[1, 1, 2] = np.nan
    check_op(op, (x, *types[1:]), {"clip": 0.75}, **data)


STATIC_SAMPLES = [
    (name, index)
    for name in OPS
    for index, sample in enumerate(opdef(name).samples())
    if sample.attrs.get("scale_of") == STATIC
]


@pytest.mark.parametrize("case", STATIC_SAMPLES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_static_codes_have_the_bits_of_the_interpreter(case: tuple[str, int]) -> None:
    """A layer of calibrated ranges rounds nothing that the interpreter rounds otherwise, so the bound is 0."""
    name, index = case
    sample = opdef(name).samples()[index]
    check_op(name, sample.operands, sample.attrs, low=sample.low, high=sample.high, bound=0, threads=(1, 3))


def test_static_states_saturate_and_take_nan_as_the_lowest_code() -> None:
    """x, h0 and c0 far outside of their ranges, and NaN among them."""
    sample = next(sample for sample in opdef("lstm").samples() if sample.attrs.get("scale_of") == STATIC)
    x, h, c = (np.random.default_rng(i).uniform(-1e3, 1e3, (3, 7 + 2 * (i > 0))).astype(np.float32) for i in range(3))
    x[0, 1], h[1, 2], c[2, 0] = np.nan, np.inf, np.nan
    operands = list(sample.operands)
    operands[0], operands[5], operands[7] = np.stack([x] * 5), h, c
    y, last, cell = check_op("lstm", operands, sample.attrs, bound=0, threads=(1,))
    assert np.isfinite(y).all() and np.abs(cell).max() <= 2.0**4 and np.abs(last).max() <= 0.0078 * 128 + 1e-6
