"""MultiheadAttention and transformer encoders against torch's: masks, sizes, state dicts; compiled for any length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import QCompilerError

BOUND = 4e-5
"""torch's answers are those of f64. Ours round after each of: three products of 8 terms (weights below 0.8 and inputs
below 4: an error of 8 * 8 * 0.8 * 4 * 2^-24 = 1.2e-5 for one, of which sums of scores and of values are 8-fold means),
a softmax and a norm, which divides by deviations above 0.5. A mistake in a mask or in the order of heads changes
results by 0.01 and more."""
RNG = np.random.default_rng(5)


def drawn(*shape: int) -> np.ndarray:
    return RNG.uniform(-1.5, 1.5, shape).astype(np.float32)


def pair(name: str, *args: Any, **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(2)
    theirs = getattr(torch.nn, name)(*args, **options).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.rand(parameter.shape) * 1.2 - 0.4)
    ours = getattr(nn, name)(*args, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs.double()


def wide(x: Any) -> Any:
    if not isinstance(x, np.ndarray):
        return x
    return torch.from_numpy(x.astype(np.float64) if x.dtype == np.float32 else x)


def answers(module: Any, *args: Any, **kwargs: Any) -> list[np.ndarray]:
    with torch.no_grad():
        found = module(*map(wide, args), **{name: wide(value) for name, value in kwargs.items()})
    return [each.numpy() for each in (found if isinstance(found, tuple) else (found,)) if each is not None]


def compare(found: Any, expected: list[np.ndarray]) -> None:
    got = [each for each in (found if isinstance(found, tuple) else (found,)) if each is not None]
    assert [each.shape for each in got] == [each.shape for each in expected]
    for ours, theirs in zip(got, expected):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=BOUND)


HIDDEN = np.zeros((2, 4), bool)
HIDDEN[0, 3] = HIDDEN[1, 1:] = True
OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"kdim": 6, "vdim": 5},
    {"add_bias_kv": True},
    {"add_zero_attn": True, "batch_first": True},
    {"add_bias_kv": True, "add_zero_attn": True, "kdim": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("masks", ["none", "bool", "float", "padding", "heads", "mixed"])
def test_attention(options: dict[str, Any], masks: str) -> None:
    ours, theirs = pair("MultiheadAttention", 8, 2, **options)
    query, key, value = drawn(3, 2, 8), drawn(4, 2, options.get("kdim", 8)), drawn(4, 2, options.get("vdim", 8))
    if options.get("batch_first"):
        query, key, value = (x.swapaxes(0, 1) for x in (query, key, value))
    causal = np.triu(np.ones((3, 4), bool), 1)
    given: dict[str, dict[str, Any]] = {
        "none": {},
        "bool": {"attn_mask": causal},
        "float": {"attn_mask": drawn(3, 4), "average_attn_weights": False},
        "padding": {"key_padding_mask": HIDDEN},
        "heads": {"attn_mask": RNG.random((4, 3, 4)) < 0.2, "need_weights": False},
        "mixed": {"attn_mask": drawn(3, 4), "key_padding_mask": np.where(HIDDEN, -np.inf, 0).astype(np.float32)},
    }
    compare(ours(query, key, value, **given[masks]), answers(theirs, query, key, value, **given[masks]))


def test_masks_of_both_types_are_combined() -> None:
    ours, theirs = pair("MultiheadAttention", 8, 2)
    x, added = drawn(4, 2, 8), drawn(4, 4)
    hidden = np.where(HIDDEN, -np.inf, 0).astype(np.float32)
    expected = answers(theirs, x, x, x, key_padding_mask=hidden, attn_mask=added)
    compare(ours(x, x, x, key_padding_mask=HIDDEN, attn_mask=added), expected)


def test_attention_without_a_batch() -> None:
    ours, theirs = pair("MultiheadAttention", 8, 4)
    query, key = drawn(3, 8), drawn(4, 8)
    options = {"key_padding_mask": HIDDEN[0], "attn_mask": np.triu(np.ones((3, 4), bool), 2)}
    compare(ours(query, key, key, **options), answers(theirs, query, key, key, **options))


def test_self_attention_is_one_product() -> None:
    ours, theirs = pair("MultiheadAttention", 8, 2, batch_first=True)

    class Itself(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = ours

        def forward(self, x: Any) -> Any:
            return self.attention(x, x, x, need_weights=False)[0]

    x = drawn(2, 3, 8)
    compiled = qc.compile(Itself(), None, (x,))
    assert [node.op for node in compiled.graph.nodes].count("linear") == 2
    compare(compiled(x), answers(theirs, x, x, x, need_weights=False))


def test_a_query_that_may_read_nothing_gets_zeros() -> None:
    ours, theirs = pair("MultiheadAttention", 8, 2, batch_first=True)
    x, nothing = drawn(2, 3, 8), np.array([[True] * 3, [False] * 3])
    expected = answers(theirs, x, x, x, nothing, need_weights=False)[0]
    y, weights = ours(x, x, x, nothing)
    np.testing.assert_allclose(y, expected, rtol=0, atol=BOUND)
    assert not weights[0].any() and weights[1].any()


LAYERS: list[dict[str, Any]] = [
    {},
    {"batch_first": True, "norm_first": True},
    {"activation": "gelu", "layer_norm_eps": 1e-3},
    {"bias": False, "batch_first": True, "dropout": 0.0},
]


@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_encoder_layer(options: dict[str, Any]) -> None:
    ours, theirs = pair("TransformerEncoderLayer", 8, 2, 12, **options)
    x = drawn(2, 4, 8) if options.get("batch_first") else drawn(4, 2, 8)
    causal = np.triu(np.ones((4, 4), bool), 1)
    compare(ours(x), answers(theirs, x))
    compare(ours(x, causal, is_causal=True), answers(theirs, x, causal, is_causal=True))
    expected = answers(theirs, x, None, HIDDEN)[0]
    compare(ours(x, None, HIDDEN), [expected])


def test_encoder_layer_with_a_function() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 12, activation=torch.nn.functional.silu).eval()
    ours = nn.TransformerEncoderLayer(8, 2, 12, activation=nn.functional.silu)
    ours.load_state_dict(theirs.state_dict())
    x = drawn(4, 2, 8)
    compare(ours(x), answers(theirs.double(), x))


def encoders(normed: bool = True) -> tuple[Any, Any]:
    torch.manual_seed(2)
    options: dict[str, Any] = {"batch_first": True, "norm_first": True, "activation": "gelu"}
    inner = torch.nn.TransformerEncoderLayer(8, 2, 12, **options)
    norm = torch.nn.LayerNorm(8) if normed else None
    theirs = torch.nn.TransformerEncoder(inner, 2, norm, enable_nested_tensor=False).eval()
    ours = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 12, **options), 2, nn.LayerNorm(8) if normed else None
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.rand(parameter.shape) * 0.8 - 0.3)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs.double()


@pytest.mark.parametrize("normed", [True, False])
def test_encoder(normed: bool) -> None:
    ours, theirs = encoders(normed)
    x = drawn(2, 4, 8)
    compare(ours(x), answers(theirs, x))
    compare(ours(x, src_key_padding_mask=HIDDEN), answers(theirs, x, src_key_padding_mask=HIDDEN))
    causal = np.triu(np.ones((4, 4), bool), 1)
    compare(ours(x, causal, is_causal=True), answers(theirs, x, causal, is_causal=True))
    first, second = (np.asarray(layer.linear1.weight) for layer in ours.layers)
    assert not np.array_equal(first, second)


def test_an_encoder_is_compiled_for_any_batch_and_length() -> None:
    ours, theirs = encoders()
    x, hidden = drawn(2, 4, 8), HIDDEN
    axes = {"src": {0: "N", 1: "T"}, "src_key_padding_mask": {0: "N", 1: "T"}}

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = ours

        def forward(self, src: Any, src_key_padding_mask: Any) -> Any:
            return self.encoder(src, src_key_padding_mask=src_key_padding_mask)

    compiled = qc.compile(Padded(), None, (x, hidden), dynamic=axes)
    assert not compiled.program.python_nodes
    compare(compiled(x, hidden), answers(theirs, x, src_key_padding_mask=hidden))
    longer = np.concatenate([x, drawn(2, 3, 8)], 1)
    more = np.concatenate([hidden, np.ones((2, 3), bool)], 1)
    padded = compiled(longer, more)
    compare(padded, answers(theirs, longer, src_key_padding_mask=more))
    for row, count in ((0, 3), (1, 1)):
        alone = compiled(x[row : row + 1, :count], np.zeros((1, count), bool))
        np.testing.assert_allclose(alone[0], padded[row, :count], rtol=0, atol=BOUND)


class Masked(torch.nn.Module):
    """Attention with masks that are inputs."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, src: Any, mask: Any, hidden: Any) -> Any:
        return self.encoder(src, mask, hidden)


def test_torchs_encoder_is_imported_with_masks_that_are_inputs() -> None:
    ours, theirs = encoders()
    x, causal = drawn(2, 4, 8), np.triu(np.ones((4, 4), bool), 1)
    axes = {"src": {0: "N"}, "hidden": {0: "N"}}
    compiled = qc.compile(Masked(theirs.float()).eval(), None, (x, causal, HIDDEN), dynamic=axes)
    assert not compiled.program.python_nodes
    for mask in (causal, np.zeros((4, 4), bool), RNG.random((4, 4)) < 0.3):
        mask = mask & ~np.eye(4, dtype=bool)
        np.testing.assert_allclose(compiled(x, mask, HIDDEN), ours(x, mask, HIDDEN), rtol=0, atol=2 * BOUND)


def test_int8_makes_its_products_integer() -> None:
    ours, _ = encoders()
    x = drawn(2, 4, 8)
    compiled = qc.compile(ours, "int8", (x,), calibration_data=[drawn(2, 4, 8) for _ in range(4)])
    assert {str(node.operands[1].type.dtype) for node in compiled.graph.nodes if node.op == "linear"} == {"i8"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.MultiheadAttention(8, 3), "divides"),
        (lambda: nn.TransformerEncoderLayer(8, 2, activation="swish"), "relu | gelu"),
        (lambda: nn.MultiheadAttention(8, 2)(drawn(3, 8), drawn(3, 1, 8), drawn(3, 1, 8)), "rank 3"),
        (lambda: nn.MultiheadAttention(8, 2)(*[drawn(3, 1, 8)] * 3, attn_mask=np.ones((2, 3), bool)), "attn_mask"),
        (lambda: nn.MultiheadAttention(8, 2)(*[drawn(3, 1, 8)] * 3, attn_mask=np.ones((3, 3), int)), "attn_mask"),
        (lambda: nn.MultiheadAttention(8, 2)(*[drawn(3, 1, 8)] * 3, np.ones((3, 1), bool)), "key_padding_mask"),
        (lambda: nn.MultiheadAttention(8, 2)(*[drawn(3, 1, 8)] * 3, is_causal=True), "attn_mask"),
        (lambda: nn.MultiheadAttention(8, 2, dropout=0.1).train()(*[drawn(3, 1, 8)] * 3), "training mode"),
        (lambda: nn.TransformerEncoderLayer(8, 2).train()(drawn(3, 1, 8)), "training mode"),
    ],
)
def test_mistakes(build: Any, message: str) -> None:
    with pytest.raises(QCompilerError, match=message):
        build()
