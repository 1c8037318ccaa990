"""softmax and log_softmax along an axis."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.kernels import softmax as kernels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.lowering.why_not import why_not_f32, why_not_u8
from qcompiler.backends.rules.convert import bounds, in_result_layout, zero_point
from qcompiler.ops.reduce import softmax_table
from qcompiler.quantization import qmath
from qcompiler.types import Layout


def _axes_within(s: NodeLowering, layout: Layout | None) -> list[int]:
    """Axes that lie within a step along the axis of the softmax."""
    rank = len(s.out.shape)
    order = [*range(rank)] if layout is None or layout.order == "row_major" else [0, *range(2, rank), 1]
    return order[order.index(s.attrs["axis"]) + 1 :]


def _lines(s: NodeLowering, y: TensorView, layout: Layout | None) -> dict[str, int]:
    """Extents of the lines of a result in a layout without gaps, and of an operand that lies as it does."""
    size, step = y.shape[s.attrs["axis"]], y.strides[s.attrs["axis"]]
    inner = math.prod(y.shape[a] for a in _axes_within(s, layout))
    lines = {"outer": y.elements // (inner * size), "size": size, "inner": inner}
    return {**lines, "x_outer": step * size, "x_step": step, "y_outer": step * size, "y_step": step}


@lowers("softmax", "log_softmax", unless=why_not_f32)
def softmax_real(s: NodeLowering) -> None:
    x, y = in_result_layout(s, 0), s.result()
    across = any(s.out.shape[a] != 1 for a in _axes_within(s, s.out.layout))
    s.call(
        kernels.softmax_real,
        {"mode": "across" if across else "along", "log": s.node.op == "log_softmax"},
        x=x,
        y=y,
        writes=("y",),
        bytes=8 * y.elements,
        **_lines(s, y, s.out.layout),
    )


@lowers("softmax", unless=why_not_u8)
def softmax_codes(s: NodeLowering) -> None:
    layout, axis = s.out.layout, s.attrs["axis"]
    table = s.memo("table", lambda: softmax_table(s.type(0)))
    common = dict(
        table=s.table(table),
        zero=zero_point(s.out),
        scale=float(qmath.multiplier(1.0, over=s.out.quant.scale[0])),
        **bounds(s.out),
    )
    along_channels = layout is not None and layout.order == "channels_last" and axis == 1
    if along_channels or (layout is None and axis == len(s.out.shape) - 1):
        x, y = in_result_layout(s, 0), s.result()
        size = y.shape[axis]
        step = layout.channel_stride if along_channels else size
        planes = np.stack([table >> 8 * plane & 255 for plane in range(3)]).astype(np.uint8)
        s.call(
            kernels.softmax_codes,
            x=x,
            y=y,
            planes=s.table(planes),
            lines=y.elements // size,
            size=size,
            x_line=step,
            y_line=step,
            writes=("y",),
            bytes=2 * y.elements,
            **common,
        )
        return
    if layout is not None and layout.channel_stride != s.out.shape[1]:  # gaps between the pixels
        layout = None
        x, y = s.row_major(0), s.lowering.new(s.out, f"{s.node.name}.row_major", None)
    else:
        x, y = in_result_layout(s, 0), s.result()
    s.call(
        kernels.softmax_codes_strided,
        x=x,
        y=y,
        x_inner=1,
        y_inner=1,
        writes=("y",),
        bytes=2 * y.elements,
        **_lines(s, y, layout),
        **common,
    )
    if y is not s.result():
        s.copy(y, s.result())
