"""Pools on every level: channels around the registers, windows clipped at every border, extremes, symbolic sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcompiler.backends.codegen.jit import emitted_kernels
from qcompiler.dims import Dim
from qcompiler.opdef import opdef
from qcompiler.types import TensorType, tensor
from tests.backends.rules.harness import check_graph, check_op, one_node, u8_params

CHANNELS = [1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130, 257]
OPS = ["max_pool", "avg_pool"]


def _window(op: str, spatial: int, kernel: int, stride: int = 1, padding: int = 0, **more: Any) -> dict[str, Any]:
    attrs = {
        "kernel": (kernel,) * spatial,
        "stride": (stride,) * spatial,
        "padding": ((padding, padding),) * spatial,
        **more,
    }
    if op == "max_pool":
        attrs.setdefault("dilation", (1,) * spatial)
    return attrs


@pytest.mark.sampled(3)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("op", OPS)
def test_channels(op: str, channels: int, quantized: bool) -> None:
    attrs = _window(op, 2, 3, 2, 1)
    check_op(op, (tensor("f32", 2, channels, 7, 6),), attrs, quantized=quantized, behind_a_pool=channels % 2 == 0)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("op", ["adaptive_avg_pool", "adaptive_max_pool"])
def test_global(op: str, channels: int, quantized: bool) -> None:
    for size in ((5, 7), (1, 1), (1, 6)):
        check_op(op, (tensor("f32", 2, channels, *size),), {"output_size": (1, 1)}, quantized=quantized)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize(
    "kernel,stride,padding", [(1, 1, 0), (1, 3, 0), (2, 1, 1), (2, 2, 0), (3, 1, 1), (4, 3, 2), (5, 1, 2), (7, 2, 3)]
)
@pytest.mark.parametrize("op", OPS)
def test_windows(op: str, kernel: int, stride: int, padding: int, quantized: bool) -> None:
    for spatial in (1, 2, 3) if kernel < 5 else (1, 2):
        for ceil_mode in (False, True):
            attrs = _window(op, spatial, kernel, stride, padding, ceil_mode=ceil_mode)
            check_op(op, (tensor("f32", 1, 18, *(9, 8, 10)[:spatial]),), attrs, quantized=quantized, threads=(1, 2))


@pytest.mark.parametrize("quantized", [True, False])
def test_dilation(quantized: bool) -> None:
    for dilation, size in (((2, 1), (9, 6)), ((3, 4), (11, 12)), ((5, 1), (11, 3))):
        attrs = {
            "kernel": (3, 2),
            "stride": (2, 1),
            "padding": ((dilation[0], 2), (0, dilation[1])),
            "dilation": dilation,
        }
        check_op("max_pool", (tensor("f32", 1, 20, *size),), attrs, quantized=quantized)


@pytest.mark.parametrize("quantized", [True, False])
def test_one_window_over_all(quantized: bool) -> None:
    """Dilated and clipped windows that fit at one position, whose taps do not cover the input."""
    for kernel, dilation, size, padding in (
        ((2, 2), (2, 1), (3, 2), 0),
        ((2, 2), (1, 2), (2, 3), 0),
        ((2, 2), (2, 2), (3, 3), 0),
        ((3, 2), (1, 1), (3, 2), 0),
        ((3, 3), (1, 1), (2, 2), 1),
    ):
        attrs = {"kernel": kernel, "stride": (7, 7), "padding": ((padding, padding),) * 2, "dilation": dilation}
        check_op("max_pool", (tensor("f32", 3, 5, *size),), attrs, quantized=quantized)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize(
    "more",
    [
        {"count_include_pad": False},
        {"ceil_mode": True},
        {"divisor_override": 7},
        {"count_include_pad": False, "ceil_mode": True},
    ],
)
def test_divisors(more: dict[str, Any], quantized: bool) -> None:
    for padding in (((1, 1), (1, 1)), ((0, 1), (1, 0)), ((1, 0), (0, 0))):
        attrs = {"kernel": (3, 2), "stride": (2, 2), "padding": padding, **more}
        check_op("avg_pool", (tensor("f32", 2, 9, 8, 7),), attrs, quantized=quantized)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("op", ["adaptive_avg_pool", "adaptive_max_pool"])
def test_adaptive(op: str, quantized: bool) -> None:
    for size, out in (
        ((7, 6), (3, 4)),
        ((9,), (2,)),
        ((4, 5, 6), (1, 5, 2)),
        ((1, 8), (1, 3)),
        ((6, 5), (6, 1)),
        ((3, 2), (5, 4)),
        ((4, 5, 6), (1, 1, 1)),
    ):
        check_op(op, (tensor("f32", 2, 21, *size),), {"output_size": out}, quantized=quantized)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("zero_point", [0, 128, 255])
def test_extremes_of_codes(value: int, zero_point: int) -> None:
    """Sums of thousands of equal extreme codes, in which no 16-bit lane may wrap. Results keep the parameters of the
    operand, or have others."""
    params = u8_params(zero_point)
    real = np.full((1, 40, 40, 33), (value - zero_point) * 0.05, np.float32)
    for out in (params, u8_params(255 - zero_point, 0.07), u8_params(zero_point, 1e-3)):
        check_op("adaptive_avg_pool", (real,), {"output_size": (1, 1)}, quantized=True, params={0: params}, out=out)
        check_op("adaptive_avg_pool", (real,), {"output_size": (2, 3)}, quantized=True, params={0: params}, out=out)
        for kernel in (16, 17):  # 256 taps, the most but one that a word holds; 289
            attrs = _window("avg_pool", 2, kernel, 8, kernel // 2)
            check_op("avg_pool", (real,), attrs, quantized=True, params={0: params}, out=out)
        check_op("max_pool", (real,), _window("max_pool", 2, 3, 2, 1), quantized=True, params={0: params}, out=out)


def test_rows_of_258_taps() -> None:
    """258 is the first length at which a row of 16-bit sums is cut."""
    params = u8_params(0)
    for length in (256, 257, 258, 514, 515):
        real = np.full((1, 5, length), 255 * 0.05, np.float32)
        want = check_op(
            "adaptive_avg_pool", (real,), {"output_size": (1,)}, quantized=True, params={0: params}, out=params
        )
        assert (want[0] == 255).all()


@pytest.mark.parametrize("op", ["max_pool", "adaptive_max_pool"])
def test_maximum_with_other_parameters(op: str) -> None:
    attrs = _window(op, 2, 3, 2, 1) if op == "max_pool" else {"output_size": (2, 3)}
    check_op(op, (tensor("f32", 2, 13, 6, 7),), attrs, quantized=True, out=u8_params(9, 0.031))


def test_special_values() -> None:
    rng = np.random.default_rng(5)
    for share in (0.02, 0.3, 1.0):
        x = rng.choice([1.0, -2.0, 0.0, -0.0, 3e38], (2, 37, 9, 8)).astype(np.float32)
        special = rng.choice([np.nan, np.inf, -np.inf], x.shape).astype(np.float32)
        x = np.where(rng.random(x.shape) < share, special, x)
        for attrs in (_window("max_pool", 2, 3, 2, 1), _window("max_pool", 2, 4, 1, 2), _window("max_pool", 2, 1)):
            check_op("max_pool", (x,), attrs)
        check_op("adaptive_max_pool", (x,), {"output_size": (1, 1)})
        with np.errstate(all="ignore"):
            small = np.where(np.abs(x) > 1e38, np.copysign(1, x), x).astype(np.float32)
            small[0, 0, 0, 0], small[1, 3] = np.nan, np.inf
            check_op("avg_pool", (small,), _window("avg_pool", 2, 3, 1, 1))
    lowest = np.full((1, 5, 4, 4), -np.inf, np.float32)
    want = check_op("max_pool", (lowest,), _window("max_pool", 2, 3, 2, 1))
    assert np.isneginf(want[0]).all()


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("op", OPS)
def test_symbolic_batch_and_no_images(op: str, quantized: bool) -> None:
    for batch in (1, 3, 0):
        check_op(op, (tensor("f32", batch, 24, 6, 5),), _window(op, 2, 3, 2, 1), quantized=quantized, dynamic=True)
    check_op(op, (tensor("f32", 2, 0, 6, 5),), _window(op, 2, 3, 2, 1), quantized=quantized)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize(
    "op,attrs",
    [
        ("adaptive_avg_pool", {"output_size": (1, 1)}),
        ("adaptive_max_pool", {"output_size": (1, 1)}),
        ("max_pool", _window("max_pool", 2, 3, 2, 1)),
        ("avg_pool", _window("avg_pool", 2, 3, 2, 1)),
    ],
)
def test_symbolic_sizes(op: str, attrs: dict[str, Any], quantized: bool) -> None:
    """The kernels that served the first size serve every size."""
    rng = np.random.default_rng(1)
    emitted: dict[str, int] = {}
    for height, width in ((5, 8), (20, 21), (3, 3)):
        array = rng.uniform(-1, 1, (2, 12, height, width)).astype(np.float32)
        graph, inputs = one_node(op, [array], attrs, quantized=quantized)
        x, node = graph.inputs[0], graph.node_list[0]
        graph.set_type(x, TensorType(x.type.dtype, (2, 12, Dim.name("H"), Dim.name("W")), x.type.quant))
        inferred = opdef(op).infer_types([x.type], opdef(op).complete_attrs(attrs))[0]
        graph.set_type(node.result, TensorType(node.result.type.dtype, inferred.shape, node.result.type.quant))
        check_graph(graph, inputs)
        assert not emitted or emitted == dict(emitted_kernels)
        emitted = dict(emitted_kernels)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("op", OPS)
def test_guard_pages(op: str, quantized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QC_GUARD", "1")
    monkeypatch.setenv("QC_POISON", "1")
    for channels in (3, 20, 33, 65):
        check_op(
            op, (tensor("f32", 1, channels, 5, 4),), _window(op, 2, 3, 2, 1), quantized=quantized, behind_a_pool=True
        )
