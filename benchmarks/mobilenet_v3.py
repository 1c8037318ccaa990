"""MobileNetV3-small, with squeeze-and-excitation and hardswish (Howard et al., arXiv:1905.02244, table 2)."""

from __future__ import annotations

from typing import Any

from layers import ConvNorm, Residual

from qcompiler.frontend import nn


class SqueezeExcite(nn.Module):
    """Scale each channel by a learnt function of all channels' averages."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze, self.excite = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.relu, self.gate = nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x: Any) -> Any:
        return x * self.gate(self.excite(self.relu(self.squeeze(self.pool(x)))))


class Head(nn.Module):
    """A global average, then two linear layers."""

    def __init__(self, features: nn.Module, channels: int, hidden: int) -> None:
        super().__init__()
        self.features = features
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten(1)
        self.hidden, self.act, self.fc = nn.Linear(channels, hidden), nn.Hardswish(), nn.Linear(hidden, 1000)

    def forward(self, x: Any) -> Any:
        return self.fc(self.act(self.hidden(self.flatten(self.pool(self.features(x))))))


def _eighth(channels: float) -> int:
    """The nearest multiple of eight that is at most a tenth smaller."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def mobilenet_v3_small() -> nn.Module:
    blocks = (
        (3, 16, 16, True, nn.ReLU, 2),
        (3, 72, 24, False, nn.ReLU, 2),
        (3, 88, 24, False, nn.ReLU, 1),
        (5, 96, 40, True, nn.Hardswish, 2),
        (5, 240, 40, True, nn.Hardswish, 1),
        (5, 240, 40, True, nn.Hardswish, 1),
        (5, 120, 48, True, nn.Hardswish, 1),
        (5, 144, 48, True, nn.Hardswish, 1),
        (5, 288, 96, True, nn.Hardswish, 2),
        (5, 576, 96, True, nn.Hardswish, 1),
        (5, 576, 96, True, nn.Hardswish, 1),
    )
    layers: list[nn.Module] = [ConvNorm(3, 16, 3, 2, activation=nn.Hardswish())]
    channels = 16
    for kernel, hidden, width, excited, activation, stride in blocks:
        body: list[nn.Module] = [] if hidden == channels else [ConvNorm(channels, hidden, activation=activation())]
        body.append(ConvNorm(hidden, hidden, kernel, stride, hidden, activation()))
        if excited:
            body.append(SqueezeExcite(hidden, _eighth(hidden / 4)))
        body.append(ConvNorm(hidden, width))
        layers.append(Residual(nn.Sequential(*body)) if stride == 1 and channels == width else nn.Sequential(*body))
        channels = width
    layers.append(ConvNorm(channels, 576, activation=nn.Hardswish()))
    return Head(nn.Sequential(*layers), 576, 1024)
