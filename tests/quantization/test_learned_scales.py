"""Learned scales and zero points (LSQ): their gradients, their first values, and what is converted."""

from __future__ import annotations

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.errors import QuantizationError
from qcompiler.quantization import qmath
from qcompiler.quantization.observers import weight_params
from tests.quantization.test_qat import FOUR_BITS, batch, trained

torch = pytest.importorskip("torch")

from qcompiler.fake_quant import learned_fake_quantize, symmetric_scale  # noqa: E402

LEARNED = qc.QatSchedule(learn_scales=2)


def smoothed(x, scale, zero_point, qmin, qmax, base):
    """The rule with the rounding errors at `base`, and which elements are clamped there, held fixed: what a
    straight-through gradient differentiates."""
    units, zero = base[0] / base[1], base[2]
    code, z = torch.round(units) + torch.round(zero), zero_point + (torch.round(zero) - zero)
    inside = x / scale + (torch.round(units) - units)
    return torch.where(code < qmin, qmin - z, torch.where(code > qmax, qmax - z, inside)) * scale


@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_are_finite_differences_of_the_smoothed_rule(per_channel):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 50, dtype=torch.float64, generator=generator)
    shape = (3, 1) if per_channel else ()
    scale = torch.full(shape, 0.3, dtype=torch.float64) + torch.rand(shape, dtype=torch.float64, generator=generator)
    zero = torch.full(shape, 1.2, dtype=torch.float64)
    towards = torch.randn(3, 50, dtype=torch.float64, generator=generator)
    base = (x, scale, zero)
    given = [each.clone().requires_grad_() for each in (x, scale, zero)]
    y = learned_fake_quantize(*given, -2, 3)
    assert torch.allclose(y.detach(), smoothed(x, scale, zero, -2, 3, base), rtol=1e-14, atol=1e-14)
    (y * towards).sum().backward()
    for index, each in enumerate(given):
        for place in range(each.numel()):
            values = []
            for change in (1e-6, -1e-6):
                moved = [part.clone() for part in (x, scale, zero)]
                moved[index].view(-1)[place] += change
                values.append(float((smoothed(*moved, -2, 3, base) * towards).sum()))
            slope = (values[0] - values[1]) / 2e-6
            assert abs(float(each.grad.reshape(-1)[place]) - slope) <= 1e-6 * (1 + abs(slope))


def test_gradients_are_those_of_torch():
    x = torch.randn(400, generator=torch.Generator().manual_seed(1))
    ours = [each.clone().requires_grad_() for each in (x, torch.tensor(0.11), torch.tensor(3.0))]
    theirs = [
        x.clone().requires_grad_(),
        torch.tensor([0.11], requires_grad=True),
        torch.tensor([3.0], requires_grad=True),
    ]
    learned_fake_quantize(*ours, 0, 15, 0.5).square().sum().backward()
    torch._fake_quantize_learnable_per_tensor_affine(*theirs, 0, 15, 0.5).square().sum().backward()
    for own, other in zip(ours, theirs):
        bound = 1e-4 * float(other.grad.abs().max())  # sums of 400 f32 terms, in two orders
        assert float((own.grad - other.grad).abs().max()) <= bound


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_scales_of_weights_are_those_of_deployment_to_the_bit(axis):
    spec = qc.QuantSpec(qc.DType.I8, -7, 7, symmetric=True, per_channel=axis is not None, observer="minmax")
    weight = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(2))
    weight[:, 2] = 0
    expected = np.float32(weight_params(weight.numpy(), spec, axis, "%w").scale)
    assert np.array_equal(symmetric_scale(weight, spec, axis).reshape(-1).numpy(), expected)


def test_what_is_learned_is_converted_and_trained():
    model, losses = trained(8, FOUR_BITS, LEARNED)
    assert losses[-1] < losses[0]
    state = model.qat_state
    first = {name: each.detach().clone() for name, each in state.named_parameters()}
    model(batch(1, 16)).square().mean().backward()
    assert {"scale", "zero_point", "weight_scale0"} <= set(first)
    assert all(bool(each.grad.abs().max() > 0) for name, each in state.named_parameters() if "scale" in name)
    graph = qc.convert(model)
    codes = {name: const for name, const in graph.consts.items() if const.type.is_quantized and const.type.rank == 2}
    (weight,) = codes.values()
    learned = next(each for each in first.values() if each.shape == (5, 1))
    assert np.array_equal(weight.type.params.scales, learned.numpy().reshape(-1))
    assert np.array_equal(
        weight.data, qmath.quantize(model.fc.weight.detach().numpy(), weight.type.params, qc.DType.I8)
    )
    model.eval()
    x = batch(7, 16)
    assert np.array_equal(np.asarray(qc.compile(graph, "keep", target="native")(x.numpy())), model(x).detach().numpy())


def test_learning_resumes_from_a_checkpoint():
    model, _ = trained(4, FOUR_BITS, LEARNED)
    other, _ = trained(1, FOUR_BITS, LEARNED)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(batch(5)), other(batch(5)))


def test_the_sign_of_a_learned_parameter_says_nothing():
    model, _ = trained(4, FOUR_BITS, qc.QatSchedule(learn_scales=2, freeze_batch_norm=3))
    before = model(batch(5))
    with torch.no_grad():
        model.qat_state.scale.neg_()
        model.qat_state.weight_scale0.neg_()
    after = model(batch(5))
    assert torch.equal(before, after)
    after.sum().backward()
    assert bool(model.qat_state.scale.grad.abs().max() > 0)


def test_scales_that_cannot_be_learned_are_refused():
    affine = qc.QConfig(
        qc.QuantSpec(), qc.QuantSpec(qc.DType.I8, -128, 127, observer="minmax"), mixed_precision=False, equalize=False
    )
    with pytest.raises(QuantizationError, match="zero points of weights are not learned"):
        trained(1, affine, LEARNED)
    with pytest.raises(QuantizationError, match="no range is ever observed"):
        qc.QatSchedule(learn_scales=0)
