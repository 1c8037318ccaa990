"""matmul of two activations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.backends.kernels import matmul as kernels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import row_major_strides
from qcompiler.backends.lowering.why_not import why_not_f32
from qcompiler.backends.program.builder import BufferRef
from qcompiler.backends.rules.convert import bounds, zero_point
from qcompiler.backends.rules.gemm import LINE, choose_tile
from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.quantization import qmath
from qcompiler.types import DType


def _not_matmul(node: Node, target: Target) -> str | None:
    if not node.result.type.is_quantized:
        return why_not_f32(node, target)
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
            total = (
                total
                + np.arange(want, dtype=np.int64).reshape([-1 if i == axis else 1 for i in range(len(batch))]) * step
            )
    return total.reshape(-1)


def _tile(s: NodeLowering, tiles: Sequence[tuple[int, int]], lanes: int) -> tuple[int, int]:
    """(rows, registers); the same for all bindings of symbolic sizes."""
    depth = s.type(0).shape[-1]
    row_bytes = depth * s.out.dtype.numpy.itemsize if isinstance(depth, int) else LINE
    tile = choose_tile(tiles, lanes, s.out.shape[-2], s.out.shape[-1], row_bytes)
    rows = s.out.shape[-2]
    return min(tile.mr, rows) if isinstance(rows, int) else tile.mr, tile.nv


@lowers("matmul", unless=_not_matmul)
def matmul(s: NodeLowering) -> None:
    x, w, y = s.row_major(0), s.row_major(1), s.result()
    *batch, m, n = y.shape
    k = x.shape[-1]
    common = dict(
        y=y,
        batch_count=math.prod(batch),
        m=m,
        n=n,
        k=k,
        writes=("y",),
        macs=math.prod(batch) * m * n * k,
        bytes=(x.elements + w.elements + y.elements) * y.dtype.itemsize,
    )

    def table(x_bytes: int, w_bytes: int) -> BufferRef:
        offsets = [
            _offsets(place.shape[:-2], tuple(batch), matrix)
            for place, matrix in ((x, x_bytes), (w, w_bytes), (y, m * n * y.dtype.itemsize))
        ]
        return s.table(np.stack(offsets, axis=1))

    if not s.out.is_quantized:
        mr, nv = _tile(s, s.target.gemm_tiles_f32, s.target.f32_lanes)
        s.call(kernels.matmul_f32, {"mr": mr, "nv": nv}, x=x, w=w, batches=table(m * k * 4, k * n * 4), **common)
        return
    mr, nv = _tile(s, [tile for tile in s.target.gemm_tiles if tile[1] % 2 == 0], s.target.i32_lanes)
    pairs, panels = -(-k // 2), -(-n // (nv * s.target.i32_lanes))
    x_rows, w_batches = math.prod(x.shape[:-1]), math.prod(w.shape[:-2])
    panel_bytes = pairs * nv * s.target.vector_bytes
    centered = s.scratch(x_rows * pairs * 4, "x")
    packed = s.scratch(w_batches * panels * panel_bytes, "w")
    a, b = s.type(0).quant, s.type(1).quant
    s.call(
        kernels.center_pairs,
        x=x,
        y=centered,
        rows=x_rows,
        k=k,
        zero=a.zero_point[0],
        writes=("y",),
        bytes=3 * x.elements,
    )
    s.call(
        kernels.pack_pairs,
        {"nv": nv},
        w=w,
        y=packed,
        batch_count=w_batches,
        k=k,
        n=n,
        zero=b.zero_point[0],
        writes=("y",),
        bytes=3 * w.elements,
    )
    s.call(
        kernels.matmul_u8,
        {"mr": mr, "nv": nv},
        x=centered,
        w=packed,
        batches=table(m * pairs * 4, panels * panel_bytes),
        zero=zero_point(s.out),
        scale=float(qmath.multiplier(a.scales, b.scales, over=s.out.quant.scales)[0]),
        **bounds(s.out),
        **common,
    )
