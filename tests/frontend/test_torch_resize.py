"""interpolate picks the pixels that torch picks: fractional steps are f32, and their last bit decides which pixel is
the nearest."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import qcompiler as qc
from qcompiler.frontend.functional import interpolate

SIZES = (1, 2, 3, 5, 10, 38, 100)
FACTORS = (0.34, 0.7, 1.1, 1.25, 1.7, 2.0, 2.2, 3.3, 7.3)
MODES = (("nearest", None), ("nearest-exact", None), ("linear", False), ("linear", True))


def _agrees(pixels: int, **how: Any) -> None:
    x = np.random.default_rng(pixels).normal(size=(1, 2, pixels)).astype(np.float32)
    want = F.interpolate(torch.tensor(x), **how).numpy()
    got = qc.compile(lambda x: interpolate(x, **how), None, (x,), target="reference")(x)
    assert got.shape == want.shape
    if how["mode"] == "linear":  # two products and a sum, of weights that one rounding more or less makes
        np.testing.assert_allclose(got, want, rtol=0, atol=2.0**-24 * (8 + 2 * want.shape[-1]) * np.abs(x).max())
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("mode", "align"), MODES, ids=lambda value: str(value))
def test_by_scales(mode: str, align: bool | None) -> None:
    for size, factor in itertools.product(SIZES, FACTORS):
        if int(size * factor) > 0:
            _agrees(size, scale_factor=factor, mode=mode, align_corners=align)


@pytest.mark.parametrize(("mode", "align"), MODES, ids=lambda value: str(value))
def test_to_a_size(mode: str, align: bool | None) -> None:
    for size, out in itertools.product(SIZES, (1, 2, 3, 7, 41, 76)):
        _agrees(size, size=out, mode=mode, align_corners=align)
