"""Copies that change the order of axes, at sizes around the tile, put the same bytes in other places on every level."""

from __future__ import annotations

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.ir import Graph
from qcompiler.types import tensor
from tests.backends.levels import programs

DTYPES = {1: "u8", 2: "i16", 4: "f32", 8: "i64"}


def _transpose(dtype: str, shape: tuple[int, ...], perm: tuple[int, ...]) -> Graph:
    graph = Graph("g")
    graph.set_outputs(graph.create("transpose", [graph.add_input("x", tensor(dtype, *shape))], {"perm": perm}).results)
    return graph


@pytest.mark.parametrize("itemsize", DTYPES)
@pytest.mark.parametrize(
    "rows,columns", [(1, 5), (2, 2), (3, 40), (4, 4), (15, 17), (16, 16), (17, 15), (33, 3), (40, 64), (64, 1)]
)
def test_matrices(rows: int, columns: int, itemsize: int) -> None:
    rng = np.random.default_rng(rows * columns)
    dtype = DTYPES[itemsize]
    x = rng.integers(0, 100, (2, rows, columns)).astype(tensor(dtype, 1).dtype.numpy)
    graph = _transpose(dtype, x.shape, (0, 2, 1))
    for _, program in programs(graph):
        for threads in (1, 2, 3):
            [y] = program.run([x], threads=threads)
            assert np.array_equal(y, x.transpose(0, 2, 1))


@pytest.mark.parametrize("perm", [(0, 3, 1, 2), (0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 3, 2), (2, 0, 3, 1)])
def test_any_order_of_four_axes(perm: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float32)
    compiled = qc.compile(_transpose("f32", x.shape, perm), None)
    assert np.array_equal(compiled(x), x.transpose(perm))
