"""Kernels for the tests of the kernel IR: a u8 x i8 GEMM tile loop, and a small one with a scalar."""

from __future__ import annotations

import numpy as np

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I32, vector
from tests.backends.signatures import Gemm, XYAlpha


@kernel
def gemm(b: KernelBuilder, a: Gemm, *, mr: int, nv: int, safe: bool = False) -> None:
    """Compute y[m, n] i32 as x[m, k] u8, whose rows lie `stride` bytes apart, times w packed as i8 [n / nr][k /
    4][nr][4], where nr is nv registers."""
    target = b.target
    x, w, y, n, k, stride = (
        a.x,
        a.w,
        a.y,
        a.n,
        a.k,
        a.stride,
    )
    lanes, size = target.i32_lanes, target.vector_bytes

    def tile(x: Value, w: Value, y: Value, mr: int) -> None:
        rows = b.rows(x, stride, mr)
        zeros = [[b.zero(vector(I32, lanes)) for _ in range(nv)] for _ in range(mr)]
        with b.loop(0, k, 4, carried=[zeros, rows.pointers, w]) as loop:
            acc, pointers, w = loop.carried
            here = rows.at(pointers)
            loaded = [b.load(vector(I8, size), w, disp=j * size) for j in range(nv)]
            ws = loaded if safe else [target.dot4_weights(b, value) for value in loaded]
            for r in range(mr):
                four = target.broadcast4(b, *here[r])
                if safe:
                    acc[r] = [target.dot4_pairwise(b, acc[r][j], four, ws[j]) for j in range(nv)]
                else:
                    xs = target.dot4_activations(b, four)
                    acc[r] = [target.dot4(b, acc[r][j], xs, ws[j]) for j in range(nv)]
            loop.yield_([acc, here.moved(4), w + nv * size])
        acc = loop.results[0]
        for r in range(mr):
            for j in range(nv):
                b.store(acc[r][j], y, n * (4 * r), disp=j * size)

    lo, hi = b.share(a.m, mr)
    full = lo + (hi - lo) // mr * mr
    with b.loop(0, n, nv * lanes) as columns:
        panel = w + columns.index * k
        for first, last, step in ((lo, full, mr), (full, hi, 1)):
            with b.loop(first, last, step) as tiles:
                tile(x + tiles.index * stride, panel, y + (tiles.index * n + columns.index) * 4, step)


@kernel
def scale(b: KernelBuilder, a: XYAlpha, *, lanes: int) -> None:
    """Compute y = x * alpha in f32, and the last vector by its prefix."""
    x, y, n = a.x, a.y, a.n
    alpha = b.splat(a.alpha, lanes)
    lo, hi = b.share(n, lanes)
    with b.loop(lo, hi, lanes) as loop:
        value = b.load_prefix(vector(F32, lanes), x, loop.index * 4, n - loop.index)
        b.store_prefix(value * alpha, y, loop.index * 4, n - loop.index)


def pack_weights(w: np.ndarray, nr: int) -> np.ndarray:
    """Pack w[k, n] as [n / nr][k / 4][nr][4]."""
    k, n = w.shape
    return np.ascontiguousarray(w.reshape(k // 4, 4, n // nr, nr).transpose(2, 0, 3, 1))
