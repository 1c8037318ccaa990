"""Dynamic quantization from a model to its program: `qc.quantize_dynamic` and the qconfigs "dynamic..."."""

from __future__ import annotations

import pathlib
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import InputError, QuantizationError
from qcompiler.notes import KeptFloat
from qcompiler.quantization.qconfig import is_dynamic

SIZES = {"x": {0: "B", 1: "S"}}
QCONFIGS = (
    "dynamic",
    "dynamic:per_tensor",
    "dynamic:reduced",
    "dynamic:float16",
    "torch:dynamic",
    "torch:dynamic_per_channel",
)


class Block(torch.nn.Module):
    """Attention without heads, and a residual block behind it."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (torch.nn.Linear(width, width) for _ in range(4))
        self.up, self.down = torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width, bias=False)
        self.norm = torch.nn.LayerNorm(width)

    def forward(self, x):
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(-1, -2), -1)
        x = self.norm(x + self.o(weights @ self.v(x)))
        return x + self.down(torch.relu(self.up(x)))


def block() -> Block:
    torch.manual_seed(0)
    return Block().eval()


X = np.random.default_rng(0).normal(0, 1, (3, 7, 24)).astype(np.float32)
COMPILED = {name: qc.compile(block(), name, (X,), dynamic=SIZES) for name in ("dynamic", "dynamic:float16")}


@pytest.mark.parametrize("qconfig", QCONFIGS)
def test_every_qconfig_is_near_float(qconfig: str) -> None:
    want = block()(torch.from_numpy(X)).detach().numpy()
    got = qc.compile(block(), qconfig, (X,), dynamic=SIZES)(X)
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert 0 < error < (0.03 if "torch" in qconfig else 0.015 if "float16" not in qconfig else 0.001)


def test_products_of_one_value_share_its_codes() -> None:
    ops = [node.op for node in COMPILED["dynamic"].graph.nodes]
    assert ops.count("dynamic_linear") == 6 and ops.count("dynamic_quantize") == 4 and "linear" not in ops
    assert COMPILED["dynamic"].graph.stage == "integer"


def test_a_row_alone_in_a_batch_and_padded_has_the_same_bits() -> None:
    """Of layers alone: attention reads other rows."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 50), torch.nn.GELU(), torch.nn.Linear(50, 9)).eval()
    compiled = qc.compile(model, "dynamic", (X,), dynamic={0: {0: "B", 1: "S"}})
    whole = compiled(X)
    padded = np.concatenate([X, np.full((3, 500, 24), 1e30, np.float32)], axis=1)
    padded[1, 9] = np.nan
    assert np.array_equal(compiled(padded)[:, :7], whole)
    for i in range(3):
        assert np.array_equal(compiled(X[i : i + 1]), whole[i : i + 1])
        for j in range(7):
            assert np.array_equal(compiled(X[i : i + 1, j : j + 1]), whole[i : i + 1, j : j + 1])


@pytest.mark.parametrize("name", COMPILED)
def test_saved_pickled_and_on_threads(name: str, tmp_path: pathlib.Path) -> None:
    compiled = COMPILED[name]
    want = compiled(X)
    compiled.save(tmp_path / "m.qc.safetensors")
    assert np.array_equal(qc.load(tmp_path / "m.qc.safetensors")(X), want)
    assert np.array_equal(pickle.loads(pickle.dumps(compiled))(X), want)
    assert np.array_equal(qc.compile(compiled, "keep", threads=3)(X), want)


@pytest.mark.parametrize(("name", "share"), [("dynamic", 0.27), ("dynamic:float16", 0.51)])
def test_a_saved_model_is_smaller(name: str, share: float, tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.Linear(512, 512)).eval()
    sizes = []
    for qconfig in (name, None):
        qc.compile(model, qconfig, (np.zeros((1, 512), np.float32),)).save(tmp_path / "m.qc.safetensors")
        sizes.append((tmp_path / "m.qc.safetensors").stat().st_size)
    assert sizes[0] <= share * sizes[1]


def test_the_report_counts_products_and_names_what_stayed_float() -> None:
    report = COMPILED["dynamic"].report()
    counts = {row.op: (row.int8, row.float) for row in report.ops}
    assert counts["dynamic_linear"] == (6, 0) and report.conversions == {"dynamic_quantize": 4}
    assert report.constant_bytes < 0.35 * report.float_constant_bytes
    assert not report.python_nodes
    assert report.products == {"int8": (4 * 24 * 24 + 2 * 24 * 48, None), "float": (0, None)}
    assert "products: 4,608 of 4,608 weights in int8\n" in str(report)
    reasons = {row.op: row.reason for row in report.kept_float}
    assert reasons["matmul"] == "matmul has no dynamic form"
    assert reasons["softmax"] == "only products are quantized dynamically"
    assert str(report).count("only products are quantized dynamically: ") == 1 and " = softmax" not in str(report)


def test_the_report_counts_weights_and_work_where_sizes_are_known() -> None:
    rules = qc.QConfigMapping(qc.get_qconfig("dynamic")).set_module_name("down", None)
    report = qc.compile(block(), rules, (X,), target="reference").report()
    rows, square = 3 * 7, 24 * 24
    assert report.products == {
        "int8": (6 * square, rows * 6 * square),
        "float": (2 * square, rows * 2 * square + 2 * 3 * 7 * 7 * 24),
    }
    assert f"{rows * 6 * square:,} of {rows * 8 * square + 7056:,} multiply-adds" in str(report)
    halves = COMPILED["dynamic:float16"].report()
    assert halves.products["float"][0] == 8 * square and "products:" not in str(halves)


def test_a_matmul_by_a_constant_is_a_product_too() -> None:
    weight = torch.randn(24, 5)

    class Model(torch.nn.Module):
        def forward(self, x):
            return x @ weight

    graph = qc.compile(Model().eval(), "dynamic", (X,), target="reference").graph
    assert [node.op for node in graph.nodes] == ["dynamic_quantize", "dynamic_linear"]


def test_rules_leave_parts_float() -> None:
    rules = qc.QConfigMapping(qc.get_qconfig("dynamic")).set_module_name("o", None)
    graph = qc.compile(block(), rules, (X,), target="reference").graph
    assert KeptFloat("o", "linear", "its qconfig is None") in graph.notes or any(
        note.reason == "its qconfig is None" for note in graph.notes if isinstance(note, KeptFloat)
    )
    assert [node.op for node in graph.nodes].count("dynamic_linear") == 5


SPECS = {
    "all": (None, 6),
    "classes": ({torch.nn.Linear}, 6),
    "classes that are not there": ({torch.nn.Linear, torch.nn.LSTM}, 6),
    "no class": ({torch.nn.LSTM}, 0),
    "names": ({"up", "down"}, 2),
    "a list": (["up"], 1),
    "a dict": ({torch.nn.Linear: "dynamic:per_tensor", "up": None}, 5),
}


@pytest.mark.parametrize("name", SPECS)
def test_qconfig_specs(name: str) -> None:
    spec, count = SPECS[name]
    graph = qc.quantize_dynamic(block(), spec, torch.qint8, example_inputs=(X,), target="reference").graph
    assert [node.op for node in graph.nodes].count("dynamic_linear") == count


REFUSED = {
    "in place": ({"inplace": True}, r"quantized = quantize_dynamic\(model, \.\.\.\)"),
    "mapping": ({"mapping": {}}, "torch's table of modules"),
    "qint32": ({"dtype": torch.qint32}, r"dtype qint32[\s\S]*qint8 or float16 or quint8 or quint4x2"),
    "int8": ({"dtype": "int8"}, r"did you mean 'qint8'"),
    "unknown name": ({"qconfig_spec": {"upp"}}, r"name 'upp' matches no node[\s\S]*up"),
    "nothing": ({"qconfig_spec": set()}, "selects nothing"),
    "a part of nothing": ({"qconfig_spec": {"up": None}}, "selects nothing"),
    "one name": ({"qconfig_spec": "up"}, "a set of classes and names"),
    "static": ({"qconfig_spec": {"up": "int8"}}, "needs calibration data"),
    "mixed": ({"qconfig_spec": {"up": "int8", "down": "dynamic"}}, "dynamic and static qconfigs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    options, message = REFUSED[name]
    with pytest.raises(QuantizationError, match=message):
        qc.quantize_dynamic(block(), **{"example_inputs": (X,), "target": "reference", **options})


def test_kinds_of_qconfigs() -> None:
    assert all(map(is_dynamic, QCONFIGS)) and not is_dynamic("int8") and not is_dynamic(qc.QConfigMapping())
    with pytest.raises(QuantizationError, match=r"row \| tensor \| float16 \| rows8 \| rows4"):
        qc.QConfig(qc.QuantSpec(), qc.QuantSpec(), dynamic="rows")  # type: ignore[arg-type]


class Sentences(nn.Module):
    """An encoder of words, whose padding is masked."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.words, self.encoder, self.head = nn.Embedding(100, 32), nn.TransformerEncoder(layer, 2), nn.Linear(32, 8)

    def forward(self, ids: Any, padding: Any) -> Any:
        return self.head(self.encoder(self.words(ids), src_key_padding_mask=padding))


@pytest.mark.parametrize("qconfig", ["dynamic", None])
def test_a_sentence_alone_in_a_batch_of_16_and_padded_to_512_has_the_same_bits(qconfig: str | None) -> None:
    """Padding is masked with -inf: behind softmax it adds exact zeros, in an order that its length does not change."""
    rng, model = np.random.default_rng(0), Sentences()
    drawn = {key: rng.normal(0, 0.3, each.shape).astype(np.float32) for key, each in model.state_dict().items()}
    model.load_state_dict(drawn)
    sentences = [rng.integers(1, 100, count) for count in (30, *rng.integers(3, 30, 15))]

    def batch(chosen: list[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
        ids, padding = np.zeros((len(chosen), length), np.int64), np.ones((len(chosen), length), bool)
        for row, words in enumerate(chosen):
            ids[row, : len(words)], padding[row, : len(words)] = words, False
        return ids, padding

    axes = {"ids": {0: "B", 1: "S"}, "padding": {0: "B", 1: "S"}}
    compiled = qc.compile(model, qconfig, batch(sentences[:2], 30), dynamic=axes)
    together, padded = compiled(*batch(sentences, 30)), compiled(*batch(sentences, 512))
    for row, words in enumerate(sentences):
        [alone] = compiled(*batch([words], len(words)))
        assert np.array_equal(alone, together[row, : len(words)])
        assert np.array_equal(alone, padded[row, : len(words)])


class Scored(nn.Module):
    """A recurrent layer over rows of their own lengths."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layer = getattr(nn, name)(4, 5, batch_first=True)

    def forward(self, x: Any, lengths: Any) -> Any:
        return self.layer(x, lengths=lengths)[0]


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_lengths_beyond_the_input_and_no_steps(name: str) -> None:
    """A length above the steps counts as all of them, one below 0 as 0; without steps or rows there is nothing."""
    rng = np.random.default_rng(1)
    x, lengths = rng.normal(size=(3, 6, 4)).astype(np.float32), np.array([6, 2, 0])
    axes = {"x": {0: "B", 1: "T"}, "lengths": {0: "B"}}
    compiled = qc.compile(Scored(name), "dynamic", (x, lengths), dynamic=axes)
    assert np.array_equal(compiled(x, np.array([99, 2, -4])), compiled(x, lengths))
    assert compiled(x[:, :0], lengths).shape == (3, 0, 5) and compiled(x[:0], lengths[:0]).shape == (0, 6, 5)
    for wrong in (np.float16, np.float64, np.int64):
        with pytest.raises(InputError, match=r"'x' has another dtype[\s\S]*astype\(np.float32\)"):
            compiled(x.astype(wrong), lengths)
    with pytest.raises(InputError, match="'lengths' has another dtype"):
        compiled(x, lengths.astype(np.float32))
