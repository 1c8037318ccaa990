"""The layers that the benchmarks' networks share."""

from __future__ import annotations

from typing import Any

from qcompiler.frontend import nn


class ConvNorm(nn.Module):
    """A convolution without bias, batch norm, and an optional activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.activation = activation

    def forward(self, x: Any) -> Any:
        y = self.bn(self.conv(x))
        return y if self.activation is None else self.activation(y)


class Residual(nn.Module):
    """x + body(x), or shortcut(x) + body(x), then an activation."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.activation = body, shortcut, activation

    def forward(self, x: Any) -> Any:
        y = self.body(x) + (x if self.shortcut is None else self.shortcut(x))
        return y if self.activation is None else self.activation(y)


class Classifier(nn.Module):
    """Features, then a global average and a linear layer."""

    def __init__(self, features: nn.Module, channels: int, classes: int = 1000) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Any) -> Any:
        return self.fc(self.flatten(self.pool(self.features(x))))
