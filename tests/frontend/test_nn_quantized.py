"""qcompiler.nn.quantized against torch's modules of the same name.

Interpreted codes equal torch's, but for ties: numbers that lie between two codes within a few roundings of f32. They
are counted, and the scales here are no short fractions, so that they are rare. A compiled product has a bias of i32,
which is off by at most half a unit of the accumulator: with the scales here, less than 0.005 of a code of the result.
So about one code of 200 may be another one.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.nn.intrinsic.quantized as theirs_fused
import torch.ao.nn.quantized as theirs

import qcompiler as qc
from qcompiler import nn
from qcompiler.quantization.quantized_tensor import QuantizedTensor, quantize_per_channel, quantize_per_tensor

ours = nn.quantized
MOST_TIES = 1
"""How many codes of a result may differ, each by 1."""
X = (0.051317, 120)
"""The scale and zero point of what modules read."""


def codes_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def tensors(codes: np.ndarray) -> tuple[QuantizedTensor, torch.Tensor]:
    """The same quantized tensor here and in torch."""
    real = (codes.astype(np.float32) - X[1]) * np.float32(X[0])
    x = quantize_per_tensor(real, *X, "u8")
    y = torch.quantize_per_tensor(torch.from_numpy(real), *X, torch.quint8)
    assert np.array_equal(x.int_repr(), codes) and np.array_equal(y.int_repr().numpy(), codes)
    return x, y


def check(module: nn.Module, other: torch.nn.Module, codes: np.ndarray) -> None:
    """Equal parameters, and equal codes but for ties: interpreted, and compiled between Quantize and DeQuantize."""
    x, y = tensors(codes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = other(y)
    got = module(x)
    assert isinstance(got, QuantizedTensor)
    assert got.q_scale() == np.float32(want.q_scale()) and got.q_zero_point() == want.q_zero_point()
    check_codes(got.int_repr(), want.int_repr().numpy())
    whole = nn.Sequential(ours.Quantize(*X), module, ours.DeQuantize())
    compiled = qc.compile(whole, "keep", x.dequantize())
    real = np.asarray(compiled(x.dequantize()), np.float64)
    most = max(MOST_TIES, 0.005 * real.size)
    check_codes(np.rint(real / got.q_scale()) + got.q_zero_point(), want.int_repr().numpy(), most)


def check_codes(got: np.ndarray, want: np.ndarray, most: float = MOST_TIES) -> None:
    assert got.shape == want.shape
    difference = np.abs(got.astype(int) - want.astype(int))
    assert difference.max(initial=0) <= 1 and (difference != 0).sum() <= most


def weights(shape: tuple[int, ...], per_channel: bool) -> tuple[QuantizedTensor, torch.Tensor]:
    rng = np.random.default_rng(7)
    real = rng.normal(0, 0.3, shape).astype(np.float32)
    if not per_channel:
        return quantize_per_tensor(real, 0.010373, 0, "i8"), torch.quantize_per_tensor(
            torch.from_numpy(real), 0.010373, 0, torch.qint8
        )
    scales = rng.uniform(0.005, 0.02, shape[0]).astype(np.float32)
    there = torch.quantize_per_channel(
        torch.from_numpy(real), torch.from_numpy(scales), torch.zeros(shape[0], dtype=torch.long), 0, torch.qint8
    )
    return quantize_per_channel(real, scales.tolist(), 0, 0, "i8"), there


def with_weights(module: Any, weight: torch.Tensor, bias: np.ndarray | None, scale: float, zero_point: int) -> Any:
    module.set_weight_bias(weight, None if bias is None else torch.from_numpy(bias))
    module.scale, module.zero_point = scale, zero_point
    return module


@pytest.mark.parametrize("dtype, kind", [("u8", torch.quint8), ("i8", torch.qint8)])
def test_quantize_and_dequantize(dtype: str, kind: torch.dtype) -> None:
    x = np.random.default_rng(0).normal(0, 3, (5, 33)).astype(np.float32)
    got = ours.Quantize(0.037, 3, dtype)(x)
    want = theirs.Quantize(0.037, 3, kind)(torch.from_numpy(x))
    assert isinstance(got, QuantizedTensor)
    check_codes(got.int_repr(), want.int_repr().numpy())
    back = theirs.DeQuantize()(torch._make_per_tensor_quantized_tensor(torch.from_numpy(got.int_repr()), 0.037, 3))
    assert np.array_equal(ours.DeQuantize()(got), back.numpy())


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(relu: bool, per_channel: bool, bias: bool) -> None:
    weight, there = weights((17, 33), per_channel)
    b = np.random.default_rng(1).normal(0, 1, 17).astype(np.float32) if bias else None
    kinds = (ours.LinearReLU, theirs_fused.LinearReLU) if relu else (ours.Linear, theirs.Linear)
    other = with_weights(kinds[1](33, 17, bias), there, b, 0.213791, 100)
    check(kinds[0](weight, b, 0.213791, 100), other, codes_of((9, 33)))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions(rank: int, relu: bool) -> None:
    weight, there = weights((8, 3, *(3, 2, 2)[:rank]), True)
    b = np.random.default_rng(1).normal(0, 1, 8).astype(np.float32)
    name = f"Conv{'ReLU' if relu else ''}{rank}d"
    options: dict[str, Any] = {"stride": 2, "padding": 1, "groups": 2}
    other = getattr(theirs_fused if relu else theirs, name)(6, 8, (3, 2, 2)[:rank], **options)
    module = getattr(ours, name)(weight, b, 0.113717, 90, **options)
    check(module, with_weights(other, there, b, 0.113717, 90), codes_of((2, 6, *(7, 6, 5)[:rank])))


@pytest.mark.parametrize("rank", [1, 2])
def test_transposed_convolutions(rank: int) -> None:
    weight, there = weights((6, 4, *(3, 2)[:rank]), False)
    b = np.random.default_rng(1).normal(0, 1, 4).astype(np.float32)
    options: dict[str, Any] = {"stride": 2, "padding": 1, "output_padding": 1}
    with torch_engine("qnnpack"):
        other = getattr(theirs, f"ConvTranspose{rank}d")(6, 4, (3, 2)[:rank], **options)
        module = getattr(ours, f"ConvTranspose{rank}d")(weight, b, 0.113717, 90, **options)
        check(module, with_weights(other, there, b, 0.113717, 90), codes_of((2, 6, *(5, 4)[:rank])))


class torch_engine:
    """A context in which torch packs weights for one of its engines."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.before = torch.backends.quantized.engine
        torch.backends.quantized.engine = self.name

    def __exit__(self, *_: object) -> None:
        torch.backends.quantized.engine = self.before


def test_from_float_has_the_weight_codes_of_torch() -> None:
    torch.manual_seed(0)
    layer, there = nn.Conv2d(5, 8, 3, padding="same", padding_mode="reflect"), torch.nn.Conv2d(5, 8, 3)
    layer.load_state_dict(there.state_dict())
    module = ours.ConvReLU2d.from_float(nn.Sequential(layer, nn.ReLU()), 0.1, 3)
    observer = torch.ao.quantization.default_per_channel_weight_observer()
    scales, zero_points = observer(there.weight) is not None and observer.calculate_qparams()
    want = torch.quantize_per_channel(there.weight.detach(), scales, zero_points, 0, torch.qint8)
    check_codes(module.weight.int_repr(), want.int_repr().numpy())
    assert np.array_equal(module.weight.q_per_channel_scales(), scales.numpy())
    assert (module.padding, module.padding_mode) == ("same", "reflect")
    with pytest.raises(qc.ArgumentError, match="Conv2d"):
        ours.Conv2d.from_float(nn.Linear(3, 4), 0.1, 3)
    with pytest.raises(qc.QuantizationError, match="no weights"):
        ours.Conv2d.from_float(layer, 0.1, 3, "torch:embedding")


def test_a_network_compiles_to_integer_ops() -> None:
    """Pools and reshapes keep codes between products, and a module that is used twice has one weight."""
    weight, dense = weights((4, 4, 3, 3), True)[0], weights((5, 4 * 3 * 3), False)[0]
    conv = ours.ConvReLU2d(weight, np.zeros(4), *X, padding=1)
    model = nn.Sequential(
        ours.Quantize(*X),
        conv,
        conv,
        ours.KeepParams(nn.MaxPool2d(2)),
        ours.KeepParams(nn.Flatten()),
        ours.Linear(dense, None, 0.3171, 128),
        ours.DeQuantize(),
    )
    x = np.random.default_rng(0).normal(0, 2, (2, 4, 6, 6)).astype(np.float32)
    compiled = qc.compile(model, "keep", x)
    ops = [node.op for node in compiled.graph.nodes]
    assert ops == ["quantize", "conv", "conv", "max_pool", "reshape", "linear", "dequantize"]
    assert len([const for const in qc.trace(model, (x,)).consts.values() if const.type.dtype is qc.DType.I8]) == 2
    codes = np.rint(np.asarray(compiled(x)) / np.float32(0.3171)), np.rint(model(x) / np.float32(0.3171))
    check_codes(*codes)


def test_mistakes() -> None:
    weight, x = weights((3, 4), False)[0], np.zeros((2, 4), np.float32)
    linear = ours.Linear(weight, None, 0.1, 0)
    with pytest.raises(qc.TraceError, match=r"Linear reads codes[^$]*Quantize"):
        linear(x)
    with pytest.raises(qc.TraceError, match="DeQuantize reads codes"):
        ours.DeQuantize()(x)
    with pytest.raises(qc.TraceError, match="Quantize reads real numbers"):
        nn.Sequential(ours.Quantize(*X), ours.Quantize(*X))(x)
    with pytest.raises(qc.QuantizationError, match="i8 of rank 2"):
        ours.Linear(weights((3, 4, 5), False)[0], None, 0.1, 0)
    with pytest.raises(qc.QuantizationError, match="bias of Linear"):
        ours.Linear(weight, np.zeros(4), 0.1, 0)
    with pytest.raises(qc.ArgumentError, match="QuantizedTensor"):
        ours.Linear(np.zeros((3, 4)), None, 0.1, 0)
    with pytest.raises(qc.QuantizationError, match="scale"):
        ours.Linear(weight, None, -1.0, 0)
    with pytest.raises(qc.QuantizationError, match="zero_point"):
        nn.Sequential(ours.Quantize(*X), ours.Linear(weight, None, 0.1, 300))(x)
    with pytest.raises(qc.QuantizationError, match="u8 or i8"):
        ours.Quantize(0.1, 0, "f32")
    with pytest.raises(qc.QuantizationError, match="groups"):
        ours.Conv1d(weights((3, 4, 5), False)[0], None, 0.1, 0, groups=2)
