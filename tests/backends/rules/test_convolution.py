"""Convolutions and linear layers at sizes around the tile, at extremes, on every level."""

from __future__ import annotations

import numpy as np
import pytest
from harness import check_op

from qcompiler.types import DType, QuantParams, tensor


def _attrs(spatial: int, stride: int = 1, padding: int = 0, dilation: int = 1, **more: object) -> dict[str, object]:
    return {"stride": (stride,) * spatial, "padding": ((padding, padding),) * spatial, "dilation": (dilation,) * spatial, **more}


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("channels,outputs", [(1, 1), (3, 4), (4, 5), (5, 16), (16, 31), (31, 33), (33, 64), (64, 65)])
def test_channels_around_the_tile(channels: int, outputs: int, quantized: bool) -> None:
    check_op("conv", (tensor("f32", 1, channels, 4, 9), tensor("f32", outputs, channels, 3, 3), tensor("f32", outputs)),
             _attrs(2, padding=1), quantized=quantized, bound=1e-5)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("width", [1, 6, 7, 13, 14, 15, 28, 29])
def test_widths_around_the_tile(width: int, quantized: bool) -> None:
    check_op("conv", (tensor("f32", 2, 8, 3, width), tensor("f32", 40, 8, 1, 1), tensor("f32", 40), tensor("f32", 2, 40, 3, width)),
             _attrs(2, activation="relu"), quantized=quantized, dynamic=True)
    check_op("conv", (tensor("f32", 1, 4, 3, width), tensor("f32", 6, 4, 3, 3), None, tensor("f32", 1, 6, 3, width)),
             _attrs(2, padding=1, activation="relu6"), quantized=quantized, bound=1e-5)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("stride,dilation", [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_any_number_of_axes_strides_and_dilations(spatial: int, stride: int, dilation: int, quantized: bool) -> None:
    shape = (1, 6, *(7, 9, 8)[:spatial])
    check_op("conv", (tensor("f32", *shape), tensor("f32", 10, 6, *(3, 2, 3)[:spatial]), tensor("f32", 10)),
             _attrs(spatial, stride, 2, dilation), quantized=quantized, bound=1e-5)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("groups,channels,outputs", [(2, 8, 6), (2, 6, 4), (4, 4, 8), (3, 12, 96)])
def test_groups(groups: int, channels: int, outputs: int, quantized: bool) -> None:
    check_op("conv", (tensor("f32", 1, channels, 5, 6), tensor("f32", outputs, channels // groups, 3, 3), tensor("f32", outputs)),
             _attrs(2, padding=1, groups=groups), quantized=quantized, bound=1e-5)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130])
def test_depthwise_channels(channels: int, quantized: bool) -> None:
    check_op("conv", (tensor("f32", 1, channels, 5, 7), tensor("f32", channels, 1, 3, 3), tensor("f32", channels)),
             _attrs(2, padding=1, groups=channels, activation="relu6"), quantized=quantized, bound=1e-5)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("kernel,stride,dilation", [(3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 1), (7, 1, 1), (2, 1, 1), (3, 1, 2), (1, 1, 1), (4, 3, 2)])
def test_depthwise_windows(kernel: int, stride: int, dilation: int, quantized: bool) -> None:
    for spatial in (1, 2, 3) if kernel < 5 else (1, 2):
        size = dilation * (kernel - 1) + 8
        check_op("conv", (tensor("f32", 2, 18, *(size, size - 1, size + 1)[:spatial]), tensor("f32", 18, 1, *(kernel,) * spatial)),
                 _attrs(spatial, stride, dilation * (kernel - 1) // 2, dilation, groups=18), quantized=quantized, bound=1e-5, threads=(1, 2))


@pytest.mark.parametrize("quantized", [True, False])
def test_depthwise_residual_and_symbolic_batch(quantized: bool) -> None:
    check_op("conv", (tensor("f32", 3, 70, 6, 6), tensor("f32", 70, 1, 3, 3), tensor("f32", 70), tensor("f32", 3, 70, 6, 6)),
             _attrs(2, padding=1, groups=70, activation="relu"), quantized=quantized, dynamic=True, bound=1e-5)


@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("zero_point", [0, 255])
@pytest.mark.parametrize("weight", [-128, -127, 127])
@pytest.mark.parametrize("groups", [1, 64])
def test_extremes_over_long_sums_are_exact(code: int, zero_point: int, weight: int, groups: int) -> None:
    """All codes and all weights at their limits: 255 * -128 four times is beyond what a saturating i16 sum holds."""
    channels = 512 if groups == 1 else 64
    x = QuantParams.per_tensor(1.0, zero_point, DType.U8)
    w = QuantParams.per_channel([1.0] * 64, 0, 0, DType.I8)
    out = QuantParams.per_tensor(2.0**13 if groups == 1 else 2.0**10, 128, DType.U8)
    data = np.full((1, channels, 3, 5), float(code - zero_point), np.float32)
    weights = np.full((64, channels // groups, 3, 3), float(weight), np.float32)
    check_op("conv", (data, weights), _attrs(2, padding=1, groups=groups), quantized=True, params={0: x, 1: w}, out=out)


def test_an_epilogue_beyond_i32_is_clamped_in_float() -> None:
    """Multipliers that take accumulators out of i32: what the packed epilogue cannot do."""
    x = QuantParams.per_tensor(2.0**20, 3, DType.U8)
    w = QuantParams.per_channel([2.0**10] * 33, 0, 0, DType.I8)
    out = QuantParams.per_tensor(2.0**-10, 7, DType.U8)
    rng = np.random.default_rng(0)
    for groups, shape in ((1, (33, 64, 1, 1)), (33, (33, 1, 3, 3))):
        data = (rng.integers(-3, 252, (1, shape[1] * groups, 4, 5)) * 2.0**20).astype(np.float32)
        weights = (rng.integers(-127, 127, shape) * 2.0**10).astype(np.float32)
        check_op("conv", (data, weights), _attrs(2, groups=groups), quantized=True, params={0: x, 1: w}, out=out)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 13, 14, 15, 29])
@pytest.mark.parametrize("depth,outputs", [(1, 1), (3, 33), (64, 10), (65, 32), (130, 65)])
def test_linear(rows: int, depth: int, outputs: int, quantized: bool) -> None:
    check_op("linear", (tensor("f32", rows, depth), tensor("f32", outputs, depth), tensor("f32", outputs), tensor("f32", rows, outputs)),
             {"activation": "relu"}, quantized=quantized, bound=1e-5, threads=(1, 2))


def test_empty_batches() -> None:
    for quantized in (True, False):
        check_op("conv", (tensor("f32", 0, 4, 5, 5), tensor("f32", 6, 4, 3, 3)), _attrs(2), quantized=quantized)
        check_op("linear", (tensor("f32", 0, 8), tensor("f32", 6, 8)), {}, quantized=quantized)


@pytest.mark.parametrize("zero_point", [-128, -3, 127])
@pytest.mark.parametrize("groups", [1, 2, 24])
def test_weights_with_zero_points(zero_point: int, groups: int) -> None:
    """Codes less their zero point are beyond i8: up to 255."""
    rng = np.random.default_rng(1)
    weights = (rng.integers(-128, 128, (24, 24 // groups, 3, 3)) - zero_point).astype(np.float32)
    weights[0] = -128 - zero_point
    weights[1] = 127 - zero_point
    w = QuantParams.per_channel([1.0] * 24, zero_point, 0, DType.I8)
    out = QuantParams.per_tensor(float(50 * weights[0].size), 128, DType.U8)
    check_op("conv", (tensor("f32", 1, 24, 5, 6), weights, tensor("f32", 24)), _attrs(2, padding=1, groups=groups), quantized=True,
             params={1: w}, out=out, threads=(1, 2))
    check_op("linear", (tensor("f32", 5, 24 * 9 // groups), weights.reshape(24, -1)), {}, quantized=True, params={1: w}, out=out, threads=(1,))
    if groups > 1:
        return
    per_tensor = QuantParams.per_tensor(1.0, 255 + min(zero_point, 0), DType.U8)
    codes = (rng.integers(0, 256, (7, 24, 1, 1)) - per_tensor.zero_point[0]).astype(np.float32)
    check_op("conv", (tensor("f32", 1, 24, 5, 6), codes), _attrs(2), quantized=True, params={1: per_tensor}, out=out, weight_dtype=DType.U8)


@pytest.mark.parametrize("groups,channels,outputs", [(1, 5, 7), (1, 16, 33), (3, 6, 6), (6, 6, 12), (20, 20, 20)])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_float_weights_that_are_not_constant(groups: int, channels: int, outputs: int, spatial: int) -> None:
    kernel = (3, 2, 2)[:spatial]
    x, bias = tensor("f32", 2, channels, *(6, 5, 4)[:spatial]), tensor("f32", outputs)
    weight = tensor("f32", outputs, channels // groups, *kernel)
    check_op("conv", (x, weight, bias), _attrs(spatial, padding=1, groups=groups), fed=(1, 2), bound=1e-5)
    check_op("conv", (x, weight, bias), _attrs(spatial, stride=2, groups=groups), fed=(2,), bound=1e-5, threads=(2,))
    if groups in (1, channels):
        weight = tensor("f32", channels, outputs // groups, *kernel)
        attrs = _attrs(spatial, stride=2, padding=1, groups=groups, output_padding=(0,) * spatial)
        check_op("conv_transpose", (x, weight, bias), attrs, fed=(1, 2), bound=1e-5)


@pytest.mark.parametrize("rows,depth,outputs", [(1, 1, 1), (3, 7, 15), (14, 8, 16), (5, 33, 70)])
def test_linear_with_weights_that_are_not_constant(rows: int, depth: int, outputs: int) -> None:
    check_op("linear", (tensor("f32", rows, depth), tensor("f32", outputs, depth), tensor("f32", outputs)), {"activation": "relu"},
             fed=(1, 2), bound=1e-5)
