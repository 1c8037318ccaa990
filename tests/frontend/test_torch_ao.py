"""The eager mode of torch.ao under qcompiler's names: torch's own introduction, with one import changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qcompiler.torch_ao as quantization
from qcompiler.errors import QuantizationError


class M(nn.Module):
    """The network of torch's introduction to eager mode, with a sum and a second layer."""

    def __init__(self) -> None:
        super().__init__()
        self.quant = quantization.QuantStub()
        self.conv = nn.Conv2d(1, 4, 1)
        self.relu = nn.ReLU()
        self.last = nn.Conv2d(4, 2, 3)
        self.sums = quantization.FloatFunctional()
        self.dequant = quantization.DeQuantStub()

    def forward(self, x):
        x = self.quant(x)
        x = self.relu(self.conv(x))
        x = self.last(self.sums.add(x, self.sums.mul_scalar(x, 0.5)))
        return self.dequant(x)


def model() -> M:
    torch.manual_seed(1)
    return M().eval()


@pytest.mark.parametrize("backend", ["fbgemm", "x86", "qnnpack", None])
def test_the_introduction(backend: str | None) -> None:
    model_fp32 = model()
    model_fp32.qconfig = quantization.get_default_qconfig(backend)
    model_fp32_fused = quantization.fuse_modules(model_fp32, [["conv", "relu"]])
    model_fp32_prepared = quantization.prepare(model_fp32_fused)
    input_fp32 = torch.randn(4, 1, 4, 4)
    want = model_fp32_prepared(input_fp32)
    assert torch.equal(want, model_fp32(input_fp32))
    model_int8 = quantization.convert(model_fp32_prepared)
    for x in (input_fp32, input_fp32[:3]):
        got, want = model_int8(x), model_fp32(x)
        assert isinstance(got, torch.Tensor) and got.dtype is torch.float32 and got.shape == want.shape
        assert (got - want).abs().max() <= 0.05 * want.abs().max()
    assert {str(node.operands[0].type.dtype) for node in model_int8.compiled.graph.nodes if node.op == "conv"} == {"u8"}


def test_a_module_without_a_qconfig_stays_real() -> None:
    float_model = model()
    float_model.qconfig = quantization.get_default_qconfig("x86")
    float_model.last.qconfig = None
    prepared = quantization.prepare(float_model)
    prepared(torch.randn(4, 1, 4, 4))
    graph = quantization.convert(prepared).compiled.graph
    convs = {node.name: node.results[0].type for node in graph.nodes if node.op == "conv"}
    assert convs["last"].dtype.is_float and [type.is_quantized for type in convs.values()].count(True) == 1


def test_the_engine_names_the_default_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("qnnpack", "fbgemm"):
        monkeypatch.setattr(torch.backends.quantized, "engine", engine)
        assert quantization.get_default_qconfig() == quantization.get_default_qconfig(engine)


def test_quantize_runs_a_function_for_data() -> None:
    float_model = model()
    float_model.qconfig = "int8"
    quantized = quantization.quantize(float_model, lambda m, x: m(x=x), [torch.randn(2, 1, 4, 4)])
    assert quantized(x=torch.zeros(5, 1, 4, 4)).shape == (5, 2, 2, 2)


def test_fusing_changes_nothing_and_checks_names() -> None:
    float_model = model()
    assert quantization.fuse_modules(float_model, ["conv", "relu"], inplace=True) is float_model
    assert quantization.fuse_modules(float_model, ["conv", "relu"]) is not float_model
    with pytest.raises(QuantizationError, match=r"no module 'cov'[\s\S]*conv"):
        quantization.fuse_modules(float_model, [["cov", "relu"]])


REFUSED = {
    "in place": (lambda m: quantization.prepare(m, inplace=True), r"prepared = prepare\(model\)"),
    "no qconfig": (quantization.prepare, r"no module has a qconfig"),
    "training": (lambda m: quantization.prepare(m.train()), r"training mode[\s\S]*model\.eval\(\)"),
    "not prepared": (quantization.convert, r"convert takes what prepare gives"),
    "dynamic in place": (lambda m: quantization.quantize_dynamic(m, inplace=True), r"quantized = quantize_dynamic"),
    "dynamic mapping": (lambda m: quantization.quantize_dynamic(m, mapping={}), r"torch's table of modules"),
    "dynamic qint32": (lambda m: quantization.quantize_dynamic(m, dtype=torch.qint32), r"dtype qint32"),
    "dynamic axes": (lambda m: quantization.quantize_dynamic(m, dynamic={0: {0: "B"}}), r"example_inputs="),
    "dynamic training": (lambda m: quantization.quantize_dynamic(m.train()), r"training mode"),
    "QAT": (quantization.prepare_qat, r"not there yet"),
    "no module": (lambda m: quantization.prepare(3), r"takes a torch\.nn\.Module"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(QuantizationError, match=message):
        call(model())


def test_what_convert_and_qconfigs_refuse() -> None:
    float_model = model()
    float_model.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    with pytest.raises(QuantizationError, match=r"not one of qcompiler[\s\S]*qcompiler\.torch_ao"):
        quantization.prepare(float_model)
    float_model.qconfig = "int8"
    with pytest.raises(QuantizationError, match="seen no data"):
        quantization.convert(quantization.prepare(float_model))
    with pytest.raises(QuantizationError, match=r"quantized = convert\(prepared\)"):
        quantization.convert(quantization.prepare(float_model), inplace=True)
