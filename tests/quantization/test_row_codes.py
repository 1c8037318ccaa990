"""Tables of embeddings in 8 and 4 bits, against torch's quantized ops on the table that torch's observer quantizes."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import qcompiler as qc
import qcompiler.torch_ao as quantization
from qcompiler import nn as qnn
from qcompiler.quantization.row_codes import row_codes

ROWS = 40
INDICES = np.array([[1, 2, 39, 7], [0, 0, 5, 38]])
DTYPES = {8: torch.quint8, 4: torch.quint4x2}
OURS = {8: quantization.float_qparams_weight_only_qconfig, 4: quantization.float_qparams_weight_only_qconfig_4bit}
EPS = 2.0**-24


def table(columns: int, seed: int = 0) -> torch.Tensor:
    """Rows of many ranges: of one sign, constant, zero, tiny and large."""
    rng = np.random.default_rng(seed)
    found = rng.normal(0, 1, (ROWS, columns)) * 10.0 ** rng.integers(-4, 4, (ROWS, 1)) + rng.normal(0, 2, (ROWS, 1))
    found[1], found[2], found[5] = 0.0, 3.25, 1e-9
    return torch.from_numpy(found.astype(np.float32))


def packed(weight: torch.Tensor, bits: int) -> Any:
    """The weight as torch quantizes and packs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observer = torch.ao.quantization.PerChannelMinMaxObserver(
            dtype=DTYPES[bits],
            quant_min=0,
            quant_max=2**bits - 1,
            qscheme=torch.per_channel_affine_float_qparams,
            ch_axis=0,
        )
        observer(weight)
        scale, zero = observer.calculate_qparams()
        codes = torch.quantize_per_channel(weight, scale.float(), zero.float(), 0, DTYPES[bits])
        return torch.ops.quantized.embedding_bag_prepack(codes)


def embedding(weight: torch.Tensor) -> nn.Embedding:
    return nn.Embedding.from_pretrained(weight).eval()


@pytest.mark.parametrize("bits", [8, 4])
def test_codes_scales_and_biases_are_torch_s(bits: int) -> None:
    weight = table(32)
    ours = row_codes(weight.numpy(), bits)
    op = torch.ops.quantized.embedding_byte if bits == 8 else torch.ops.quantized.embedding_4bit
    theirs = op(packed(weight, bits), torch.arange(ROWS), False).numpy()
    codes = ours.codes
    if bits == 4:
        codes = np.concatenate([codes & 15, codes >> 4], axis=1)
    want = codes * ours.scale.astype(np.float64) + ours.bias
    # torch multiplies and adds with one rounding or two
    bound = EPS * (np.abs(codes * ours.scale) + np.abs(want) + np.abs(ours.bias))
    assert (np.abs(theirs - want) <= bound).all()


@pytest.mark.parametrize("columns", [1, 7, 32, 33])
@pytest.mark.parametrize("bits", [8, 4])
def test_an_embedding_is_near_its_table_and_equals_the_interpreter(bits: int, columns: int) -> None:
    weight = table(columns)
    options = {"dtype": DTYPES[bits], "example_inputs": (INDICES,)}
    native, reference = (
        qc.quantize_dynamic(embedding(weight), {nn.Embedding}, target=target, **options)
        for target in ("native", "reference")
    )
    got = native(INDICES)
    assert np.array_equal(got, reference(INDICES)) and not native.report().python_nodes
    rows = weight.numpy()[INDICES]
    span = rows.max(axis=-1, keepdims=True) - rows.min(axis=-1, keepdims=True)
    # half a code, or all of a range so small that its scale is 1; the roundings of f32; with 4 bits those of scale and
    # bias to f16, normal and subnormal
    step = np.where(span > 2.0**-23 * (2**bits - 1), span / (2**bits - 1), 2 * span)
    f16, subnormal = (2.0**-11, 2.0**-25) if bits == 4 else (0.0, 0.0)
    largest = span + 2 * np.abs(rows).max(axis=-1, keepdims=True)
    assert (np.abs(got - rows) <= step / 2 + (f16 + 8 * EPS) * largest + 2**bits * subnormal).all()


@pytest.mark.parametrize("target", ["x86-64+avx2", "x86-64+avx512", "x86-64+avx512vnni"])
def test_levels_agree(target: str) -> None:
    compiled = qc.quantize_dynamic(
        embedding(table(33)), None, "quint4x2", example_inputs=(INDICES,), target="reference"
    )
    other = qc.quantize_dynamic(embedding(table(33)), None, "quint4x2", example_inputs=(INDICES,), target=target)
    try:
        got = other(INDICES)
    except qc.QCompilerError:
        pytest.skip(f"this CPU can't run {target}")
    assert np.array_equal(got, compiled(INDICES))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_read_codes(mode: str) -> None:
    """A bag combines what an embedding of the same rows gives."""
    weight = table(16)
    layer = qnn.EmbeddingBag.from_pretrained(weight, mode=mode)
    bags = qc.quantize_dynamic(layer, None, "quint8", example_inputs=(INDICES,))
    rows = qc.quantize_dynamic(embedding(weight), None, "quint8", example_inputs=(INDICES,))(INDICES)
    reduced = {"sum": rows.sum(axis=1), "mean": rows.mean(axis=1), "max": rows.max(axis=1)}[mode]
    bound = 8 * EPS * np.abs(rows).sum(axis=1)  # four terms in any order
    assert (np.abs(bags(INDICES) - reduced) <= bound).all()


@pytest.mark.parametrize(("bits", "share"), [(8, 0.29), (4, 0.17)])
def test_a_table_is_small_in_the_file_and_in_memory(bits: int, share: float, tmp_path: pathlib.Path) -> None:
    weight = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (1000, 64)).astype(np.float32))
    compiled = qc.quantize_dynamic(embedding(weight), None, DTYPES[bits], example_inputs=(INDICES,))
    path = tmp_path / "table.qcm"
    compiled.save(path)
    report = compiled.report()
    assert report.constant_bytes <= share * 4 * weight.numel() and path.stat().st_size <= (share + 0.03) * 4 * 64000
    assert np.array_equal(qc.load(path)(INDICES), compiled(INDICES))


class Tied(nn.Module):
    """A table that is read by two layers, and is the weight of a product."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.again, self.head = embedding(table(16)), embedding(table(16)), nn.Linear(16, ROWS, bias=False)
        self.again.weight = self.head.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(x) + self.again(x))


def test_a_mapping_combines_tables_and_products() -> None:
    rules = qc.QConfigMapping(qc.get_qconfig("dynamic")).set_object_type("Embedding", qc.get_qconfig("torch:embedding"))
    graph = qc.compile(Tied().eval(), rules, (INDICES,), target="reference").graph
    ops = [node.op for node in graph.nodes]
    assert ops.count("dynamic_linear") == 1
    u8 = [const for const in graph.consts.values() if str(const.type.dtype) == "u8"]
    assert len(u8) == 1 and u8[0].data.shape == (ROWS, 16)


def test_torch_s_function_takes_torch_s_dtypes() -> None:
    for bits, dtype in DTYPES.items():
        module = quantization.quantize_dynamic(embedding(table(8)), {nn.Embedding}, dtype)
        got = module(torch.from_numpy(INDICES)).numpy()
        want = qc.compile(embedding(table(8)), OURS[bits], (INDICES,))(INDICES)
        assert np.array_equal(got, want)


def test_the_report_says_what_stayed_float() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.large = embedding(table(8)), embedding(table(8) * 1e5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.words(x)) + self.large(x)

    report = qc.compile(Model().eval(), "torch:embedding_4bit", (INDICES,), target="reference").report()
    text = str(report)
    assert "the bias of a row could overflow" in text
    assert "its qconfig is for tables of embeddings: 1 relu" in text
    assert "it makes numbers of the codes of a table: " in text and "no reason is recorded" not in text
