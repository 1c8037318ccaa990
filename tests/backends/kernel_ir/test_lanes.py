"""Ops on lanes and masks, prefetch, and concurrent compilation: machine code is compared with the interpreter and
numpy."""

from __future__ import annotations

import concurrent.futures

import numpy as np
import pytest

from qcompiler.backends.codegen.jit import emitted_kernels
from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.interpreter import interpret
from qcompiler.backends.kernel_ir.types import F32, I1, I16, I32, I64, vector
from qcompiler.backends.runtime.pages import aligned_block
from qcompiler.backends.target import parse_target
from tests.backends.kernel_ir.ir_kernels import scale
from tests.backends.levels import LEVELS, call, load
from tests.backends.signatures import XYN


@kernel
def lanes(b: KernelBuilder, a: XYN) -> None:
    x, y = a.x, a.y
    low, high = b.load(vector(I32, 8), x), b.load(vector(I32, 8), x, disp=32)
    b.prefetch(x, a.n << 20, disp=64)
    b.store(b.shuffle(low, high, [0, 8, 1, 9, 7, 15, 6, 14]), y)
    b.store(b.insert(b.insert(low, 77, a.n), b.extract(high, 3), 0), y, disp=32)
    b.store(b.extract(b.concat([low, high]), a.n + 8), y, disp=64)
    bits = b.bitcast(b.concat([low, high]) < 0, I16)
    b.store(b.zext(bits, I32), y, disp=68)
    negative = b.slice(b.bitcast(bits, vector(I1, 16)), 0, 8)
    b.store(b.select(negative, -low, low), y, disp=72)
    b.store(b.bitcast(b.slice(low, 2, 2), I64), y, disp=104)
    with b.if_((a.n > 2) & (a.n < 5)):
        b.store(b.bitcast(b.splat(b.const(F32, -0.0), 2), vector(I32, 2)), y, disp=112)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("lane", [0, 3, 7])
def test_lanes(level: str, lane: int) -> None:
    function = lanes.build(parse_target(level))
    x = np.random.default_rng(lane).integers(-(2**31), 2**31, 16).astype(np.int32)
    expected = np.full(30, 5, np.int32)
    expected[:8] = x[[0, 8, 1, 9, 7, 15, 6, 14]]
    expected[8:16] = x[:8]
    expected[8 + lane] = 77
    expected[8] = x[11]
    expected[16] = x[8 + lane]
    expected[17] = sum(1 << i for i in range(16) if x[i] < 0)
    expected[18:26] = np.abs(x[:8])
    expected[26:28] = x[2:4]
    if lane == 3:
        expected[28:] = -(2**31)
    interpreted, native = np.full(30, 5, np.int32), np.full(30, 5, np.int32)
    interpret(function, {"x": x, "y": interpreted}, n=lane)
    np.testing.assert_array_equal(interpreted, expected)
    (compiled,) = load([function])
    call(compiled, [x, native], n=lane)
    np.testing.assert_array_equal(native, expected)


@kernel
def streamed(b: KernelBuilder, a: XYN) -> None:
    type = b.target.f32_vector()
    with b.loop(0, a.n, type.bytes) as loop:
        b.stream(b.load(type, a.x, loop.index), a.y, loop.index, disp=type.bytes)
    b.fence()


@pytest.mark.parametrize("level", LEVELS)
def test_streamed_values_are_stored(level: str) -> None:
    function = streamed.build(parse_target(level))
    size = parse_target(level).vector_bytes
    assert "stream %" in str(function) and f"align {size}" in str(function) and "fence" in str(function)
    x, blocks = np.arange(size, dtype=np.float32), [aligned_block(6 * size) for _ in range(2)]
    native, interpreted = (block.data.view(np.float32) for block in blocks)
    interpret(function, {"x": x, "y": interpreted}, n=4 * size)
    assert interpreted[size // 4 : 5 * size // 4].tolist() == x.tolist() and not interpreted[5 * size // 4 :].any()
    (compiled,) = load([function])
    call(compiled, [x, native], n=4 * size)
    np.testing.assert_array_equal(native, interpreted)


@pytest.mark.parametrize("level", LEVELS)
def test_kernels_compile_on_many_threads(level: str) -> None:
    target = parse_target(level)
    before = emitted_kernels[target.level]

    def work(lanes: int) -> bool:
        first, second = load([scale.build(target, lanes=lanes)] * 2)
        x, y = np.arange(100, dtype=np.float32), np.zeros((2, 100), np.float32)
        call(first, [x, y[0]], n=100, alpha=2)
        call(second, [x, y[1]], n=100, alpha=2)
        return first.address != second.address and (y == 2 * x).all()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, [4, 8, 16, 32] * 3))
    assert emitted_kernels[target.level] == before + (24 if target.can_run() else 0)
