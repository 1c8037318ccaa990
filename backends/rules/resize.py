"""Lowers resize, nearest and linear, channels last."""

from __future__ import annotations

import numpy as np

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernels import resize as kernels
from qcompiler.backends.kernels.code_range import CodeRange
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.why_not import why_not_f32, why_not_u8
from qcompiler.backends.rules.convert import code_range, zero_point
from qcompiler.backends.rules.pool import copy_pixels
from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.ops.resize import Resize, linear_weights, nearest_indices
from qcompiler.quantization import qmath


def _why_not_image(node: Node, target: Target) -> str | None:
    """Why a node does not resize f32 or u8 images, or None."""
    if not 3 <= node.result.type.rank <= 5:
        return "rank above 5"
    if node.result.type.layout is None:
        return "the number of channels is symbolic"
    if not node.result.type.is_quantized:
        return why_not_f32(node, target)
    reason = why_not_u8(node, target)
    op = Resize(node)
    if reason is None and op.mode == "nearest" and op.x.type.quant != node.result.type.quant:
        return "operand and result have other parameters"
    return reason


_ENTRY_BYTES = 128
"""Bytes that lowering needs for one position along an axis: arrays of f64 and i64, or a tuple of ints."""


def _positions(s: NodeLowering, op: Resize) -> list[tuple[int, np.ndarray]]:
    """For each spatial axis (the operand's size, the positions in the operand)."""
    x, y = s.view(op.x), s.result()
    s.check_table(max(y.shape[2:]), _ENTRY_BYTES)
    return [(n, op.positions(i, n, out)) for i, (n, out) in enumerate(zip(x.shape[2:], y.shape[2:]))]


@lowers("resize", unless=_why_not_image)
def resize(s: NodeLowering) -> None:
    op = Resize(s.node, s.attrs)
    if op.mode == "nearest":
        pixels = [nearest_indices(positions, n, op.rounding) for n, positions in _positions(s, op)]
        copy_pixels(s, op.x, pixels)
        return
    y, layout = s.result(), s.out.layout
    assert layout is not None
    x = s.channels_last(op.x, layout.channel_stride)
    axes = [linear_weights(positions, n) for n, positions in _positions(s, op)]
    missing = 3 - len(axes)
    zeros = np.zeros(1, np.int64)
    tables = [(zeros, zeros, np.zeros(1, np.float32))] * missing + axes
    x_strides, y_strides = (0,) * missing + x.strides[2:], (0,) * missing + y.strides[2:]
    sizes = (1,) * missing + y.shape[2:]
    first, second, third = (
        kernels.ResizeAxis[Memory, int](
            places=s.stored(np.stack([left, right], axis=1) * x_strides[i]),
            weights=s.stored(weight.astype(np.float32)),
            size=sizes[i],
            y_stride=y_strides[i],
        )
        for i, (left, right, weight) in enumerate(tables)
    )
    scale, in_zero, codes = 1.0, 0, CodeRange(zero=0, low=0.0, high=0.0)
    if s.out.is_quantized:
        scale = float(qmath.multiplier(op.x.type.params.scales, over=s.out.params.scales)[0])
        in_zero, codes = zero_point(op.x.type), code_range(s.out)
    s.call(
        kernels.interpolate(axes=len(axes), codes=s.out.is_quantized),
        kernels.Interpolate(
            x=x,
            y=y,
            axes=(first, second, third),
            images=y.shape[0],
            channels=y.shape[1],
            x_image=x.strides[0],
            y_image=y.strides[0],
            scale=scale,
            in_zero=in_zero,
            codes=codes,
        ),
        bytes=(x.elements + y.elements) * y.dtype.itemsize,
    )
