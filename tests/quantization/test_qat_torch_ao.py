"""torch.ao's qconfigs in training, and what torch.ao's own training gives."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.errors import QuantizationError
from qcompiler.quantization.torch_qconfig import from_torch

torch = pytest.importorskip("torch")

from torch.ao import quantization as ao  # noqa: E402
from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx  # noqa: E402

nn = torch.nn
pytestmark = pytest.mark.filterwarnings("ignore")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        self.depthwise, self.fc = nn.Conv2d(6, 6, 3, groups=6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.depthwise(self.relu(self.norm(self.conv(self.quant(x)))))
        return self.dequant(self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)))


def fit(model: nn.Module, steps: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(steps):
        x = torch.randn(8, 3, 8, 8, generator=generator)
        loss = nn.functional.cross_entropy(model(x), torch.arange(8) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.randn(32, 3, 8, 8, generator=generator)


@pytest.mark.parametrize("mode", ["fx", "eager"])
def test_what_torch_trained_and_converted_comes_in(mode):
    torch.manual_seed(0)
    example = torch.randn(2, 3, 8, 8)
    net = Net().train()
    if mode == "fx":
        prepared = prepare_qat_fx(net, ao.get_default_qat_qconfig_mapping("x86"), (example,))
    else:
        net.qconfig = ao.get_default_qat_qconfig("x86")
        prepared = ao.prepare_qat(ao.fuse_modules_qat(net, [["conv", "norm", "relu"]]))
    x = fit(prepared)
    converted = (convert_fx if mode == "fx" else ao.convert)(prepared.eval())
    compiled = qc.compile(converted, "keep", (x,), target="native")
    want, got = converted(x).detach().numpy(), np.asarray(compiled(x.numpy()))
    apart = np.abs(want - got) / (want.max() - want.min()) * 127
    assert apart.max() < 2.1 and (apart > 0.1).mean() < 0.05  # torch rounds a requantization in another order


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack", "onednn"])
def test_default_qconfigs_of_torch_are_ours(backend):
    assert from_torch(ao.get_default_qat_qconfig(backend)) == qc.get_default_qat_qconfig(backend)


def fake_quantize(observer, **options) -> functools.partial:
    return ao.FakeQuantize.with_args(observer=observer, **options)


WEIGHT = fake_quantize(
    ao.PerChannelMinMaxObserver,
    quant_min=-7,
    quant_max=7,
    dtype=torch.qint8,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
)


@pytest.mark.parametrize(
    "observer,options", [(ao.MovingAverageMinMaxObserver, {"averaging_constant": 0.5}), (ao.MinMaxObserver, {})]
)
def test_ranges_follow_the_observer_of_a_fake_quantize_class(observer, options):
    """After the same batches the scale and the zero point are those of torch's own observer."""
    activation = fake_quantize(observer, quant_min=0, quant_max=15, dtype=torch.quint8, **options)
    given = ao.QConfig(activation=activation, weight=WEIGHT)
    model = qc.prepare_qat(nn.Sequential(nn.Linear(4, 3)), given, (torch.ones(2, 4),))
    theirs = activation()
    for seed in range(4):
        x = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed))
        model(x)
        theirs(x)
    scale, point = theirs.calculate_qparams()
    entry = next(node for node in qc.convert(model).nodes if node.op == "quantize").results[0].type
    assert (entry.params.qmin, entry.params.qmax) == (0, 15)
    assert entry.params.zero_point == (int(point),)
    assert abs(entry.params.scale[0] - float(scale)) <= 8 * 2.0**-24 * float(scale)
    weight = next(const for const in qc.convert(model).consts.values() if const.type.rank == 2)
    assert np.abs(weight.data).max() == 7


class Own(ao.FakeQuantize):
    """A fake-quantize class that a user wrote."""


def test_classes_that_are_not_simulated_are_refused():
    x = (torch.ones(2, 4),)
    net = nn.Sequential(nn.Linear(4, 3))
    for activation, message in (
        (Own.with_args(observer=ao.MinMaxObserver), "class Own is not simulated"),
        (fake_quantize(ao.HistogramObserver), "HistogramObserver are not simulated"),
        (ao.default_observer, "MinMaxObserver is not simulated"),
        (fake_quantize(ao.MinMaxObserver, is_dynamic=True), "8 bits, static"),
    ):
        with pytest.raises(QuantizationError, match=message):
            qc.prepare_qat(net, ao.QConfig(activation=activation, weight=WEIGHT), x)
    with pytest.raises(QuantizationError, match="QConfigMapping is not read"):
        qc.prepare_qat(net, ao.get_default_qat_qconfig_mapping("x86"), x)
    with pytest.raises(QuantizationError, match="dynamic quantization is not simulated"):
        qc.prepare_qat(net, "dynamic", x)
