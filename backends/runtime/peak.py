"""Measures the peak speed of one thread of this CPU: exact dot products of bytes as tiles compute them, and f32
multiply-adds.

Each accumulator multiplies an operand of its own, which is loaded at a pointer that the loop carries. With operands
that stay the same, a product that is an instruction apart from the sum would be computed once, before the loop.
"""

from __future__ import annotations

import ctypes
import time
from typing import Generic

import numpy as np

from qcompiler.backends.codegen.jit import compile_kernels
from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, At, E, P, Written
from qcompiler.backends.kernel_ir.ir import KernelFunction, Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I32, vector
from qcompiler.backends.target import Target

_ROUNDS = 2_000_000


class _Peak(Arguments["_Peak"], Generic[P, E]):
    """The arguments of `_peak`.

    Attributes:
        y: memory that the operands are read from and the results written to.
        count: how many rounds to run.
        stride: by how many bytes the operands of two rounds lie apart. It is 0, which the compiler does not know.
    """

    y: Written[P]
    count: E
    stride: E


@kernel
def _peak(b: KernelBuilder, a: _Peak, *, floats: bool, accumulators: int) -> None:
    target, lanes, size = b.target, b.target.i32_lanes, b.target.vector_bytes
    type = vector(F32 if floats else I32, lanes)
    words = not floats and target.multiplies_words
    operand = type if floats else vector(I16, size // 2) if words else vector(I8, size)
    start = [b.splat(b.load(type.element, a.y, 4 * i), lanes) for i in range(accumulators)]
    x = b.load(operand, a.y)
    xs = () if floats or words else target.dot4_activations(b, x)

    def added(acc: Value, w: Value) -> Value:
        if floats:
            return b.fma(x, w, acc)
        return target.dot2(b, acc, x, w) if words else target.dot4(b, acc, xs, target.dot4_weights(b, w))

    with b.loop(0, a.count, carried=[start, a.y]) as loop:
        acc, at = loop.carried
        loop.yield_([[added(each, b.load(operand, at, disp=i * size)) for i, each in enumerate(acc)], at + a.stride])
    for i, value in enumerate(loop.results[0]):
        b.store(value, a.y, disp=i * size)


def accumulators_of(target: Target) -> int:
    """How many sums the measured loop has: enough to hide the latency of one."""
    return 24 if target.register_count >= 32 else 10


def products_per_sum(target: Target, *, floats: bool) -> int:
    """The multiply-adds that the measured loop adds to each sum in a round."""
    words = not floats and target.multiplies_words
    return target.vector_bytes // (4 if floats else 2 if words else 1)


def peak_kernel(target: Target, *, floats: bool) -> KernelFunction:
    """The kernel whose loop is measured."""
    return _peak.build(target, floats=floats, accumulators=accumulators_of(target))


def peak(target: Target, *, floats: bool, seconds: float = 0.5) -> float:
    """Billions of multiply-adds per second, the best of several runs."""
    [compiled] = compile_kernels([peak_kernel(target, floats=floats)])
    memory = np.zeros(4096, np.uint8)
    args = _peak.pack_args(_Peak(y=At(0), count=_ROUNDS // 10, stride=0))
    bases = np.array([memory.ctypes.data], np.int64)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(compiled.address)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run(args.ctypes.data, bases.ctypes.data, 0, 1)
        best = min(best, time.perf_counter() - start)
    products = products_per_sum(target, floats=floats) * accumulators_of(target) * (_ROUNDS // 10)
    return products / best / 1e9
