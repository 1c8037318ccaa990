"""Lowers softmax and log_softmax along an axis."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernels import softmax as kernels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.lowering.why_not import why_not_f32, why_not_u8
from qcompiler.backends.rules.convert import code_range, in_result_layout
from qcompiler.ops.reduce import LogSoftmax, Softmax, softmax_table
from qcompiler.quantization import qmath
from qcompiler.types import Layout


def _axes_within(s: NodeLowering, axis: int, layout: Layout | None) -> list[int]:
    """The axes inside of the softmax's axis in the order of storage."""
    rank = len(s.out.shape)
    order = [*range(rank)] if layout is None or layout.order == "row_major" else [0, *range(2, rank), 1]
    return order[order.index(axis) + 1 :]


def _lines(
    s: NodeLowering, axis: int, x: TensorView, y: TensorView, layout: Layout | None
) -> kernels.Lines[Memory, int]:
    """The lines of an operand and of a result, which have the same layout without gaps."""
    size, stride = y.shape[axis], y.strides[axis]
    inner = math.prod(y.shape[a] for a in _axes_within(s, axis, layout))
    return kernels.Lines(
        x=x,
        y=y,
        outer=y.elements // (inner * size),
        size=size,
        inner=inner,
        x_outer=stride * size,
        x_stride=stride,
        y_outer=stride * size,
        y_stride=stride,
    )


@lowers("softmax", "log_softmax", unless=why_not_f32)
def softmax_real(s: NodeLowering) -> None:
    op = Softmax.of(s.node) or LogSoftmax.of(s.node)
    assert op is not None
    x, y = in_result_layout(s, op.x), s.result()
    across = any(s.out.shape[a] != 1 for a in _axes_within(s, op.axis, s.out.layout))
    s.call(
        kernels.softmax_real(
            mode="across" if across else "along",
            log=isinstance(op, LogSoftmax),
            masked_is_zero=isinstance(op, Softmax) and op.masked_is_zero,
        ),
        _lines(s, op.axis, x, y, s.out.layout),
        bytes=8 * y.elements,
    )


@lowers("softmax", unless=why_not_u8)
def softmax_codes(s: NodeLowering) -> None:
    op, layout = Softmax(s.node), s.out.layout
    axis, table = op.axis, s.memo("table", lambda: softmax_table(op.x.type))
    scale, codes = float(qmath.multiplier(1.0, over=s.out.params.scale[0])), code_range(s.out)
    along_channels = layout is not None and layout.order == "channels_last" and axis == 1
    if along_channels or (layout is None and axis == len(s.out.shape) - 1):
        x, y = in_result_layout(s, op.x), s.result()
        size = y.shape[axis]
        line = layout.channel_stride if layout is not None else size
        planes = np.stack([table >> 8 * plane & 255 for plane in range(3)]).astype(np.uint8)
        s.call(
            kernels.softmax_codes(),
            kernels.SoftmaxCodes(
                x=x,
                table=s.stored(table),
                planes=s.stored(planes),
                y=y,
                lines=y.elements // size,
                size=size,
                x_line=line,
                y_line=line,
                scale=scale,
                codes=codes,
            ),
            bytes=2 * y.elements,
        )
        return
    if layout is not None and layout.channel_stride != s.out.shape[1]:  # gaps between the pixels
        layout = None
        x, y = s.row_major(op.x), s.new(s.out, f"{s.node.name}.row_major")
    else:
        x, y = in_result_layout(s, op.x), s.result()
    s.call(
        kernels.softmax_codes_strided(),
        kernels.SoftmaxCodesStrided(
            lines=_lines(s, axis, x, y, layout), x_inner=1, y_inner=1, table=s.stored(table), scale=scale, codes=codes
        ),
        bytes=2 * y.elements,
    )
    if y is not s.result():
        s.copy(y, s.result())
