"""linear: the product with one tap over rows of the operand."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.rules.conv import not_conv
from qcompiler.backends.rules.gemm import Window, choose_tile, lanes_of, product, runs, tiles_of
from qcompiler.backends.rules.weights import Weight


@lowers("linear", unless=not_conv)
def linear(s: NodeLowering) -> None:
    weight, y = Weight.of(s, 1), s.result()
    outputs, depth = weight.shape
    size = y.dtype.itemsize
    kc = -(-depth // 4) * 4 if s.out.is_quantized else depth
    x = _readable(s, kc != depth)
    other = s.row_major(3) if s.has(3) else None
    static_rows = math.prod(s.out.shape[:-1])
    tile = choose_tile(tiles_of(s), lanes_of(s), static_rows, outputs, depth * size)
    pixels = math.prod(y.shape[:-1])
    starts, columns = runs(pixels, tile.mr)
    steps = (depth * size, outputs * size, outputs * size)
    rows = np.stack([starts * step for step in steps], axis=1)
    window = Window(rows, [0], columns, kc, steps, 1, (0, 0, 0), columns * steps[0], pixels * depth)
    product(s, window, tile, weight, Weight.of(s, 2), x, y.pointer, other, slice(0, outputs))


def _readable(s: NodeLowering, past_the_end: bool) -> TensorView:
    """The operand, row major; in the arena if up to three bytes past its end are read."""
    x = s.row_major(0)
    if past_the_end and getattr(x.buffer, "kind", "") != "arena":
        copy = s.lowering.new(s.type(0), f"{s.node.name}.x", None)
        s.copy(x, copy)
        return copy
    return x
