"""The demo's float model in torch: a ResNet for 28x28 grey images. Its module names are the names of the weights."""

from __future__ import annotations

import torch
from torch import nn


class ConvBn(nn.Module):
    """Convolution without bias, then batchnorm: the stem's and the shortcut's form."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)); the shortcut is x itself where the shape stays the same."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: ConvBn | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvBn(in_channels, out_channels, 1, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = x if self.shortcut is None else self.shortcut(x)
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + residual)


class FashionResNet(nn.Module):
    """f32 [n, 1, 28, 28] to logits f32 [n, 10]: 3x3 stem, three stages of two blocks, average pool, linear.

    With width w: stem and stage1 have w channels at 28x28, stage2 2w at 14x14, stage3 4w at 7x7.
    """

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = ConvBn(1, width, 3, 1)
        self.relu = nn.ReLU()
        self.stage1 = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, width, 1))
        self.stage2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1))
        self.stage3 = nn.Sequential(BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.stem(x))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(torch.flatten(self.pool(x), 1))
