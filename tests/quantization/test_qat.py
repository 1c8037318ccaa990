"""Quantization-aware training: what is converted is what was simulated, and what training cannot do is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.errors import InputError, QuantizationError
from qcompiler.quantization import qmath
from qcompiler.quantization.choose_qparams import choose_qparams

torch = pytest.importorskip("torch")

from qcompiler import QatSchedule, get_default_qat_qconfig, prepare_qat  # noqa: E402
from qcompiler.fake_quant import fake_quantize  # noqa: E402

nn = torch.nn
SPARE = {"x": {0: "N"}}


class Net(nn.Module):
    """Depthwise, residual, concat, pools and hardswish, with batch norms; one gamma is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.Hardswish())
        self.point = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.fc = nn.Linear(16, 5)
        nn.init.zeros_(self.point[1].weight)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.stem(x), 2)
        y = torch.relu(self.point(self.depthwise(x)) + x)
        y = torch.cat([y, x], 1)
        return self.fc(nn.functional.adaptive_avg_pool2d(y, 1).flatten(1))


def batch(seed: int, n: int = 8):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def trained(steps: int = 6, qconfig: str | qc.QConfig = "int8:plain", schedule: QatSchedule | None = None):
    torch.manual_seed(0)
    model = prepare_qat(Net(), qconfig, (batch(0),), dynamic=SPARE, schedule=schedule)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        x = batch(1, 16)
        loss = nn.functional.cross_entropy(model(x), torch.arange(16) % 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return model, losses


FOUR_BITS = qc.QConfig(
    qc.QuantSpec(qc.DType.U8, 0, 15),
    qc.QuantSpec(qc.DType.I8, -7, 7, symmetric=True, per_channel=True, observer="minmax"),
    mixed_precision=False,
    equalize=False,
)


@pytest.mark.parametrize("qconfig", ["int8:plain", "torch:x86", FOUR_BITS], ids=["int8", "x86", "w4a4"])
def test_evaluation_is_the_converted_program_to_the_bit(qconfig):
    model, losses = trained(6, qconfig)
    assert losses[-1] < losses[0]
    model.eval()
    graph = qc.convert(model)
    assert graph.stage == "integer"
    x = batch(7, 16)
    native = qc.compile(graph, "keep", target="native")
    for got in (native(x.numpy()), qc.interpret(graph, [x.numpy()])):
        found = got[0] if isinstance(got, (tuple, list)) else got
        assert np.array_equal(np.asarray(found), model(x).detach().numpy())


def test_training_computes_what_evaluation_does_up_to_a_few_codes():
    """With frozen norms and ranges both round at the same places, but a float sum may be rounded to the next code."""
    model, _ = trained(6, schedule=QatSchedule(freeze_observers=4, freeze_batch_norm=4))
    before = copy.deepcopy(model.state_dict())
    x = batch(1, 16)
    with torch.no_grad():
        simulated = model(x)
        assert all(
            torch.equal(before[name], each) for name, each in model.state_dict().items() if name != "qat_state.steps"
        )
        model.eval()
        exact = model(x)
    last = next(v for v in reversed(list(model.convert().nodes)) if v.op == "dequantize")
    scale = last.operands[0].type.params.scale[0]
    codes = ((simulated - exact) / scale).round()
    assert float(codes.abs().max()) <= 2
    assert float((codes == 0).float().mean()) >= 0.9


def test_evaluation_and_conversion_change_nothing():
    model, _ = trained(3)
    before = {name: each.numpy().tobytes() for name, each in model.state_dict().items()}
    model.convert()
    assert model.training
    model.eval()
    model(batch(3))
    model.train()
    assert before == {name: each.numpy().tobytes() for name, each in model.state_dict().items()}


def test_evaluation_follows_the_parameters():
    model, _ = trained(2)
    model.eval()
    first = model(batch(3))
    with torch.no_grad():
        model.fc.bias.data += 1  # which changes no version of the tensor
    assert not torch.equal(first, model(batch(3)))


def test_a_copy_trains_by_itself():
    model, _ = trained(2)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.fc.bias += 1
    assert torch.equal(model.fc.bias + 1, other.fc.bias)
    assert not torch.equal(model.eval()(batch(3)), other.eval()(batch(3)))


def test_names_of_the_state_are_kept_and_the_given_module_does_not_change():
    net = Net()
    before = copy.deepcopy(net.state_dict())
    model = prepare_qat(net, "int8:plain", (batch(0),))
    model(batch(1))
    assert set(net.state_dict()) == {name for name in model.state_dict() if not name.startswith("qat_state.")}
    assert all(torch.equal(before[name], each) for name, each in net.state_dict().items())
    assert int(model.stem[1].num_batches_tracked) == 1


def test_training_resumes_from_a_checkpoint_to_the_same_bits():
    model, _ = trained(3)
    other, _ = trained(1)
    other.load_state_dict(model.state_dict())
    for each in (model, other):
        each(batch(5))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))


def test_phases_begin_at_their_steps():
    model = prepare_qat(nn.Sequential(nn.Linear(4, 3)), "int8:plain", (torch.ones(2, 4),), schedule=QatSchedule(1, 2))
    plain = model.get_submodule("0")
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    assert torch.equal(model(x), plain(x))  # observed only
    assert not torch.equal(model(x), plain(x))
    low = model.qat_state.low.clone()
    model(x * 100)
    assert torch.equal(low, model.qat_state.low)


@pytest.mark.parametrize("axis", [None, 0])
def test_fake_quantize_is_that_of_qmath_and_its_gradient_that_of_torch(axis):
    scales, points = ((0.037,), (3,)) if axis is None else ((0.037, 0.5), (0, 0))
    params = qc.QuantParams(scales, points, axis, -8, 7)
    x = torch.randn(2, 500, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = fake_quantize(x, params)
    assert np.array_equal(y.detach().numpy(), qmath.fake_quantize(x.detach().numpy(), params, qc.DType.I8))
    y.sum().backward()
    own, x.grad = x.grad, None
    if axis is None:
        torch.fake_quantize_per_tensor_affine(x, scales[0], points[0], -8, 7).sum().backward()
    else:
        torch.fake_quantize_per_channel_affine(
            x, torch.tensor(scales), torch.tensor(points, dtype=torch.int32), 0, -8, 7
        ).sum().backward()
    assert torch.equal(own, x.grad)


def test_gradients_with_a_batch_norm_are_those_of_float_where_nothing_is_rounded():
    torch.manual_seed(0)
    net = Net()
    model = prepare_qat(net, "int8:plain", (batch(0),), schedule=QatSchedule(quantize=5))
    x = batch(1)
    for each in (net, model):
        (each(x) ** 2).sum().backward()
    for (name, own), other in zip(model.named_parameters(), net.parameters()):
        error = (own.grad - other.grad).abs().max()
        assert error <= 1e-4 * other.grad.abs().max() + 1e-4, name


def test_wide_sums_of_extreme_codes_are_exact():
    """4,608 products of extreme codes pass 2^24, beyond which f32 sums round."""
    torch.manual_seed(0)
    layer = nn.Linear(4608, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.where(torch.rand(2, 4608) < 0.97, 1.0, 0.99))
    model = prepare_qat(nn.Sequential(layer), "int8:plain", (torch.ones(3, 4608),))
    model(torch.cat([torch.ones(2, 4608), torch.zeros(1, 4608)]))
    model.eval()
    x = torch.where(torch.rand(3, 4608) < 0.5, 1.0, 0.9961)
    got = qc.interpret(model.convert(), [x.numpy()])
    assert np.array_equal(np.asarray(got[0] if isinstance(got, (tuple, list)) else got), model(x).detach().numpy())


@pytest.mark.filterwarnings("ignore:Please use quant_min")
@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack", "onednn"])
def test_default_qconfigs_are_those_of_torch(backend):
    """The range, the scheme and the granularity; and the same scale and zero point for the same data."""
    theirs = torch.ao.quantization.get_default_qat_qconfig(backend)
    ours = get_default_qat_qconfig(backend)
    for spec, made in ((ours.activation, theirs.activation()), (ours.weight, theirs.weight())):
        observer = made.activation_post_process
        assert (spec.qmin, spec.qmax) == (made.quant_min, made.quant_max)
        assert spec.symmetric == ("symmetric" in str(observer.qscheme))
        assert spec.per_channel == ("channel" in str(observer.qscheme))
        assert spec.eps == float(observer.eps)
    model = prepare_qat(nn.Sequential(nn.Linear(4, 3)), ours, (torch.ones(2, 4),))
    observer = theirs.activation()
    for seed in range(3):
        x = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed))
        model(x)
        observer(x)
    params = choose_qparams(model.qat_state.low[0].numpy(), model.qat_state.high[0].numpy(), ours.activation)
    scale, point = observer.calculate_qparams()
    assert params.zero_point == tuple(point.tolist())
    assert abs(params.scale[0] - float(scale[0])) <= 4 * 2.0**-24 * params.scale[0]  # f32 roundings of the averages


def test_unknown_backend_is_refused():
    with pytest.raises(QuantizationError, match="unknown backend"):
        get_default_qat_qconfig("x87")


def test_bad_input_is_refused():
    x = torch.ones(2, 4)
    net = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(QuantizationError, match="evaluation mode"):
        prepare_qat(copy.deepcopy(net).eval(), "int8:plain", (x,))
    with pytest.raises(QuantizationError, match="from calibration data"):
        prepare_qat(net, "int8", (x,))
    with pytest.raises(QuantizationError, match="from calibration data"):
        prepare_qat(net, replace(FOUR_BITS, rounding="gptq"), (x,))
    with pytest.raises(QuantizationError, match="dropout"):
        prepare_qat(nn.Sequential(net, nn.Dropout(0.5)), "int8:plain", (x,))
    with pytest.raises(QuantizationError, match="would not be trained"):
        prepare_qat(nn.Sequential(net, nn.BatchNorm1d(3), nn.ReLU(), nn.BatchNorm1d(3)), "int8:plain", (x,))
    with pytest.raises(QuantizationError, match="read once"):
        prepare_qat(nn.Sequential(square := nn.Linear(4, 4), nn.ReLU(), square), "int8:plain", (x,))
    turned = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4))
    with pytest.raises(QuantizationError, match="batch norm behind"):
        prepare_qat(turned, "int8:plain", (batch(0),))
    with pytest.raises(QuantizationError, match="at least 0"):
        QatSchedule(quantize=-1)
    model = prepare_qat(net, "int8:plain", (x,))
    with pytest.raises(QuantizationError, match="no range was observed"):
        model.convert()
    with pytest.raises(QuantizationError, match="NaN or Inf in training"):
        model(x * float("nan"))
    with pytest.raises(QuantizationError, match="(?s)gradient of NaN.*%0"):
        (model(x).sum() * float("nan")).backward()
    with torch.no_grad():
        frozen = prepare_qat(net, "int8:plain", (x,), schedule=QatSchedule(freeze_observers=1))
        frozen(x)
        frozen.get_submodule("0").bias[1] = float("nan")
    with pytest.raises(QuantizationError, match="the parameter 0.bias"):
        frozen(x)
    with pytest.raises(InputError, match="shape of an input"):
        model(torch.ones(3, 4))
    other = prepare_qat(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), "int8:plain", (x,))
    with pytest.raises(QuantizationError, match="another graph"):
        model.load_state_dict(other.state_dict())


def test_parameters_that_other_nodes_read_are_trained():
    """Tables of embeddings, layer norms and their like stay as they are in the graph, and are read anew each step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(11, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ELU(), nn.Linear(6, 3))
    nn.init.uniform_(net[1].weight, 0.5, 1.5)  # with ones and zeros it would be simplified, and refused
    nn.init.uniform_(net[1].bias)
    indices = torch.arange(10).reshape(2, 5) % 11
    model = prepare_qat(net, "int8:plain", (indices,))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(4):
        loss = (model(indices) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(each.grad is not None and bool(each.grad.abs().max() > 0) for each in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    graph = qc.convert(model)
    model.eval()
    compiled = qc.compile(graph, "keep", target="native")
    assert np.allclose(np.asarray(compiled(indices.numpy())), model(indices).detach().numpy(), atol=1e-5)
