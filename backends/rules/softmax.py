"""softmax and log_softmax along an axis."""

from __future__ import annotations

import math

from qcompiler.backends.kernels import softmax as kernels
from qcompiler.backends.placement import Placed
from qcompiler.backends.rules.convert import bounds, in_result_layout, zero_point
from qcompiler.backends.steps import Steps, lowers, not_float, not_u8
from qcompiler.ops.reduce import softmax_table
from qcompiler.quantization import qmath


def _lines(s: Steps, x: Placed, y: Placed) -> dict[str, int]:
    """Extents of the lines of x and y, which lie alike and without gaps."""
    axis = s.attrs["axis"]
    order = sorted(range(len(x.shape)), key=lambda a: (-y.strides[a], a))
    after = order[order.index(axis) + 1:]
    inner, step = math.prod(y.shape[a] for a in after), y.strides[axis]
    outer = y.elements // (inner * y.shape[axis])
    return {"outer": outer, "size": y.shape[axis], "inner": inner, "x_outer": x.strides[axis] * y.shape[axis], "x_step": x.strides[axis],
            "y_outer": step * y.shape[axis], "y_step": step}


@lowers("softmax", "log_softmax", unless=not_float)
def softmax_real(s: Steps) -> None:
    x, y = in_result_layout(s, 0), s.result()
    lines = _lines(s, x, y)
    s.call(kernels.softmax_real, {"mode": "along" if lines["inner"] == 1 else "across", "log": s.node.op == "log_softmax"}, x=x, y=y,
           writes=("y",), bytes=8 * y.elements, **lines)


@lowers("softmax", unless=not_u8)
def softmax_codes(s: Steps) -> None:
    table = s.once("table", lambda: softmax_table(s.type(0)))
    layout = s.out.layout
    if layout is not None and layout.channel_stride != s.out.shape[1]:  # gaps between the pixels
        x, y = s.row_major(0), s.lowering.new(s.out, f"{s.node.name}.row_major", None)
    else:
        x, y = in_result_layout(s, 0), s.result()
    s.call(kernels.softmax_codes, x=x, table=s.table(table), y=y, zero=zero_point(s.out), x_inner=1, y_inner=1,
           scale=float(qmath.multiplier(1.0, over=s.out.quant.scale[0])), writes=("y",), bytes=2 * y.elements, **bounds(s.out),
           **_lines(s, x, y))
    if y is not s.result():
        s.copy(y, s.result())
