"""Convolutions whose filters see one channel, on every level."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.backends.kernels.depthwise_sums import Windows, quads_of
from qcompiler.backends.lowering.packing import pack_quads
from qcompiler.backends.rules.depthwise import ChannelPart, channel_parts
from qcompiler.types import DType, QuantParams, tensor
from tests.backends.rules.harness import check_graph, check_op, conv_attrs, one_node


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130])
def test_depthwise_channels(channels: int, quantized: bool) -> None:
    check_op(
        "conv",
        (tensor("f32", 1, channels, 5, 7), tensor("f32", channels, 1, 3, 3), tensor("f32", channels)),
        conv_attrs(2, padding=1, groups=channels, activation="relu6"),
        quantized=quantized,
        bound=1e-5,
    )


@pytest.mark.sampled(9)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize(
    "kernel,stride,dilation",
    [(3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 1), (7, 1, 1), (2, 1, 1), (3, 1, 2), (1, 1, 1), (4, 3, 2)],
)
def test_depthwise_windows(kernel: int, stride: int, dilation: int, quantized: bool) -> None:
    for spatial in (1, 2, 3) if kernel < 5 else (1, 2):
        size = dilation * (kernel - 1) + 8
        check_op(
            "conv",
            (tensor("f32", 2, 18, *(size, size - 1, size + 1)[:spatial]), tensor("f32", 18, 1, *(kernel,) * spatial)),
            conv_attrs(spatial, stride, dilation * (kernel - 1) // 2, dilation, groups=18),
            quantized=quantized,
            bound=1e-5,
            threads=(1, 2),
        )


@pytest.mark.parametrize("quantized", [True, False])
def test_depthwise_residual_and_symbolic_batch(quantized: bool) -> None:
    check_op(
        "conv",
        (tensor("f32", 3, 70, 6, 6), tensor("f32", 70, 1, 3, 3), tensor("f32", 70), tensor("f32", 3, 70, 6, 6)),
        conv_attrs(2, padding=1, groups=70, activation="relu"),
        quantized=quantized,
        dynamic=True,
        bound=1e-5,
    )


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("channels,times", [(3, 2), (16, 3), (33, 2), (64, 4)])
def test_several_filters_a_channel(channels: int, times: int, quantized: bool) -> None:
    shape = (2, channels * times, 3, 4)
    operands = (
        tensor("f32", 2, channels, 5, 8),
        tensor("f32", channels * times, 1, 3, 3),
        tensor("f32", channels * times),
        tensor("f32", *shape),
    )
    check_op(
        "conv",
        operands,
        conv_attrs(2, 2, 1, groups=channels, activation="relu6"),
        quantized=quantized,
        bound=1e-5,
        dynamic=True,
    )


@pytest.mark.parametrize("quantized", [True, False])
def test_depthwise_windows_too_long_to_unroll(quantized: bool) -> None:
    check_op(
        "conv",
        (tensor("f32", 1, 6, 50), tensor("f32", 6, 1, 33), tensor("f32", 6)),
        conv_attrs(1, padding=16, groups=6),
        quantized=quantized,
        bound=1e-5,
    )


@pytest.mark.parametrize("kernel,height,width", [(3, 1, 9), (3, 6, 2), (5, 7, 7), (4, 3, 1)])
def test_rows_and_columns_that_no_tile_fits(kernel: int, height: int, width: int) -> None:
    """Tiles of two rows and two columns reach past images of odd sizes. 80 channels are two blocks of unequal size."""
    check_op(
        "conv",
        (
            tensor("f32", 2, 80, height, width),
            tensor("f32", 80, 1, kernel, kernel),
            tensor("f32", 80),
            tensor("f32", 2, 80, *(size + kernel // 2 * 2 - kernel + 1 for size in (height, width))),
        ),
        conv_attrs(2, padding=kernel // 2, groups=80, activation="relu"),
        quantized=True,
        threads=(1, 2),
    )


@pytest.mark.parametrize("zero_point", [0, 255])
@pytest.mark.parametrize("kernel,stride", [(3, 1), (3, 2), (5, 1)])
def test_sums_of_the_most_extreme_codes(kernel: int, stride: int, zero_point: int) -> None:
    """The bias of each channel takes back what the codes 255 or 0 sum to, but for a small number of its own: an error
    of one unit shows."""
    channels, weights = 97, np.array([-128, 127, -127, 0], np.float32)
    filters = np.resize(weights, channels * kernel * kernel + 1)[1:].reshape(channels, 1, kernel, kernel)
    filters[: channels // 2] = weights[np.arange(channels // 2) % 3, None, None, None]
    code = 255 - zero_point
    bias = np.arange(channels) % 90 - 45 - filters.sum(axis=(1, 2, 3)) * (code - zero_point)
    x = np.full((1, channels, 7, 6), code - zero_point, np.float32)
    params = {
        0: QuantParams.per_tensor(1.0, zero_point, DType.U8),
        1: QuantParams.per_channel([1.0] * channels, 0, 0, DType.I8, -128, 127),
    }
    graph, inputs = one_node(
        "conv",
        [x, filters, bias],
        conv_attrs(2, stride, kernel // 2, groups=channels),
        quantized=True,
        params=params,
        out=QuantParams.per_tensor(1.0, 100, DType.U8),
    )
    check_graph(graph, inputs)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("taps,kw", [(1, 1), (1, 5), (2, 3), (3, 3), (4, 2), (5, 5), (6, 3), (7, 7)])
def test_quads_hold_each_tap_once(taps: int, kw: int, rows: int) -> None:
    w = np.arange(1, taps * kw + 1, dtype=np.int16).reshape(1, taps, kw)
    packed = pack_quads(w, np.zeros(1, np.intp), rows)[0, ..., 0, :]
    for row in range(rows):
        found = np.zeros((taps, kw), int)
        for quad, lanes in zip(quads_of(taps + rows - 1, kw), packed[:, row], strict=True):
            for place, tap in enumerate(lanes):
                if tap:
                    found[quad.first + place % quad.rows - row, quad.k + place // quad.rows] += tap
        assert np.array_equal(found, w[0])


def test_windows_of_few_rows_take_few_quads() -> None:
    assert [len(quads_of(rows, 5)) for rows in (1, 2, 3, 4, 5, 6, 7)] == [2, 3, 5, 5, 7, 8, 10]


def test_a_tile_carries_the_columns_that_the_next_one_reads() -> None:
    windows = Windows(3, 3, 1, 1, mr=2, rows=2)
    [quad] = [quad for quad in quads_of(windows.tap_rows, 3) if quad.k == 0]
    assert windows.key(quad, 0) == (0, 4, (0,))
    assert windows.moved(windows.key(quad, 0)) == (0, 4, (2,))


@pytest.mark.parametrize(
    "channels,parts",
    [
        (24, [ChannelPart(0, 24, 32)]),
        (32, [ChannelPart(0, 32, 32)]),
        (48, [ChannelPart(0, 48, 64)]),
        (96, [ChannelPart(0, 64, 64), ChannelPart(64, 96, 32)]),
        (240, [ChannelPart(0, 240, 64)]),
        (672, [ChannelPart(0, 640, 64), ChannelPart(640, 672, 32)]),
        (960, [ChannelPart(0, 960, 64)]),
    ],
)
def test_channels_are_cut_into_blocks_that_they_fill(channels: int, parts: list[ChannelPart]) -> None:
    assert channel_parts((64, 32), channels) == parts
    assert channel_parts((32,), channels) == [ChannelPart(0, channels, 32)]
