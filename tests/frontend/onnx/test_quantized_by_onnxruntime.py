"""Nets that ONNX Runtime quantized: kernels serve every node, and the answers are those of ONNX Runtime."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import qcompiler as qc

ort = pytest.importorskip("onnxruntime")
quantization = pytest.importorskip("onnxruntime.quantization")


class Residual(nn.Module):
    """x + expand, depthwise, project, as in MobileNetV2; or two convolutions, as in ResNet."""

    def __init__(self, channels: int, inverted: bool) -> None:
        super().__init__()
        wide = channels * 2
        self.body = (
            nn.Sequential(
                nn.Conv2d(channels, wide, 1), nn.ReLU6(), nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.ReLU6(),
                nn.Conv2d(wide, channels, 1),
            )
            if inverted
            else nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
            )
        )  # fmt: skip
        self.after = nn.Identity() if inverted else nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(x + self.body(x))


class Fire(nn.Module):
    """Squeeze, and two convolutions side by side, as in SqueezeNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, 4, 1)
        self.one, self.three = nn.Conv2d(4, channels // 2, 1), nn.Conv2d(4, channels // 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.one(x).relu(), self.three(x).relu()], 1)


def net(block: nn.Module, pooled: bool) -> nn.Module:
    pool = [nn.MaxPool2d(2)] if pooled else []
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), *pool, block, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    )  # fmt: skip


NETS = {
    "inverted residual": lambda: net(Residual(8, True), False),
    "residual": lambda: net(Residual(8, False), True),
    "fire": lambda: net(Fire(8), True),
}
Format, Type = quantization.QuantFormat, quantization.QuantType
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "per channel": {"per_channel": True},
    "unsigned": {"activation_type": Type.QUInt8, "per_channel": True},
    "symmetric": {"extra_options": {"ActivationSymmetric": True}},
    "operators": {"quant_format": Format.QOperator, "activation_type": Type.QUInt8, "reduce_range": True},
}
"""ONNX Runtime's integer kernels saturate sums of two products to 16 bits on CPUs without VNNI. Weights of 7 bits keep
those sums within it: 2 * 255 * 64 < 2^15. Models in QDQ form run in float when nothing is optimized."""


class Reader(quantization.CalibrationDataReader):
    def __init__(self, x: np.ndarray) -> None:
        self.items = iter([{"x": x}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.items, None)


def answer(path: pathlib.Path, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("name", NETS)
def test_a_net_that_onnx_runtime_quantized(name: str, tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            NETS[name]().eval(), (torch.tensor(x),), tmp_path / "float.onnx", dynamo=False, input_names=["x"],
            dynamic_axes={"x": {0: "N"}}, opset_version=17,
        )  # fmt: skip
    for label, options in OPTIONS.items():
        path = tmp_path / "quantized.onnx"
        quantization.quantize_static(tmp_path / "float.onnx", path, Reader(x), **options)
        compiled = qc.compile(path, "keep")
        assert not compiled.report().python_nodes, label
        (got,) = compiled(x).values()
        np.testing.assert_array_equal(got, answer(path, x), label)
