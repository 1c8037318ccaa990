"""Lowers softmax and log_softmax along an axis."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernels import softmax as kernels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.lowering.why_not import why_not_codes, why_not_f32
from qcompiler.backends.rules.convert import code_range, in_result_layout
from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.ops.reduce import LogSoftmax, Softmax, softmax_table
from qcompiler.quantization import qmath
from qcompiler.types import DType, Layout


def _axes_within(s: NodeLowering, axis: int, layout: Layout | None) -> list[int]:
    """The axes inside of the softmax's axis in the order of storage."""
    rank = len(s.out.shape)
    order = [*range(rank)] if layout is None or layout.order == "row_major" else [0, *range(2, rank), 1]
    return order[order.index(axis) + 1 :]


def _lines(
    s: NodeLowering, axis: int, x: TensorView, y: TensorView, layout: Layout | None
) -> kernels.Lines[Memory, int]:
    """The lines of an operand and of a result, which have the same layout without gaps."""
    size, x_stride, y_stride = y.shape[axis], x.strides[axis], y.strides[axis]
    inner = math.prod(y.shape[a] for a in _axes_within(s, axis, layout))
    return kernels.Lines(
        x=x,
        y=y,
        outer=y.elements // (inner * size),
        size=size,
        inner=inner,
        x_outer=x_stride * size,
        x_stride=x_stride,
        y_outer=y_stride * size,
        y_stride=y_stride,
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


def _why_not_softmax(node: Node, target: Target) -> str | None:
    """Why a softmax does not read and give codes of u8 or i16, or None."""
    return why_not_codes(Softmax(node).x.type) or why_not_codes(node.result.type)


@lowers("softmax", unless=_why_not_softmax)
def softmax_codes(s: NodeLowering) -> None:
    op, layout = Softmax(s.node), s.out.layout
    axis, table = op.axis, s.memo("table", lambda: softmax_table(op.x.type))
    scale, codes = float(qmath.multiplier(1.0, over=s.out.params.scale[0])), code_range(s.out)
    along_channels = layout is not None and layout.order == "channels_last" and axis == 1
    is_of_bytes = {op.x.type.dtype, s.out.dtype} == {DType.U8}
    if is_of_bytes and (along_channels or (layout is None and axis == len(s.out.shape) - 1)):
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
        kernels.softmax_codes_strided(source=str(op.x.type.dtype), to=str(s.out.dtype)),
        kernels.SoftmaxCodesStrided(
            lines=_lines(s, axis, x, y, layout),
            x_inner=x.dtype.itemsize,
            y_inner=y.dtype.itemsize,
            table=s.stored(table),
            scale=scale,
            codes=codes,
        ),
        bytes=(x.dtype.itemsize + y.dtype.itemsize) * y.elements,
    )
    if y is not s.result():
        s.copy(y, s.result())
