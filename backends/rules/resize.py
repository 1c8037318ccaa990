"""resize: nearest and linear, channels last."""

from __future__ import annotations

import numpy as np

from qcompiler.backends.kernels import resize as kernels
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.why_not import why_not_f32, why_not_u8
from qcompiler.backends.rules.convert import bounds, zero_point
from qcompiler.backends.rules.pool import copy_places
from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.ops.resize import linear_weights, nearest_indices, source_positions
from qcompiler.quantization import qmath


def _not_image(node: Node, target: Target) -> str | None:
    if not 3 <= node.result.type.rank <= 5:
        return "rank above 5"
    if not node.result.type.is_quantized:
        return why_not_f32(node, target)
    reason = why_not_u8(node, target)
    if reason is None and node.attrs["mode"] == "nearest" and node.operands[0].type.quant != node.result.type.quant:
        return "operand and result have other parameters"
    return reason


def _positions(s: NodeLowering) -> list[tuple[int, np.ndarray]]:
    """(size of the operand, positions in it) of each spatial axis."""
    x, y, scales = s.operand(0), s.result(), s.attrs["scales"]
    return [
        (n, source_positions(n, out, None if scales is None else scales[i], s.attrs["coordinates"]))
        for i, (n, out) in enumerate(zip(x.shape[2:], y.shape[2:]))
    ]


@lowers("resize", unless=_not_image)
def resize(s: NodeLowering) -> None:
    if s.attrs["mode"] == "nearest":
        copy_places(s, [nearest_indices(positions, n, s.attrs["rounding"]) for n, positions in _positions(s)])
        return
    y, layout = s.result(), s.out.layout
    x = s.channels_last(0, layout.channel_stride)
    axes = [linear_weights(positions, n) for n, positions in _positions(s)]
    gone = 3 - len(axes)
    zeros = np.zeros(1, np.int64)
    tables = {}
    steps = (0,) * gone + x.strides[2:]
    for i, (left, right, weight) in enumerate([(zeros, zeros, np.zeros(1, np.float32))] * gone + axes):
        tables[f"places{i}"] = s.table(np.stack([left, right], axis=1) * steps[i])
        tables[f"weights{i}"] = s.table(weight.astype(np.float32))
    sizes, results = (1,) * gone + y.shape[2:], (0,) * gone + y.strides[2:]
    extents = {f"n{i}": n for i, n in enumerate(sizes)} | {f"ys{i}": step for i, step in enumerate(results)}
    arguments: dict[str, float] = {"in_zero": 0, "zero": 0, "scale": 1.0, "low": 0.0, "high": 0.0}
    if s.out.is_quantized:
        source = s.type(0).quant
        arguments = {
            "in_zero": source.zero_point[0],
            "zero": zero_point(s.out),
            "scale": float(qmath.multiplier(source.scales, over=s.out.quant.scales)[0]),
            **bounds(s.out),
        }
    s.call(
        kernels.interpolate,
        {"axes": len(axes), "codes": s.out.is_quantized},
        x=x,
        y=y,
        images=y.shape[0],
        channels=y.shape[1],
        x_image=x.strides[0],
        y_image=y.strides[0],
        writes=("y",),
        bytes=(x.elements + y.elements) * y.dtype.itemsize,
        **tables,
        **extents,
        **arguments,
    )
