"""The demo's network in qcompiler.nn; the same parameter names as torch_model.py, so its weights load by name."""

from __future__ import annotations

import pathlib
from typing import Any

from safetensors.numpy import load_file

from qcompiler.frontend import nn

HERE = pathlib.Path(__file__).resolve().parent


class ConvNorm(nn.Module):
    """A convolution without bias, then batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Any) -> Any:
        return self.bn(self.conv(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut = ConvNorm(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else None

    def forward(self, x: Any) -> Any:
        residual = x if self.shortcut is None else self.shortcut(x)
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + residual)


class FashionResNet(nn.Module):
    """[n, 1, 28, 28] -> [n, 10] logits."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = ConvNorm(1, width, 3)
        self.relu = nn.ReLU()
        self.stage1 = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, width, 1))
        self.stage2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1))
        self.stage3 = nn.Sequential(BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Any) -> Any:
        x = self.relu(self.stem(x))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(self.flatten(self.pool(x)))


def trained_model() -> FashionResNet:
    """The network with the weights of model.safetensors."""
    model = FashionResNet()
    model.load_state_dict(load_file(HERE / "model.safetensors"))
    return model
