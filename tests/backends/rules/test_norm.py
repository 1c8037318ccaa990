"""Norms on every level: lengths around the registers, groups and layouts, extremes, rows of one value, NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcompiler.types import tensor
from tests.backends.rules.harness import check_op, u8_params

SIZES = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130, 768]


def _terms(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-2, 2, count).astype(np.float32), rng.uniform(-1, 1, count).astype(np.float32)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_norms_of_the_last_axis(size: int, quantized: bool, op: str) -> None:
    gain, shift = _terms(size)
    for terms in ((gain, shift), (None, shift), (gain, None), ()):
        check_op(op, (tensor("f32", 7, size), *terms), {"normalized_rank": 1}, quantized=quantized)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("behind_a_pool", [False, True])
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_l2_normalize_along_each_axis(size: int, quantized: bool, behind_a_pool: bool) -> None:
    """Behind a pool the operand lies channels last: axis 1 has gaps unless the size is a multiple of 4."""
    options: dict[str, Any] = {"quantized": quantized, "behind_a_pool": behind_a_pool}
    for shape, axis in (
        ((7, size), 1),
        ((size, 7), 0),
        ((2, size, 3, 5), 1),
        ((2, 3, size, 5), 2),
        ((2, 3, 5, size), 3),
    ):
        if len(shape) == 4 or not behind_a_pool:
            check_op("l2_normalize", (tensor("f32", *shape),), {"axis": axis}, **options)


@pytest.mark.parametrize("eps", [0.0, 1e-12, 0.5, 1e30])
def test_l2_normalize_of_zeros_and_extremes(eps: float) -> None:
    """A row of zero codes gives 0 whatever eps is; one of a single code gives 1 there."""
    params = u8_params(100)
    real = np.zeros((5, 40), np.float32)
    real[1], real[2, 7], real[3] = 7.75, -5.0, np.tile(np.float32([7.75, -5.0]), 20)
    real[4, 39] = 0.05
    for out in (u8_params(128, 1 / 128), u8_params(0, 1e-3)):
        check_op("l2_normalize", (real,), {"axis": 1, "eps": eps}, quantized=True, params={0: params}, out=out)
    with np.errstate(all="ignore"):
        check_op("l2_normalize", (real,), {"axis": 1, "eps": eps})


@pytest.mark.parametrize("quantized", [True, False])
def test_layer_norm_of_several_axes(quantized: bool) -> None:
    for shape, rank in (((2, 3, 4, 5), 2), ((2, 3, 7, 5), 3), ((3, 5), 2), ((2, 6, 3, 33), 1)):
        gain = np.linspace(-1, 1, int(np.prod(shape[-rank:])), dtype=np.float32).reshape(shape[-rank:])
        for behind_a_pool in (False, True):
            operands = (tensor("f32", *shape), gain, gain[::-1].copy())
            check_op(
                "layer_norm", operands, {"normalized_rank": rank}, quantized=quantized, behind_a_pool=behind_a_pool
            )


@pytest.mark.sampled(3)
@pytest.mark.parametrize("behind_a_pool", [False, True])
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize(
    "channels,groups", [(1, 1), (4, 2), (6, 3), (6, 6), (16, 1), (33, 11), (64, 32), (65, 5), (130, 2), (130, 130)]
)
def test_group_norm(channels: int, groups: int, quantized: bool, behind_a_pool: bool) -> None:
    for spatial in ((5, 7), (1, 1), (33,), (2, 3, 2)):
        operands = (tensor("f32", 2, channels, *spatial), *_terms(channels))
        options: dict[str, Any] = {"quantized": quantized, "behind_a_pool": behind_a_pool}
        if spatial != (1, 1) or channels > groups:
            check_op("group_norm", operands, {"groups": groups}, **options)
        if groups == channels and spatial != (1, 1):
            check_op("instance_norm", operands, {"eps": 1e-3}, **options)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("behind_a_pool", [False, True])
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 6, 16, 17, 33, 64, 130])
def test_batch_norm(channels: int, quantized: bool, behind_a_pool: bool) -> None:
    mean, var = _terms(channels, 1)
    for terms in (_terms(channels), (None, _terms(channels)[1]), ()):
        for spatial in ((5, 3), (9,), ()):
            operands = (tensor("f32", 2, channels, *spatial), mean, np.abs(var), *terms)
            check_op("batch_norm", operands, {"eps": 1e-3}, quantized=quantized, behind_a_pool=behind_a_pool)


@pytest.mark.parametrize("behind_a_pool", [False, True])
@pytest.mark.parametrize("zero_point", [0, 100, 255])
def test_extremes_of_codes(zero_point: int, behind_a_pool: bool) -> None:
    """Rows of one value (a variance of 0), of both extremes, and of one extreme with a single exception."""
    params, rng = u8_params(zero_point), np.random.default_rng(0)
    codes = np.zeros((8, 6, 5, 10), np.int64)
    codes[1], codes[2, ::2], codes[3, :, :, 3:] = 255, 255, 255
    codes[4, 0, 0, 0], codes[5], codes[5, 5, 4, 9], codes[6] = 255, 255, 0, rng.integers(0, 256, (6, 5, 10))
    codes[7] = zero_point
    real = ((codes - zero_point) * np.float64(np.float32(0.05))).astype(np.float32)
    for out in (params, u8_params(128, 0.02), u8_params(255 - zero_point, 1e-3)):
        options: dict[str, Any] = {"quantized": True, "params": {0: params}, "out": out}
        for eps in (1e-5, 0.5):
            for op in ("layer_norm", "rms_norm"):
                check_op(op, (real.reshape(8, 300),), {"normalized_rank": 1, "eps": eps}, **options)
            check_op(
                "group_norm", (real, *_terms(6)), {"groups": 2, "eps": eps}, behind_a_pool=behind_a_pool, **options
            )
            check_op("instance_norm", (real, *_terms(6)), {"eps": eps}, behind_a_pool=behind_a_pool, **options)
        check_op("batch_norm", (real, *_terms(6, 2), *_terms(6)), {"eps": 5.0}, behind_a_pool=behind_a_pool, **options)


@pytest.mark.parametrize("zero_point", [0, 255])
def test_long_rows(zero_point: int) -> None:
    """Sums of squares exceed 32 bits, in one lane and over all."""
    codes = np.full((1, 700_001), 255 - zero_point)
    codes[0, ::1000] = zero_point
    real = ((codes - zero_point) * np.float64(np.float32(0.05))).astype(np.float32)
    options: dict[str, Any] = {"quantized": True, "params": {0: u8_params(zero_point)}, "threads": (1, 2)}
    if zero_point:
        check_op("rms_norm", (real,), {"normalized_rank": 1}, **options)
        check_op("l2_normalize", (real,), {"axis": 1}, **options)
    else:
        check_op("layer_norm", (real,), {"normalized_rank": 1}, **options)
        check_op("instance_norm", (real.reshape(1, 1, 700_001),), behind_a_pool=True, **options)


def test_special_values() -> None:
    x = np.random.default_rng(0).uniform(-2, 2, (8, 50)).astype(np.float32)
    x[0, 7], x[1, 49], x[2, 3] = np.nan, np.inf, -np.inf
    x[3], x[4], x[5] = 3.0, 0.0, 3e38
    x[6, 8] = 3e38
    with np.errstate(all="ignore"):
        check_op("layer_norm", (x,), {"normalized_rank": 1, "eps": 1e-5})
        check_op("rms_norm", (x,), {"normalized_rank": 1, "eps": 1e-5})
        check_op("layer_norm", (x, *_terms(50)), {"normalized_rank": 1, "eps": 1e-5})
        check_op("l2_normalize", (x,), {"axis": 1})
        for behind_a_pool in (False, True):
            image = x[:, :48].reshape(8, 4, 12)
            check_op("group_norm", (image, *_terms(4)), {"groups": 2}, behind_a_pool=behind_a_pool)
            check_op("instance_norm", (image,), behind_a_pool=behind_a_pool)


@pytest.mark.parametrize("quantized", [True, False])
def test_symbolic_batch_and_empty(quantized: bool) -> None:
    for batch in (1, 3, 0):
        options: dict[str, Any] = {"quantized": quantized, "dynamic": True}
        check_op("layer_norm", (tensor("f32", batch, 5, 20), *_terms(20)), {"normalized_rank": 1}, **options)
        check_op("group_norm", (tensor("f32", batch, 6, 20), *_terms(6)), {"groups": 3}, **options)
        check_op("l2_normalize", (tensor("f32", batch, 6, 20),), {"axis": 1}, **options)
        check_op("batch_norm", (tensor("f32", batch, 6, 20), *_terms(6), *_terms(6)), {"eps": 3.0}, **options)


@pytest.mark.parametrize("quantized", [True, False])
def test_guard_pages(quantized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QC_GUARD", "1")
    monkeypatch.setenv("QC_POISON", "1")
    for channels in (3, 20, 33, 65, 130):
        image, terms = tensor("f32", 1, channels, 3, 3), _terms(channels)
        options: dict[str, Any] = {"quantized": quantized, "behind_a_pool": True}
        check_op("instance_norm", (image, *terms), **options)
        check_op("l2_normalize", (image,), {"axis": 1}, **options)
        check_op("group_norm", (image, *terms), {"groups": 1}, **options)
        check_op("batch_norm", (image, *_terms(channels, 1), *terms), {"eps": 3.0}, **options)
        check_op("layer_norm", (tensor("f32", 2, channels), *terms), {"normalized_rank": 1}, quantized=quantized)
