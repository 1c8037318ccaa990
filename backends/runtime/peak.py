"""Measures the peak speed of one thread of this CPU, with operands in registers: dot products of bytes, and f32
multiply-adds."""

from __future__ import annotations

import ctypes
import time
from typing import Generic

import numpy as np

from qcompiler.backends.codegen.jit import compile_kernels
from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, At, E, P, Written
from qcompiler.backends.kernel_ir.types import F32, I8, I32, vector
from qcompiler.backends.target import Target

_ROUNDS = 2_000_000


class _Peak(Arguments["_Peak"], Generic[P, E]):
    """The arguments of `_peak`. y: memory that the operands are read from and the results written to; count: how many
    rounds to run."""

    y: Written[P]
    count: E


@kernel
def _peak(b: KernelBuilder, a: _Peak, *, floats: bool, accumulators: int) -> None:
    lanes = b.target.i32_lanes
    type = vector(F32 if floats else I32, lanes)
    start = [b.splat(b.load(type.element, a.y, 4 * i), lanes) for i in range(accumulators)]
    x = b.load(type if floats else vector(I8, b.target.vector_bytes), a.y)
    xs, ws = ((), ()) if floats else (b.target.dot4_activations(b, x), b.target.dot4_weights(b, x))
    with b.loop(0, a.count, carried=[start]) as loop:
        [acc] = loop.carried
        loop.yield_([[b.fma(x, x, each) if floats else b.target.dot4(b, each, xs, ws) for each in acc]])
    for i, value in enumerate(loop.results[0]):
        b.store(value, a.y, disp=i * b.target.vector_bytes)


def peak(target: Target, *, floats: bool, seconds: float = 0.5) -> float:
    """Billions of multiply-adds per second, the best of several runs."""
    accumulators = 24 if target.register_count >= 32 else 10
    [compiled] = compile_kernels([_peak.build(target, floats=floats, accumulators=accumulators)])
    memory = np.zeros(4096, np.uint8)
    args = _peak.pack_args(_Peak(y=At(0), count=_ROUNDS // 10))
    bases = np.array([memory.ctypes.data], np.int64)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(compiled.address)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run(args.ctypes.data, bases.ctypes.data, 0, 1)
        best = min(best, time.perf_counter() - start)
    products = target.vector_bytes // (4 if floats else 1) * accumulators * (_ROUNDS // 10)
    return products / best / 1e9
