"""Torch modules that compute with open sizes: position buffers, ranges, masks built from indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import qcompiler as qc
from qcompiler.errors import InputError
from qcompiler.frontend.torch_import import import_torch
from qcompiler.interpreter import run
from qcompiler.signature import guards


class Calls(nn.Module):
    """A module that calls a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("positions", torch.arange(16)[None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def _mask(m: Calls, x: torch.Tensor) -> torch.Tensor:
    """An attention mask as transformers builds it: every axis is a range, and the mask is read by two of them."""
    batch, length = x.shape[0], x.shape[1]
    rows = torch.arange(batch)[:, None, None, None]
    q, k = torch.arange(length)[None, None, :, None], torch.arange(length)[None, None, None, :]
    padding = (x[:, :, 0] > 0)[rows, k]
    return (padding & (k <= q) & (k > q - 3)).expand(batch, 1, length, length)


def _assigned(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[x > 0] = -1.0
    y[:, torch.tensor([0, 2])] = 3.0
    return y


def _checked(x: torch.Tensor) -> torch.Tensor:
    """A check of data by a Python number, which torch.export keeps and the importer leaves out."""
    torch._check((x > 0).sum(1).max().item() <= x.shape[1])
    return x * 2


FUNCTIONS: dict[str, Callable[[Calls, torch.Tensor], Any]] = {
    "position buffer": lambda m, x: x + m.positions[:, : x.shape[1], None],
    "positions from the end": lambda m, x: x + m.positions[:, 16 - x.shape[1] :, None],
    "expanded positions": lambda m, x: m.positions[:, : x.shape[1]].expand(x.shape[0], -1),
    "range of the length": lambda m, x: x + torch.arange(x.shape[1])[None, :, None],
    "range with start and step": lambda m, x: x.sum() + torch.arange(1, 2 * x.shape[1], 2),
    "range from the length": lambda m, x: torch.arange(x.shape[1], 2 * x.shape[1]),
    "falling range": lambda m, x: torch.arange(x.shape[1] - 1, -1, -1),
    "range of floats": lambda m, x: torch.arange(x.shape[1], dtype=torch.float32),
    "unused range": lambda m, x: (torch.arange(x.shape[0]), x * 2)[1],
    "rows and a column": lambda m, x: x[torch.arange(x.shape[0]), torch.tensor(3)],
    "last token": lambda m, x: x[:, x.shape[1] - 1],
    "last token of each row": lambda m, x: x[torch.arange(x.shape[0]), (x[:, :, 0] > 0).long().sum(1) - 1],
    "last rows": lambda m, x: x[:, -2:],
    "all but the last": lambda m, x: x[:, :-1],
    "half": lambda m, x: x[:, : x.shape[1] // 2],
    "every second from the end": lambda m, x: x[:, -4::2],
    "attention mask": _mask,
    "resized to the length": lambda m, x: nn.functional.interpolate(x[:, None, :3], (x.shape[1], 4), mode="bilinear"),
    "nearest to the length": lambda m, x: nn.functional.interpolate(x[:, :3].mT, x.shape[1]),
    "padded to a multiple": lambda m, x: nn.functional.pad(x, (0, 0, 0, -x.shape[1] % 4)).reshape(x.shape[0], -1, 4, 4),
    "padded in front": lambda m, x: nn.functional.pad(x, (1, 2, x.shape[1] // 2, 1), value=3.0),
    "windows": lambda m, x: x.unfold(1, 3, 2),
    "repeated": lambda m, x: x.repeat_interleave(2, 1),
    "scattered to the length": lambda m, x: x.scatter(1, (x[:, :2] > 0).long(), 7.0),
    "assigned by a mask": lambda m, x: _assigned(x),
    "the largest": lambda m, x: x.topk(2, 1).values,
    "checked by data": lambda m, x: _checked(x),
    "size as a number": lambda m, x: x / x.shape[1],
    "filled with a size": lambda m, x: torch.full((2,), x.shape[1]) + x.shape[0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_open_sizes(name: str) -> None:
    """The graph, imported for one batch and length, gives torch's results for others."""
    module = Calls(FUNCTIONS[name]).eval()
    generator = torch.Generator().manual_seed(1)
    graph = import_torch(module, (torch.zeros(2, 6, 4),), dynamic={0: {0: "B", 1: "S"}})
    for batch, length in ((2, 6), (3, 8), (1, 5), (5, 16)):
        x = torch.randn(batch, length, 4, generator=generator)
        want = module(x).numpy()
        got = run(graph, [x.numpy()])[0]
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["position buffer", "attention mask", "last token of each row", "filled with a size"])
def test_compiled(name: str) -> None:
    module = Calls(FUNCTIONS[name]).eval()
    compiled = qc.compile(module, None, (torch.zeros(2, 6, 4),), dynamic={0: {0: "B", 1: "S"}})
    assert not compiled.program.python_nodes
    for batch, length in ((2, 6), (3, 9)):
        x = torch.randn(batch, length, 4)
        np.testing.assert_allclose(compiled(x.numpy()), module(x).numpy(), rtol=1e-6, atol=1e-6)


def _chunks(m: Calls, x: torch.Tensor) -> torch.Tensor:
    """Sums of chunks of 8 rows beside the sums before them, as state space models compute them: torch broadcasts the
    number of chunks with the example's number, which is in no size of the results."""
    batch, length, width = x.shape
    y = nn.functional.pad(x, (0, 0, 0, (8 - length % 8) % 8)).reshape(batch, -1, 8, width)
    sums = nn.functional.pad(y.sum((2, 3)), (1, 0))[:, :, None].expand(batch, 2, 2)
    z = torch.cat([torch.zeros_like(y), y], 1)
    return (torch.einsum("bzc,bcld->bzld", sums, z)[:, :-1] + y).reshape(batch, -1, width)[:, :length]


def test_a_size_that_is_one_number_for_many_lengths_is_that_number_under_a_guard() -> None:
    module = Calls(_chunks).eval()
    graph = import_torch(module, (torch.zeros(2, 6, 4),), dynamic={0: {0: "B", 1: "S"}})
    for length in (1, 6, 8):
        x = torch.randn(3, length, 4)
        np.testing.assert_allclose(run(graph, [x.numpy()])[0], module(x).numpy(), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="S"):
        run(graph, [np.zeros((3, 9, 4), np.float32)])


def test_a_longer_sequence_than_the_buffer_is_refused() -> None:
    module = Calls(FUNCTIONS["position buffer"]).eval()
    compiled = qc.compile(module, None, (torch.zeros(2, 6, 4),), dynamic={0: {0: "B", 1: "S"}})
    assert [str(guard) for guard in guards(compiled.__qc_graph__)] == ["S <= 16"]
    with pytest.raises(InputError, match="S <= 16"):
        compiled(np.zeros((2, 17, 4), np.float32))
