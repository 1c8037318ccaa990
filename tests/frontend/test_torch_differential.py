"""Every torch op that the importer maps, on every element type that torch allows, against torch itself.

A call gives what torch gives, value, element type and shape, or is refused with a QCompilerError; docs/ops.md lists
what is refused. Integers and bools are equal to the bit. Floats are compared with two answers of torch's: in the call's
own type, and in float64 on the same numbers, which stands for the true value v. Either must lie within the bound:

    elements    2 eps |v|, with eps the distance from 1 to the next float: up to three roundings of eps / 2, and in f64
                the errors of numpy's and torch's libraries, below eps each
    sums        16 eps times the largest magnitude among operands and result: at most 50 terms of at most 9 each are
                added, in f32 or wider, and their roundings do not all point one way
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed

import qcompiler as qc
from qcompiler.errors import QCompilerError
from qcompiler.frontend.torch_import import import_torch
from qcompiler.frontend.torch_ops import TABLE
from qcompiler.interpreter import run
from tests.frontend import torch_element_recipes, torch_layer_recipes, torch_pick_recipes  # noqa: F401  (they fill the table)
from tests.frontend.extremes import close
from tests.frontend.refused import refused_in_docs
from tests.frontend.torch_recipes import DTYPES, OF_SIZES, RECIPES, SUMS

pytree = torch.utils._pytree
NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in DTYPES}
ELSEWHERE = frozenset(
    name
    for name in TABLE
    if name.startswith(("quantized_decomposed.", "transformers.", "aten.empty", "aten.new_empty."))
    or TABLE[name].__module__.endswith((".complex", "torch_ops.recurrent"))
)
"""Ops of test_torch_quantized.py, between real numbers and codes; of another library; without a result to compare; on
complex numbers, which are in test_torch_complex.py; of recurrent nets, which are in test_torch_recurrent.py."""
CASES = [(name, dtype) for name in TABLE if name not in OF_SIZES | ELSEWHERE for dtype in DTYPES]


class Call(torch.nn.Module):
    """One call of an op. The tensors among its arguments are inputs, cast to their element types."""

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        super().__init__()
        overload = functools.reduce(getattr, name.split(".")[1:], torch.ops.aten)
        keywords = arguments[-1] if isinstance(arguments[-1], dict) else {}
        self.overload = overload
        positional = arguments[:-1] if keywords else arguments
        self.leaves, self.structure = pytree.tree_flatten((tuple(positional), keywords))
        self.dtypes = [leaf.dtype for leaf in self.leaves if isinstance(leaf, torch.Tensor)]
        self.eval()

    def inputs(self) -> list[torch.Tensor]:
        """The tensors; those of f16 and f64 as f32, in which they are exact."""
        tensors = [leaf for leaf in self.leaves if isinstance(leaf, torch.Tensor)]
        return [t.float() if t.dtype.is_floating_point else t for t in tensors] or [torch.zeros(1)]

    def forward(self, *given: torch.Tensor) -> Any:
        rest = iter(zip(given, self.dtypes))

        def cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            return tensor if tensor.dtype is dtype else tensor.to(dtype)

        leaves = [cast(*next(rest)) if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves]
        args, keywords = pytree.tree_unflatten(leaves, self.structure)
        return self.overload(*args, **keywords)

    def exact(self) -> Any:
        """The result in float64, if the call computes in a float type: on floats, or on integers alone."""
        tensors = [leaf for leaf in self.leaves if isinstance(leaf, torch.Tensor)]
        floats = [leaf for leaf in tensors if leaf.dtype.is_floating_point]
        leaves = [
            leaf.double()
            if isinstance(leaf, torch.Tensor) and (leaf.dtype.is_floating_point or not floats)
            else torch.float64
            if leaf in (torch.float32, torch.float16)
            else leaf
            for leaf in self.leaves
        ]
        args, keywords = pytree.tree_unflatten(leaves, self.structure)
        return EXACT.get(str(self.overload), self.overload)(*args, **keywords)


EXACT = {"aten.gelu.default": lambda x: x * 0.5 * torch.erfc(x * -(0.5**0.5))}
"""The true value where torch's own float64 loses it: 1 + erf(x) cancels for negative x."""


def tensors_of(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def compare(name: str, call: Call, got: np.ndarray, want: torch.Tensor, exact: torch.Tensor | None) -> None:
    wanted = want.detach().numpy()
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(got, wanted)
        return
    eps = float(np.finfo(wanted.dtype).eps) * (16 if name in SUMS else 2)
    if name in EXACT and wanted.dtype == np.float64:
        eps *= 64  # erfc(z) multiplies the error of z = x / sqrt 2 by 2 z^2, and z^2 is below 32 where erfc is not 0
    magnitude = 0.0
    if name in SUMS:
        sizes = [leaf.double().abs() for leaf in (*call.leaves, want) if isinstance(leaf, torch.Tensor)]
        magnitude = max((float(size[size.isfinite()].max()) for size in sizes if size.isfinite().any()), default=0.0)
    held = close(got, wanted, eps, magnitude)
    if exact is not None and exact.shape == want.shape:
        with np.errstate(all="ignore"):
            held |= close(got, exact.detach().numpy().astype(wanted.dtype), eps, magnitude)
    wrong = np.flatnonzero(~held)
    assert not len(wrong), f"at {wrong[:5]} of {got.size}: {got.ravel()[wrong[:5]]} for {wanted.ravel()[wrong[:5]]}"


def outcome(name: str, dtype: torch.dtype) -> str:
    """What a call ended in: given, refused, or not allowed by torch. Fails on an answer that differs from torch's."""
    found = {outcome_of(name, arguments) for arguments in RECIPES[name](dtype)}
    return next((how for how in ("refused", "given") if how in found), "not allowed")


def outcome_of(name: str, arguments: tuple[Any, ...]) -> str:
    """`outcome` of one call."""
    call = Call(name, arguments)
    inputs = call.inputs()
    try:
        with torch.no_grad():
            wanted = tensors_of(call(*inputs))
    except Exception:  # torch has many classes of refusals
        return "not allowed"
    try:
        graph = import_torch(call, tuple(inputs))
    except QCompilerError:
        return "refused"
    got = run(graph, [tensor.numpy() for tensor in inputs])
    try:
        exact = tensors_of(call.exact())
    except Exception:
        exact = []
    for i, (have, want) in enumerate(zip(got, wanted)):
        compare(name, call, have, want, exact[i] if i < len(exact) else None)
    return "given"


def test_every_op_of_the_table_has_a_recipe() -> None:
    assert set(TABLE) - OF_SIZES - ELSEWHERE == set(RECIPES)


def test_every_name_of_the_table_is_an_op_of_torch() -> None:
    for name in [name for name in TABLE if not name.startswith(("transformers.", "qcompiler_recurrent."))]:
        functools.reduce(getattr, name.split("."), torch.ops)


@pytest.mark.sampled(20)
@pytest.mark.parametrize(
    ("name", "dtype"), CASES, ids=[f"{name.removeprefix('aten.')}-{NAMES[d]}" for name, d in CASES]
)
def test_equal_or_refused(name: str, dtype: torch.dtype) -> None:
    found = outcome(name, dtype)
    assert (found == "refused") == (
        name.removeprefix("aten.").removesuffix(".default") in refused_in_docs("torch", NAMES[dtype])
    )


def test_the_median_of_a_line_with_nan_is_its_first_nan() -> None:
    """The index too. Without a NaN it is the lower of two middle elements."""
    nan = float("nan")
    x = torch.tensor([[3.0, nan, 1.0, nan], [4.0, 1.0, 3.0, 2.0], [nan, float("inf"), -1.0, 0.0]])

    class Median(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            values, indices = x.median(1)
            return values, indices

    want = x.median(1)
    values, indices = qc.compile(Median().eval(), None, (x,))(x.numpy())
    np.testing.assert_array_equal(values, want.values.numpy())
    np.testing.assert_array_equal(indices, want.indices.numpy())
