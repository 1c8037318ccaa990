"""Random networks in training with rounding: the converted program gives the codes of evaluation at every node.

python -m pytest tests/quantization/test_qat_random.py -m "exhaustive or not exhaustive"      # 50 networks
"""

from __future__ import annotations

import pathlib
import runpy
import sys

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.ir import Graph
from tests.quantization.test_qat import FOUR_BITS

torch = pytest.importorskip("torch")
nn = torch.nn
IMAGES = 256
FEW = (0, 2)
ROOT = pathlib.Path(__file__).resolve().parents[2]


class RandomNet(nn.Module):
    """Blocks of random kinds on f32 [n, 3, 12, 12]: convolutions, depthwise ones, residuals, concatenations, pools and
    activations, then a linear layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = np.random.default_rng(seed)
        self.parts = nn.ModuleList()
        self.plan: list[tuple[str, list[int]]] = []
        channels, size = 3, 12
        kinds = ["conv", "depthwise", "residual", "concat", "pool"] + list(
            self.random.choice(["conv", "depthwise", "residual", "concat", "pool"], self.random.integers(0, 4))
        )
        self.random.shuffle(kinds)
        for kind in ["conv", *kinds]:  # a pool of the inputs would be computed in floats
            channels, size = self._add(str(kind), channels, size)
        self.fc = nn.Linear(channels, 5)
        del self.random

    def _keep(self, part: nn.Module) -> int:
        self.parts.append(part)
        return len(self.parts) - 1

    def _conv(self, inputs: int, outputs: int, kernel: int, groups: int = 1) -> int:
        """A convolution with a batch norm, a bias, or both, and an activation or none."""
        bias, norm = bool(self.random.random() < 0.5), bool(self.random.random() < 0.7)
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, 1, groups, bias or not norm)]
        if norm:
            layers.append(nn.BatchNorm2d(outputs))
        layers += (self.random.choice([nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Identity], 1)[0](),)
        return self._keep(nn.Sequential(*layers))

    def _add(self, kind: str, channels: int, size: int) -> tuple[int, int]:
        if kind == "pool" and size < 4:
            kind = "conv"
        if kind == "conv":
            outputs = int(self.random.integers(3, 10))
            self.plan.append((kind, [self._conv(channels, outputs, int(self.random.choice([1, 3])))]))
            return outputs, size
        if kind == "depthwise":
            self.plan.append((kind, [self._conv(channels, channels, 3, channels), self._conv(channels, channels, 1)]))
            return channels, size
        if kind == "residual":
            last = self._keep(self.random.choice([nn.ReLU, nn.Identity, nn.Hardswish], 1)[0]())
            self.plan.append((kind, [self._conv(channels, channels, 3), last]))
            return channels, size
        if kind == "concat":
            more = int(self.random.integers(2, 6))
            self.plan.append((kind, [self._conv(channels, more, 1), self._conv(channels, more, 3)]))
            return channels + 2 * more if more % 2 else 2 * more, size
        pool = self.random.choice([nn.MaxPool2d, nn.AvgPool2d], 1)[0](2)
        self.plan.append((kind, [self._keep(pool)]))
        return channels, size // 2

    def forward(self, x):
        for kind, indices in self.plan:
            made = [self.parts[index] for index in indices]
            if kind == "residual":
                x = made[1](x + made[0](x))
            elif kind == "concat":
                branches = [made[0](x), made[1](x)]
                x = torch.cat([x, *branches] if branches[0].shape[1] % 2 else branches, 1)
            else:
                for part in made:
                    x = part(x)
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def all_values(graph: Graph) -> Graph:
    """The graph with the results of all its nodes as outputs."""
    every = graph.clone()
    every.set_outputs([value for node in every.nodes for value in node.results])
    return every


def train(model: nn.Module, seed: int, steps: int = 8) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(16, 3, 12, 12, generator=generator)
        loss = nn.functional.cross_entropy(model(x), torch.arange(16) % 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def check_codes(model: nn.Module, x: torch.Tensor) -> None:
    """All codes of evaluation, of the interpreter and of the compiled program are equal, and so are the results."""
    model.eval()
    graph = qc.convert(model)
    assert graph.stage == "integer"
    every = all_values(graph)
    with torch.no_grad():
        simulated = qc.to_torch(every)(x)
        last = model(x)
    compiled = qc.compile(every, "keep", target="native")(x.numpy())
    names = [value.name for value in every.outputs]
    assert len(simulated) == len(compiled) == len(names)
    for name, value, ours, theirs in zip(names, every.outputs, simulated, compiled):
        assert np.array_equal(ours.numpy(), np.asarray(theirs)), f"%{name}: {value.type}"
    interpreted = qc.interpret(graph, [x[:8].numpy()])
    whole = qc.compile(graph, "keep", target="native")(x.numpy())
    assert np.array_equal(np.asarray(whole), last.numpy())
    assert np.array_equal(np.asarray(interpreted[0]), last[:8].numpy())


@pytest.mark.parametrize(
    "seed", [seed if seed in FEW else pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(50)]
)
def test_codes_of_a_random_network_are_equal_at_every_node(seed: int) -> None:
    torch.manual_seed(seed)
    qconfig = ("int8:plain", "torch:x86", FOUR_BITS, "torch:qnnpack")[seed % 4]
    schedule = qc.QatSchedule(learn_scales=3) if seed % 3 == 2 else qc.QatSchedule(freeze_batch_norm=6)
    x = torch.randn(2, 3, 12, 12)
    model = qc.prepare_qat(RandomNet(seed), qconfig, (x,), dynamic={"x": {0: "N"}}, schedule=schedule)
    train(model, seed)
    check_codes(model, torch.randn(IMAGES, 3, 12, 12))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
@pytest.mark.parametrize("bits", ["int8", "w4a4-learned"])
def test_codes_of_the_example_s_networks_are_equal_at_every_node(
    name: str, bits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The networks of examples/qat_fashion_mnist, after some steps from their first weights, on 256 test images."""
    monkeypatch.setattr("sys.path", list(sys.path))
    run = runpy.run_path(str(ROOT / "examples" / "qat_fashion_mnist" / "run.py"))
    torch.manual_seed(0)
    model = run["prepared"](run["NETS"][name](), bits, 24)
    images, labels = run["dataset"].load_split("calib")
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for step in range(24):
        chosen = np.arange(step * 13, step * 13 + 13) % len(images)
        x = torch.from_numpy(run["preprocess"](images[chosen]))
        loss = nn.functional.cross_entropy(model(x), torch.from_numpy(labels[chosen].astype(np.int64)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    check_codes(model, torch.from_numpy(run["preprocess"](run["dataset"].load_split("test")[0][:IMAGES])))
