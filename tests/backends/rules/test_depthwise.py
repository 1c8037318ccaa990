"""Convolutions whose filters see one channel, on every level."""

from __future__ import annotations

import pytest

from qcompiler.types import tensor
from tests.backends.rules.harness import check_op, conv_attrs


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
