"""Torch modules that compute with complex numbers inside: rotary embeddings and Fourier transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import qcompiler as qc
from qcompiler.errors import TraceError
from qcompiler.frontend.torch_import import import_torch
from qcompiler.interpreter import run


class Calls(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("turns", torch.polar(torch.ones(16, 4), torch.linspace(-3, 3, 64).reshape(16, 4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def _pairs(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))


def _rotary(m: Calls, x: torch.Tensor) -> torch.Tensor:
    """Rotary positions of an open length, as Llama 4 computes them."""
    angles = torch.outer(torch.arange(x.shape[1]).float(), torch.linspace(0, 1, 4))
    return torch.view_as_real(_pairs(x) * torch.polar(torch.ones_like(angles), angles)[None]).flatten(2)


FUNCTIONS: dict[str, Callable[[Calls, torch.Tensor], Any]] = {
    "rotary": _rotary,
    "rotary of a buffer": lambda m, x: torch.view_as_real(_pairs(x) * m.turns[: x.shape[1]]).flatten(2),
    "checked": lambda m, x: torch.view_as_real(_pairs(x).to(torch.complex64) * _pairs(x).to(torch.complex64)),
    "cast with a layout": lambda m, x: torch.view_as_real(_pairs(x) * m.turns[0].to(x.device, torch.complex64)),
    "sums": lambda m, x: torch.view_as_real(_pairs(x) + _pairs(x).conj() * 2 - x[..., :4]),
    "moved": lambda m, x: torch.view_as_real(torch.cat([_pairs(x)[:, 1:], _pairs(x)[:, :1]], 1).transpose(1, 2)),
    "parts": lambda m, x: _pairs(x).real * 2 + _pairs(x).imag,
    "fft": lambda m, x: torch.fft.fft(x, dim=1).real,
    "fft of an axis of fixed size": lambda m, x: torch.view_as_real(torch.fft.fft(x)),
    "two axes": lambda m, x: torch.fft.fftn(x, dim=(1, 2)).real,
    "one-sided": lambda m, x: torch.view_as_real(torch.fft.rfft(x, norm="ortho")),
    "there and back": lambda m, x: torch.fft.ifft(torch.fft.fft(x, dim=1, norm="forward"), dim=1, norm="forward").real,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_complex(name: str) -> None:
    """Sums of at most 16 * 8 products of f32, whose factors are rounded once: 1e-5 of the largest magnitude."""
    module = Calls(FUNCTIONS[name]).eval()
    graph = import_torch(module, (torch.zeros(2, 6, 8),), dynamic={0: {0: "B", 1: "S"}})
    for batch, length in ((2, 6), (3, 9)):
        x = torch.randn(batch, length, 8, generator=torch.Generator().manual_seed(length))
        want = module(x).numpy()
        got = run(graph, [x.numpy()])[0]
        assert got.shape == want.shape and got.dtype == want.dtype
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_compiled() -> None:
    module = Calls(_rotary).eval()
    compiled = qc.compile(module, None, (torch.zeros(2, 6, 8),), dynamic={0: {0: "B", 1: "S"}})
    assert not compiled.program.python_nodes
    x = torch.randn(3, 9, 8)
    np.testing.assert_allclose(compiled(x.numpy()), module(x).numpy(), rtol=1e-5, atol=1e-5)


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(TraceError, match=r"aten\.exp\.default of complex numbers is not supported"):
        import_torch(Calls(lambda m, x: _pairs(x).exp().real).eval(), (torch.zeros(2, 6, 8),))
