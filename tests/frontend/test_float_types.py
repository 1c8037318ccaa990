"""Float types other than f32: a cast is honoured or refused, and a note names the other type in which a module stores
something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import qcompiler as qc
from qcompiler.errors import QCompilerError
from qcompiler.frontend.torch_import import import_torch
from qcompiler.notes import Remark

X = torch.tensor([[1.0001, 3.1415926, 0.2], [-7.5, 65504.0, 1e-8]])


class Calls(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


HONOURED = {
    "half and back": lambda x: x.half().float(),
    "half arithmetic": lambda x: (x.half() + 1).float(),
    "half kept": lambda x: x.half(),
    "half of a constant": lambda x: x + torch.tensor([1.0001, 3.1415926, 0.2]).half().float(),
    "double": lambda x: (x.double() + 1e-9 - x.double()).float(),
    "double kept": lambda x: x.double() * 3,
    "double to a device": lambda x: x.to("cpu", torch.float64) / 3,
    "double like another": lambda x: (x.type_as(x.double()) + 1e-9 - x).float(),
    "double sums": lambda x: x.double().sum(1),
    "softmax in another type": lambda x: torch.softmax(x.half(), -1, dtype=torch.float32),
}


@pytest.mark.parametrize("name", HONOURED)
@pytest.mark.parametrize("target", ["reference", "native"])
def test_a_cast_is_honoured(name: str, target: str) -> None:
    module = Calls(HONOURED[name])
    want = module(X).numpy()
    got = qc.compile(module, None, (X,), target=target)(X.numpy())
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=2 * float(np.finfo(want.dtype).eps))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.bfloat16().float(), "bfloat16 is not supported"),
        (lambda x: x.double().softmax(-1).float(), "softmax of f64 is not supported"),
        (lambda x: x.half() @ x.half().T, "matmul of f16 is not supported"),
        (lambda x: x.long() @ x.long().T, "matmul of integers is not supported"),
        (lambda x: torch.nn.functional.layer_norm(x.double(), (3,)), "layer_norm of f64 is not supported"),
    ],
)
def test_what_has_no_such_meaning_is_refused(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(QCompilerError, match=message) as caught:
        import_torch(Calls(function), (X,))
    assert "float32" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_another_type_computes_in_f32_and_says_so(dtype: torch.dtype) -> None:
    """Casts to that type inside of the module stay f32 as well."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), Calls(lambda x: x.float().to(dtype) * 2)).to(dtype).eval()
    graph = import_torch(module, (X.to(dtype).float().to(dtype) if dtype is not torch.bfloat16 else X,))
    assert Remark(f"{str(dtype).removeprefix('torch.')} is computed as f32") in graph.notes
    assert {str(value.type.dtype) for value in graph.outputs} == {"f32"}


def test_scalars_do_not_widen_in_torch() -> None:
    """A tensor without axes counts as a number in torch; numpy's do not."""
    module = Calls(lambda x: x.int() + torch.tensor(3))
    assert qc.compile(module, None, (X,), target="reference")(X.numpy()).dtype == np.int32


def test_a_traced_function_keeps_float64() -> None:
    compiled = qc.compile(lambda x: x.astype(np.float64) + 1e-9 - x, None, (X.numpy(),))
    got = compiled(X.numpy())
    want = X.numpy().astype(np.float64) + 1e-9 - X.numpy()
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, want)
