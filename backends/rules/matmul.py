"""matmul of two activations."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.kernels import matmul as kernels
from qcompiler.backends.placement import row_major_strides
from qcompiler.backends.rules.convert import bounds, zero_point
from qcompiler.backends.steps import Steps, lowers, not_float
from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.quantization import qmath
from qcompiler.types import DType


def _not_matmul(node: Node, target: Target) -> str | None:
    if not node.result.type.is_quantized:
        return not_float(node, target)
    for value in (*node.operands, *node.results):
        if value.type.dtype is not DType.U8 or value.type.quant.axis is not None:
            return f"{value.type} is not u8 with per-tensor parameters"
    return None


def _offsets(own: tuple[int, ...], batch: tuple[int, ...], matrix_bytes: int) -> np.ndarray:
    """Byte offset of the matrix that serves each of the result's batches."""
    own = (1,) * (len(batch) - len(own)) + own
    steps = row_major_strides(own, matrix_bytes)
    total = np.zeros(batch, np.int64)
    for axis, (have, want, step) in enumerate(zip(own, batch, steps)):
        if have == want:
            total = total + np.arange(want, dtype=np.int64).reshape([-1 if i == axis else 1 for i in range(len(batch))]) * step
    return total.reshape(-1)


@lowers("matmul", unless=_not_matmul)
def matmul(s: Steps) -> None:
    x, w, y = s.row_major(0), s.row_major(1), s.result()
    *batch, m, n = y.shape
    k, size = x.shape[-1], y.dtype.itemsize
    table = np.stack([_offsets(x.shape[:-2], tuple(batch), m * k * x.dtype.itemsize),
                      _offsets(w.shape[:-2], tuple(batch), k * n * w.dtype.itemsize),
                      _offsets(tuple(batch), tuple(batch), m * n * size)], axis=1)
    common = dict(x=x, w=w, batches=s.table(table), y=y, batch_count=math.prod(batch), m=m, n=n, k=k, writes=("y",),
                  macs=math.prod(batch) * m * n * k, bytes=(x.elements + w.elements + y.elements) * size)
    if not s.out.is_quantized:
        s.call(kernels.matmul_f32, **common)
        return
    a, b = s.type(0).quant, s.type(1).quant
    s.call(kernels.matmul_u8, x_zero=a.zero_point[0], w_zero=b.zero_point[0], zero=zero_point(s.out),
           scale=float(qmath.multiplier(a.scales, b.scales, over=s.out.quant.scales)[0]), **bounds(s.out), **common)
