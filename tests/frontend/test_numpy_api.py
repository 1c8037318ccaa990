"""numpy functions on traced values against numpy itself."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.errors import ShapeError, TraceError
from qcompiler.frontend.tracer import trace
from qcompiler.interpreter import run
from qcompiler.signature import guards, structure_of
from qcompiler.structure import restore_outputs
from qcompiler.types import DType

RNG = np.random.default_rng(5)
X = RNG.uniform(-2, 2, (2, 3, 4)).astype(np.float32)
Y = RNG.uniform(0.5, 2, (2, 3, 4)).astype(np.float32)
W = RNG.uniform(-1, 1, (4, 5)).astype(np.float32)
I = np.array([[1, 0], [2, 1]])

UNARY = [
    np.negative,
    np.abs,
    np.exp,
    np.sin,
    np.cos,
    np.tanh,
    np.floor,
    np.ceil,
    np.rint,
    np.sign,
    np.square,
    np.exp2,
    np.expm1,
    np.sinh,
    np.cosh,
    np.tan,
    np.arctan,
    np.positive,
    np.isnan,
    np.isfinite,
    np.isinf,
    np.trunc,
]
POSITIVE = [np.sqrt, np.reciprocal, np.log, np.log1p, np.log2, np.log10]
BINARY = [
    np.add,
    np.subtract,
    np.multiply,
    np.divide,
    np.minimum,
    np.maximum,
    np.equal,
    np.not_equal,
    np.less,
    np.less_equal,
    np.greater,
    np.greater_equal,
    np.floor_divide,
    np.remainder,
    np.hypot,
    np.logaddexp,
    np.power,
    np.heaviside,
]
EXPRESSIONS = {
    "operators": lambda x, y: (x + y) * 2 - 1 / y + (-x) ** 2 + y**0.5 + abs(x) // y + x % y,
    "reflected": lambda x, y: 3 - x + 2 * y + 2.0 / y + (1 + x),
    "relu": lambda x, y: np.maximum(x @ W, 0),
    "bias": lambda x, y: x @ W + W[0],
    "masks": lambda x, y: np.where((x > 0) & ~(y < 1) | (x < -1), x, y),
    "xor": lambda x, y: (x > 0) ^ (y > 1),
    "compare": lambda x, y: (x >= y) * 2.0,
    "mask arithmetic": lambda x, y: x * (y > 1),
    "matmul": lambda x, y: np.matmul(x, y.transpose(0, 2, 1)),
    "matmul vector": lambda x, y: x @ W[:, 0],
    "vector matmul": lambda x, y: W[:3, 0] @ x,
    "dot": lambda x, y: np.dot(x, W),
    "inner": lambda x, y: np.inner(x, y[0]),
    "outer": lambda x, y: np.outer(x[0, 0], y[0, 1]),
    "tensordot": lambda x, y: np.tensordot(x, y, axes=([0, 2], [0, 2])),
    "einsum attention": lambda x, y: np.einsum("bid,bjd->bij", x, y),
    "einsum implicit": lambda x, y: np.einsum("bij,bjk", x, y.swapaxes(1, 2)),
    "einsum sum": lambda x, y: np.einsum("bij->j", x),
    "einsum outer": lambda x, y: np.einsum("bij,bkj->bikj", x, y),
    "einsum three": lambda x, y: np.einsum("bij,bkj,jl->bikl", x, y, W),
    "einsum ellipsis": lambda x, y: np.einsum("...ij,jk->...ik", x, W),
    "mean": lambda x, y: np.mean(x, axis=(0, 2)),
    "mean all": lambda x, y: x.mean(),
    "keepdims": lambda x, y: x - x.mean(axis=-1, keepdims=True),
    "sum": lambda x, y: np.sum(x, axis=1, keepdims=True),
    "prod": lambda x, y: np.prod(x, axis=2),
    "cumsum": lambda x, y: (
        np.cumsum(x, axis=1),
        np.cumsum(y),
        np.cumsum(x > 0, axis=0),
        np.cumsum((x * 5).astype(np.int32), axis=2),
        np.cumsum((x * 5).astype(np.int32), axis=2, dtype=np.int32),
    ),
    "max": lambda x, y: np.max(x, axis=0) + np.amin(y, axis=0),
    "var": lambda x, y: np.var(x, axis=2) + np.var(x, axis=2, ddof=1) + np.std(y, axis=2),
    "any": lambda x, y: np.any(x > 1, axis=1),
    "all": lambda x, y: np.all(x < 1, axis=1, keepdims=True),
    "count": lambda x, y: np.sum(x > 0, axis=1),
    "average": lambda x, y: np.average(x, axis=1, weights=y),
    "norm": lambda x, y: np.linalg.norm(x, axis=-1) + np.linalg.norm(x, 1, -1) + np.linalg.norm(x, np.inf, axis=-1),
    "argmax": lambda x, y: (np.argmax(x, axis=1), np.argmin(x, axis=2), np.argmax(x)),
    "reduce": lambda x, y: np.add.reduce(x, axis=1) + np.maximum.reduce(y, axis=1),
    "reshape": lambda x, y: np.reshape(x, (x.shape[0], -1)),
    "ravel": lambda x, y: np.ravel(x) + x.reshape(-1) + x.flatten(),
    "transpose": lambda x, y: (x.T, np.transpose(x, (1, 0, 2)), np.swapaxes(x, 0, 2), np.moveaxis(x, 0, -1)),
    "squeeze": lambda x, y: np.squeeze(x[:1, :, None]) + np.expand_dims(x[0, 0], (0,)),
    "concatenate": lambda x, y: np.concatenate([x, y, np.zeros((2, 1, 4))], axis=1),
    "concatenate flat": lambda x, y: np.concatenate((x, y), axis=None),
    "stack": lambda x, y: np.stack([x, y], axis=-1),
    "vstack": lambda x, y: np.vstack([x[0], y[0, 0]]),
    "hstack": lambda x, y: (np.hstack([x, y]), np.hstack([x[0, 0], y[0, 0]])),
    "column_stack": lambda x, y: np.column_stack([x[0, :, 0], y[0]]),
    "split": lambda x, y: tuple(np.split(x, 2, axis=2)) + tuple(np.split(x, [1, 3], axis=-1)),
    "array_split": lambda x, y: tuple(np.array_split(x, 3, axis=2)),
    "clip": lambda x, y: np.clip(x, -1, 1) + np.clip(x, 0, None) + x.clip(-0.5, y),
    "pad": lambda x, y: (
        np.pad(x, ((0, 0), (1, 2), (0, 1)), constant_values=1.5),
        np.pad(x, 1, mode="reflect")[1:-1],
        np.pad(x, ((0, 0), (0, 0), (2, 0)), "edge"),
    ),
    "take": lambda x, y: (np.take(x, I, axis=1), np.take(x, [0, -1], axis=2), np.take(x, [5, 7])),
    "take_along_axis broadcast": lambda x, y: np.take_along_axis(x, np.argmax(y, axis=1)[:1, None, :1], axis=1),
    "take_along_axis": lambda x, y: np.take_along_axis(x, np.argmax(y, axis=1)[:, None], axis=1),
    "repeat": lambda x, y: (np.repeat(x, 2, axis=1), np.repeat(x, [1, 0, 2], axis=1), np.repeat(x, 2)),
    "tile": lambda x, y: (np.tile(x, (2, 1, 3)), np.tile(x, 2), np.tile(x[0, 0], (2, 3))),
    "roll": lambda x, y: (np.roll(x, 1, axis=1), np.roll(x, (1, -2), axis=(0, 2)), np.roll(x, 5)),
    "triangles": lambda x, y: (np.tril(x), np.triu(y, -1), np.triu(x > 0, k=2)),
    "flip": lambda x, y: (np.flip(x), np.flip(x, 1), np.fliplr(x)),
    "like": lambda x, y: np.zeros_like(x) + np.ones_like(y) + np.full_like(x, 2.5),
    "broadcast_to": lambda x, y: np.broadcast_to(x[:, :1], (2, 3, 4)),
    "nan_to_num": lambda x, y: np.nan_to_num(x / (x - x) * np.sign(y)),
    "diff": lambda x, y: np.diff(x, axis=1),
    "atleast": lambda x, y: np.atleast_2d(x[0, 0]),
    "round": lambda x, y: np.round(x),
    "astype": lambda x, y: (x > 0).astype(np.float32) + np.floor(x).astype(np.int64),
    "shape": lambda x, y: x.reshape(np.shape(x)[0] * 3, np.size(x, 2)) * np.ndim(x),
    "list": lambda x, y: [x, {"y": y, "k": 3, "n": None}],
}
INDICES = [
    0,
    -1,
    np.s_[1:],
    np.s_[:-1],
    np.s_[..., 0],
    np.s_[:, 1],
    np.s_[:, -1],
    np.s_[::-1],
    np.s_[:, ::-2],
    np.s_[..., ::2],
    np.s_[:, None],
    np.s_[None, ..., None],
    np.s_[0, :, None, 1:3],
    np.s_[:, [0, 2]],
    np.s_[:, I],
    np.s_[1, [2, 0]],
    np.s_[:, 1:1],
    np.s_[..., -3:-1],
    np.s_[:, 2:0:-1],
    np.s_[..., 3:0:-2],
    np.s_[5:],
    np.s_[None, :, [1]],
    np.s_[:, :, -2:],
]


def check(function, *arrays: np.ndarray, rtol: float = 2e-6, dynamic: dict | None = None) -> None:
    """Check that the traced function equals the function itself, including the structure of its results."""
    graph = trace(function, arrays, dynamic=dynamic)
    got = restore_outputs(structure_of(graph), run(graph, list(arrays)))
    with np.errstate(all="ignore"):
        expected = function(*arrays)
    compare(got, expected, rtol)


def compare(got, expected, rtol: float) -> None:
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        got, expected = list(got.values()), list(expected.values())
    if isinstance(expected, (tuple, list)):
        assert len(got) == len(expected)
        for a, b in zip(got, expected):
            compare(a, b, rtol)
    elif isinstance(expected, (np.ndarray, np.generic)):
        assert got.shape == expected.shape
        kinds = {"f": "f", "b": "b", "i": "i"}
        assert got.dtype.kind == kinds[expected.dtype.kind]
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=2e-6)
    else:
        assert got == expected


@pytest.mark.parametrize("ufunc", UNARY, ids=lambda f: f.__name__)
def test_unary(ufunc) -> None:
    check(lambda x: ufunc(x), X)


@pytest.mark.parametrize("ufunc", POSITIVE, ids=lambda f: f.__name__)
def test_positive(ufunc) -> None:
    check(lambda x: ufunc(x), Y)


@pytest.mark.parametrize("ufunc", BINARY, ids=lambda f: f.__name__)
def test_binary(ufunc) -> None:
    check(lambda x, y: ufunc(y, x), X, Y)
    check(lambda y: (ufunc(y, 1.5), ufunc(1.5, y), ufunc(y, X[0])), Y)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expression(name: str) -> None:
    check(EXPRESSIONS[name], X, Y, rtol=2e-5)


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_index(index) -> None:
    check(lambda x: x[index], X)


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_index_of_a_dynamic_axis_serves_other_sizes(index) -> None:
    """The function is traced at 3 rows and run at 5: an index that counts from the end must follow."""
    example = RNG.standard_normal((2, 4, 3)).astype(np.float32)
    graph = trace(lambda x: x[index], (np.zeros((2, 3, 3), np.float32),), dynamic={"x": {1: "S"}})
    assert not guards(graph)
    np.testing.assert_array_equal(run(graph, [example])[0], example[index])


def test_int_constants_take_part_as_floats() -> None:
    graph = trace(lambda x: x * np.arange(4), (X,))
    assert [c.type.dtype for c in graph.consts.values()] == [DType.F32]


def test_indices_stay_integers() -> None:
    graph = trace(lambda x: x[:, [2, 0]], (X,))
    assert [c.type.dtype for c in graph.consts.values()] == [DType.I64]


def test_unsupported_function_names_the_nearest() -> None:
    with pytest.raises(TraceError, match=r"np\.nanmean is not supported[\s\S]*test_numpy_api\.py[\s\S]*np\.mean"):
        trace(lambda x: np.nanmean(x), (X,))
    with pytest.raises(TraceError, match=r"np\.arcsin is not supported"):
        trace(lambda x: np.arcsin(x), (X,))
    with pytest.raises(TraceError, match=r"np\.linalg\.inv is not supported"):
        trace(lambda x: np.linalg.inv(x), (X,))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: np.add(x, 1, out=np.zeros_like(X)), "existing array"),
        (lambda x: np.sum(x, where=X > 0), "np.sum"),
        (lambda x: np.where(x > 0), "depends on data"),
        (lambda x: x[x > 0], "depends on data"),
        (lambda x: np.interp(x, x[0, 0], [0, 1]), "points depend on data"),
        (lambda x: np.interp(x, [0, 0], [1, 2]), "malformed points"),
        (lambda x: np.interp(x, [0, 1, 2], [1, 2]), "malformed points"),
        (lambda x: np.interp(x, [0, 1], [1, 2], period=1), "with a period"),
        (lambda x: np.select([x > 0], [x, x]), "not one choice for each condition"),
        (lambda x: np.piecewise(x, [x > 0], [1, 2, 3]), "functions don't fit the conditions"),
        (lambda x: np.reshape(x, (-1,), order="F"), "another order"),
        (lambda x: np.split(x, 2, axis=1), "evenly"),
        (lambda x: np.add.accumulate(x), r"np.add.accumulate"),
        (lambda x: x[7], "outside of axis 0"),
        (lambda x: np.take(x, [9], axis=0), "outside of its axis"),
        (lambda x: x[0, 0, 0, 0], "too many indices"),
        (lambda x: np.mean(x, axis=3), "no axis 3"),
        (lambda x: np.einsum("ij->i", x), "does not fit its operand"),
        (lambda x: np.einsum("ijk,iik->k", x, x), "diagonals"),
        (lambda x: x & 1, "an integer type"),
    ],
)
def test_refused(function, message: str) -> None:
    with pytest.raises((TraceError, ShapeError), match=message):
        trace(function, (X,))


def test_several_index_arrays() -> None:
    """Arrays that index several axes broadcast; their axes stand where the indexed ones were, or first."""
    x = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    rows, columns = np.array([[0], [1]]), np.array([2, -1, 0])
    for index in (
        np.s_[rows, columns],
        np.s_[:, columns, columns],
        np.s_[rows, :, columns],
        np.s_[..., columns, columns],
        np.s_[None, 1:, columns, columns],
    ):
        graph = trace(lambda a, index=index: a[index], (x,))
        np.testing.assert_array_equal(run(graph, [x])[0], x[index])


def test_a_vectorized_function_is_refused_with_a_way_to_write_it() -> None:
    step = np.vectorize(lambda value: 1.0 if value > 0 else 0.5)
    with pytest.raises(TraceError, match=r"(?s)conversion to a numpy array depends on data.*np.vectorize.*np.select"):
        trace(step, (np.ones(3, np.float32),))
