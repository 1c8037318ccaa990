"""Arguments of another kind than annotated: an error that names them, and no number cut to an int in silence."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import ArgumentError, QCompilerError

F = nn.functional

NEEDED: dict[str, Any] = {
    "in_features": 4, "out_features": 4, "in1_features": 4, "in2_features": 4, "in_channels": 4, "out_channels": 4,
    "kernel_size": 3, "num_features": 4, "num_groups": 2, "num_channels": 4, "normalized_shape": 4, "input_size": 4,
    "hidden_size": 4, "num_embeddings": 4, "embedding_dim": 4, "embed_dim": 4, "num_heads": 2, "d_model": 4, "nhead": 2,
    "output_size": 2, "upscale_factor": 2, "downscale_factor": 2, "groups": 2, "padding": 1, "dim": 1, "num_layers": 1,
    "unflattened_size": (2, 2), "threshold": 1.0, "value": 1.0, "encoder_layer": nn.TransformerEncoderLayer(4, 2),
}  # fmt: skip
BAD: dict[str, list[Any]] = {
    "int": ["x", 1.5, [1], np.array([1.5]), object()],
    "float": ["x", [1.5], np.array([1.5, 2]), object()],
    "bool": ["x", 1.5, [True], object()],
}


def _layers() -> list[type]:
    found = [getattr(nn, name) for name in nn.__all__ if isinstance(getattr(nn, name), type)]
    return [each for each in found if issubclass(each, nn.Module) and each is not nn.Module]


@pytest.mark.parametrize("layer", _layers(), ids=lambda layer: layer.__name__)
def test_every_layer_refuses_arguments_of_another_kind(layer: type) -> None:
    parameters = inspect.signature(layer).parameters
    needed = {name: NEEDED[name] for name, each in parameters.items() if name in NEEDED and each.default is each.empty}
    for name, parameter in parameters.items():
        for bad in BAD.get(str(parameter.annotation).split(" | ")[0], ()):
            with pytest.raises(QCompilerError, match=name):
                layer(**{**needed, name: bad})


@pytest.mark.parametrize("bad", ["x", 1.5, (1.5, 2), None, -1, (1, 2, 3)])
@pytest.mark.parametrize(
    "name, make",
    [
        ("kernel_size", lambda bad: nn.Conv2d(4, 4, bad)),
        ("stride", lambda bad: nn.Conv2d(4, 4, 3, stride=bad)(np.ones((1, 4, 8, 8), np.float32))),
        ("dilation", lambda bad: nn.Conv2d(4, 4, 3, dilation=bad)(np.ones((1, 4, 8, 8), np.float32))),
        ("kernel_size", lambda bad: F.max_pool2d(np.ones((1, 4, 8, 8), np.float32), bad)),
        ("kernel_size", lambda bad: F.avg_pool2d(np.ones((1, 4, 8, 8), np.float32), bad)),
        ("normalized_shape", lambda bad: nn.LayerNorm(bad)(np.ones((1, 2), np.float32))),
        ("scale_factor", lambda bad: F.interpolate(np.ones((1, 4, 8), np.float32), scale_factor=bad)),
    ],
)
def test_sizes_that_are_none(name: str, make: Any, bad: Any) -> None:
    if name == "scale_factor" and bad == 1.5:
        assert make(bad).shape == (1, 4, 12)
        return
    with pytest.raises(QCompilerError):
        make(bad)


@pytest.mark.parametrize("scale", [0.0, -2.0, float("nan"), float("inf")])
def test_scales_that_give_no_size(scale: float) -> None:
    with pytest.raises(QCompilerError, match="scales"):
        F.interpolate(np.ones((1, 4, 8), np.float32), scale_factor=scale)


@pytest.mark.parametrize("bad", ["x", object(), [[1.0], [1.0, 2.0]], None])
def test_a_parameter_of_no_numbers(bad: Any) -> None:
    with pytest.raises(ArgumentError, match="parameter"):
        nn.Parameter(bad)


@pytest.mark.parametrize("bad", ["x", 1.5, [1.5], None, object(), np.array([0.1])])
@pytest.mark.parametrize(
    "call",
    [
        lambda t, bad: t.resize_(bad),
        lambda t, bad: t.as_strided(bad, (1, 1)),
        lambda t, bad: t.as_strided((1, 1), bad),
        lambda t, bad: t.as_strided((1, 1), (1, 1), bad),
        lambda t, bad: t.reshape(bad),
        lambda t, bad: t.view(2, bad),
        lambda t, bad: t.mean((0, bad)),
        lambda t, bad: t.mean(bad) if bad is not None else t.mean([bad]),
    ],
)
def test_shapes_of_quantized_tensors_that_are_none(call: Any, bad: Any) -> None:
    tensor = qc.quantize_per_tensor(np.ones((2, 4), np.float32), 0.1, 0, "u8")
    with pytest.raises(ArgumentError):
        call(tensor, bad)
    assert tensor.shape == (2, 4)
