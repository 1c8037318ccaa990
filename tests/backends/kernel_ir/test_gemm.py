"""A u8 x i8 GEMM loop equals numpy to the bit on every level and in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.backends.codegen.jit import emitted_kernels
from qcompiler.backends.kernel_ir.interpreter import interpret
from qcompiler.backends.target import Target, parse_target
from tests.backends.kernel_ir.ir_kernels import gemm, pack_weights
from tests.backends.levels import LEVELS, call, load

RNG = np.random.default_rng(7)
X86 = [level for level in LEVELS if level.startswith("x86-64")]
"""The levels of x86, which have a faster sequence for weights that prove it safe; AArch64 has none."""
EXTREMES = {"high by low": (255, -128), "high by high": (255, 127), "low by low": (0, -128), "low by high": (0, 127)}


def _data(m: int, n: int, k: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    if kind == "random":
        return RNG.integers(0, 256, (m, k)).astype(np.uint8), RNG.integers(-128, 128, (k, n)).astype(np.int8)
    x_code, w_code = EXTREMES[kind]
    return np.full((m, k), x_code, np.uint8), np.full((k, n), w_code, np.int8)


def _product(x: np.ndarray, w: np.ndarray, target: Target) -> np.ndarray:
    """The product of x and w as `dot4` computes it."""
    return ((x.astype(np.float64) - target.dot4_offset) @ w.astype(np.float64)).astype(np.int64)


@pytest.mark.parametrize("level", LEVELS)
def test_equals_numpy_on_every_tile(level: str) -> None:
    target = parse_target(level)
    tiles = target.gemm_tiles if target.can_run() else target.gemm_tiles[-2:]
    functions = [gemm.build(target, mr=mr, nv=nv) for mr, nv in tiles]
    before = emitted_kernels[target.level]
    compiled = load(functions)
    depth = 8192 if target.can_run() else 32
    if target.can_run():
        assert emitted_kernels[target.level] == before + len(functions)
    for kernel, (mr, nv) in zip(compiled, tiles):
        nr = nv * target.i32_lanes
        for m in (1, mr - 1, mr, mr + 1, 3 * mr + 2) if target.can_run() else (mr + 1,):
            for k, kind in ((4, "random"), (min(68, depth), "random"), *((depth, kind) for kind in EXTREMES)):
                x, w = _data(m, 2 * nr, k, kind)
                y = np.full((m, 2 * nr), -1, np.int32)
                call(kernel, [x, pack_weights(w, nr), y], m=m, n=2 * nr, k=k, stride=k, threads=3)
                np.testing.assert_array_equal(y, _product(x, w, target))


@pytest.mark.parametrize("level", X86)
def test_pairs_safe_sequence(level: str) -> None:
    target = parse_target(level)
    nr = 2 * target.i32_lanes
    (kernel,) = load([gemm.build(target, mr=2, nv=2, safe=True)])
    x = np.full((2, 64), 255, np.uint8)
    w = np.tile(np.array([[64], [64], [-64], [-64]], np.int8), (16, nr))
    packed, y = pack_weights(w, nr), np.zeros((2, nr), np.int32)
    assert target.pairwise_dot_is_exact(packed)
    call(kernel, [x, packed, y], m=2, n=nr, k=64, stride=64)
    np.testing.assert_array_equal(y, x.astype(np.int32) @ w.astype(np.int32))
    w[0, 0] = 65
    assert not target.pairwise_dot_is_exact(pack_weights(w, nr))


@pytest.mark.parametrize("level", LEVELS)
def test_interpreter_equals_numpy(level: str) -> None:
    target = parse_target(level)
    nr = target.i32_lanes
    function = gemm.build(target, mr=2, nv=1)
    x, w = _data(3, nr, 12, "random")
    y = np.zeros((3, nr), np.int32)
    interpret(function, {"x": x, "w": pack_weights(w, nr), "y": y}, m=3, n=nr, k=12, stride=12)
    np.testing.assert_array_equal(y, _product(x, w, target))
