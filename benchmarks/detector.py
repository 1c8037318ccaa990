"""A one-stage detector like YOLO: cross-stage blocks with SiLU, pyramid pooling, top-down and bottom-up paths.

It predicts at three scales. The parts are those of Wang et al., arXiv:1911.11929 (cross-stage partial networks), He et
al., arXiv:1406.4729 (pyramid pooling) and Liu et al., arXiv:1803.01534 (path aggregation), in their smallest widths.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from layers import ConvNorm, Residual

from qcompiler.frontend import nn

WIDTHS = (16, 32, 64, 128, 256)
OUTPUTS = 3 * 85
"""Three anchors, each with four box coordinates, an objectness and 80 classes."""


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> ConvNorm:
    return ConvNorm(inputs, outputs, kernel, stride, activation=nn.SiLU())


class CrossStage(nn.Module):
    """A block in which half of the channels go through bottlenecks and half past them."""

    def __init__(self, inputs: int, outputs: int, repeats: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.through, self.past, self.join = _conv(inputs, half), _conv(inputs, half), _conv(outputs, outputs)
        blocks = [nn.Sequential(_conv(half, half), _conv(half, half, 3)) for _ in range(repeats)]
        self.blocks = nn.Sequential(*(Residual(block) if shortcut else block for block in blocks))

    def forward(self, x: Any) -> Any:
        return self.join(np.concatenate([self.blocks(self.through(x)), self.past(x)], axis=1))


class Pyramid(nn.Module):
    """Three max pools in a row, concatenated with their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.join = _conv(channels, channels // 2), _conv(channels * 2, channels)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Any) -> Any:
        found = [self.reduce(x)]
        for _ in range(3):
            found.append(self.pool(found[-1]))
        return self.join(np.concatenate(found, axis=1))


class Detector(nn.Module):
    """f32 [N, 3, H, W], H and W multiples of 32 -> [N, 255, places of all scales]."""

    def __init__(self) -> None:
        super().__init__()
        w1, w2, w3, w4, w5 = WIDTHS
        self.stem = nn.Sequential(_conv(3, w1, 5, 2), _conv(w1, w2, 3, 2), CrossStage(w2, w2))
        self.stage3 = nn.Sequential(_conv(w2, w3, 3, 2), CrossStage(w3, w3, 2))
        self.stage4 = nn.Sequential(_conv(w3, w4, 3, 2), CrossStage(w4, w4, 3))
        self.stage5 = nn.Sequential(_conv(w4, w5, 3, 2), CrossStage(w5, w5), Pyramid(w5))
        self.up = nn.Upsample(scale_factor=2)
        self.lateral5, self.down5 = _conv(w5, w4), CrossStage(2 * w4, w4, shortcut=False)
        self.lateral4, self.down4 = _conv(w4, w3), CrossStage(2 * w3, w3, shortcut=False)
        self.again3, self.up4 = _conv(w3, w3, 3, 2), CrossStage(2 * w3, w4, shortcut=False)
        self.again4, self.up5 = _conv(w4, w4, 3, 2), CrossStage(2 * w4, w5, shortcut=False)
        self.head3, self.head4, self.head5 = (nn.Conv2d(w, OUTPUTS, 1) for w in (w3, w4, w5))
        self.flatten = nn.Flatten(2)

    def forward(self, x: Any) -> Any:
        c3 = self.stage3(self.stem(x))
        c4 = self.stage4(c3)
        l5 = self.lateral5(self.stage5(c4))
        l4 = self.lateral4(self.down5(np.concatenate([self.up(l5), c4], axis=1)))
        p3 = self.down4(np.concatenate([self.up(l4), c3], axis=1))
        p4 = self.up4(np.concatenate([self.again3(p3), l4], axis=1))
        p5 = self.up5(np.concatenate([self.again4(p4), l5], axis=1))
        heads = ((self.head3, p3), (self.head4, p4), (self.head5, p5))
        return np.concatenate([self.flatten(head(p)) for head, p in heads], axis=2)
