"""Embedding and EmbeddingBag against torch's, on arrays and compiled, with indices and bags of any number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import QCompilerError
from qcompiler.frontend.ranges import arange
from qcompiler.types import DType

ULPS = 8 * 2.0**-24
"""Bags have at most 8 rows: two sums of them, rounded after each addition in any order, differ by 8 units of the sum of
magnitudes, which is below 8 * 3."""
LISTED = np.array([1, 5, 0, 2, 2, 6, 3, 2])
OFFSETS = {"all": [0, 3, 5], "empty bags": [0, 0, 3, 8, 8], "one": [0]}


def pair(**options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    theirs = torch.nn.EmbeddingBag(7, 5, **options).eval()
    ours = nn.EmbeddingBag(7, 5, **options)
    with torch.no_grad():
        theirs.weight.copy_(torch.randn(7, 5))  # also the row of the padding
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def answers(module: Any, *args: Any) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = module(*(None if a is None else torch.from_numpy(np.asarray(a)) for a in args)).numpy()
    return found


@pytest.mark.parametrize("padding_idx", [None, 2, -5])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
class TestBags:
    @pytest.mark.parametrize("name", OFFSETS)
    def test_listed(self, mode: str, padding_idx: int | None, name: str) -> None:
        ours, theirs = pair(mode=mode, padding_idx=padding_idx)
        offsets = np.array(OFFSETS[name])
        expected = answers(theirs, LISTED, offsets)
        np.testing.assert_allclose(ours(LISTED, offsets), expected, rtol=0, atol=24 * ULPS)

    def test_the_last_offset_is_an_end(self, mode: str, padding_idx: int | None) -> None:
        ours, theirs = pair(mode=mode, padding_idx=padding_idx, include_last_offset=True)
        offsets = np.array([0, 2, 5, 5, 8])
        expected = answers(theirs, LISTED, offsets)
        np.testing.assert_allclose(ours(LISTED, offsets), expected, rtol=0, atol=24 * ULPS)

    def test_rows(self, mode: str, padding_idx: int | None) -> None:
        ours, theirs = pair(mode=mode, padding_idx=padding_idx)
        indices = np.array([[1, 2, 2], [2, 2, 2], [6, 0, 2]])
        np.testing.assert_allclose(ours(indices), answers(theirs, indices), rtol=0, atol=24 * ULPS)

    def test_compiled_for_any_number(self, mode: str, padding_idx: int | None) -> None:
        ours, theirs = pair(mode=mode, padding_idx=padding_idx)
        example = (LISTED, np.array([0, 3, 5]))
        compiled = qc.compile(ours, None, example, dynamic={"input": {0: "count"}, "offsets": {0: "bags"}})
        assert not compiled.program.python_nodes
        for listed, offsets in ((LISTED, [0, 0, 4]), (LISTED[:3], [0]), (LISTED[:1], [0, 1]), (LISTED[:0], [0, 0])):
            expected = answers(theirs, listed, np.array(offsets))
            np.testing.assert_allclose(compiled(listed, np.array(offsets)), expected, rtol=0, atol=24 * ULPS)


def test_weights_of_samples() -> None:
    ours, theirs = pair(mode="sum", padding_idx=2)
    weights = np.random.default_rng(0).normal(size=8).astype(np.float32)
    offsets = np.array([0, 3, 5])
    expected = answers(theirs, LISTED, offsets, weights)
    np.testing.assert_allclose(ours(LISTED, offsets, weights), expected, rtol=0, atol=3 * 24 * ULPS)
    rows, weights = LISTED.reshape(2, 4), weights.reshape(2, 4)
    expected = answers(theirs, rows, None, weights)
    np.testing.assert_allclose(ours(rows, None, weights), expected, rtol=0, atol=3 * 24 * ULPS)


def test_a_row_of_padding_that_is_not_finite_is_not_read() -> None:
    for mode in ("sum", "mean", "max"):
        ours, _ = pair(mode=mode, padding_idx=2)
        ours.weight[2] = [np.nan, np.inf, -np.inf, np.nan, 0]
        assert np.isfinite(ours(LISTED, np.array([0, 3]))).all()


def test_embedding() -> None:
    theirs = torch.nn.Embedding(7, 3, padding_idx=-5)
    ours = nn.Embedding(7, 3, padding_idx=-5)
    assert ours.padding_idx == theirs.padding_idx == 2 and not ours.weight[2].any()
    ours.load_state_dict(theirs.state_dict())
    indices = np.array([[0, 6], [2, 3]])
    np.testing.assert_array_equal(ours(indices), answers(theirs, indices))
    again = nn.Embedding.from_pretrained(theirs.weight, padding_idx=1)
    np.testing.assert_array_equal(again(indices), answers(theirs, indices))
    bag = nn.EmbeddingBag.from_pretrained(np.asarray(ours.weight), mode="max")
    np.testing.assert_array_equal(bag(indices[:, :1]), answers(theirs, indices[:, 0]))


class BagOf(torch.nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.bag = torch.nn.EmbeddingBag(7, 5, **options)

    def forward(self, indices: Any, offsets: Any) -> Any:
        return self.bag(indices, offsets)


@pytest.mark.parametrize(
    "options", [{"mode": "max"}, {"mode": "mean", "padding_idx": 2}, {"include_last_offset": True}]
)
def test_torch_modules_are_imported(options: dict[str, Any]) -> None:
    model = BagOf(**options).eval()
    offsets = np.array([0, 3, 8])
    compiled = qc.compile(model, None, (LISTED, offsets))
    np.testing.assert_allclose(compiled(LISTED, offsets), answers(model, LISTED, offsets), rtol=0, atol=24 * ULPS)


class RowsOfBags(torch.nn.Module):
    """Bags of equal length, beside a row of their own."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.bag = torch.nn.EmbeddingBag(7, 5, **options)

    def forward(self, indices: Any, row: Any) -> Any:
        return torch.cat([self.bag(indices), row], 1)


@pytest.mark.parametrize("options", [{"mode": "max"}, {"mode": "mean", "padding_idx": 2}, {"mode": "sum"}])
def test_bags_of_torch_have_any_number_and_length(options: dict[str, Any]) -> None:
    """torch.export writes rows of indices as a list, with an offset each length: a range whose step is open."""
    model = RowsOfBags(**options).eval()

    def inputs(bags: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(length)
        return rng.integers(0, 7, (bags, length)), rng.normal(size=(bags, 5)).astype(np.float32)

    axes = {"indices": {0: "B", 1: "K"}, "row": {0: "B"}}
    compiled = qc.compile(model, None, inputs(2, 3), dynamic=axes)
    for bags, length in ((2, 3), (5, 1), (0, 4), (3, 8), (2, 3)):
        given = inputs(bags, length)
        np.testing.assert_allclose(compiled(*given), answers(model, *given), rtol=0, atol=24 * ULPS)


def test_a_range_whose_open_step_divides_nothing_keeps_the_size_of_the_example() -> None:
    def every(x: Any) -> Any:
        return x + arange(0, 12, x.shape[0], DType.F32)

    x = np.ones((3, 4), np.float32)
    compiled = qc.compile(every, None, (x,), dynamic={"x": {0: "B"}})
    np.testing.assert_array_equal(compiled(x), x + np.arange(0, 12, 3, dtype=np.float32))
    with pytest.raises(QCompilerError, match="B == 3"):
        compiled(np.ones((2, 4), np.float32))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Embedding(7, 3, max_norm=1.0), "max_norm"),
        (lambda: nn.EmbeddingBag(7, 3, max_norm=1.0), "max_norm"),
        (lambda: nn.Embedding(7, 3, padding_idx=7), "-7 to 6"),
        (lambda: nn.EmbeddingBag(7, 3, padding_idx=-8), "-7 to 6"),
        (lambda: nn.EmbeddingBag(7, 3, mode="min"), "sum | mean | max"),
        (lambda: nn.Embedding(7, 3, _weight=np.zeros((3, 7))), "shape"),
        (lambda: nn.Embedding.from_pretrained(np.zeros(3)), "rank 2"),
        (lambda: nn.EmbeddingBag(7, 3)(np.array([1, 2])), "offsets"),
        (lambda: nn.EmbeddingBag(7, 3)(np.array([[1, 2]]), np.array([0])), "offsets"),
        (lambda: nn.EmbeddingBag(7, 3)(np.zeros((1, 1, 1), np.int64)), "rank 1 or 2"),
        (lambda: nn.EmbeddingBag(7, 3)(np.array([1]), np.array([0]), np.ones(1, np.float32)), "sums"),
        (lambda: nn.EmbeddingBag(7, 3, mode="sum")(np.array([1]), np.array([0]), np.ones(2, np.float32)), "shape of"),
        (lambda: nn.EmbeddingBag(7, 3, include_last_offset=True)(np.array([[1]])), "without offsets"),
        (lambda: nn.EmbeddingBag(7, 3)(np.array([9]), np.array([0])), "index"),
    ],
)
def test_mistakes(build: Any, message: str) -> None:
    with pytest.raises(QCompilerError, match=message):
        build()
