"""The qconfigs "torch:dynamic..." against torch's own dynamic quantization, whose numbers they have.

torch computes a scale in f64 and multiplies by 1/scale where rule (2) divides. So its codes may differ where a number
lies between two codes, within a few roundings of f32. Weights per channel have such ties by construction: their scale
is the largest magnitude over 127.5, so a channel whose largest number is negative ends at -127.5.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import qcompiler as qc
import qcompiler.torch_ao as quantization
from qcompiler.opdef import opdef
from qcompiler.quantization import qmath
from qcompiler.quantization.observers import weight_params
from qcompiler.types import DType, QuantParams, TensorType, tensor

TIE = 2.0**-14
"""How far from the middle of two codes a tie may lie: codes below 256, and a few roundings of 2^-24 each."""
OURS = {False: quantization.default_dynamic_qconfig, True: quantization.per_channel_dynamic_qconfig}


def from_torch(model: nn.Module, per_channel: bool) -> nn.Module:
    """The model as torch quantizes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.ao.quantization
        config = theirs.per_channel_dynamic_qconfig if per_channel else theirs.default_dynamic_qconfig
        return theirs.quantize_dynamic(model, {nn.Linear: config}, dtype=torch.qint8)


def layer(inputs: int, outputs: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, outputs)).eval()


def are_ties(real: np.ndarray) -> bool:
    """Whether all numbers, in units of codes, lie in the middle of two codes."""
    return bool((np.abs(np.abs(real - np.rint(real)) - 0.5) < TIE).all())


def test_activations_have_torch_codes() -> None:
    """Equal zero points, scales within one rounding, and codes that differ in ties alone; 1 of 20,000 at most."""
    rng, differing, total = np.random.default_rng(0), 0, 0
    for _ in range(200):
        low, high = np.sort(rng.normal(0, 3, 2))
        x = rng.uniform(low, high, (4, 250)).astype(np.float32)
        scale, zero = torch._choose_qparams_per_tensor(torch.from_numpy(x), reduce_range=True)
        theirs = torch.quantize_per_tensor(torch.from_numpy(x), scale, zero, torch.quint8).int_repr().numpy()
        ours, our_scale, our_zero = qmath.dynamic_quantize(x, by_row=False, qmin=0, qmax=127)
        assert our_zero == zero and abs(np.float64(our_scale) / scale - 1) <= 2.0**-23
        unequal = ours != theirs
        assert are_ties((x.astype(np.float64) / scale)[unequal])
        differing, total = differing + int(unequal.sum()), total + x.size
    assert differing <= total / 20_000


@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_have_torch_codes(per_channel: bool) -> None:
    model = layer(64, 96, 1)
    weight = from_torch(model, per_channel)[0].weight()
    spec = OURS[per_channel].weight
    assert spec is not None
    ours = model[0].weight.detach().numpy()
    params = weight_params(ours, spec, 0 if per_channel else None, "%w")
    theirs = weight.q_per_channel_scales().numpy() if per_channel else weight.q_scale()
    assert np.array_equal(params.scales, np.float32(np.atleast_1d(theirs)))
    codes = qmath.quantize(ours, params, DType.I8)
    unequal = codes != weight.int_repr().numpy()
    assert are_ties((ours / params.along(2)[0].astype(np.float64))[unequal])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("inputs, outputs", [(64, 96), (7, 5), (770, 33)])
def test_outputs_are_those_of_torch_for_equal_codes(inputs: int, outputs: int, per_channel: bool) -> None:
    """For torch's weight codes, and rows whose codes are equal too: within 1e-5 of the largest output."""
    linear = opdef("dynamic_linear")
    for seed in range(5):
        theirs = from_torch(layer(inputs, outputs, seed), per_channel)
        weight, bias = theirs[0].weight(), theirs[0].bias().detach().numpy()
        x = torch.randn(20, inputs) * 10.0 ** (seed - 2)
        want = theirs(x).detach().numpy()
        q, scale, zero = qmath.dynamic_quantize(x.numpy(), by_row=False, qmin=0, qmax=127)
        scales = weight.q_per_channel_scales().numpy() if per_channel else [weight.q_scale()]
        params = QuantParams.per_channel(scales, 0, 0, DType.I8) if per_channel else None
        params = params or QuantParams.per_tensor(scales[0], 0, DType.I8)
        types = [
            tensor("u8", *q.shape),
            tensor("f32"),
            tensor("u8"),
            TensorType(DType.I8, (outputs, inputs), params),
            tensor("f32", outputs),
        ]
        arrays = [q, scale, zero, weight.int_repr().numpy(), bias]
        got = linear.run_integer(arrays, types, tensor("f32", 20, outputs), linear.complete_attrs({}))
        their_scale, their_zero = torch._choose_qparams_per_tensor(x, reduce_range=True)
        codes = torch.quantize_per_tensor(x, their_scale, their_zero, torch.quint8).int_repr().numpy()
        equal = (codes == q).all(axis=1)
        assert equal.mean() > 0.8
        assert np.abs(got - want)[equal].max() <= 1e-5 * np.abs(want).max()


def test_a_program_of_torch_ao_runs_with_one_import_changed() -> None:
    """Compiled at the first call; the first axis is open."""
    model = nn.Sequential(nn.Linear(24, 50), nn.ReLU(), nn.Linear(50, 9)).eval()
    quantized = quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    x = torch.randn(6, 24)
    want = from_torch(model, per_channel=False)(x)
    assert quantized.compiled is None
    got = quantized(x)
    assert isinstance(got, torch.Tensor) and (got - want).abs().max() <= 1e-5 * want.abs().max()
    assert quantized(x[:2]).shape == (2, 9)
    assert [node.op for node in quantized.compiled.graph.nodes].count("dynamic_linear") == 2


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_are_those_of_torch(kind: type[nn.Module]) -> None:
    """Both products of a cell read codes, and its state may be given or absent."""
    torch.manual_seed(3)
    cell, x, h = kind(16, 24).eval(), torch.randn(3, 16), torch.randn(3, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.ao.quantization.quantize_dynamic(nn.Sequential(cell), {kind}, dtype=torch.qint8)[0]
    state = (h, torch.randn(3, 24)) if kind is nn.LSTMCell else h
    for inputs, count in (((x,), 1), ((x, state), 2)):
        quantized = quantization.quantize_dynamic(cell, {kind}, example_inputs=inputs)
        assert [node.op for node in quantized.compiled.graph.nodes].count("dynamic_linear") == count
        got, want = quantized.compiled(*(pytree.tree_map(torch.Tensor.numpy, inputs))), theirs(*inputs)
        for mine, other in zip(*(each if isinstance(each, tuple) else (each,) for each in (got, want))):
            assert np.abs(mine - other.detach().numpy()).max() <= 1e-5


def test_examples_compile_at_once_and_name_open_axes() -> None:
    model = nn.Sequential(nn.Linear(24, 50)).eval()
    x = torch.randn(2, 5, 24)
    quantized = quantization.quantize_dynamic(
        model, dtype=torch.float16, example_inputs=(x,), dynamic={0: {0: "B", 1: "S"}}
    )
    assert quantized.compiled is not None
    assert (quantized(x[:1, :3]) - model(x[:1, :3])).abs().max() < 1e-3
    assert [node.op for node in quantized.compiled.graph.nodes] == ["cast", "linear"]


def test_qconfigs_by_name() -> None:
    assert quantization.default_dynamic_qconfig == qc.get_qconfig("torch:dynamic")
    assert quantization.per_channel_dynamic_qconfig == qc.get_qconfig("torch:dynamic_per_channel")
    assert quantization.float16_dynamic_qconfig == qc.get_qconfig("dynamic:float16")


def test_ranges_below_torchs_least_scale_have_finer_codes_than_torchs() -> None:
    """torch's scales are at least 6.1e-5, so numbers of 1e-4 have 3 codes there; ours have all of them."""
    x = np.linspace(-1e-4, 1e-4, 101).astype(np.float32)
    scale, _ = torch._choose_qparams_per_tensor(torch.from_numpy(x), reduce_range=True)
    assert abs(scale - 6.1e-5) < 1e-9
    codes, ours, zero = qmath.dynamic_quantize(x, by_row=False, qmin=0, qmax=127)
    assert np.abs((codes.astype(np.float32) - zero) * ours - x).max() <= 0.51 * ours < 0.02 * scale
