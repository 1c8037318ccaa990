"""Gathers and scatters of indices outside of their axes: a call is refused, compiled as interpreted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.errors import InputError

Model = Callable[..., object]


def _module(function: Callable[..., object]) -> object:
    torch = pytest.importorskip("torch")

    class Module(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, *args: object) -> object:
            return function(*args)

    return Module().eval()


X = np.arange(12, dtype=np.float32).reshape(4, 3)
INSIDE = np.array([0, 3, -1, 2])
MODELS: dict[str, Model] = {
    "gather": lambda x, i: x[i],
    "gather_elements": lambda x, i: x.gather(0, i[:, None]),
    "gather_nd": lambda x, i: x[i, i.clamp(-3, 2)],
    "scatter_nd": lambda x, i: x.index_put((i,), x[0]),
    "scatter_nd_reduce": lambda x, i: x.index_add(0, i, x),
}


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("op", MODELS)
def test_indices_outside_are_refused(op: str, wide: bool) -> None:
    dtype = np.int64 if wide else np.int32
    module = _module(lambda x, i: MODELS[op](x, i if wide else i.long()))
    inside = np.abs(INSIDE).astype(dtype)
    for threads in (1, 2):
        model = qc.compile(module, None, (X, inside), threads=threads)
        assert [node.op for node in model.graph.nodes if node.op == op] == [op]
        assert not model.program.python_nodes
        again = qc.compile(model.graph, None, target="reference")
        for legal in (inside, INSIDE.astype(dtype), np.array([-4, 3, -4, 3], dtype)):
            np.testing.assert_array_equal(model(X, legal), again(X, legal))
        extremes = (np.iinfo(dtype).min, np.iinfo(dtype).max)
        for place, index in ((0, 4), (3, -5), (2, extremes[0]), (1, extremes[1])):
            outside = inside.copy()
            outside[place] = index
            for each in (model, again):
                with pytest.raises(InputError, match=f"index.*outside.*\n.*%{op}") as caught:
                    each(X, outside)
                assert str(caught.value.got) == str(index) and "-4 to 3" in str(caught.value.expected)
        np.testing.assert_array_equal(model(X, inside), again(X, inside))


def test_each_check_of_a_model_counts() -> None:
    model = qc.compile(_module(lambda x, i, j: (x[i], x[:2][j])), None, (X, np.abs(INSIDE), np.array([0, 1])))
    assert [found.shape for found in model(X, np.abs(INSIDE), np.array([0, 1]))] == [(4, 3), (2, 3)]
    with pytest.raises(InputError, match="-2 to 1"):
        model(X, np.abs(INSIDE), np.array([0, 2]))
    with pytest.raises(InputError, match="-4 to 3"):
        model(X, np.array([0, 0, 0, 4]), np.array([0, 1]))


def test_known_indices_into_an_open_axis() -> None:
    model = qc.compile(lambda x: x[[0, 2, -1]], None, X, dynamic={0: {0: "B"}})
    np.testing.assert_array_equal(model(X[:3]), X[[0, 2, 2]])
    with pytest.raises(InputError, match="-2 to 1"):
        model(X[:2])
    with pytest.raises(InputError, match="outside"):  # nothing is read of an axis without elements
        model(X[:0])
    np.testing.assert_array_equal(model(X), X[[0, 2, 3]])


@pytest.mark.parametrize("op", ["gather", "scatter_nd_reduce"])
def test_sizes_with_which_nothing_is_indexed(op: str) -> None:
    module = _module(
        (lambda x, i: x[i]) if op == "gather" else lambda x, i: x.index_add(0, i, x[:1].expand(i.shape[0], 3))
    )
    model = qc.compile(module, None, (X, np.abs(INSIDE)), dynamic={1: {0: "N"}})
    reference = qc.compile(model.graph, None, target="reference")
    for count in (0, 3, 0, 2):
        given = np.abs(INSIDE)[:count]
        np.testing.assert_array_equal(model(X, given), reference(X, given))
    with pytest.raises(InputError, match="outside"):
        model(X, np.array([4, 0]))


def test_a_saved_program_checks_indices(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QC_CACHE", f"{tmp_path}/cache")
    qc.compile(_module(lambda x, i: x[i]), None, (X, np.abs(INSIDE))).save(f"{tmp_path}/m.qc.safetensors")
    for _ in range(2):  # the second comes from the cache
        model = qc.load(f"{tmp_path}/m.qc.safetensors")
        np.testing.assert_array_equal(model(X, INSIDE), X[INSIDE])
        with pytest.raises(InputError, match="index"):
            model(X, INSIDE + 1)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sort(0),
        lambda x: x.topk(2, -1),
        lambda x: x.max(1),
        lambda x: x[[1, -1]],
        lambda x: x.gather(1, x.argmin(1, keepdim=True)),
    ],
)
def test_indices_that_cannot_be_outside_are_not_checked(function: Model) -> None:
    model = qc.compile(_module(function), None, X)
    image = model.program.image()
    assert not image.has_index_checks and not image.index_checks
