"""Linear layers at sizes around the tile, on every level."""

from __future__ import annotations

import pytest

from qcompiler.types import tensor
from tests.backends.rules.harness import check_op


@pytest.mark.sampled(3)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 13, 14, 15, 29])
@pytest.mark.parametrize("depth,outputs", [(1, 1), (3, 33), (64, 10), (65, 32), (130, 65)])
def test_linear(rows: int, depth: int, outputs: int, quantized: bool) -> None:
    check_op(
        "linear",
        (
            tensor("f32", rows, depth),
            tensor("f32", outputs, depth),
            tensor("f32", outputs),
            tensor("f32", rows, outputs),
        ),
        {"activation": "relu"},
        quantized=quantized,
        bound=1e-5,
        threads=(1, 2),
    )


@pytest.mark.parametrize("rows,depth,outputs", [(1, 1, 1), (3, 7, 15), (14, 8, 16), (5, 33, 70)])
def test_linear_with_weights_that_are_not_constant(rows: int, depth: int, outputs: int) -> None:
    check_op(
        "linear",
        (tensor("f32", rows, depth), tensor("f32", outputs, depth), tensor("f32", outputs)),
        {"activation": "relu"},
        fed=(1, 2),
        bound=1e-5,
    )
