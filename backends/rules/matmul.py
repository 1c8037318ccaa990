"""Lowers matmul of two activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernels import matmul as kernels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.tiles import LINE, choose_tile
from qcompiler.backends.lowering.views import TensorView, row_major_strides
from qcompiler.backends.lowering.why_not import why_not_codes, why_not_f32
from qcompiler.backends.program.recorded import BufferHandle
from qcompiler.backends.rules.convert import code_range, zero_point
from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.ops.linear import Matmul
from qcompiler.quantization import qmath
from qcompiler.types import DType


def _why_not_matmul(node: Node, target: Target) -> str | None:
    """Why no kernel serves a matmul, or None. Kernels take f32, or u8 with per-tensor parameters; these give u8, i16 or
    f32."""
    matmul, out = Matmul(node), node.result.type
    if not out.is_quantized and not matmul.x.type.is_quantized:
        return why_not_f32(node, target)
    for type in (matmul.x.type, matmul.y.type):
        if type.dtype is not DType.U8 or type.quant is None or type.quant.axis is not None:
            return f"{type} is not u8 with per-tensor parameters"
    return why_not_codes(out) if out.is_quantized else None


_BATCH_BYTES = 64
"""Bytes that lowering needs for one matrix of the result: three offsets as i64, and their copy among the constants."""


def batch_offsets(rank: int, *numbers: int) -> np.ndarray:
    """i64 [batches, operands]: for each batch of the result the byte offset of each operand's matrix.

    Args:
        rank: the number of batch axes.
        numbers: the batch axes of the result; then for each operand the bytes of a matrix and its batch axes.
    """
    batch, operands = numbers[:rank], range(rank, len(numbers), rank + 1)
    return np.stack([_offsets(numbers[at + 1 : at + 1 + rank], batch, numbers[at]) for at in operands], axis=1)


def _offsets(own: tuple[int, ...], batch: tuple[int, ...], matrix_bytes: int) -> np.ndarray:
    """For each batch of the result the byte offset of the operand's matrix, as i64. own: the operand's batch axes."""
    total = np.zeros(batch, np.int64)
    for axis, (have, want, stride) in enumerate(zip(own, batch, row_major_strides(own, matrix_bytes))):
        if have == want:
            along = np.arange(want, dtype=np.int64).reshape([-1 if i == axis else 1 for i in range(len(batch))])
            total = total + along * stride
    return total.reshape(-1)


def _batches(s: NodeLowering, x: TensorView, x_bytes: int, w: TensorView, w_bytes: int, y: TensorView) -> BufferHandle:
    """The constant `Matmul.batches`. x_bytes, w_bytes: bytes of one matrix, as the kernel reads it."""
    *batch, m, n = y.shape
    s.check_table(math.prod(batch), _BATCH_BYTES)
    numbers: list[int] = [*batch]
    for view, nbytes in ((x, x_bytes), (w, w_bytes), (y, m * n * y.dtype.itemsize)):
        numbers += [nbytes, *(1,) * (len(batch) + 2 - len(view.shape)), *view.shape[:-2]]
    return s.table(batch_offsets, len(batch), *numbers)


def _tile(s: NodeLowering, op: Matmul, tiles: Sequence[tuple[int, int]], lanes: int) -> tuple[int, int]:
    """The tile as (rows, registers), the same for all bindings of symbolic sizes."""
    depth, (rows, columns) = op.x.type.shape[-1], s.out.shape[-2:]
    row_bytes = depth * op.x.type.dtype.numpy.itemsize if isinstance(depth, int) else LINE
    tile = choose_tile(tiles, lanes, rows, columns, row_bytes)
    return min(tile.mr, rows) if isinstance(rows, int) else tile.mr, tile.nv


@lowers("matmul", unless=_why_not_matmul)
def matmul(s: NodeLowering) -> None:
    op = Matmul(s.node)
    x, w, y = s.row_major(op.x), s.row_major(op.y), s.result()
    *batch, m, n = y.shape
    k = x.shape[-1]

    def arguments(x: Memory, w: Memory, batches: Memory) -> kernels.Matmul[Memory, int]:
        return kernels.Matmul(x=x, w=w, y=y, batches=batches, batch_count=math.prod(batch), m=m, n=n, k=k)

    nbytes = sum(view.elements * view.dtype.itemsize for view in (x, w, y))
    call = partial(s.call, macs=math.prod(batch) * m * n * k, bytes=nbytes)
    if not op.x.type.is_quantized:
        mr, nv = _tile(s, op, s.target.gemm_tiles_f32, s.target.f32_lanes)
        call(kernels.matmul_f32(mr=mr, nv=nv), arguments(x, w, _batches(s, x, m * k * 4, w, k * n * 4, y)))
        return
    mr, nv = _tile(s, op, [tile for tile in s.target.gemm_tiles if tile[1] % 2 == 0], s.target.i32_lanes)
    pairs, panels = -(-k // 2), -(-n // (nv * s.target.i32_lanes))
    x_rows, w_batches = math.prod(x.shape[:-1]), math.prod(w.shape[:-2])
    panel_bytes = pairs * nv * s.target.vector_bytes
    centered = s.scratch(x_rows * pairs * 4, "x")
    packed = s.scratch(w_batches * panels * panel_bytes, "w")
    s.call(
        kernels.center_pairs(),
        kernels.CenterPairs(x=x, y=centered, rows=x_rows, k=k, zero=zero_point(op.x.type)),
        bytes=3 * x.elements,
    )
    s.call(
        kernels.pack_pairs(nv=nv),
        kernels.PackPairs(w=w, y=packed, batch_count=w_batches, k=k, n=n, zero=zero_point(op.y.type)),
        bytes=3 * w.elements,
    )
    batches = _batches(s, x, m * pairs * 4, w, panels * panel_bytes, y)
    scales = op.x.type.params.scales, op.y.type.params.scales
    if not s.out.is_quantized:
        shared, scale = arguments(centered, packed, batches), float(qmath.multiplier(*scales)[0])
        call(kernels.matmul_u8_to_f32(mr=mr, nv=nv), kernels.MatmulU8ToF32(matmul=shared, scale=scale))
        return
    to_codes = kernels.matmul_u8 if s.out.dtype is DType.U8 else kernels.matmul_u8_to_i16
    call(
        to_codes(mr=mr, nv=nv),
        kernels.MatmulU8(
            matmul=arguments(centered, packed, batches),
            scale=float(qmath.multiplier(*scales, over=s.out.params.scales)[0]),
            codes=code_range(s.out),
        ),
    )
