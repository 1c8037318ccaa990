"""Widens the pixels of a product of bytes to i16, for targets that have `multiplies_words`.

All readers of the same memory share one copy. It has the same geometry with twice the distances.
"""

from __future__ import annotations

import numpy as np

from qcompiler.backends.kernels.convert import WidenBytes, widen_bytes
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.views import SLACK, TensorView
from qcompiler.traced_size import expression


def widened(s: NodeLowering, x: TensorView, low_plane: int) -> TensorView:
    """u8 or a plane of bytes -> i16 with twice the strides, in the arena. low_plane: see `planes.byte_planes`.

    Gaps between elements are widened like elements.
    """
    key = (x.buffer, x.dtype, expression(x.offset, *x.shape, *x.strides, low_plane))
    if key not in s.lowering.widened:
        last = sum((size - 1) * stride for size, stride in zip(x.shape, x.strides))
        count = low_plane + 1 + last if x.elements else 0
        y = TensorView(
            s.scratch(2 * (count + SLACK), "widened"),
            np.dtype(np.int16),
            x.shape,
            tuple(2 * stride for stride in x.strides),
        )
        s.call(widen_bytes(), WidenBytes(x=x, y=y, count=count), bytes=3 * count)
        s.lowering.widened[key] = y
    return s.lowering.widened[key]
