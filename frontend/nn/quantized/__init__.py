"""Quantized layers with torch's names (torch.ao.nn.quantized), public as `qcompiler.nn.quantized`.

A model of them starts with Quantize and ends with DeQuantize. Called on arrays they are interpreted; traced, they give
a graph of stage qdq, which `compile(model, "keep", x)` turns into an integer program.
"""

from qcompiler.frontend.nn.quantized import dynamic
from qcompiler.frontend.nn.quantized.products import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvReLU1d,
    ConvReLU2d,
    ConvReLU3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Linear,
    LinearReLU,
)
from qcompiler.frontend.nn.quantized.stubs import DeQuantize, KeepParams, Quantize

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvReLU1d",
    "ConvReLU2d",
    "ConvReLU3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "DeQuantize",
    "KeepParams",
    "Linear",
    "LinearReLU",
    "Quantize",
    "dynamic",
]

for _exported in (globals()[name] for name in __all__):
    if isinstance(_exported, type):
        _exported.__module__ = "qcompiler.nn.quantized"
