"""Divides a 16-bit operand of a product into planes of bytes, which `kernels.conv` multiplies one after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qcompiler.backends.kernels.convert import SplitWords, split_words
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.views import TensorView

_ALIGNMENT = 64
"""Both planes begin at a multiple of this many bytes, as buffers do."""


def byte_planes(s: NodeLowering, x: TensorView) -> tuple[TensorView, int]:
    """(the operand as bytes, how many bytes its plane of low bytes lies behind that of the high ones).

    The view is of the high bytes of q + 32768, with the strides of x counted in elements; gaps are divided like
    elements. An operand of other types is left as it is, with one plane: the distance is 0.
    """
    if x.dtype != np.int16:
        return x, 0
    item = x.dtype.itemsize
    count = 1 + sum((size - 1) * stride // item for size, stride in zip(x.shape, x.strides)) if x.elements else 0
    distance = -(-max(count, 1) // _ALIGNMENT) * _ALIGNMENT
    planes = TensorView(
        s.scratch(2 * distance, "planes"), np.dtype(np.uint8), x.shape, tuple(stride // item for stride in x.strides)
    )
    low = replace(planes, offset=distance)
    s.call(split_words(), SplitWords(x=x, high=planes, low=low, count=count), bytes=2 * item * count)
    return planes, distance
