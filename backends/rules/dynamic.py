"""Lowers dynamic quantization: codes by the range of rows or tensors, and products of them with constant weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from qcompiler.artifact.mapped_file import forget_pages
from qcompiler.backends.kernels import conv as products
from qcompiler.backends.kernels import dynamic as kernels
from qcompiler.backends.kernels.epilogue import Clamp, DynamicDequantize
from qcompiler.backends.lowering.node import NodeLowering, is_in_arena
from qcompiler.backends.lowering.packing import pack_channels
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.tiles import product_tile
from qcompiler.backends.lowering.views import TensorView, row_major_strides
from qcompiler.backends.program.recorded import BufferHandle
from qcompiler.backends.rules.gemm import (
    Distances,
    ProductCall,
    activation_clamp,
    call_product,
    is_streamed,
    packed_product,
)
from qcompiler.backends.rules.linear import window_of_rows
from qcompiler.backends.rules.weights import BytePacking, Weight
from qcompiler.backends.target import Target
from qcompiler.ir import Const, Node
from qcompiler.ops.dynamic import DynamicLinear, DynamicQuantize
from qcompiler.traced_size import computed
from qcompiler.types import DType

_PART = 1 << 14
"""The least elements of a part of a tensor whose range is found."""
_MOST_PARTS = 16


@lowers("dynamic_quantize")
def dynamic_quantize(s: NodeLowering) -> None:
    op = DynamicQuantize(s.node)
    x, (q, scale, zero) = s.row_major(op.x), (s.result(index) for index in range(3))
    codes = kernels.CodeBounds(low=float(op.qmin), high=float(op.qmax), steps=float(op.qmax - op.qmin))
    size = x.shape[-1] if op.by_row else x.elements
    nbytes = 5 * x.elements
    if op.by_row:
        rows = math.prod(x.shape[:-1])
        arguments = kernels.QuantizeRows(x=x, y=q, scale=scale, zero=zero, rows=rows, size=size, codes=codes)
        s.call(kernels.quantize_rows(), arguments, bytes=nbytes)
        return
    parts = computed(_part_count, size)
    ranges = s.scratch(parts * kernels.PART_BYTES, "ranges")
    s.call(kernels.range_parts(), kernels.RangeParts(x=x, y=ranges, count=size, parts=parts), bytes=4 * x.elements)
    s.call(
        kernels.quantize_by_parts(),
        kernels.QuantizeByParts(x=x, ranges=ranges, y=q, scale=scale, zero=zero, count=size, parts=parts, codes=codes),
        bytes=nbytes,
    )


def _part_count(size: int) -> int:
    """How many parts a value of this size is cut into."""
    return min(max(size // _PART, 1), _MOST_PARTS)


def _why_not_dynamic_linear(node: Node, target: Target) -> str | None:
    """Why no kernel serves a dynamic_linear, or None."""
    op = DynamicLinear(node)
    if not isinstance(op.weight, Const) or not isinstance(op.bias, Const | None):
        return "weights or bias are not constant"
    if op.weight.type.dtype not in (DType.I8, DType.U8):
        return f"{op.weight.type} is not i8 or u8"
    return None


@lowers("dynamic_linear", unless=_why_not_dynamic_linear)
def dynamic_linear(s: NodeLowering) -> None:
    op = DynamicLinear(s.node)
    weight, y = Weight.of(s, op.weight), s.result()
    outputs, depth = weight.shape
    kc = -(-depth // 4) * 4
    x, records = _readable(s, op, past_the_end=kc != depth), _records(s, op)
    rows = math.prod(y.shape[:-1])
    of_row = kernels.RECORD_BYTES if op.scale.type.rank else 0
    tile = product_tile(s.target, True, math.prod(s.out.shape[:-1]), outputs, depth, depth)
    window = window_of_rows(s, rows, tile, depth, kc, Distances(depth, outputs * 4, of_row))
    product = ProductCall(window, tile, x, records, y, weight, None, slice(0, outputs))
    product, packing = packed_product(s, op, product)
    order, where = packing.order, f"{weight.role} {tile.nv}"

    def sums() -> np.ndarray:
        found = weight.array.sum(axis=1, dtype=np.int32)
        forget_pages(s.constant(op.weight))
        return pack_channels(found, order)

    bias = None if op.bias is None else s.constant(op.bias)
    scales = np.broadcast_to(op.weight.type.params.scales, (outputs,))
    of_weights = s.memo(f"{where}.sums", sums)
    offset = s.target.dot4_offset
    start = s.packed(f"{where}.start", lambda: of_weights * np.int32(offset))
    weights = packing.constant(s)
    dequantize = DynamicDequantize(
        sums=s.packed(f"{where}.sums", sums),
        multiplier=s.packed(f"{where}.scale", lambda: pack_channels(scales, order)),
        bias=None if bias is None else s.packed(f"{where}.bias", lambda: pack_channels(bias, order)),
        clamp=activation_clamp(op),
    )
    stored = product.window.rows.stored(s)
    taps = list(product.window.taps) * packing.parts
    shared = product.arguments(s, stored, weights, start, taps, s.target.k_blocks[-1], packing.weight_bytes)
    kernel = products.conv_u8_dynamic(
        mr=tile.mr, nv=tile.nv, bias=op.bias is not None, pairs=packing.pairs, narrow=packing.is_narrow
    )
    streams = is_streamed(s, product)
    call_product(s, op, product, kernel, products.ConvU8Dynamic(product=shared, dequantize=dequantize, streams=streams))


def _records(s: NodeLowering, op: DynamicLinear) -> TensorView:
    """The record of each row, or the one that all share. Products that read the same codes share them."""
    scale, zero = s.row_major(op.scale), s.row_major(op.zero_point)
    key = (op.scale, op.zero_point)
    if key not in s.lowering.records:
        count = max(scale.elements, 0)
        y = s.scratch(count * kernels.RECORD_BYTES, "records")
        arguments = kernels.RowRecords(scale=scale, zero=zero, y=y, rows=count)
        s.call(kernels.row_records(), arguments, bytes=13 * count)
        shape = (count, 2)
        s.lowering.records[key] = TensorView(y, np.dtype(np.int32), shape, row_major_strides(shape, 4))
    return s.lowering.records[key]


def _readable(s: NodeLowering, op: DynamicLinear, past_the_end: bool) -> TensorView:
    """The codes, row major. past_the_end: whether up to three bytes past their end are read; then they are in the
    arena."""
    x = s.row_major(op.x)
    if not past_the_end or is_in_arena(x):
        return x
    copy = s.new(op.x.type, f"{s.node.name}.x")
    s.copy(x, copy)
    return copy


def quantized(s: NodeLowering, x: TensorView, *, by_row: bool, qmin: int, qmax: int) -> tuple[TensorView, TensorView]:
    """Append the calls that quantize x, f32 [..., size] and row major, within a node: its codes [rows, size], and the
    record of each row, or the one that all share."""
    size = x.shape[-1]
    rows = math.prod(x.shape[:-1])
    count = rows if by_row else 1
    q = TensorView(
        s.scratch(rows * size, "codes of x"), np.dtype(np.uint8), (rows, size), row_major_strides((rows, size), 1)
    )
    scale, zero = s.scratch(4 * count, "scales of x"), s.scratch(count, "zeros of x")
    codes = kernels.CodeBounds(low=float(qmin), high=float(qmax), steps=float(qmax - qmin))
    if by_row:
        arguments = kernels.QuantizeRows(x=x, y=q, scale=scale, zero=zero, rows=rows, size=size, codes=codes)
        s.call(kernels.quantize_rows(), arguments, bytes=5 * x.elements)
    else:
        parts = computed(_part_count, x.elements)
        ranges = s.scratch(parts * kernels.PART_BYTES, "ranges of x")
        of_parts = kernels.RangeParts(x=x, y=ranges, count=x.elements, parts=parts)
        s.call(kernels.range_parts(), of_parts, bytes=4 * x.elements)
        by_parts = kernels.QuantizeByParts(
            x=x, ranges=ranges, y=q, scale=scale, zero=zero, count=x.elements, parts=parts, codes=codes
        )
        s.call(kernels.quantize_by_parts(), by_parts, bytes=5 * x.elements)
    y = s.scratch(count * kernels.RECORD_BYTES, "records of x")
    s.call(kernels.row_records(), kernels.RowRecords(scale=scale, zero=zero, y=y, rows=count), bytes=13 * count)
    return q, TensorView(y, np.dtype(np.int32), (count, 2), row_major_strides((count, 2), 4))


def integer_product(
    s: NodeLowering,
    x: TensorView,
    records: TensorView,
    y: BufferHandle,
    weight: Weight,
    scales: Callable[[], np.ndarray],
    bias: Callable[[], np.ndarray] | None,
    *,
    by_row: bool,
    highest: int,
) -> None:
    """Append the product of codes x [rows, depth], in the arena, with i8 weights [outputs, depth]: f32 [rows, outputs]
    by rule (8) of qmath. by_row: whether each row has a record. highest: the highest code of x."""
    (rows, depth), outputs, target = x.shape, weight.shape[0], s.target
    kc = -(-depth // 4) * 4
    of_row = kernels.RECORD_BYTES if by_row else 0
    tile = product_tile(target, True, rows, outputs, depth, depth)
    window = window_of_rows(s, rows, tile, depth, kc, Distances(depth, outputs * 4, of_row))
    product = ProductCall(window, tile, x, records, y, weight, None, slice(0, outputs))
    padded = -(-kc // target.dot_depth) * target.dot_depth

    def is_exact() -> np.ndarray:
        taps = np.pad(weight.array, ((0, 0), (0, padded - depth)))
        return np.array(target.pairwise_dot_is_exact(taps, highest))

    where = f"{weight.role} of x, {tile.nv}"
    pairs = bool(target.has_pairwise_dot and weight.array.size and s.memo(f"{where}, pairs", is_exact).item())
    packing = BytePacking(target, weight, tile.nv, 1, padded, 1, pairs, in_order=True, narrow=False)
    product = product.widened(s) if packing.is_wide else product
    order = packing.order
    sums = s.packed(f"{where}, sums", lambda: pack_channels(weight.array.sum(axis=1, dtype=np.int32), order))
    start = s.packed(
        f"{where}, start",
        lambda: pack_channels(weight.array.sum(axis=1, dtype=np.int32), order) * np.int32(target.dot4_offset),
    )
    dequantize = DynamicDequantize(
        sums=sums,
        multiplier=s.packed(f"{where}, scale", lambda: pack_channels(scales(), order)),
        bias=None if bias is None else s.packed(f"{where}, bias", lambda: pack_channels(bias(), order)),
        clamp=Clamp(low=-math.inf, high=math.inf),
    )
    stored, taps, block = product.window.rows.stored(s), list(product.window.taps), target.k_blocks[-1]
    shared = product.arguments(s, stored, packing.constant(s), start, taps, block, packing.weight_bytes)
    s.call(
        products.conv_u8_dynamic(
            mr=tile.mr, nv=tile.nv, bias=bias is not None, pairs=packing.pairs, narrow=packing.is_narrow
        ),
        products.ConvU8Dynamic(product=shared, dequantize=dequantize, streams=0),
        macs=window.products * outputs,
        bytes=outputs * depth + x.elements + 4 * rows * outputs,
        disjoint=True,
    )
