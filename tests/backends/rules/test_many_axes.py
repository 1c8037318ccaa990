"""Tensors of 6 to 8 axes on every level: the ops that move, repeat, combine and reduce elements, in orders and sizes
drawn by seed.

Some axes have one element, so some reductions reduce nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qcompiler.types import MAX_RANK, DType, tensor
from tests.backends.rules.harness import check_op

Case = tuple[list[Any], dict[str, Any]]
RANKS = (6, 7, MAX_RANK)


def _shape(rng: np.random.Generator, rank: int) -> tuple[int, ...]:
    return tuple(int(size) for size in rng.choice([1, 2, 2, 3], rank))


def _some_axes(rng: np.random.Generator, rank: int) -> tuple[int, ...]:
    return tuple(sorted(int(axis) for axis in rng.permutation(rank)[: rng.integers(1, rank + 1)]))


def _transpose(rng: np.random.Generator, rank: int) -> Case:
    return [tensor("f32", *_shape(rng, rank))], {"perm": tuple(int(axis) for axis in rng.permutation(rank))}


def _reverse(rng: np.random.Generator, rank: int) -> Case:
    return [tensor("f32", *[2] * rank)], {"perm": tuple(reversed(range(rank)))}


def _flip(rng: np.random.Generator, rank: int) -> Case:
    return [tensor("f32", *_shape(rng, rank))], {"axes": _some_axes(rng, rank)}


def _tile(rng: np.random.Generator, rank: int) -> Case:
    repeats = tuple(int(count) for count in rng.choice([1, 2], rank))
    return [tensor("f32", *(min(size, 2) for size in _shape(rng, rank)))], {"repeats": repeats}


def _tile_each_axis(rng: np.random.Generator, rank: int) -> Case:
    return [tensor("f32", *[2] * rank)], {"repeats": (2,) * rank}


def _expand(rng: np.random.Generator, rank: int) -> Case:
    shape = _shape(rng, rank)
    return [tensor("f32", *np.where(rng.random(rank) < 0.5, 1, shape).tolist())], {"shape": shape}


def _slice(rng: np.random.Generator, rank: int) -> Case:
    shape = tuple(size + 1 for size in _shape(rng, rank))
    bounds = {"starts": (1,) * rank, "stops": shape, "steps": (1,) * rank}
    return [tensor("f32", *shape)], {"axes": tuple(range(rank)), **bounds}


def _concat(rng: np.random.Generator, rank: int) -> Case:
    shape = _shape(rng, rank)
    return [tensor("f32", *shape), tensor("f32", *shape)], {"axis": int(rng.integers(rank))}


def _pad(rng: np.random.Generator, rank: int) -> Case:
    padded = rng.permutation(rank)[:3]
    padding = tuple((1, 1) if axis in padded else (0, 0) for axis in range(rank))
    mode = str(rng.choice(["constant", "edge"]))
    return [tensor("f32", *_shape(rng, rank))], {"padding": padding, "mode": mode}


def _pixel_shuffle(rng: np.random.Generator, rank: int) -> Case:
    return [tensor("f32", *_shape(rng, rank - 3), 8, 2, 3)], {"factor": 2}


def _pixel_unshuffle(rng: np.random.Generator, rank: int) -> Case:
    return [tensor("f32", *_shape(rng, rank - 3), 2, 4, 6)], {"factor": 2}


def _channel_shuffle(rng: np.random.Generator, rank: int) -> Case:
    return [tensor("f32", 2, 6, *_shape(rng, rank - 2))], {"groups": 3}


def _gather(rng: np.random.Generator, rank: int) -> Case:
    return [tensor("f32", *_shape(rng, rank)), np.array([0, 0])], {"axis": int(rng.integers(rank))}


def _gather_elements(rng: np.random.Generator, rank: int) -> Case:
    shape, axis = _shape(rng, rank), int(rng.integers(rank))
    return [tensor("f32", *shape), rng.integers(0, shape[axis], shape)], {"axis": axis}


def _softmax(rng: np.random.Generator, rank: int) -> Case:
    return [tensor("f32", *_shape(rng, rank))], {"axis": int(rng.integers(rank))}


def _binary(rng: np.random.Generator, rank: int) -> Case:
    shape = _shape(rng, rank)
    operands = (tensor("f32", *np.where(rng.random(rank) < 0.4, 1, shape).tolist()) for _ in range(2))
    return list(operands), {}


def _alternating(rng: np.random.Generator, rank: int) -> Case:
    """Operands that repeat along every second axis, so that no two axes merge."""
    x, y = ([2 if axis % 2 == odd else 1 for axis in range(rank)] for odd in (0, 1))
    return [tensor("f32", *x), tensor("f32", *y)], {}


def _reduction(rng: np.random.Generator, rank: int) -> Case:
    return [tensor("f32", *_shape(rng, rank))], {"axes": _some_axes(rng, rank), "keepdims": bool(rng.integers(2))}


def _every_second(rng: np.random.Generator, rank: int) -> Case:
    return [tensor("f32", *[2] * rank)], {"axes": tuple(range(0, rank, 2)), "keepdims": False}


MOVING: dict[str, tuple[str, Callable[[np.random.Generator, int], Case]]] = {
    "transpose": ("transpose", _transpose),
    "reverse": ("transpose", _reverse),
    "flip": ("flip", _flip),
    "tile": ("tile", _tile),
    "tile_each_axis": ("tile", _tile_each_axis),
    "expand": ("expand", _expand),
    "slice": ("slice", _slice),
    "concat": ("concat", _concat),
    "pad": ("pad", _pad),
    "pixel_shuffle": ("pixel_shuffle", _pixel_shuffle),
    "pixel_unshuffle": ("pixel_unshuffle", _pixel_unshuffle),
    "channel_shuffle": ("channel_shuffle", _channel_shuffle),
    "gather": ("gather", _gather),
    "gather_elements": ("gather_elements", _gather_elements),
    "softmax": ("softmax", _softmax),
    "add": ("add", _binary),
    "mul_alternating": ("mul", _alternating),
    "mean": ("mean", _reduction),
    "sum": ("sum", _reduction),
    "max": ("max", _reduction),
    "sum_every_second": ("sum", _every_second),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("name", MOVING)
def test_many_axes(name: str, rank: int, quantized: bool) -> None:
    op, draw = MOVING[name]
    rank = min(rank, MAX_RANK - 1) if op == "gather" and name == "gather" else rank  # one axis of indices replaces one
    for seed in range(2):
        operands, attrs = draw(np.random.default_rng(100 * rank + seed), rank)
        check_op(op, operands, attrs, quantized=quantized, seed=seed, threads=(1, 3))


ONE_ELEMENT = [
    ((1,), (0,)),
    ((1, 1), (1,)),
    ((1, 1), (0, 1)),
    ((1, 1, 1), (1, 2)),
    ((1, 1, 1, 1), (2, 3)),
    ((4, 1), (1,)),
    ((1, 4), (0,)),
    ((2, 3, 1, 1), (2, 3)),
    ((3, 1, 5, 1), (1, 3)),
    ((1,) * MAX_RANK, (0, 7)),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("shape,axes", ONE_ELEMENT)
def test_reduced_axes_of_one_element(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> None:
    attrs = {"axes": axes, "keepdims": keepdims}
    for op in ("sum", "mean", "max", "min", "prod"):
        check_op(op, [tensor("f32", *shape)], attrs, threads=(2,))
        if op != "prod":
            check_op(op, [tensor("f32", *shape)], attrs, quantized=True, threads=(2,))
    for op in ("sum", "max"):
        check_op(op, [tensor(DType.I64, *shape)], attrs, threads=(2,))
    if len(axes) == 1:
        check_op("argmax", [tensor("f32", *shape)], {"axis": axes[0], "keepdims": keepdims}, threads=(2,))


@pytest.mark.parametrize("axes", [(0,), (2,), (3,), (2, 3)])
def test_kept_axes_of_a_result_with_gaps(axes: tuple[int, ...]) -> None:
    """The result lies channels last with 6 channels of bytes, so it is not in one piece."""
    for quantized in (False, True):
        attrs = {"axes": axes, "keepdims": True}
        check_op("max", [tensor("f32", 3, 6, 4, 5)], attrs, quantized=quantized, behind_a_pool=True, threads=(2,))
