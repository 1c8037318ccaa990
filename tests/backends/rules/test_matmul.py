"""Products of two activations, on every level."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.types import DType, QuantParams, tensor
from tests.backends.rules.harness import check_op


@pytest.mark.sampled(8)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 13, 17])
@pytest.mark.parametrize(
    "k,n", [(1, 1), (2, 15), (3, 16), (4, 17), (5, 31), (7, 32), (8, 33), (9, 63), (16, 64), (33, 65), (64, 130)]
)
def test_sizes_around_the_tile(m: int, k: int, n: int, quantized: bool) -> None:
    check_op("matmul", (tensor("f32", m, k), tensor("f32", k, n)), quantized=quantized, bound=1e-5)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize(
    "x,y",
    [
        ((3, 4, 5), (3, 5, 6)),
        ((2, 1, 4, 9), (3, 9, 7)),
        ((4, 9), (2, 3, 9, 7)),
        ((2, 3, 4, 9), (9, 7)),
        ((2, 3, 4, 9), (1, 3, 9, 1)),
        ((1, 1, 2, 3, 4), (2, 2, 1, 4, 5)),
    ],
)
def test_batches_broadcast(x: tuple[int, ...], y: tuple[int, ...], quantized: bool) -> None:
    check_op("matmul", (tensor("f32", *x), tensor("f32", *y)), quantized=quantized, bound=1e-5)


@pytest.mark.parametrize("quantized", [True, False])
def test_symbolic_and_empty(quantized: bool) -> None:
    check_op("matmul", (tensor("f32", 3, 4, 5), tensor("f32", 3, 5, 6)), quantized=quantized, dynamic=True)
    check_op("matmul", (tensor("f32", 17, 5), tensor("f32", 5, 6)), quantized=quantized, constants=(1,))
    for shapes in (((0, 4, 5), (5, 6)), ((2, 0, 5), (5, 6)), ((2, 3, 5), (5, 0))):
        check_op("matmul", [tensor("f32", *shape) for shape in shapes], quantized=quantized)
    if not quantized:
        check_op("matmul", (tensor("f32", 3, 0), tensor("f32", 0, 5)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("codes", [(0, 0), (0, 255), (255, 255), (255, 0)])
@pytest.mark.parametrize("zeros", [(0, 0), (0, 255), (255, 255), (128, 3)])
@pytest.mark.parametrize("k", [3, 64, 4608])
def test_extremes_are_exact(codes: tuple[int, int], zeros: tuple[int, int], k: int) -> None:
    params = {i: QuantParams.per_tensor(1.0, zero, DType.U8) for i, zero in enumerate(zeros)}
    x = np.full((3, k), float(codes[0] - zeros[0]), np.float32)
    y = np.full((k, 35), float(codes[1] - zeros[1]), np.float32)
    check_op("matmul", (x, y), quantized=True, params=params, out=QuantParams.per_tensor(float(300 * k), 128, DType.U8))


def test_nan_and_infinity() -> None:
    x, y = np.ones((5, 7), np.float32), np.ones((7, 19), np.float32)
    x[1, 2], x[2, 3], y[4, 5], y[4, 6] = np.nan, np.inf, np.inf, np.nan
    check_op("matmul", (x, y))
