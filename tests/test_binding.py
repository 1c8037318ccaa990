"""Models with symbolic sizes, called with every size from 0 on, also those that an op does not take.

A call gives what the same model gives when it is compiled for that size alone, or an error that names a size which
works.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.errors import InputError, QCompilerError

F = qc.nn.functional
RNG = np.random.default_rng(0)


def _weight(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


WEIGHTS = _weight(3, 2, 3), _weight(3, 2, 3, 2), _weight(2, 3, 3)

# name -> (model, shape with sizes that fit, symbolic axes)
MODELS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], tuple[int, ...]]] = {
    "max_pool": (lambda x: F.max_pool2d(x, 2) + 1, (1, 2, 6, 4), (2,)),
    "max_pool of both axes": (lambda x: F.max_pool2d(x, (2, 3)), (1, 2, 6, 6), (2, 3)),
    "max_pool, dilated": (lambda x: F.max_pool1d(x, 3, 1, 0, 2), (2, 2, 8), (2,)),
    "max_pool, padded": (lambda x: F.max_pool1d(x, 4, 2, 2), (2, 2, 8), (2,)),
    "max_pool, ceil": (lambda x: F.max_pool1d(x, 3, 2, 1, ceil_mode=True), (2, 2, 8), (2,)),
    "avg_pool": (lambda x: F.avg_pool1d(x, 3), (2, 2, 8), (2,)),
    "avg_pool, ceil": (lambda x: F.avg_pool1d(x, 3, 2, 1, True), (2, 2, 8), (2,)),
    "global pool": (lambda x: F.adaptive_avg_pool2d(x, 1), (1, 2, 4, 4), (2,)),
    "two pools": (lambda x: F.max_pool1d(F.max_pool1d(x, 2), 3), (1, 2, 12), (2,)),
    "conv": (lambda x: F.conv1d(x, WEIGHTS[0]), (2, 2, 8), (2,)),
    "conv, stride and dilation": (lambda x: F.conv1d(x, WEIGHTS[0], None, 2, 1, 3), (2, 2, 12), (2,)),
    "conv, padded": (lambda x: F.conv1d(x, WEIGHTS[0], None, 1, 2), (2, 2, 8), (2,)),
    "conv of both axes": (lambda x: F.conv2d(x, WEIGHTS[1]), (1, 2, 8, 8), (2, 3)),
    "conv_transpose": (lambda x: F.conv_transpose1d(x, WEIGHTS[2], None, 1, 2), (2, 2, 8), (2,)),
    "slice to": (lambda x: x[:, :5] * 2, (2, 8), (1,)),
    "slice from": (lambda x: x[:, 3:] * 2, (2, 8), (1,)),
    "slice before the end": (lambda x: x[:, :-3] * 2, (2, 8), (1,)),
    "slice of the end": (lambda x: x[:, -3:] * 2, (2, 8), (1,)),
    "slice by steps": (lambda x: x[:, 1::3] * 2, (2, 8), (1,)),
    "one element": (lambda x: x[:, 4] + 1, (2, 8), (1,)),
    "the last element": (lambda x: x[:, -2] + 1, (2, 8), (1,)),
    "pad, reflect": (lambda x: F.pad(x, (3, 2), "reflect"), (2, 2, 8), (2,)),
    "pad, replicate": (lambda x: F.pad(x, (3, 2), "replicate"), (2, 2, 8), (2,)),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), (1, 4, 3, 3), (2,)),
    "softmax": (lambda x: F.softmax(x, 1), (2, 8), (1,)),
    "max": (lambda x: x.max(axis=1), (2, 8), (1,)),
    "argmax": (lambda x: x.argmax(axis=1), (2, 8), (1,)),
    "sum": (lambda x: x.sum(axis=1), (2, 8), (1,)),
    "group_norm": (lambda x: F.group_norm(x, 2), (2, 4, 4), (2,)),
    "layer_norm, batch": (lambda x: F.layer_norm(x, (8,)), (3, 8), (0,)),
    "sum of computed elements": (lambda x: np.exp(x).sum(axis=2), (2, 2, 8), (2,)),
    "padding of computed elements": (lambda x: F.pad(np.exp(x), (1, 2)), (2, 2, 8), (2,)),
    "reshape": (lambda x: x.reshape(x.shape[0], 2, -1) * 2, (4, 6), (0,)),
    "concat": (lambda x: np.concatenate([x, x[:, :2]], 1), (2, 6), (1,)),
}
SIZES = (0, 1, 2, 3, 4, 5, 6, 7, 9)


@pytest.mark.parametrize("target", ["native", "reference"])
@pytest.mark.parametrize("name", MODELS)
def test_every_size_gives_the_model_s_answer_or_an_error_that_names_one(name: str, target: str) -> None:
    model, shape, axes = MODELS[name]
    x = RNG.normal(size=shape).astype(np.float32)
    named = {axis: f"S{axis}" for axis in axes}
    compiled = qc.compile(model, None, (x,), dynamic={0: named}, target=target)
    rng = np.random.default_rng(len(name))
    for _ in range(len(SIZES)):
        sizes = {axis: int(rng.choice(SIZES)) for axis in axes} if len(axes) > 1 else {axes[0]: SIZES[_]}
        array = _sized(shape, sizes, rng)
        try:
            got = compiled(array)
        except InputError as error:
            _check_error(error, compiled, shape, sizes, rng)
            continue
        static = qc.compile(model, None, (array,), target=target)(array)
        assert (got.shape, got.dtype) == (static.shape, static.dtype)
        assert np.array_equal(got, static, equal_nan=True)


def _sized(shape: tuple[int, ...], sizes: dict[int, int], rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=[sizes.get(axis, size) for axis, size in enumerate(shape)]).astype(np.float32)


def _check_error(
    error: InputError, compiled: qc.CompiledModel, shape: tuple[int, ...], sizes: dict[int, int], rng: Any
) -> None:
    """Check that the error names each size, its input and its axis, and the smallest sizes that fit: these fit, and one
    less does not."""
    for axis, size in sizes.items():
        assert f"S{axis} = {size} (input 'x', axis {axis})" in str(error.got)
    fitting = {int(axis): int(size) for axis, size in re.findall(r"S(\d) = (\d+) is the smallest", str(error.expected))}
    assert fitting
    compiled(_sized(shape, {**sizes, **fitting}, rng))
    for axis, size in fitting.items():
        if size > 1:
            with pytest.raises(InputError):
                compiled(_sized(shape, {**sizes, **fitting, axis: size - 1}, rng))


def test_a_quantized_model_checks_its_sizes_too() -> None:
    x = RNG.normal(size=(2, 2, 8)).astype(np.float32)
    model = MODELS["conv, stride and dilation"][0]
    for target in ("native", "reference"):
        compiled = qc.compile(model, "int8", (x,), calibration_data=[x], dynamic={0: {2: "S"}}, target=target)
        assert compiled(x).shape == model(x).shape
        with pytest.raises(InputError, match=r"S = 5 is the smallest"):
            compiled(x[:, :, :3])


def test_calibration_data_checks_its_sizes_too() -> None:
    x = RNG.normal(size=(2, 2, 8)).astype(np.float32)
    with pytest.raises(QCompilerError, match=r"S = 5 is the smallest"):
        qc.compile(
            MODELS["conv, stride and dilation"][0], "int8", (x,), calibration_data=[x[:, :, :3]], dynamic={0: {2: "S"}}
        )


def test_bounds_of_a_slice_may_be_symbolic() -> None:
    """What a bound is taken to be holds for each call, or the call is refused."""
    graph = qc.parse(
        """qcompiler 1
        graph g(%x: f32[S,2], %table: f32[8]) stage=float {
          %head = slice(%table) {axes=(0,), starts=(0,), stops=("S",), steps=(1,)} : f32[S]
          %rest = slice(%table) {axes=(0,), starts=("S",), stops=("S+2",), steps=(1,)} : f32[2]
          return %head, %rest
        }
        """
    )
    table = np.arange(8, dtype=np.float32)
    for target in ("reference", "native"):
        compiled = qc.compile(graph, None, target=target)
        for size in (1, 4, 6):
            head, rest = compiled(np.zeros((size, 2), np.float32), table)
            assert head.tolist() == list(range(size)) and rest.tolist() == [size, size + 1]
        with pytest.raises(InputError, match="S = 7"):
            compiled(np.zeros((7, 2), np.float32), table)
