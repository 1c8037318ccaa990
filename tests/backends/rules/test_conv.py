"""Convolutions at sizes around the tile and at extremes, in groups, with any weights, on every level."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.types import DType, QuantParams, tensor
from tests.backends.rules.harness import check_op, conv_attrs


@pytest.mark.sampled(2)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("channels,outputs", [(1, 1), (3, 4), (4, 5), (5, 16), (16, 31), (31, 33), (33, 64), (64, 65)])
def test_channels_around_the_tile(channels: int, outputs: int, quantized: bool) -> None:
    check_op(
        "conv",
        (tensor("f32", 1, channels, 4, 9), tensor("f32", outputs, channels, 3, 3), tensor("f32", outputs)),
        conv_attrs(2, padding=1),
        quantized=quantized,
        bound=1e-5,
    )


@pytest.mark.sampled(4)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("width", [1, 6, 7, 13, 14, 15, 28, 29])
def test_widths_around_the_tile(width: int, quantized: bool) -> None:
    check_op(
        "conv",
        (tensor("f32", 2, 8, 3, width), tensor("f32", 40, 8, 1, 1), tensor("f32", 40), tensor("f32", 2, 40, 3, width)),
        conv_attrs(2, activation="relu"),
        quantized=quantized,
        dynamic=True,
    )
    check_op(
        "conv",
        (tensor("f32", 1, 4, 3, width), tensor("f32", 6, 4, 3, 3), None, tensor("f32", 1, 6, 3, width)),
        conv_attrs(2, padding=1, activation="relu6"),
        quantized=quantized,
        bound=1e-5,
    )


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("window,width", [(3, 5), (5, 15), (7, 16), (7, 17), (3, 33), (7, 66)])
def test_pixels_of_few_channels_lie_side_by_side(channels: int, window: int, width: int) -> None:
    """A row of the window is one run of the dot product. Real zero pads both ends of the row."""
    check_op(
        "conv",
        (tensor("f32", 2, channels, 3, width), tensor("f32", 9, channels, 3, window), tensor("f32", 9)),
        {**conv_attrs(2, padding=1), "padding": ((1, 1), (2, window // 2)), "stride": (1, 2)},
        quantized=True,
        dynamic=True,
    )


@pytest.mark.sampled(3)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("stride,dilation", [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_any_number_of_axes_strides_and_dilations(spatial: int, stride: int, dilation: int, quantized: bool) -> None:
    shape = (1, 6, *(7, 9, 8)[:spatial])
    check_op(
        "conv",
        (tensor("f32", *shape), tensor("f32", 10, 6, *(3, 2, 3)[:spatial]), tensor("f32", 10)),
        conv_attrs(spatial, stride, 2, dilation),
        quantized=quantized,
        bound=1e-5,
    )


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("groups,channels,outputs", [(2, 8, 6), (2, 6, 4), (4, 4, 8), (3, 12, 96)])
def test_groups(groups: int, channels: int, outputs: int, quantized: bool) -> None:
    check_op(
        "conv",
        (tensor("f32", 1, channels, 5, 6), tensor("f32", outputs, channels // groups, 3, 3), tensor("f32", outputs)),
        conv_attrs(2, padding=1, groups=groups),
        quantized=quantized,
        bound=1e-5,
    )


@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("zero_point", [0, 255])
@pytest.mark.parametrize("weight", [-128, -127, 127])
@pytest.mark.parametrize("groups", [1, 64])
def test_extremes_over_long_sums_are_exact(code: int, zero_point: int, weight: int, groups: int) -> None:
    """All codes and all weights are at their limits: four times 255 * -128 is beyond what a saturating i16 sum
    holds."""
    channels = 512 if groups == 1 else 64
    x = QuantParams.per_tensor(1.0, zero_point, DType.U8)
    w = QuantParams.per_channel([1.0] * 64, 0, 0, DType.I8)
    out = QuantParams.per_tensor(2.0**13 if groups == 1 else 2.0**10, 128, DType.U8)
    data = np.full((1, channels, 3, 5), float(code - zero_point), np.float32)
    weights = np.full((64, channels // groups, 3, 3), float(weight), np.float32)
    check_op(
        "conv", (data, weights), conv_attrs(2, padding=1, groups=groups), quantized=True, params={0: x, 1: w}, out=out
    )


def test_an_epilogue_beyond_i32_is_clamped_in_float() -> None:
    """Multipliers take accumulators out of i32, which the packed epilogue cannot do."""
    x = QuantParams.per_tensor(2.0**20, 3, DType.U8)
    w = QuantParams.per_channel([2.0**10] * 33, 0, 0, DType.I8)
    out = QuantParams.per_tensor(2.0**-10, 7, DType.U8)
    rng = np.random.default_rng(0)
    for groups, shape in ((1, (33, 64, 1, 1)), (33, (33, 1, 3, 3))):
        data = (rng.integers(-3, 252, (1, shape[1] * groups, 4, 5)) * 2.0**20).astype(np.float32)
        weights = (rng.integers(-127, 127, shape) * 2.0**10).astype(np.float32)
        check_op("conv", (data, weights), conv_attrs(2, groups=groups), quantized=True, params={0: x, 1: w}, out=out)


def test_empty_batches() -> None:
    for quantized in (True, False):
        check_op("conv", (tensor("f32", 0, 4, 5, 5), tensor("f32", 6, 4, 3, 3)), conv_attrs(2), quantized=quantized)
        check_op("linear", (tensor("f32", 0, 8), tensor("f32", 6, 8)), {}, quantized=quantized)


@pytest.mark.parametrize("zero_point", [-128, -3, 127])
@pytest.mark.parametrize("groups", [1, 2, 24])
def test_weights_with_zero_points(zero_point: int, groups: int) -> None:
    """Codes minus their zero point are beyond i8: up to 255."""
    rng = np.random.default_rng(1)
    weights = (rng.integers(-128, 128, (24, 24 // groups, 3, 3)) - zero_point).astype(np.float32)
    weights[0] = -128 - zero_point
    weights[1] = 127 - zero_point
    w = QuantParams.per_channel([1.0] * 24, zero_point, 0, DType.I8)
    out = QuantParams.per_tensor(float(50 * weights[0].size), 128, DType.U8)
    check_op(
        "conv",
        (tensor("f32", 1, 24, 5, 6), weights, tensor("f32", 24)),
        conv_attrs(2, padding=1, groups=groups),
        quantized=True,
        params={1: w},
        out=out,
        threads=(1, 2),
    )
    check_op(
        "linear",
        (tensor("f32", 5, 24 * 9 // groups), weights.reshape(24, -1)),
        {},
        quantized=True,
        params={1: w},
        out=out,
        threads=(1,),
    )
    if groups > 1:
        return
    per_tensor = QuantParams.per_tensor(1.0, 255 + min(zero_point, 0), DType.U8)
    codes = (rng.integers(0, 256, (7, 24, 1, 1)) - per_tensor.zero_point[0]).astype(np.float32)
    check_op(
        "conv",
        (tensor("f32", 1, 24, 5, 6), codes),
        conv_attrs(2),
        quantized=True,
        params={1: per_tensor},
        out=out,
        weight_dtype=DType.U8,
    )


@pytest.mark.sampled(3)
@pytest.mark.parametrize("groups,channels,outputs", [(1, 5, 7), (1, 16, 33), (3, 6, 6), (6, 6, 12), (20, 20, 20)])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_float_weights_that_are_not_constant(groups: int, channels: int, outputs: int, spatial: int) -> None:
    kernel = (3, 2, 2)[:spatial]
    x, bias = tensor("f32", 2, channels, *(6, 5, 4)[:spatial]), tensor("f32", outputs)
    weight = tensor("f32", outputs, channels // groups, *kernel)
    check_op("conv", (x, weight, bias), conv_attrs(spatial, padding=1, groups=groups), fed=(1, 2), bound=1e-5)
    check_op(
        "conv", (x, weight, bias), conv_attrs(spatial, stride=2, groups=groups), fed=(2,), bound=1e-5, threads=(2,)
    )
    weight = tensor("f32", channels // groups, outputs, *kernel)
    attrs = conv_attrs(spatial, stride=2, padding=1, groups=groups, output_padding=(0,) * spatial)
    check_op("conv_transpose", (x, weight, bias), attrs, fed=(1, 2), bound=1e-5)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize(
    "groups,per_group,outputs", [(32, 4, 4), (8, 3, 5), (6, 2, 1), (5, 2, 7), (4, 8, 40), (10, 4, 2)]
)
def test_groups_that_share_a_register(groups: int, per_group: int, outputs: int, quantized: bool) -> None:
    shape = (2, groups * outputs, 5, 6)
    operands = (
        tensor("f32", 2, groups * per_group, 5, 6),
        tensor("f32", groups * outputs, per_group, 3, 3),
        tensor("f32", groups * outputs),
        tensor("f32", *shape),
    )
    check_op(
        "conv",
        operands,
        conv_attrs(2, padding=1, groups=groups, activation="relu"),
        quantized=quantized,
        bound=1e-5,
        dynamic=True,
    )


def test_float_groups_keep_nan_and_infinity_to_themselves() -> None:
    data = np.ones((1, 8, 5, 5), np.float32)
    data[0, 1, 2, 2], data[0, 5, 0, 0] = np.nan, np.inf
    for groups in (1, 2, 4, 8):
        check_op(
            "conv",
            (data, np.ones((8, 8 // groups, 3, 3), np.float32)),
            conv_attrs(2, padding=1, groups=groups, activation="relu"),
        )


@pytest.mark.parametrize("channels, streamed", [(32, True), (48, True), (65, False), (41, False)])
def test_large_float_results_go_past_the_caches(channels: int, streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Non-temporal stores are used where registers lie at multiples of their size, also beside a halo, and for whatever
    is left of a panel."""
    import qcompiler as qc
    from qcompiler.backends.rules import gemm
    from qcompiler.frontend import nn
    from tests.backends.rules.harness import check_graph

    asked = []
    monkeypatch.setattr(gemm, "_STREAMED_BYTES", 0)
    monkeypatch.setattr(
        gemm, "is_streamed", lambda *given, real=gemm.is_streamed: asked.append(real(*given)) or asked[-1]
    )
    model = nn.Sequential(
        nn.Conv2d(3, channels, 1), nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, 7, 1)
    )
    x = np.random.default_rng(0).normal(size=(2, 3, 9, 15)).astype(np.float32)
    check_graph(qc.compile(model, None, (x,), target="reference").graph, [x], bound=1e-4)
    assert any(asked) is streamed and not all(asked)
