"""The benchmarks' networks in qcompiler.nn, as their papers describe them, with seeded random weights.

Batch norm's statistics are drawn so that activations keep their size, which gives ranges like those of trained
networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from detector import Detector
from layers import Classifier, ConvNorm, Residual
from mobilenet_v3 import mobilenet_v3_small

from qcompiler.frontend import nn

Shape = tuple[int, ...]


def _resnet_stem() -> list[nn.Module]:
    return [ConvNorm(3, 64, 7, 2, activation=nn.ReLU()), nn.MaxPool2d(3, stride=2, padding=1)]


def resnet18() -> nn.Module:
    """He et al., arXiv:1512.03385, table 1."""
    layers, channels = _resnet_stem(), 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for index in range(2):
            block_stride = stride if index == 0 else 1
            body = nn.Sequential(
                ConvNorm(channels, width, 3, block_stride, activation=nn.ReLU()), ConvNorm(width, width, 3)
            )
            shortcut = ConvNorm(channels, width, 1, block_stride) if block_stride != 1 or channels != width else None
            layers.append(Residual(body, shortcut, nn.ReLU()))
            channels = width
    return Classifier(nn.Sequential(*layers), channels)


def resnet50() -> nn.Module:
    """He et al., arXiv:1512.03385, table 1, with the stride on the 3x3 convolution."""
    layers, channels = _resnet_stem(), 64
    for width, stride, blocks in ((64, 1, 3), (128, 2, 4), (256, 2, 6), (512, 2, 3)):
        for index in range(blocks):
            block_stride = stride if index == 0 else 1
            body = nn.Sequential(
                ConvNorm(channels, width, activation=nn.ReLU()),
                ConvNorm(width, width, 3, block_stride, activation=nn.ReLU()),
                ConvNorm(width, 4 * width),
            )
            shortcut = ConvNorm(channels, 4 * width, 1, block_stride) if index == 0 else None
            layers.append(Residual(body, shortcut, nn.ReLU()))
            channels = 4 * width
    return Classifier(nn.Sequential(*layers), channels)


def _inverted(inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> nn.Module:
    hidden = inputs * expand
    layers = [] if expand == 1 else [ConvNorm(inputs, hidden, activation=nn.ReLU6())]
    layers += [ConvNorm(hidden, hidden, kernel, stride, hidden, nn.ReLU6()), ConvNorm(hidden, outputs)]
    body = nn.Sequential(*layers)
    return Residual(body) if stride == 1 and inputs == outputs else body


def mobilenet_v2() -> nn.Module:
    """Sandler et al., arXiv:1801.04381, table 2."""
    layers: list[nn.Module] = [ConvNorm(3, 32, 3, 2, activation=nn.ReLU6())]
    channels = 32
    for expand, width, repeats, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for index in range(repeats):
            layers.append(_inverted(channels, width, 3, stride if index == 0 else 1, expand))
            channels = width
    layers.append(ConvNorm(channels, 1280, activation=nn.ReLU6()))
    return Classifier(nn.Sequential(*layers), 1280)


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-B0 (arXiv:1905.11946, table 1) without squeeze-excite, with ReLU6, stem and head fixed at 32 and
    1280."""
    layers: list[nn.Module] = [ConvNorm(3, 32, 3, 2, activation=nn.ReLU6())]
    channels = 32
    for expand, width, repeats, stride, kernel in (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ):
        for index in range(repeats):
            layers.append(_inverted(channels, width, kernel, stride if index == 0 else 1, expand))
            channels = width
    layers.append(ConvNorm(channels, 1280, activation=nn.ReLU6()))
    return Classifier(nn.Sequential(*layers), 1280)


class Fire(nn.Module):
    """Squeeze, then 1x1 and 3x3 expansions side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(inputs, squeeze, 1), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(squeeze, expand, 1), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(squeeze, expand, 3, padding=1), nn.ReLU())

    def forward(self, x: Any) -> Any:
        x = self.squeeze(x)
        return np.concatenate([self.one(x), self.three(x)], axis=1)


class SqueezeNet(nn.Module):
    """Iandola et al., arXiv:1602.07360, version 1.1."""

    def __init__(self) -> None:
        super().__init__()
        pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            pool,
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            pool,
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            pool,
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
            nn.Conv2d(512, 1000, 1),
            nn.ReLU(),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)

    def forward(self, x: Any) -> Any:
        return self.flatten(self.pool(self.features(x)))


def fashion_resnet() -> nn.Module:
    """The demo's small network."""
    import pathlib
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples" / "fashion_mnist"))
    from model import FashionResNet

    return FashionResNet()


MODELS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "fashion_resnet": (fashion_resnet, (1, 28, 28)),
    "resnet18": (resnet18, (3, 224, 224)),
    "resnet50": (resnet50, (3, 224, 224)),
    "mobilenet_v2": (mobilenet_v2, (3, 224, 224)),
    "efficientnet_lite0": (efficientnet_lite0, (3, 224, 224)),
    "squeezenet": (SqueezeNet, (3, 224, 224)),
    "mobilenet_v3_small": (mobilenet_v3_small, (3, 224, 224)),
    "detector": (Detector, (3, 320, 320)),
}


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights: He initialisation for convolutions, norms near the identity."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, value in model.state_dict().items():
        shape, leaf = value.shape, name.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            state[name] = np.asarray(value)
        elif leaf == "running_var":
            state[name] = rng.uniform(0.7, 1.4, shape).astype(np.float32)
        elif leaf in ("running_mean", "bias"):
            state[name] = rng.normal(0, 0.1, shape).astype(np.float32)
        elif len(shape) == 1:
            state[name] = rng.uniform(0.6, 1.1, shape).astype(np.float32)
        else:
            state[name] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
    model.load_state_dict(state)
    return model


def build(name: str) -> tuple[nn.Module, Shape]:
    """A model of the table with seeded weights, and the shape of one sample."""
    make, shape = MODELS[name]
    return seeded(make()), shape
