"""Depthwise convolution: one filter a channel."""

from __future__ import annotations

import itertools
import math

import numpy as np

from qcompiler.backends.kernels import depthwise as kernels
from qcompiler.backends.kernels.conv import pack_channels
from qcompiler.backends.placement import SLACK, Placed
from qcompiler.backends.rules.convert import zero_point
from qcompiler.backends.rules.conv import is_depthwise, not_conv
from qcompiler.backends.rules.gemm import activation_bounds, requantize_terms
from qcompiler.backends.steps import Steps, lowers
from qcompiler.backends.target import Target
from qcompiler.ir import Node


def _not_depthwise(node: Node, target: Target) -> str | None:
    return not_conv(node, target) if is_depthwise(node) else "not one filter a channel"


def _tap_rows(s: Steps, x: Placed, y: Placed, other: Placed) -> np.ndarray:
    """For each row of an image: byte offsets in y and other, then of each tap row in x, or -1."""
    kernel, stride, dilation, padding = s.constant(1).shape[2:-1], s.attrs["stride"], s.attrs["dilation"], s.attrs["padding"]
    sizes = x.shape[2:-1]
    table = []
    for place in itertools.product(*(range(n) for n in y.shape[2:-1])):
        row = [sum(p * step for p, step in zip(place, each.strides[2:])) for each in (y, other)]
        for tap in itertools.product(*(range(k) for k in kernel)):
            at = [p * st + t * d - pad[0] for p, st, t, d, pad in zip(place, stride, tap, dilation, padding)]
            inside = all(0 <= a < n for a, n in zip(at, sizes))
            row.append(sum(a * step for a, step in zip(at, x.strides[2:])) if inside else -1)
        table.append(row)
    return np.array(table, np.int64)


@lowers("conv", unless=_not_depthwise)
def depthwise(s: Steps) -> None:
    weight, y = s.constant(1), s.result()
    channels, kw = weight.shape[0], weight.shape[-1]
    matrix = weight.reshape(channels, -1, kw)
    quantized, stride = s.out.is_quantized, s.out.layout.channel_stride
    x = s.channels_last_in_arena(0, stride)
    other = s.channels_last(3, stride) if s.has(3) else None
    taps = matrix.shape[1]
    block = s.target.vector_bytes if quantized else s.target.f32_lanes
    order = kernels.quad_order(s.target) if quantized else np.arange(block)
    static = {"taps": taps, "kw": kw, "stride": s.attrs["stride"][-1], "dilation": s.attrs["dilation"][-1],
              "mr": _tile(s, quantized), "residual": other is not None}
    fill = zero_point(s.type(0)) if quantized else 0
    border = s.table(np.full(x.shape[-1] * stride + SLACK, fill, y.dtype))
    common = dict(
        x=x, rows=s.table(_tap_rows(s, x, y, other or y)), border=border, other=other, y=y, row_total=y.shape[0] * math.prod(y.shape[2:-1]),
        row_count=math.prod(y.shape[2:-1]), columns=y.shape[-1], width=x.shape[-1], before=s.attrs["padding"][-1][0], x_image=x.strides[0],
        y_image=y.strides[0], other_image=other.strides[0] if other else 0, x_pixel=x.strides[-1], y_pixel=y.strides[-1],
        other_pixel=other.strides[-1] if other else 0, blocks=-(-channels // block), channels=stride if quantized else channels,
        writes=("y",), macs=y.elements * taps * kw, bytes=(x.elements + y.elements) * y.dtype.itemsize,
    )
    bias = s.constant(2) if s.has(2) else None
    if not quantized:
        start = np.zeros(channels, np.float32) if bias is None else bias
        s.call(kernels.depthwise_f32, static, w=s.packed("weight", lambda: kernels.pack_depthwise_floats(matrix, block)),
               bias=s.packed("bias", lambda: pack_channels(start, order)), scale=None, **activation_bounds(s), **common)
        return
    terms = requantize_terms(s, matrix.reshape(channels, -1), bias)
    s.call(kernels.depthwise_u8, {**static, "proven": terms.proven},
           w=s.packed("weight", lambda: kernels.pack_depthwise_bytes(matrix, order)),
           bias=s.packed("bias", lambda: pack_channels(terms.start, order)),
           scale=s.packed("scale", lambda: pack_channels(terms.multiplier, order)), **terms.arguments, **common)


def _tile(s: Steps, quantized: bool) -> int:
    """Pixels of a tile: as many as registers allow, and no more than a row has."""
    most = 4 if s.target.register_count >= 32 else 2 if quantized else 4
    columns = s.out.shape[-1]
    return min(most, columns) if isinstance(columns, int) else most
