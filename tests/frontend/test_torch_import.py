"""Torch modules that are imported through torch.export, against torch itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from qcompiler.dims import Dim
from qcompiler.errors import TraceError
from qcompiler.frontend.torch_import import import_torch, is_torch_module
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.notes import Remark
from qcompiler.signature import guards, structure_of
from qcompiler.structure import restore_outputs


def randomize(module: nn.Module) -> nn.Module:
    """Draw parameters and statistics that hide no mistake, and set eval mode."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                low = 0.3 if name.endswith(("var", "weight")) and tensor.ndim == 1 else -0.4
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (0.6 - low) + low)
    return module.eval()


def data(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) * 4 - 2


def numpy_of(item):
    if isinstance(item, torch.Tensor):
        return item.detach().numpy()
    if isinstance(item, (tuple, list)):
        return type(item)(numpy_of(part) for part in item)
    return {key: numpy_of(part) for key, part in item.items()} if isinstance(item, dict) else item


def check(module: nn.Module, *inputs: torch.Tensor, dynamic=None, others=(), rtol: float = 2e-5) -> Graph:
    """Check that the imported graph equals the module, on the example inputs and on `others`."""
    graph = import_torch(module, inputs, dynamic=dynamic)
    for items in (inputs, *others):
        with torch.no_grad():
            expected = numpy_of(module(*items))
        got = restore_outputs(structure_of(graph), run(graph, [item.numpy() for item in items]))
        compare(got, expected, rtol)
    return graph


def compare(got, expected, rtol: float) -> None:
    if isinstance(expected, (tuple, list, dict)):
        assert type(got) is type(expected) and len(got) == len(expected)
        if isinstance(expected, dict):
            assert list(got) == list(expected)
            got, expected = got.values(), expected.values()
        for a, b in zip(got, expected):
            compare(a, b, rtol)
        return
    if not isinstance(expected, np.ndarray):
        assert got == expected
        return
    assert got.shape == expected.shape and got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol)


LAYERS = {
    "linear": (nn.Linear(5, 3), (2, 4, 5), "linear"),
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9), "conv"),
    "conv2d": (nn.Conv2d(4, 8, (3, 5), padding="same", groups=2, dilation=2), (1, 4, 9, 9), "conv"),
    "conv reflect": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (1, 3, 6, 5), "pad conv"),
    "conv3d": (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4), "conv"),
    "conv unbatched": (nn.Conv2d(3, 4, 3), (3, 6, 5), "reshape conv reshape"),
    "conv_transpose1d": (nn.ConvTranspose1d(4, 2, 3, stride=2), (2, 4, 5), "conv_transpose"),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), (1, 4, 5, 4), "conv_transpose"),
    "batch_norm1d": (nn.BatchNorm1d(3), (4, 3), "batch_norm"),
    "batch_norm2d": (nn.BatchNorm2d(3, affine=False), (2, 3, 4, 5), "batch_norm"),
    "layer_norm": (nn.LayerNorm((3, 6)), (2, 3, 6), "layer_norm"),
    "group_norm": (nn.GroupNorm(2, 6), (2, 6, 4, 4), "group_norm"),
    "instance_norm": (nn.InstanceNorm2d(3, affine=True), (2, 3, 5, 4), "instance_norm"),
    "relu": (nn.ReLU(), (2, 3), "relu"),
    "relu inplace": (nn.ReLU(inplace=True), (2, 3), "relu"),
    "relu6": (nn.ReLU6(inplace=True), (2, 9), None),
    "hardtanh": (nn.Hardtanh(-0.5, 0.7), (2, 9), "hardtanh"),
    "sigmoid": (nn.Sigmoid(), (2, 3), "sigmoid"),
    "hardsigmoid": (nn.Hardsigmoid(), (2, 9), "hardsigmoid"),
    "tanh": (nn.Tanh(), (2, 3), "tanh"),
    "hardswish": (nn.Hardswish(), (2, 9), "hardswish"),
    "silu": (nn.SiLU(), (2, 3), "silu"),
    "gelu": (nn.GELU(), (2, 3), "gelu"),
    "gelu tanh": (nn.GELU("tanh"), (2, 3), "gelu"),
    "mish": (nn.Mish(), (2, 3), "mish"),
    "elu": (nn.ELU(0.7), (2, 3), "elu"),
    "selu": (nn.SELU(), (2, 3), "selu"),
    "celu": (nn.CELU(1.3), (2, 3), "celu"),
    "softplus": (nn.Softplus(2.0, 3.0), (2, 9), "softplus"),
    "softsign": (nn.Softsign(), (2, 3), None),
    "softshrink": (nn.Softshrink(0.4), (2, 9), "softshrink"),
    "hardshrink": (nn.Hardshrink(0.6), (2, 9), "hardshrink"),
    "tanhshrink": (nn.Tanhshrink(), (2, 3), None),
    "log_sigmoid": (nn.LogSigmoid(), (2, 3), "logsigmoid"),
    "leaky_relu": (nn.LeakyReLU(0.2), (2, 3), "leaky_relu"),
    "rrelu": (nn.RReLU(), (2, 3), "leaky_relu"),
    "threshold": (nn.Threshold(0.3, -1.0), (2, 9), "threshold"),
    "prelu": (nn.PReLU(3), (2, 3, 4), "prelu"),
    "glu": (nn.GLU(1), (2, 6, 4), "slice slice sigmoid mul"),
    "softmax": (nn.Softmax(1), (2, 3, 4), "softmax"),
    "log_softmax": (nn.LogSoftmax(-1), (2, 3), "log_softmax"),
    "max_pool1d": (nn.MaxPool1d(3, 2), (2, 3, 9), "max_pool"),
    "max_pool2d": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 3, 9, 8), "max_pool"),
    "avg_pool2d": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 3, 9, 8), "avg_pool"),
    "avg_pool1d": (nn.AvgPool1d(3), (2, 3, 9), "avg_pool"),
    "adaptive_avg_pool2d": (nn.AdaptiveAvgPool2d((None, 3)), (2, 3, 7, 5), "adaptive_avg_pool"),
    "adaptive_avg_pool1d": (nn.AdaptiveAvgPool1d(1), (2, 3, 7), "adaptive_avg_pool"),
    "adaptive_max_pool2d": (nn.AdaptiveMaxPool2d(2), (2, 3, 7, 5), "adaptive_max_pool"),
    "upsample nearest": (nn.Upsample(scale_factor=2), (1, 2, 3, 4), "resize"),
    "upsample bilinear": (nn.Upsample((5, 7), mode="bilinear", align_corners=True), (1, 2, 3, 4), "resize"),
    "upsample scale": (nn.Upsample(scale_factor=2.0, mode="bilinear"), (1, 2, 3, 4), "resize"),
    "pixel_shuffle": (nn.PixelShuffle(2), (1, 8, 3, 4), "pixel_shuffle"),
    "pixel_unshuffle": (nn.PixelUnshuffle(2), (1, 2, 4, 6), "pixel_unshuffle"),
    "channel_shuffle": (nn.ChannelShuffle(2), (1, 6, 2, 2), "channel_shuffle"),
    "zero_pad": (nn.ZeroPad2d((1, 2, 0, 3)), (1, 2, 3, 4), "pad"),
    "reflection_pad": (nn.ReflectionPad2d(1), (1, 2, 3, 4), "pad"),
    "replication_pad": (nn.ReplicationPad1d(2), (1, 2, 3), "pad"),
    "flatten": (nn.Flatten(), (2, 3, 4), "reshape"),
    "unflatten": (nn.Unflatten(1, (2, 3)), (2, 6, 4), "reshape"),
    "dropout": (nn.Dropout(0.3), (2, 3), "dropout"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    """The numbers are the same, and the layer arrives as the IR's op instead of its parts."""
    layer, shape, expected = LAYERS[name]

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x * 1.5)

    graph = check(randomize(Holder()), data(*shape))
    if expected is not None:
        assert [node.op for node in graph.nodes] == ["mul", *expected.split()]
        last = list(graph.nodes)[-1]
        kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
        assert last.name == "layer" and (last.origin[0].path, last.origin[0].kind) == ("layer", kind)
    named = {name.removesuffix(".grouped") for name in graph.consts if name.startswith("layer")}
    assert named <= set(Holder().state_dict())


EXPRESSIONS = {
    "arithmetic": lambda x, y: (x + y) * 2 - 1 / (y * y + 1) - x.div(3) + (2 - x) - torch.add(x, y, alpha=3),
    "powers": lambda x, y: x**2 + (y.abs() + 1) ** 0.5 + (y.abs() + 1).rsqrt() + 2**x + torch.pow(y.abs() + 1, x),
    "unary": lambda x, y: (
        x.neg()
        + x.abs()
        + x.exp()
        + (x.abs() + 1).log()
        + x.sin()
        + x.cos()
        + x.erf()
        + x.floor()
        + x.ceil()
        + x.round()
        + x.sign()
        + x.square()
        + torch.log1p(x.abs())
        + torch.expm1(x)
        + torch.reciprocal(x.abs() + 1)
    ),
    "clamps": lambda x, y: (
        x.clamp(-1, 1) + x.clamp(min=0) + x.clamp(max=0.5) + torch.maximum(x, y) + torch.minimum(x, y)
    ),
    "masks": lambda x, y: (
        torch.where((x > 0) & ~(y < 1) | (x <= -1), x, y) + (x >= y) * 2.0 + (x != y).float() + (x == y)
    ),
    "masked_fill": lambda x, y: x.masked_fill(x > 0, -1.0),
    "where scalar": lambda x, y: torch.where(x > 0, x, 0.0),
    "rounding div": lambda x, y: (
        torch.div(x, 0.7, rounding_mode="floor") + torch.div(x, 0.7, rounding_mode="trunc") + x // 0.5
    ),
    "remainder": lambda x, y: torch.remainder(x, 0.7),
    "matmul": lambda x, y: x @ y.transpose(-1, -2) + torch.bmm(x, y.mT),
    "baddbmm": lambda x, y: torch.baddbmm(x[:, :, :3], x, y.mT, beta=0.5, alpha=2),
    "einsum": lambda x, y: torch.einsum("bij,bkj->bik", x, y),
    "reductions": lambda x, y: (
        x.mean(),
        x.mean((0, 2)),
        x.sum(1, keepdim=True),
        x.sum(),
        x.amax(2),
        x.amin((0, 1)),
        x.max(),
        x.prod(1),
        x.argmax(1),
        x.argmin(2, keepdim=True),
    ),
    "max dim": lambda x, y: (*x.max(1), *x.min(2, keepdim=True)),
    "variance": lambda x, y: (x.var(1), x.std((1, 2), unbiased=False), x.var(2, keepdim=True, correction=0)),
    "norm": lambda x, y: (x.norm(dim=-1), torch.linalg.vector_norm(x, 1, dim=1), torch.logsumexp(x, 1)),
    "normalize": lambda x, y: nn.functional.normalize(x, dim=1),
    "shape": lambda x, y: (
        x.view(2, -1),
        x.reshape(-1, 4),
        x.permute(2, 0, 1),
        x.transpose(0, 2),
        x.unsqueeze(1),
        x[:1].squeeze(0),
        x.flatten(1),
        x[0].t(),
        x.movedim(0, 2),
        x.unflatten(2, (2, 2)),
    ),
    "expand": lambda x, y: x[:, :1].expand(-1, 3, -1) + x[:, :1].expand_as(x) + torch.broadcast_to(y[:1], (2, 3, 4)),
    "repeat": lambda x, y: (x.repeat(2, 1, 3), torch.tile(x, (2,)), x.repeat_interleave(2, dim=1)),
    "join": lambda x, y: (torch.cat([x, y], 1), torch.stack([x, y], -1), torch.hstack([x, y])),
    "pieces": lambda x, y: (*x.chunk(2, 2), *x.split(2, 1), *x.split([1, 3], -1), *x.unbind(0), x.narrow(2, 1, 2)),
    "indexing": lambda x, y: (x[0], x[:, -1], x[..., 1:], x[:, ::2], x[:, None, 1], x[:, :, -2:], x.select(1, 2)),
    "gathers": lambda x, y: (
        x.index_select(1, torch.tensor([2, 0])),
        x[:, [0, 2]],
        x.gather(2, y.argmax(1)[:, None, :3]),
        torch.take_along_dim(x, y.argmax(1, keepdim=True), 1),
    ),
    "roll flip": lambda x, y: x.roll(1, 1) + x.roll((1, -1), (0, 2)) + x.flip(1, 2),
    "new tensors": lambda x, y: (
        x
        + torch.zeros_like(x)
        + torch.ones(3, 4) * torch.full((4,), 2.0)
        + torch.arange(4)
        + torch.arange(0, 2, 0.5)
        + x.new_zeros(4)
        + torch.full_like(x, 3.0)
    ),
    "cumsum": lambda x, y: (
        x.cumsum(1),
        y.cumsum(-1),
        (x > 0).cumsum(0),
        (x * 5).int().cumsum(1),
        (x * 5).int().cumsum(1, dtype=torch.int32),
        x.int().cumsum(0, dtype=torch.float32),
    ),
    "triangles": lambda x, y: x.tril() + y.triu(1),
    "casts": lambda x, y: (x.to(torch.int64), (x > 0).float() + x.double().float(), x.type_as(y)),
    "attention": lambda x, y: nn.functional.scaled_dot_product_attention(x, y, y, is_causal=False),
    "causal": lambda x, y: nn.functional.scaled_dot_product_attention(x, y, y, is_causal=True),
    "inplace": lambda x, y: ((x * 2).add_(y).relu_(), y),
    "inplace through a view": lambda x, y: inplace_view(x, y),
    "inplace seen elsewhere": lambda x, y: inplace_shared(x),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3) + torch.addcmul(x, x, y, value=0.5),
    "interpolate": lambda x, y: nn.functional.interpolate(x[:, None], (5, 6), mode="nearest-exact"),
    "glu softmin": lambda x, y: nn.functional.glu(x) + nn.functional.softmin(x, 1)[..., :2],
    "structure": lambda x, y: {"a": x + 1, "b": [y, (x, x * y)], "n": None, "k": 3},
}


def inplace_view(x, y):
    z = x * 1
    z[:, 0].mul_(2)
    z[:, 1] = y[:, 0]
    return z


def inplace_shared(x):
    y = x + 1
    z = y.view(-1)
    y.mul_(3)
    return z + y.flatten()


class Expression(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x, y):
        return self.function(x, y)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expression(name: str) -> None:
    check(Expression(EXPRESSIONS[name]).eval(), data(2, 3, 4), data(2, 3, 4).flip(1) + 0.1)


class BasicBlock(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += identity
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 8, 1))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16, 1))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class InvertedResidual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        hidden = channels * 4
        self.block = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(inplace=True),
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(hidden, 4, 1), nn.ReLU(), nn.Conv2d(4, hidden, 1), nn.Hardsigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out))
        self.residual = stride == 1 and channels == out

    def forward(self, x):
        y = self.block(x)
        y = self.project(y * self.squeeze(y))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.Hardswish(), InvertedResidual(8, 8, 1), InvertedResidual(8, 12, 2)
        )
        self.classifier = nn.Sequential(nn.Linear(12, 16), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(16, 5))

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))


def test_resnet() -> None:
    model = randomize(ResNet())
    graph = check(
        model,
        data(2, 3, 32, 32),
        dynamic={"x": {0: "B"}},
        others=[(data(1, 3, 32, 32),), (data(5, 3, 32, 32),)],
        rtol=1e-4,
    )
    counts: dict[str, int] = {}
    for node in graph.nodes:
        counts[node.op] = counts.get(node.op, 0) + 1
    assert counts == {
        "conv": 10,
        "batch_norm": 10,
        "relu": 9,
        "max_pool": 1,
        "add": 4,
        "adaptive_avg_pool": 1,
        "reshape": 1,
        "linear": 1,
    }
    names = [node.name for node in graph.nodes]
    assert names[:7] == ["conv1", "bn1", "relu", "maxpool", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.relu"]
    assert {"layer2.0.downsample.1", "layer1.0.add", "layer1.0.relu_1"} <= set(names) and names[-1] == "fc"
    assert set(graph.consts) == {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    assert graph.outputs[0].type.shape == (Dim.name("B"), 10) and not guards(graph)
    add = next(node for node in graph.nodes if node.name == "layer1.0.add")
    assert add.loc.file.endswith("test_torch_import.py")
    assert Path(__file__).read_text().splitlines()[add.loc.line - 1].strip() == "y += identity"
    assert add.origin[0].path == "layer1.0" and add.origin[0].kind.endswith("BasicBlock")


def test_mobilenet() -> None:
    graph = check(randomize(MobileNet()), data(2, 3, 16, 16), rtol=1e-4)
    ops = [node.op for node in graph.nodes]
    assert ops.count("hardswish") == 4 and ops.count("hardsigmoid") == 2 and ops.count("conv") == 11
    assert ops.count("dropout") == 1 and "features.2.block.3" in {node.name for node in graph.nodes}


def test_transformer_layer() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 8)
            self.position = nn.Parameter(torch.zeros(1, 16, 8))
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.norm = nn.LayerNorm(8)
            self.feed = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

        def forward(self, tokens):
            x = self.embed(tokens) + self.position[:, : tokens.shape[1]]
            y = self.norm(x)
            x = x + self.attention(y, y, y, need_weights=False)[0]
            return x + self.feed(self.norm(x))

    tokens = torch.arange(10).reshape(2, 5)
    graph = check(randomize(Layer()), tokens, dynamic={"tokens": {0: "B"}}, others=[(tokens[:1],)])
    assert [node.op for node in graph.nodes].count("layer_norm") == 2


def test_dynamic_sizes_follow() -> None:
    class Model(nn.Module):
        def forward(self, x, y):
            b, c, h, w = x.shape
            z = nn.functional.max_pool2d(x, 2).flatten(2)
            return z.reshape(b * 2, -1), x[..., :-1], y.expand(b, 3), x[:, -1], x.sum() * h

    # `* h` needs the number itself: h stays static here
    inputs = (data(3, 4, 6, 8), data(1, 3))
    graph = check(
        Model().eval(),
        *inputs,
        dynamic={"x": {0: "B", 3: "W"}},
        others=[((data(1, 4, 6, 10)), inputs[1]), ((data(2, 4, 6, 5)), inputs[1])],
    )
    b, w = Dim.name("B"), Dim.name("W")
    assert graph.outputs[0].type.shape[0] == 2 * b and graph.outputs[1].type.shape == (b, 4, 6, w - 1)


def test_decisions_on_sizes_become_guards() -> None:
    class Model(nn.Module):
        def forward(self, x, y):
            if x.shape[0] % 2 == 0 and x.shape[1] > 3:
                x = x * 2
            if y.shape[0] == x.shape[0]:
                x = x + y
            return nn.functional.relu(x[:, None]).flatten(1)

    graph = check(
        Model().eval(),
        data(4, 6),
        data(4, 1),
        dynamic={"x": {0: "B", 1: "W"}, "y": {0: "N"}},
        others=[(data(2, 8), data(2, 1))],
    )
    assert sorted(map(str, guards(graph))) == ["-2*((B)//2)+B == 0", "W > 3"]
    assert graph.inputs[1].type.shape == (Dim.name("B"), 1) and Remark("size N is B") in graph.notes


def test_batch_of_one_may_be_dynamic() -> None:
    graph = import_torch(randomize(nn.Linear(4, 2)), data(1, 4), dynamic={0: {0: "B"}})
    assert graph.inputs[0].type.shape == (Dim.name("B"), 4) and graph.inputs[0].name == "input"


def test_inputs_by_name() -> None:
    module = Expression(lambda x, y: x - y).eval()
    graph = import_torch(module, {"y": data(2, 3), "x": data(2, 3)})
    got = run(graph, {"x": data(2, 3).numpy(), "y": np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(got[0], data(2, 3).numpy())


def test_tied_weights_are_one_constant() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(6, 4)
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(self.embed(tokens))

    graph = check(randomize(Tied()), torch.tensor([[1, 5]]))
    assert list(graph.consts) == ["embed.weight"]


def test_float64_and_half_models_become_f32() -> None:
    graph = import_torch(randomize(nn.Linear(4, 2)).double(), data(1, 4).double())
    assert [str(value.type.dtype) for value in graph.values()] == ["f32"] * 4
    assert any("float64" in note.text for note in graph.notes)


def test_weights_are_snapshotted() -> None:
    module = nn.Linear(2, 2).eval()
    graph = import_torch(module, data(1, 2))
    before = graph.consts["weight"].data.copy()
    with torch.no_grad():
        module.weight.zero_()
    np.testing.assert_array_equal(graph.consts["weight"].data, before)


def test_training_mode_is_an_error() -> None:
    with pytest.raises(TraceError, match=r"training mode[\s\S]*the module itself, 0[\s\S]*eval\(\)"):
        import_torch(nn.Sequential(nn.Linear(2, 2)), data(1, 2))
    part = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()
    part[1].train()
    with pytest.raises(TraceError, match=r"training mode[\s\S]*got:      1\n"):
        import_torch(part, data(1, 2))


def test_unsupported_ops_are_listed_together() -> None:
    class Model(nn.Module):
        def forward(self, x):
            y = torch.linalg.inv(x) + torch.linalg.inv(x + 1)
            return torch.special.bessel_j0(y), torch.linalg.qr(x).R

    with pytest.raises(TraceError) as caught:
        import_torch(Model().eval(), torch.eye(3) * 2)
    text = str(caught.value)
    assert "2 x aten.linalg_inv_ex.default" in text and "1 x aten.special_bessel_j0.default" in text
    assert "aten.linalg_qr" in text
    assert "test_torch_import.py:" in text


def test_a_size_that_cannot_be_dynamic_is_an_error() -> None:
    with pytest.raises(TraceError, match="torch.export refuses Linear"):
        import_torch(nn.Linear(4, 2).eval(), data(3, 4), dynamic={"input": {1: "W"}})


def test_state_changes_are_an_error() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x):
            self.count.add_(1)
            return x + self.count

    with pytest.raises(TraceError, match=r"changes its own state[\s\S]*count"):
        import_torch(Counter().eval(), data(2))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((data(1, 2), data(1, 2)), "more example inputs"),
        (("text",), "no array"),
        ({"z": data(1, 2)}, "refuses|parameter"),
    ],
)
def test_bad_inputs(inputs, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        import_torch(nn.Linear(2, 2).eval(), inputs)
    with pytest.raises(TraceError, match="torch.nn.Module"):
        import_torch(len, (data(1),))


def test_is_torch_module() -> None:
    assert is_torch_module(nn.ReLU()) and is_torch_module(ResNet()) and not is_torch_module(len)


def test_without_torch_the_error_says_how_to_install_it() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from qcompiler.frontend.torch_import import import_torch\n"
        "from qcompiler.errors import TraceError\n"
        "try: import_torch(object(), ())\n"
        "except TraceError as error: assert 'pip install' in str(error); print('told')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "told\n"


def test_the_importer_module_does_not_load_torch() -> None:
    program = "import sys, qcompiler.frontend.torch_import; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )
