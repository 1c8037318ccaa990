"""Products of extreme codes over long sums are exact on every level of AArch64, and the comparison notices an i16 sum
that overflows.

Every accumulator is known: the bias takes back what the codes sum to, so that each output is a small number of its
channel, with a multiplier of 1. An error of one unit shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from qcompiler.backends.arm.target import LEVELS, ArmTarget
from qcompiler.backends.codegen import kernel_store
from qcompiler.backends.kernel_ir.builder import KernelBuilder
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.target import parse_target
from qcompiler.interpreter import run as interpret
from qcompiler.ir import Graph
from qcompiler.types import DType, QuantParams
from tests.backends.levels import is_executed, lower_for
from tests.backends.rules.harness import one_node

Case = tuple[Graph, list[np.ndarray]]
ZEROS = (0, 128, 255)
OUT = QuantParams.per_tensor(1.0, 100, DType.U8)
WEIGHTS: dict[str, tuple[int, ...]] = {
    "lowest": (-128,), "low": (-127,), "high": (127,), "in turn": (-128, 127),
    "in fours": (-128,) * 4 + (127,) * 4, "odd": (127, -128, -127),
}  # fmt: skip
"""The weights, repeated along K."""


def weighted(op: str, data: np.ndarray, weights: np.ndarray, zero_point: int, attrs: Mapping[str, Any]) -> Case:
    """An op with real = code - zero_point, weights and outputs of scale 1, and a bias that leaves -45, -44 ... of the
    sum where there is no padding.

    data: codes u8[n, c, ...], either all equal or as many in a sample as an output sees. weights: i8[outputs, ...].
    """
    x = QuantParams.per_tensor(1.0, zero_point, DType.U8)
    outputs = len(weights)
    w = QuantParams.per_channel([1.0] * outputs, 0, 0, DType.I8, -128, 127)
    real = data.astype(np.float32) - zero_point
    rows = weights.astype(np.float64).reshape(outputs, -1)
    seen = real[0].reshape(-1) if real[0].size == rows.shape[1] else np.full(rows.shape[1], real.reshape(-1)[0])
    arrays = [real, weights.astype(np.float32), np.arange(outputs) % 90 - 45 - rows @ seen]
    return one_node(op, arrays, attrs, quantized=True, params={0: x, 1: w}, out=OUT)


def filled(shape: tuple[int, ...], pattern: str) -> np.ndarray:
    return np.resize(np.array(WEIGHTS[pattern], np.int8), shape)


def linear(code: int, zero_point: int, pattern: str, depth: int = 4610) -> Case:
    return weighted("linear", np.full((5, depth), code, np.uint8), filled((19, depth), pattern), zero_point, {})


def conv(code: int, zero_point: int, pattern: str, channels: int = 513, size: int = 3, groups: int = 1) -> Case:
    """A convolution with K = 9 * 513 = 4617. The outputs that padding touches are clipped."""
    attrs = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": groups}
    outputs = channels if groups == channels else 21 * groups
    weights = np.stack([filled((channels // groups, size, size), pattern)] * outputs)
    return weighted("conv", np.full((1, channels, 4, 5), code, np.uint8), weights, zero_point, attrs)


def pointwise(code: int, zero_point: int, pattern: str) -> Case:
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    return weighted(
        "conv", np.full((1, 4612, 3, 3), code, np.uint8), filled((33, 4612, 1, 1), pattern), zero_point, attrs
    )


def depthwise(code: int, zero_point: int, pattern: str) -> Case:
    return conv(code, zero_point, pattern, channels=37, size=3, groups=37)


def grouped(code: int, zero_point: int, pattern: str) -> Case:
    return conv(code, zero_point, pattern, channels=64, size=3, groups=2)


MODELS: dict[str, Callable[[int, int, str], Case]] = {
    "linear": linear, "conv": conv, "pointwise": pointwise, "depthwise": depthwise, "grouped": grouped,
}  # fmt: skip


def same(case: Case, level: str) -> bool:
    """Whether a level gives the interpreter's bits, on one thread and on two. True if tests do not execute the
    program."""
    graph, inputs = case
    (want,) = interpret(graph, inputs)
    target = parse_target(f"aarch64-linux+{level}")
    lowered = lower_for(graph, target)
    assert not lowered.python_nodes
    program = lowered.bind({})
    if not is_executed(graph, program, target):
        return True
    return all(np.array_equal(program.run(inputs, threads=threads)[0], want) for threads in (1, 2))


def known(case: Case) -> bool:
    """Whether the interpreter gives 55, 56 ... by channel wherever there is no padding."""
    graph, inputs = case
    (got,) = interpret(graph, inputs)
    middle = got if got.ndim == 2 else got[..., 1:-1, 1:-1].transpose(0, 2, 3, 1).reshape(-1, got.shape[1])
    return bool((middle == np.arange(got.shape[1]) % 90 + 55).all())


@pytest.mark.sampled(6)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("pattern", WEIGHTS)
@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("model", MODELS)
def test_extreme_codes_are_exact(model: str, code: int, pattern: str, level: str) -> None:
    for zero_point in ZEROS:
        case = MODELS[model](code, zero_point, pattern)
        assert known(case)
        assert same(case, level), f"zero point {zero_point}"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("zero_point", ZEROS)
def test_extreme_codes_at_random_are_exact(zero_point: int, level: str) -> None:
    """Codes are 0 or 255 and weights one of three extremes, in a linear layer and in a convolution that sees its whole
    image."""
    rng = np.random.default_rng(zero_point)
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    for op, shape, outputs, given in (("linear", (4610,), 70, {}), ("conv", (517, 3, 3), 35, attrs)):
        data = np.stack([rng.choice([0, 255], shape)] * 3).astype(np.uint8)
        case = weighted(op, data, rng.choice([-128, -127, 127], (outputs, *shape)).astype(np.int8), zero_point, given)
        (want,) = interpret(*case)
        assert (want.reshape(3, outputs) == np.arange(outputs) % 90 + 55).all()
        assert same(case, level), op


def product(codes: tuple[int, int], zeros: tuple[int, int], k: int, seed: int | None = None) -> Case:
    """A matmul of u8 by u8. seed: draws the codes 0 and 255 at random instead."""
    rng = np.random.default_rng(seed)
    shapes = ((7, k), (k, 18))
    data = [np.full(shape, code) if seed is None else rng.choice([0, 255], shape) for shape, code in zip(shapes, codes)]
    real = [(each - zero).astype(np.float32) for each, zero in zip(data, zeros)]
    params = {index: QuantParams.per_tensor(1.0, zero, DType.U8) for index, zero in enumerate(zeros)}
    return one_node("matmul", real, {}, quantized=True, params=params)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("zeros", [(0, 0), (0, 255), (255, 0), (255, 255), (128, 128)])
def test_matmul_of_extreme_codes_is_exact(zeros: tuple[int, int], level: str) -> None:
    for codes in ((0, 0), (0, 255), (255, 0), (255, 255)):
        assert same(product(codes, zeros, 4609), level), codes
    assert same(product((0, 0), zeros, 4609, seed=3), level)


# -- the tests see what they are for


def careless_dot4(
    self: ArmTarget, b: KernelBuilder, acc: Value, x: Value | tuple[Value, ...], w: Value | tuple[Value, ...]
) -> Value:
    """A wrong dot4 for neon, which adds the products of even and of odd bytes in i16. Only two products of (-128)^2
    overflow there."""
    xs = x if isinstance(x, tuple) else self.dot4_activations(b, x)
    ws = w if isinstance(w, tuple) else self.dot4_weights(b, w)
    even, odd = (b.instr("arm.smull.b", x_part, w_part) for x_part, w_part in zip(xs, ws))
    return acc + b.instr("arm.saddlp.h", even + odd)


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the wrong primitive into kernels that are emitted anew, and forgets them afterwards."""
    monkeypatch.setattr(kernel_store, "_loaded", {})
    monkeypatch.setattr(ArmTarget, "dot4", careless_dot4)


@pytest.mark.skipif(not parse_target("aarch64-linux+neon").can_run(), reason="aarch64+neon can't run here")
@pytest.mark.parametrize("model", ["linear", "conv", "pointwise", "grouped"])
def test_an_overflowing_i16_sum_is_seen(model: str, careless: None) -> None:
    assert not same(MODELS[model](0, 128, "lowest"), "neon")
    assert same(MODELS[model](0, 128, "low"), "neon"), "only (-128)^2 is too much: the kernels are else right"
    assert same(MODELS[model](255, 128, "lowest"), "neon")
