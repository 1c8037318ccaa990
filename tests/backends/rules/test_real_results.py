"""Products of codes with f32 results: rule (6) of qmath to the bit, on every level."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.opdef import opdef
from qcompiler.types import DType, QuantParams, tensor
from tests.backends.rules.harness import check_graph, check_op, one_node, random_array

ACTIVATIONS = ("none", "relu", "relu6")
CONV = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
"""Attributes of a convolution that keeps the size of an image with a window of 3 by 3."""
RESIDUAL = 3
"""The position of the residual among the operands of conv and linear."""


def codes(scale: float, zero_point: int) -> QuantParams:
    return QuantParams.per_tensor(scale, zero_point, DType.U8)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("residual", ["none", "codes", "f32"])
@pytest.mark.parametrize("rows", [1, 2, 7, 15])
@pytest.mark.parametrize("depth,outputs", [(1, 1), (3, 33), (64, 10), (65, 32), (130, 65)])
def test_linear(rows: int, depth: int, outputs: int, residual: str) -> None:
    operands = (tensor("f32", rows, depth), tensor("f32", outputs, depth), tensor("f32", outputs))
    added = () if residual == "none" else (tensor("f32", rows, outputs),)
    check_op(
        "linear",
        (*operands, *added),
        {"activation": ACTIVATIONS[(rows + depth) % 3]},
        quantized=True,
        to_f32=(RESIDUAL,) if residual == "f32" else (),
    )


@pytest.mark.sampled(6)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", ["none", "codes", "f32"])
@pytest.mark.parametrize(
    "inputs,outputs,groups", [(3, 5, 1), (8, 33, 1), (6, 6, 6), (35, 70, 35), (6, 9, 3), (66, 66, 66)]
)
@pytest.mark.parametrize("behind_a_pool", [False, True])
def test_conv(inputs: int, outputs: int, groups: int, residual: str, activation: str, behind_a_pool: bool) -> None:
    operands = (tensor("f32", 2, inputs, 5, 9), tensor("f32", outputs, inputs // groups, 3, 3), tensor("f32", outputs))
    added = () if residual == "none" else (tensor("f32", 2, outputs, 5, 9),)
    check_op(
        "conv",
        (*operands, *added),
        {**CONV, "groups": groups, "activation": activation},
        quantized=True,
        to_f32=(RESIDUAL,) if residual == "f32" else (),
        behind_a_pool=behind_a_pool,
        threads=(1, 3),
    )


@pytest.mark.sampled(6)
@pytest.mark.parametrize("op", ["conv", "conv_transpose", "linear", "matmul"])
@pytest.mark.parametrize("index", range(5))
def test_samples(op: str, index: int) -> None:
    sample = opdef(op).samples()[index]
    check_op(op, sample.operands, sample.attrs, quantized=True, to_f32=(), low=sample.low, high=sample.high)


@pytest.mark.parametrize("groups,outputs", [(1, 5), (4, 2), (2, 3)])
def test_transposed_groups(groups: int, outputs: int) -> None:
    attrs = {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "output_padding": (1, 1)}
    operands = (
        tensor("f32", 1, 4, 4, 5),
        tensor("f32", 4 // groups, outputs * groups, 3, 3),
        tensor("f32", outputs * groups),
    )
    check_op("conv_transpose", operands, {**attrs, "groups": groups, "activation": "relu6"}, quantized=True, to_f32=())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("m", [1, 5, 15])
@pytest.mark.parametrize("k,n", [(1, 1), (7, 17), (33, 65), (64, 32)])
def test_matmul(m: int, k: int, n: int) -> None:
    check_op("matmul", (tensor("f32", 2, m, k), tensor("f32", 2, k, n)), quantized=True, to_f32=())


@pytest.mark.parametrize("zero_point", [0, 128, 255])
@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("weight", [-127, 127])
def test_extremes_of_codes_and_zero_points(zero_point: int, code: int, weight: int) -> None:
    """Sums of the largest magnitude, beyond 2^24, where their conversion to f32 rounds."""
    depth, scale = 1027, 0.75
    x = np.full((3, depth), (code - zero_point) * scale, np.float32)
    w = np.full((19, depth), weight * 0.5, np.float32)
    w[:, ::5] += np.float32(0.5)
    w[::3] *= np.float32(0.375)
    residual = np.full((3, 19), 254.0, np.float32)
    params = {0: codes(scale, zero_point), 3: codes(1.0, zero_point)}
    check_op("linear", (x, w, None, residual), quantized=True, to_f32=(), params=params)


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**60])
def test_scales_at_their_ends(scale: float) -> None:
    """Results go from 2^-120 to infinity; residuals include infinities, NaN and negative zero."""
    w = np.array([[1, -1, 1], [0, 0, 0], [-1, -1, -1], [1, 0, 0]], np.float32) * 127
    weight = QuantParams.per_tensor(scale, 0, DType.I8, -127, 127)
    x = np.full((2, 3), 200 * scale, np.float32)
    residual = np.array([[np.inf, -0.0, np.inf, 1.0], [np.nan, -np.inf, -np.inf, 0.0]], np.float32)
    for activation in ACTIVATIONS:
        graph, inputs = one_node(
            "linear",
            (x, np.clip(w, -1, 1) * np.float32(scale) * 127, None, residual),
            {"activation": activation},
            quantized=True,
            to_f32=(RESIDUAL,),
            params={0: codes(scale, 0), 1: weight},
        )
        [got] = check_graph(graph, inputs)
        assert np.isnan(got[1, 0]) and (got.dtype, got.shape) == (np.float32, (2, 4))


def test_symbolic_batch() -> None:
    rng = np.random.default_rng(0)
    arrays = [random_array(tensor("f32", *shape), rng) for shape in ((3, 6, 4, 5), (9, 6, 3, 3), (9,))]
    for groups, weight in ((1, (9, 6, 3, 3)), (3, (9, 2, 3, 3))):
        arrays[1] = random_array(tensor("f32", *weight), rng)
        graph, inputs = one_node("conv", arrays, {**CONV, "groups": groups}, quantized=True, to_f32=(), dynamic=True)
        check_graph(graph, inputs)


def test_the_meaning_in_numbers() -> None:
    """[[3, 5]] minus the zero point 2, times [[4, -6]], plus the bias 7, is -7 units of 0.5 * 0.25, to which the
    residual is added."""
    x, w = np.array([[0.5, 1.5]], np.float32), np.array([[1.0, -1.5]], np.float32)
    given = {0: codes(0.5, 2), 1: QuantParams.per_tensor(0.25, 0, DType.I8), 3: codes(0.5, 1)}
    bias, residual = np.array([0.875], np.float32), np.array([[2.0]], np.float32)
    for real in ((), (RESIDUAL,)):
        graph, inputs = one_node("linear", (x, w, bias, residual), {}, quantized=True, to_f32=real, params=given)
        assert check_graph(graph, inputs)[0].tolist() == [[-7 * 0.125 + 2.0]]
