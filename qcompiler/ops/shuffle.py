"""Shuffles of channels and pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from qcompiler.dims import DimLike
from qcompiler.errors import ShapeError
from qcompiler.opdef import SHARES_INPUT, LayoutRule, Sample, int_attr, operand
from qcompiler.ops.interfaces import Mover
from qcompiler.types import TensorType, tensor


def _divisible(op: str, what: str, size: DimLike, divisor: int) -> DimLike:
    """size / divisor; ShapeError unless exact for every value of a symbolic size."""
    if divisor < 1 or size % divisor != 0:
        raise ShapeError(
            f"{what} of {op}", expected=f"a multiple of {divisor}" if divisor > 0 else "a positive divisor", got=size
        )
    return size // divisor


def _check_image(op: str, x: TensorType, factor: int) -> None:
    if x.rank < 3 or factor < 1:
        raise ShapeError(
            f"operand of {op}", expected="[...,C,H,W] and a factor of 1 or more", got=f"{x}, factor {factor}"
        )


class _Shuffle(Mover):
    """Moves elements between channels, or between channels and pixels."""

    quant = SHARES_INPUT
    sampled: ClassVar[Sequence[tuple[tuple[int, ...], int]]] = ()
    x = operand()

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        (attr,) = cls.attrs
        return [Sample((tensor("f32", *shape),), {attr.name: value}) for shape, value in cls.sampled]


class PixelShuffle(_Shuffle):
    """[..., C*r*r, H, W] -> [..., C, H*r, W*r]. torch.pixel_shuffle; ONNX DepthToSpace(mode=CRD)."""

    name = "pixel_shuffle"
    layout = LayoutRule.CHANNELS_LAST
    factor = int_attr()
    sampled = (((1, 4, 3, 5), 2), ((2, 9, 2, 2), 3), ((1, 5, 3, 3), 1), ((8, 4, 4), 2), ((1, 64, 2, 3), 2))

    def infer(self, x: TensorType) -> TensorType:
        factor = self.factor
        _check_image("pixel_shuffle", x, factor)
        *lead, c, h, w = x.shape
        channels = _divisible("pixel_shuffle", "channels", c, factor * factor)
        return x.with_shape((*lead, channels, h * factor, w * factor))

    def reference(self, x: np.ndarray) -> np.ndarray:
        factor = self.factor
        *lead, c, h, w = x.shape
        c = c // (factor * factor)
        n = len(lead)
        split = x.reshape(*lead, c, factor, factor, h, w)
        return split.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2).reshape(*lead, c, h * factor, w * factor)


class PixelUnshuffle(_Shuffle):
    """[..., C, H*r, W*r] -> [..., C*r*r, H, W]. torch.pixel_unshuffle."""

    name = "pixel_unshuffle"
    layout = LayoutRule.CHANNELS_LAST
    factor = int_attr()
    sampled = (((1, 1, 6, 10), 2), ((2, 3, 6, 6), 3), ((1, 5, 3, 3), 1), ((2, 8, 8), 2), ((1, 16, 4, 6), 2))

    def infer(self, x: TensorType) -> TensorType:
        factor = self.factor
        _check_image("pixel_unshuffle", x, factor)
        *lead, c, h, w = x.shape
        height = _divisible("pixel_unshuffle", "height", h, factor)
        width = _divisible("pixel_unshuffle", "width", w, factor)
        return x.with_shape((*lead, c * (factor * factor), height, width))

    def reference(self, x: np.ndarray) -> np.ndarray:
        factor = self.factor
        *lead, c, h, w = x.shape
        h, w = h // factor, w // factor
        n = len(lead)
        split = x.reshape(*lead, c, h, factor, w, factor)
        return split.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3).reshape(*lead, c * factor * factor, h, w)


class ChannelShuffle(_Shuffle):
    """Channels (axis 1) as a [groups, C/groups] matrix, transposed. torch.nn.functional.channel_shuffle."""

    name = "channel_shuffle"
    groups = int_attr()
    sampled = (((1, 6, 3, 5), 2), ((2, 9, 2), 3), ((1, 5, 3, 3), 1), ((3, 8), 4), ((1, 64, 2, 3), 8))

    def infer(self, x: TensorType) -> TensorType:
        if x.rank < 2:
            raise ShapeError("operand of channel_shuffle", expected="[N,C,...]", got=str(x))
        _divisible("channel_shuffle", "channels", x.shape[1], self.groups)
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        n, c, *rest = x.shape
        return x.reshape(n, self.groups, c // self.groups, *rest).swapaxes(1, 2).reshape(x.shape)
