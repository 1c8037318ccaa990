"""Every numpy function that a trace knows, on every element type, against numpy itself.

A call gives what numpy gives, value, element type and shape, or is refused with a QCompilerError; docs/ops.md lists
what is refused. One thing differs by intention: where numpy computes integers or bools in a float type, a trace rounds
them to f32 and computes in f32. Integers and bools are equal to the bit, and floats near numpy's answer in their own
type or in float64, which stands for the true value v:

    elements    4 eps |v|, with eps the distance from 1 to the next float; functions made of several ops (hypot, cosh)
                have at most 8 roundings of eps / 2
    sums        16 eps times the largest magnitude among operands and result; see test_torch_differential
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qcompiler.errors import QCompilerError
from qcompiler.frontend.numpy_api import FUNCTIONS, UFUNCS
from qcompiler.frontend.tracer import trace
from qcompiler.interpreter import run
from qcompiler.signature import structure_of
from qcompiler.structure import restore_outputs
from tests.frontend.extremes import close, extremes, moderate, pairs
from tests.frontend.refused import refused_in_docs

DTYPES = [np.dtype(name) for name in ("f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "?")]
Arguments = tuple[Any, ...]


def rows(dtype: np.dtype) -> np.ndarray:
    """Extremes in rows, each of which starts at another one."""
    return np.stack([np.roll(extremes(dtype), k) for k in (0, 3, 7)])


def ufunc_arguments(ufunc: np.ufunc, dtype: np.dtype) -> list[Arguments]:
    if ufunc is np.matmul:
        return [(moderate(dtype, 2, 5), moderate(dtype, 5, 3))]
    if ufunc.nin == 1:
        return [(extremes(dtype),)]
    x, y = pairs(dtype)
    if ufunc is np.power and dtype.kind == "i":
        y = np.where(y < 0, 5, y).astype(dtype)  # numpy stops at negative powers of integers
    return [(x, y), (x, 3), (3, y)]


def _shaped(*arguments: Arguments) -> Callable[[np.dtype], list[Arguments]]:
    return lambda dtype: [(rows(dtype), *rest) for rest in arguments]


def _summed(*arguments: Arguments) -> Callable[[np.dtype], list[Arguments]]:
    return lambda dtype: [(moderate(dtype, 3, 9), *rest) for rest in arguments]


def _two(*shapes: tuple[int, ...]) -> Callable[[np.dtype], list[Arguments]]:
    return lambda dtype: [tuple(moderate(dtype, *shape, seed=seed) for seed, shape in enumerate(shapes))]


def _listed(*rest: Any) -> Callable[[np.dtype], list[Arguments]]:
    return lambda dtype: [
        ([rows(dtype), rows(dtype)[::-1].copy()], *rest),
        ([rows(dtype), rows(np.dtype("i2"))[:, :5]],),
    ][:1]


SUMS: dict[Callable[..., Any], Callable[[np.dtype], list[Arguments]]] = {
    np.mean: _summed((), (1,), (0, np.float32)),
    np.sum: _summed((), (1,), (0, np.float32), (0, np.int32)),
    np.prod: _summed((1,), (0, np.float32)),
    np.cumsum: _summed((), (1,), (0, np.float32)),
    np.var: _summed((), (1,)),
    np.std: _summed((), (1,)),
    np.average: _summed((), (1,)),
    np.linalg.norm: _summed((), (None, 1)),
    np.dot: _two((2, 5), (5, 3)),
    np.inner: _two((2, 5), (3, 5)),
    np.outer: _two((4,), (5,)),
    np.tensordot: lambda dtype: [(moderate(dtype, 2, 5), moderate(dtype, 5, 3), 1)],
    np.interp: lambda dtype: [  # a line is value + slope * distance
        (rows(dtype), *points)
        for points in (([-2, 0.5, 1, 7.25], [0, 3, -1, 2]), ([0.0], [2.0]), ([-1, 2], [0.5, 1.5], -3, 4))
    ],
    np.einsum: lambda dtype: [("ij,jk->ik", moderate(dtype, 2, 5), moderate(dtype, 5, 3))],
}
RECIPES: dict[Callable[..., Any], Callable[[np.dtype], list[Arguments]]] = {
    **SUMS,
    **dict.fromkeys((np.max, np.amax, np.min, np.amin, np.any, np.all), _shaped((), (1,))),
    **dict.fromkeys((np.argmax, np.argmin), _shaped((), (1,), (0,))),
    **dict.fromkeys((np.ravel, np.fliplr, np.flipud, np.copy, np.squeeze, np.transpose, np.real), _shaped(())),
    **dict.fromkeys((np.round, np.around, np.nan_to_num, np.zeros_like, np.ones_like), _shaped(())),
    **dict.fromkeys((np.atleast_1d, np.atleast_2d), _shaped(())),
    **dict.fromkeys((np.tril, np.triu), _shaped((), (1,))),
    **dict.fromkeys((np.concatenate, np.stack), _listed(1)),
    **dict.fromkeys((np.vstack, np.hstack, np.column_stack), _listed()),
    np.reshape: _shaped(((-1,),)),
    np.swapaxes: _shaped((0, 1)),
    np.moveaxis: _shaped((0, 1)),
    np.expand_dims: _shaped((1,)),
    np.broadcast_to: lambda dtype: [(extremes(dtype), (2, len(extremes(dtype))))],
    np.flip: _shaped((), (1,)),
    np.roll: _shaped((2,), (1, 1)),
    np.tile: _shaped((2,), ((2, 1),)),
    np.repeat: _shaped((2,), (2, 1)),
    np.split: _shaped((3,)),
    np.array_split: _shaped((2,)),
    np.where: lambda dtype: [
        (rows(dtype) == 1, rows(dtype), rows(dtype)[::-1].copy()),
        (rows(dtype) == 1, rows(dtype), 3),
    ],
    np.select: lambda dtype: [
        ([rows(dtype) == 1, rows(dtype) > 0], [rows(dtype), rows(dtype)[::-1].copy()]),
        ([rows(dtype) == 1], [rows(dtype)], 3),
    ],
    np.piecewise: lambda dtype: [
        (rows(dtype), [rows(dtype) == 1, rows(dtype) > 0], [lambda v: v, 1]),
        (rows(dtype), [rows(dtype) == 0, rows(dtype) != 1], [1, lambda v: v, lambda v: v]),
    ],
    np.clip: _shaped((1, 5), (5, 1), (0.5, 2.5), (None, 2)),
    np.pad: _shaped((1,), (1, "edge"), (1, "reflect")),
    np.take: _shaped(([2, 0], 1)),
    np.take_along_axis: lambda dtype: [(rows(dtype), np.array([[2], [0], [1]]), 1)],
    np.full_like: _shaped((3,)),
    np.diff: _summed((), (2,)),
}


def numpy_call(function: Callable[..., Any], arguments: Arguments) -> Any:
    with np.errstate(all="ignore"):
        return function(*arguments)


def _mapped(item: Any, change: Callable[[np.ndarray], Any]) -> Any:
    if isinstance(item, np.ndarray):
        return change(item)
    return [_mapped(part, change) for part in item] if isinstance(item, list) else item


def outcome(function: Callable[..., Any], arguments: Arguments, sums: bool) -> str:
    """What a call ended in: given, refused, or not allowed by numpy. Fails on an answer that differs from numpy's."""
    arrays: list[np.ndarray] = []
    _mapped(list(arguments), arrays.append)
    try:
        want = numpy_call(function, arguments)
    except (TypeError, ValueError, OverflowError):
        return "not allowed"
    inputs = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in arrays]

    def traced(*given: Any) -> Any:
        rest = iter(zip(given, arrays))

        def cast(_: np.ndarray) -> Any:
            proxy, array = next(rest)
            return proxy if array.dtype == proxy.dtype else proxy.astype(array.dtype)

        return function(*_mapped(list(arguments), cast))

    try:
        graph = trace(traced, tuple(inputs))
    except QCompilerError:
        return "refused"
    got = restore_outputs(structure_of(graph), run(graph, inputs))
    try:
        exact = numpy_call(function, tuple(_mapped(list(arguments), lambda a: a.astype(np.float32).astype(np.float64))))
    except (TypeError, ValueError, IndexError):
        exact = want
    as_list = [list(r) if isinstance(r, (list, tuple)) else [r] for r in (got, want, exact)]
    for have, wanted, true in zip(*as_list):
        compare(np.asarray(have), np.asarray(wanted), np.asarray(true), arrays, sums)
    return "given"


def compare(got: np.ndarray, want: np.ndarray, exact: np.ndarray, arrays: list[np.ndarray], sums: bool) -> None:
    if want.dtype.kind == "f" and want.dtype not in [a.dtype for a in arrays if a.dtype.kind == "f"]:
        with np.errstate(over="ignore"):
            want = want.astype(np.float32)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    if want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    magnitude = 0.0
    if sums:
        sizes = [np.abs(a[np.isfinite(a)].astype(np.float64)).max(initial=0) for a in (*arrays, want)]
        magnitude = float(max(sizes))
    eps = float(np.finfo(want.dtype).eps) * (16 if sums else 4)
    with np.errstate(all="ignore"):
        held = close(got, want, eps, magnitude) | (
            close(got, exact.astype(want.dtype), eps, magnitude) if exact.shape == want.shape else False
        )
    wrong = np.flatnonzero(~held)
    assert not len(wrong), f"at {wrong[:5]} of {got.size}: {got.ravel()[wrong[:5]]} for {want.ravel()[wrong[:5]]}"


def name_of(function: Callable[..., Any]) -> str:
    known = [*UFUNCS, *FUNCTIONS]
    short = function.__name__
    return short if [f.__name__ for f in known].count(short) == 1 else f"{function.__module__.split('.')[-1]}.{short}"


OF_SIZES = {np.shape, np.ndim, np.size}
"""Functions of shapes alone, whose results are no arrays."""
CASES = [(function, dtype) for function in (*UFUNCS, *FUNCTIONS) if function not in OF_SIZES for dtype in DTYPES]


def test_every_function_has_a_recipe() -> None:
    assert set(FUNCTIONS) - OF_SIZES == set(RECIPES)


def all_outcomes(function: Callable[..., Any], dtype: np.dtype) -> set[str]:
    calls = ufunc_arguments(function, dtype) if isinstance(function, np.ufunc) else RECIPES[function](dtype)
    return {outcome(function, arguments, function in SUMS or function is np.matmul) for arguments in calls}


def test_terms_that_cancel() -> None:
    """log(e^x + e^y) is 0 on a curve, near which the two terms that make it have to be known in more digits."""
    y = np.linspace(-5, -0.05, 200)
    x = np.log1p(-np.exp(y)) + np.random.default_rng(0).normal(size=200) * 0.01
    assert outcome(np.logaddexp, (x.astype(np.float16), y.astype(np.float16)), False) == "given"


@pytest.mark.parametrize(("function", "dtype"), CASES, ids=[f"{name_of(f)}-{d}" for f, d in CASES])
def test_equal_or_refused(function: Callable[..., Any], dtype: np.dtype) -> None:
    assert ("refused" in all_outcomes(function, dtype)) == (name_of(function) in refused_in_docs("numpy", str(dtype)))
