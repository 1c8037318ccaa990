"""Lowers linear as a product with one tap, whose pixels are the rows of the operand."""

from __future__ import annotations

import math

from qcompiler.backends.lowering.node import NodeLowering, is_in_arena
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.tiles import Tile, product_tile, run_columns
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.rules.conv import why_not_weighted
from qcompiler.backends.rules.gemm import Distances, ProductCall, RunRows, Window, append_product, is_of_codes
from qcompiler.backends.rules.planes import byte_planes
from qcompiler.backends.rules.weights import Weight
from qcompiler.ops.linear import Linear
from qcompiler.traced_size import computed


@lowers("linear", unless=why_not_weighted)
def linear(s: NodeLowering) -> None:
    op = Linear(s.node)
    weight, y = Weight.of(s, op.weight), s.result()
    (outputs, depth), quantized = weight.shape, is_of_codes(s)
    kc = -(-depth // 4) * 4 if quantized else depth
    x, low_plane = byte_planes(s, s.row_major(op.x))
    if not low_plane:
        x = _readable(s, op, past_the_end=kc != depth)
    residual = None if op.residual is None else s.row_major(op.residual)
    x_row, y_row, residual_row = (n * v.dtype.itemsize for n, v in ((depth, x), (outputs, y), (outputs, residual or y)))
    tile = product_tile(s.target, quantized, math.prod(s.out.shape[:-1]), outputs, x_row, depth)
    window = window_of_rows(s, math.prod(y.shape[:-1]), tile, depth, kc, Distances(x_row, y_row, residual_row))
    bias = None if op.bias is None else Weight.of(s, op.bias)
    append_product(s, op, ProductCall(window, tile, x, residual, y, weight, bias, slice(0, outputs), low_plane))


def window_of_rows(s: NodeLowering, pixels: int, tile: Tile, depth: int, kc: int, pixel: Distances) -> Window:
    """The window of a product of `pixels` rows of x. depth: elements of a row of x; kc: those that are multiplied."""
    s.check_table(pixels // tile.mr, 64)
    columns = computed(run_columns, pixels, tile.mr)
    return Window(
        rows=RunRows(pixels, columns, pixel),
        columns=columns,
        taps=[0],
        kc=kc,
        images=1,
        image=Distances(0, 0, 0),
        pixel=pixel,
        x_row_bytes=columns * pixel.x,
        products=pixels * depth,
    )


def _readable(s: NodeLowering, op: Linear, past_the_end: bool) -> TensorView:
    """The operand, row major. past_the_end: whether up to three bytes past its end are read; then it is in the
    arena."""
    x = s.row_major(op.x)
    if not past_the_end or is_in_arena(x):
        return x
    copy = s.new(op.x.type, f"{s.node.name}.x")
    s.copy(x, copy)
    return copy
