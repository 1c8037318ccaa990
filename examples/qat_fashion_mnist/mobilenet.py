"""A small network of the MobileNetV2 kind for images of 28x28: inverted residuals with depthwise convolutions."""

from __future__ import annotations

import torch
from torch import nn


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection (Sandler et al. 2018); adds the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.layers = nn.Sequential(
            *_conv(inputs, hidden),
            nn.ReLU6(),
            *_conv(hidden, hidden, 3, stride, hidden),
            nn.ReLU6(),
            *_conv(hidden, outputs),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.adds else y


class FashionMobileNet(nn.Module):
    """f32 [n, 1, 28, 28] to logits f32 [n, 10]: 65,682 parameters."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(1, 16, 3, 2), nn.ReLU6())
        shapes = [(16, 24, 1), (24, 24, 1), (24, 40, 2), (40, 40, 1), (40, 40, 1)]
        self.blocks = nn.Sequential(*(InvertedResidual(*shape) for shape in shapes))
        self.last = nn.Sequential(*_conv(40, 160), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(160, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.last(self.blocks(self.stem(x)))), 1))
