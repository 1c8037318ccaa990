"""Transposed convolutions: strides, crops, dilations, groups, on every level."""

from __future__ import annotations

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.frontend.functional import conv_transpose2d
from qcompiler.interpreter import run
from qcompiler.types import DType, QuantParams, tensor
from tests.backends.rules.harness import check_op


def _attrs(
    spatial: int, stride: int = 1, padding: tuple[int, int] = (0, 0), dilation: int = 1, extra: int = 0, **more: object
) -> dict[str, object]:
    return {
        "stride": (stride,) * spatial,
        "padding": (padding,) * spatial,
        "dilation": (dilation,) * spatial,
        "output_padding": (extra,) * spatial,
        **more,
    }


@pytest.mark.sampled(3)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize(
    "kernel,stride,padding,dilation,extra",
    [
        (3, 1, (1, 1), 1, 0),
        (3, 2, (1, 1), 1, 1),
        (2, 2, (0, 0), 1, 0),
        (4, 2, (1, 1), 1, 0),
        (3, 3, (0, 0), 1, 2),
        (3, 2, (0, 2), 3, 2),
        (2, 4, (0, 0), 1, 3),
        (1, 3, (0, 0), 1, 0),
        (1, 2, (1, 0), 1, 1),
        (3, 2, (3, 4), 1, 0),
        (3, 1, (4, 2), 2, 1),
        (2, 3, (0, 1), 3, 0),
    ],
)
def test_geometry(
    kernel: int, stride: int, padding: tuple[int, int], dilation: int, extra: int, spatial: int, quantized: bool
) -> None:
    check_op(
        "conv_transpose",
        (tensor("f32", 2, 5, *(6, 5, 7)[:spatial]), tensor("f32", 5, 6, *(kernel,) * spatial), tensor("f32", 6)),
        _attrs(spatial, stride, padding, dilation, extra),
        quantized=quantized,
        bound=1e-5,
        threads=(1, 3),
    )


@pytest.mark.parametrize("strides, kernels", [((16, 16), True), ((16, 17), False), ((1, 2**20), False)])
def test_many_phases_run_in_numpy(strides: tuple[int, int], kernels: bool) -> None:
    """Each phase has steps of its own: a stride of 100 would emit 10,000 of them."""
    x, weight = np.ones((1, 2, 1, 2), np.float32), np.ones((2, 3, 1, 2), np.float32)
    compiled = qc.compile(lambda x: conv_transpose2d(x, weight, stride=strides), None, (x,))
    assert (not compiled.program.python_nodes) is kernels
    if not kernels:
        assert "phases" in str(compiled.report())
    assert np.array_equal(compiled(x), run(compiled.graph, [x])[0])


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("channels,outputs", [(1, 1), (3, 4), (4, 5), (16, 31), (33, 16), (8, 65)])
def test_channels_around_the_tile(channels: int, outputs: int, quantized: bool) -> None:
    check_op(
        "conv_transpose",
        (tensor("f32", 1, channels, 4, 9), tensor("f32", channels, outputs, 3, 3), tensor("f32", outputs)),
        _attrs(2, 2, (1, 1), 1, 1, activation="relu6"),
        quantized=quantized,
        bound=1e-5,
    )


@pytest.mark.sampled(6)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize(
    "channels,outputs,groups", [(8, 8, 2), (6, 4, 2), (12, 24, 3), (4, 8, 4), (34, 34, 34), (17, 51, 17)]
)
@pytest.mark.parametrize("stride,kernel", [(1, 3), (2, 4), (2, 3), (3, 2)])
def test_groups(channels: int, outputs: int, groups: int, stride: int, kernel: int, quantized: bool) -> None:
    check_op(
        "conv_transpose",
        (
            tensor("f32", 1, channels, 4, 5),
            tensor("f32", channels // groups, outputs, kernel, kernel),
            tensor("f32", outputs),
        ),
        _attrs(2, stride, (1, 1), groups=groups),
        quantized=quantized,
        bound=1e-5,
        threads=(1, 2),
    )


@pytest.mark.parametrize("quantized", [True, False])
def test_symbolic_batch_and_channels_last(quantized: bool) -> None:
    operands = (tensor("f32", 3, 6, 4, 5), tensor("f32", 6, 7, 2, 2), tensor("f32", 7))
    check_op("conv_transpose", operands, _attrs(2, 2, activation="relu"), quantized=quantized, dynamic=True)
    check_op("conv_transpose", operands, _attrs(2, 2), quantized=quantized, behind_a_pool=True)
    check_op("conv_transpose", (tensor("f32", 0, 6, 4, 5), *operands[1:]), _attrs(2, 2), quantized=quantized)


@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("zero_point", [0, 255])
@pytest.mark.parametrize("weight", [-128, 127])
@pytest.mark.parametrize("groups", [1, 64])
def test_extremes_are_exact(code: int, zero_point: int, weight: int, groups: int) -> None:
    x, w = (
        QuantParams.per_tensor(1.0, zero_point, DType.U8),
        QuantParams.per_channel([1.0] * 64, 0, 1, DType.I8),
    )
    out = QuantParams.per_tensor(2.0**13 if groups == 1 else 2.0**8, 128, DType.U8)
    data = np.full((1, 64, 3, 5), float(code - zero_point), np.float32)
    weights = np.full((64 // groups, 64, 4, 4), float(weight), np.float32)
    check_op(
        "conv_transpose",
        (data, weights),
        _attrs(2, 2, (1, 1), groups=groups),
        quantized=True,
        params={0: x, 1: w},
        out=out,
    )


def test_nan_and_infinity_stay_in_their_window() -> None:
    """No kernel multiplies with a zero that the meaning does not have, so pixels out of reach of a NaN stay finite."""
    data = np.ones((1, 4, 4, 4), np.float32)
    data[0, 1, 2, 2], data[0, 2, 0, 0] = np.nan, np.inf
    for kernel, groups in ((1, 1), (2, 1), (3, 2), (2, 4)):
        check_op(
            "conv_transpose", (data, np.ones((4 // groups, 4, kernel, kernel), np.float32)), _attrs(2, 2, groups=groups)
        )


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("groups", [1, 4])
def test_results_that_no_tap_reaches_are_the_bias(groups: int, quantized: bool) -> None:
    operands = (tensor("f32", 1, 4, 2, 2), tensor("f32", 4 // groups, 4, 1, 1), tensor("f32", 4))
    check_op("conv_transpose", operands, _attrs(2, 3, (1, 1), groups=groups), quantized=quantized)
