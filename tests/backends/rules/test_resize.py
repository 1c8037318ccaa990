"""Resize on every level: channels around the registers, one to three axes, enlarged and shrunk."""

from __future__ import annotations

import pytest

from qcompiler.types import tensor
from tests.backends.rules.harness import check_op

SIZES = {(3,): (5,), (3, 4): (5, 2), (3, 4, 2): (2, 7, 3)}
"""The sizes along the axes behind the channels, before and after."""


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("channels", [1, 9, 33, 70])
def test_interpolated(channels: int, quantized: bool) -> None:
    """Behind a pool the channels lie innermost. A register holds up to 16 of them, and 70 take several."""
    for before, after in SIZES.items():
        attrs = {"size": after, "mode": "bilinear"}
        given = (tensor("f32", 2, channels, *before),)
        check_op("resize", given, attrs, quantized=quantized, behind_a_pool=True, threads=(2,))
