"""conv_transpose: the operand with gaps of real zero between its pixels, convolved with the mirrored weight."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.placement import Placed, layout_strides
from qcompiler.backends.rules.conv import Geometry, channel_stride_of, convolve, not_conv
from qcompiler.backends.rules.convert import zero_point
from qcompiler.backends.rules.movement import shadow, view
from qcompiler.backends.steps import Steps, lowers
from qcompiler.ops.conv import mirrored_weight, transposed_padding
from qcompiler.types import Layout


def _stuffed(s: Steps, x: Placed, channel_stride: int) -> Placed:
    """x with stride - 1 pixels of real zero between neighbours, in the border that the convolution needs (cut where that is negative)."""
    kernel, stride = s.constant(1).shape[2:], s.attrs["stride"]
    pads = transposed_padding(kernel, s.attrs["padding"], s.attrs["dilation"], s.attrs["output_padding"])
    images, channels, *spatial = x.shape
    shape = (images, channels, *((n - 1) * st + 1 + before + after for n, st, (before, after) in zip(spatial, stride, pads)))
    size = x.dtype.itemsize
    elements = images * math.prod(shape[2:]) * channel_stride
    handle = s.scratch(elements * size + 64, "stuffed")
    y = Placed(handle, x.dtype, shape, layout_strides(shape, size, Layout("channels_last", channel_stride)))
    fill = np.full(1, zero_point(s.type(0)) if s.type(0).is_quantized else 0, x.dtype)
    s.copy(Placed(s.table(fill), x.dtype, (elements,), (0,)), Placed(handle, x.dtype, (elements,), (size,)))
    source, target = shadow(x), shadow(y)
    for axis, (n, st, (before, _)) in enumerate(zip(spatial, stride, pads), start=2):
        skipped = max(0, -(before // st)) if before < 0 else 0
        first = before + skipped * st
        count = min(n - skipped, -(-(shape[axis] - first) // st))
        lead = (slice(None),) * axis
        source = source[(*lead, slice(skipped, skipped + count))]
        target = target[(*lead, slice(first, first + (count - 1) * st + 1, st))]
    s.copy(view(x, source), view(y, target))
    return y


@lowers("conv_transpose", unless=not_conv)
def conv_transpose(s: Steps) -> None:
    stride = channel_stride_of(s)
    weight = s.once("mirrored", lambda: mirrored_weight(s.constant(1), s.attrs["groups"]))
    x = _stuffed(s, s.channels_last(0, stride), stride)
    ones = (1,) * (weight.ndim - 2)
    convolve(s, x, weight, None, Geometry(weight.shape[2:], ones, s.attrs["dilation"]))
