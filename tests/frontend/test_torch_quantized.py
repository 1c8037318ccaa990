"""Modules that torch.ao quantized, in eager and FX mode, and programs with ops of quantized_decomposed, as PT2E writes
them: they come in with their parameters, run in int8, and give torch's codes.

torch's engines round a requantization in another order than rule (3) of qmath: a code may differ by one beside a tie;
`agrees` counts these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed
from torch import nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub, convert, fuse_modules, get_default_qconfig, prepare
from torch.ao.quantization.qconfig_mapping import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.nn import functional as TF

import qcompiler as qc
from qcompiler.errors import QuantizationError, TraceError
from qcompiler.report import count_nodes

pytestmark = pytest.mark.filterwarnings("ignore")


def agrees(compiled: Any, module: nn.Module, x: torch.Tensor, step: float, ties: float = 0.01) -> None:
    """The outputs are equal, but for `ties` of them, which are one code apart."""
    want, got = module(x).detach().numpy(), compiled(x.numpy())
    apart = np.abs(got - want) / step
    assert got.shape == want.shape
    assert apart.max() < 1.01 and (apart > 0.01).mean() <= ties, (apart.max(), (apart > 0.01).mean())


class Between(nn.Module):
    """A function of quantized tensors between the stubs."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.quant, self.dequant, self.function = QuantStub(), DeQuantStub(), function
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Any) -> Any:
        return self.dequant(self.function(self.quant(x), *self.parts))


def eager(module: nn.Module, x: torch.Tensor, backend: str = "x86") -> nn.Module:
    torch.manual_seed(0)
    module = module.eval()
    module.qconfig = get_default_qconfig(backend)
    prepared = prepare(module)
    prepared(x)
    return convert(prepared)


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Callable[[], nn.Module], ...]]] = {
    "conv": (lambda x, conv: conv(x), (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),)),
    "grouped conv": (lambda x, conv: conv(x), (lambda: nn.Conv2d(4, 4, 3, groups=2, dilation=2),)),
    "depthwise": (lambda x, conv: conv(x), (lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False),)),
    "reflected": (lambda x, conv: conv(x), (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),)),
    "conv1d": (lambda x, conv: conv(x[:, :, 0]), (lambda: nn.Conv1d(4, 4, 3),)),
    "linear": (lambda x, fc: fc(x), (lambda: nn.Linear(8, 5),)),
    "add": (lambda x, f: f.add(x, x), (FloatFunctional,)),
    "add_relu": (lambda x, f: f.add_relu(x, x), (FloatFunctional,)),
    "mul": (lambda x, f: f.mul(x, x), (FloatFunctional,)),
    "cat": (lambda x, f: f.cat([x, x], 1), (FloatFunctional,)),
    "hardswish": (lambda x, f: f(x), (nn.Hardswish,)),
    "leaky_relu": (lambda x, f: f(x), (lambda: nn.LeakyReLU(0.1),)),
    "elu": (lambda x, f: f(x), (nn.ELU,)),
    "sigmoid": (lambda x, f: f(x), (nn.Sigmoid,)),
    "relu6": (lambda x, f: f(x), (nn.ReLU6,)),
    "batch norm": (lambda x, f: f(x), (lambda: nn.BatchNorm2d(4),)),
    "layer norm": (lambda x, f: f(x), (lambda: nn.LayerNorm(8),)),
    "group norm": (lambda x, f: f(x), (lambda: nn.GroupNorm(2, 4),)),
    "pools": (lambda x: TF.avg_pool2d(TF.max_pool2d(x, 2), 2), ()),
    "global pool": (lambda x: TF.adaptive_avg_pool2d(x, 1).flatten(1), ()),
    "mean": (lambda x: x.mean((2, 3), keepdim=True), ()),
    "moves": (lambda x: torch.stack([x.permute(0, 2, 3, 1)[:, 1:, ::2], x.permute(0, 2, 3, 1)[:, 1:, ::2]]), ()),
    "views": (lambda x: x.view(x.size(0), -1).unsqueeze(1).transpose(1, 2).contiguous(), ()),
    "relu in place": (lambda x: TF.relu(x.clone(), inplace=True), ()),
    "tanh": (torch.tanh, ()),
    "clamp": (lambda x: torch.clamp(x, -0.5, 1.0), ()),
    "nearest": (lambda x: TF.interpolate(x, scale_factor=2.0), ()),
}
TIES = {"pools": 0.25}
"""The part of codes that may be one apart: a mean of four codes is a tie one time in four, which torch's pool rounds in
another way."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_quantized_tensors(name: str) -> None:
    function, parts = FUNCTIONS[name]
    torch.manual_seed(1)
    x = torch.randn(2, 4, 8, 8)
    module = eager(Between(function, *(part() for part in parts)), x)
    codes: Any = module.function(module.quant(x), *module.parts)
    compiled = qc.compile(module, "keep", (x,))
    integer, real = count_nodes(compiled.graph)
    assert integer >= 1 and real == 0 and not compiled.program.python_nodes, compiled.report()
    agrees(compiled, module, x, codes.q_scale(), TIES.get(name, 0.01))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.a, self.bn, self.relu = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.b, self.plus, self.fc = nn.Conv2d(16, 16, 3, padding=1), FloatFunctional(), nn.Linear(16, 10)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Any) -> Any:
        y = self.pool(self.relu(self.bn(self.a(self.quant(x)))))
        y = self.plus.add_relu(self.b(y), y)
        return self.dequant(self.fc(TF.adaptive_avg_pool2d(y, 1).flatten(1)))


@pytest.mark.parametrize("batch", [None, "B"])
@pytest.mark.parametrize("backend", ["x86", "qnnpack"])
def test_an_eager_network(backend: str, batch: str | None) -> None:
    torch.manual_seed(2)
    x = torch.randn(4, 3, 16, 16)
    module = eager(fuse_modules(Residual().eval(), [["a", "bn", "relu"]]), x, backend)
    compiled = qc.compile(module, "keep", (x,), dynamic=batch and {"x": {0: batch}})
    integer, real = count_nodes(compiled.graph)
    assert integer == 7 and real == 0
    names = [str(node.origin) for node in compiled.graph.nodes if node.op in ("conv", "linear")]
    assert all(f"'{part}'" in name for part, name in zip(("a", "b", "fc"), names)), names
    if backend == "x86":  # qnnpack's kernels round otherwise, and torch may lack them on this machine
        agrees(compiled, module, x, module.fc.scale, 0.05)
    if batch:
        assert np.array_equal(compiled(x[:1].numpy()), compiled(x.numpy())[:1])


def test_an_fx_network() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.bn = (
                nn.Conv2d(3, 16, 3, padding=1),
                nn.Conv2d(16, 16, 3, padding=1),
                nn.BatchNorm2d(16),
            )
            self.weight = nn.Parameter(torch.randn(10, 16))

        def forward(self, x: Any) -> Any:
            y = torch.relu(self.bn(self.a(x)))
            y = torch.relu(self.b(y) + y)
            return TF.linear(TF.hardswish(y).mean((2, 3)), self.weight)

    torch.manual_seed(3)
    x = torch.randn(4, 3, 16, 16)
    prepared = prepare_fx(Net().eval(), get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    module = convert_fx(prepared)
    before = {name: id(value) for name, value in vars(module).items()}
    compiled = qc.compile(module, "keep", (x,))
    integer, real = count_nodes(compiled.graph)
    assert integer == 7 and real == 0 and not compiled.program.python_nodes
    *_, last = (value for name, value in module.named_buffers() if name.endswith("_scale_0"))
    agrees(compiled, module, x, float(last), 0.05)
    assert {name: id(value) for name, value in vars(module).items()} == before  # the module stays as it is


class Decomposed(nn.Module):
    """What PT2E writes: codes of weights as constants, pairs around what is quantized."""

    def __init__(self, per_channel: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.per_channel = per_channel
        ops = torch.ops.quantized_decomposed
        if per_channel:
            self.register_buffer("scales", self.conv.weight.detach().abs().amax((1, 2, 3)) / 127)
            self.register_buffer("zeros", torch.zeros(8, dtype=torch.int64))
            parameters = (self.scales, self.zeros, 0, -127, 127, torch.int8)
            codes = ops.quantize_per_channel(self.conv.weight.detach(), *parameters)
        else:
            codes = ops.quantize_per_tensor(self.conv.weight.detach(), 0.005, 0, -127, 127, torch.int8)
        self.register_buffer("codes", codes)

    def forward(self, x: Any) -> Any:
        ops = torch.ops.quantized_decomposed
        input, output = (0.03, 128, 0, 255, torch.uint8), (0.02, 0, 0, 255, torch.uint8)
        x = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *input), *input)
        if self.per_channel:
            weight = ops.dequantize_per_channel(self.codes, self.scales, self.zeros, 0, -127, 127, torch.int8)
        else:
            weight = ops.dequantize_per_tensor(self.codes, 0.005, 0, -127, 127, torch.int8)
        y = torch.relu(TF.conv2d(x, weight, self.conv.bias, padding=1))
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(y, *output), *output)


@pytest.mark.parametrize("per_channel", [False, True])
def test_programs_of_decomposed_ops(per_channel: bool) -> None:
    torch.manual_seed(4)
    module, x = Decomposed(per_channel).eval(), torch.randn(2, 3, 9, 9)
    program = torch.export.export(module, (x,))
    compiled = qc.compile(program, "keep")
    assert [node.op for node in compiled.graph.nodes] == ["quantize", "conv", "dequantize"]
    agrees(compiled, module, x, 0.02)
    again = qc.compile(module, "keep", (x,))
    assert np.array_equal(again(x.numpy()), compiled(x.numpy()))


X = torch.randn(2, 4, 8, 8)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a function without a meaning": (lambda: eager(Between(lambda x: torch.sort(x)[0]), X), "sort of a quantized"),
    "a number": (lambda: eager(Between(lambda x, f: f.add_scalar(x, 2.0), FloatFunctional()), X), "add_scalar"),
    "dynamic": (
        lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(256, 2)).eval()),
        "dynamically quantized",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(TraceError, match=message):
        qc.compile(make(), "keep", (X,))


@pytest.mark.parametrize("qconfig", ["int8", None])
def test_a_quantized_module_is_not_quantized_again(qconfig: str | None) -> None:
    module = eager(Between(lambda x: x.mean((2, 3))), X)
    with pytest.raises(QuantizationError, match="quantized already"):
        qc.compile(module, qconfig, (X,), calibration_data=[X] if qconfig else None)


def test_keep_needs_a_quantized_module() -> None:
    with pytest.raises(QuantizationError, match='"keep" is for a model that is quantized already'):
        qc.compile(nn.Linear(8, 2).eval(), "keep", (X,))
