"""Which values stay real: whole models under "int8" and "int8:plain". The pass alone is in choose-precision/*.qir."""

from __future__ import annotations

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.ir import Graph
from qcompiler.metrics import sqnr
from qcompiler.notes import KeptFloat, RealResult
from qcompiler.passes.choose_precision import SHARE_FOR_OUTPUTS, ChoosePrecision
from qcompiler.quantization.cost_profile import ZEN5_AVX512VNNI
from qcompiler.report import noted_reasons
from qcompiler.text.compare import first_difference

QCONFIGS = ("int8", "int8:plain")
RNG = np.random.default_rng(0)


def both(model: object, items: list[np.ndarray]) -> list[qc.CompiledModel]:
    """The model under both qconfigs, from one calibration."""
    graph = qc.trace(model, (items[0],))
    calibration = qc.calibrate(qc.prepare(graph, "int8"), items)
    return [qc.compile(graph, qconfig, calibration=calibration, target="reference") for qconfig in QCONFIGS]


class Residual(nn.Module):
    """A plain CNN: residual blocks, depthwise convolution, squeeze and excitation, concatenation, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.last = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):  # type: ignore[no-untyped-def]
        x = np.maximum(self.stem(x), 0)
        y = self.depthwise(x)
        y = y * nn.Hardsigmoid()(self.excite(np.maximum(self.squeeze(y.mean(axis=(2, 3), keepdims=True)), 0)))
        y = np.maximum(self.last(y) + x, 0)
        return self.head(np.concatenate([y, x], axis=1).mean(axis=(2, 3)))


def test_a_plain_cnn_differs_in_its_last_product_alone() -> None:
    items = [RNG.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(4)]
    mixed, plain = (model.graph for model in both(Residual(), items))
    *inner, last = mixed.node_list
    *same, product, dequantize = plain.node_list
    assert (last.op, product.op, dequantize.op) == ("linear", "linear", "dequantize")
    assert not last.result.type.is_quantized
    for one, other in zip(inner, same, strict=True):
        assert (one.name, one.op, one.attrs, one.result.type) == (other.name, other.op, other.attrs, other.result.type)


class Block(nn.Module):
    """A transformer's block with a residual stream that some channels dominate, as in trained models."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.norms = nn.ModuleList([nn.LayerNorm(16), nn.LayerNorm(16)])

    def forward(self, x):  # type: ignore[no-untyped-def]
        h = self.norms[0](x)
        scores = self.query(h) @ self.key(h).transpose(0, 2, 1) * 0.25
        x = x + self.out(nn.Softmax(-1)(scores) @ self.value(h))
        return x + self.down(nn.GELU()(self.up(self.norms[1](x))))


def outliers(seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(1, 6, 16)).astype(np.float32)
    x[..., 3] *= 40
    return x


def test_norms_and_softmax_keep_their_numbers() -> None:
    items = [outliers(seed) for seed in range(8)]
    block = Block()
    mixed, plain = both(block, items)
    real = qc.compile(block, None, (items[0],), target="reference")
    x = outliers(8)
    small = np.arange(16) != 3
    better, worse = (sqnr(real(x)[..., small], model(x)[..., small]) for model in (mixed, plain))
    assert better > worse + 12, "at least two bits are won in the small channels"
    kept = noted_reasons(mixed.graph)
    ops = {node.op for node in mixed.graph.nodes if node.name in kept}
    assert ops >= {"layer_norm", "softmax"} and not ops & {"linear", "matmul", "gelu", "transpose"}
    assert not [note for note in plain.graph.notes if isinstance(note, (KeptFloat, RealResult))]


def test_a_plain_qconfig_of_one_module_stays_plain() -> None:
    items = [outliers(seed) for seed in range(4)]
    mapping = qc.QConfigMapping().set_global("int8").set_module_name("norms.1", "int8:plain")
    model = qc.compile(Block(), mapping, (items[0],), calibration_data=items, target="reference")
    norms = [node for node in model.graph.nodes if node.op == "layer_norm"]
    assert [norm.result.type.is_quantized for norm in norms] == [False, True]


def heads(count: int, size: int) -> Graph:
    """A product with several sigmoid heads behind it."""
    layers = [nn.Conv2d(48, 2 * (i + 1), 1) for i in range(count)]
    stem = nn.Conv2d(48, 48, 3, padding=1)

    def forward(x):  # type: ignore[no-untyped-def]
        y = stem(x)
        return tuple(nn.Sigmoid()(layer(y)) for layer in layers)

    return qc.trace(forward, (np.zeros((1, 48, size, size), np.float32),))


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("size", [4, 16, 48])
def test_the_outputs_cost_at_most_their_share(count: int, size: int) -> None:
    """The share is taken of the time as codes, estimated here from the graph before the pass."""
    prepared = qc.prepare(heads(count, size), "int8")
    nodes = [node for node in prepared.graph.nodes if node.op != "observe"]
    after = ChoosePrecision(prepared.configs).run(prepared.graph.clone())
    kept = noted_reasons(after)
    extra = sum(
        ZEN5_AVX512VNNI.cost(node, quantized=False)
        - ZEN5_AVX512VNNI.cost(node, quantized=True)
        - ZEN5_AVX512VNNI.overhead
        - np.prod(node.result.type.shape) * ZEN5_AVX512VNNI.dequantize
        for node in nodes
        if node.name in kept
    )
    assert extra <= SHARE_FOR_OUTPUTS * sum(ZEN5_AVX512VNNI.cost(node, quantized=True) for node in nodes)
    widths = {node.result.type.shape[1]: node.name in kept for node in nodes if node.op == "sigmoid"}
    assert [widths[2 * (i + 1)] for i in range(count)] == sorted(widths.values(), reverse=True), "the cheapest first"
    if size == 48 and count == 8:
        assert len(set(widths.values())) == 2, "some fit, some do not"


def test_the_pass_is_idempotent_and_one_calibration_serves_both() -> None:
    prepared = qc.prepare(Block(), "int8", (outliers(),))
    once = ChoosePrecision(prepared.configs).run(prepared.graph.clone())
    again = ChoosePrecision(prepared.configs).run(once.clone())
    assert first_difference(once, again) is None
    plain = qc.prepare(Block(), "int8:plain", (outliers(),))
    assert plain.specs() == prepared.specs()
