"""Resize and Upsample: images at other sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import dims, rank
from qcompiler.frontend.onnx_ops.node import OnnxNode, onnx

_COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
_ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@onnx("Resize", "Upsample")
def _resize(n: OnnxNode) -> Any:
    """Resize, and what it was called before opset 10. Until 10 a pixel's place is its index over the scale, rounded
    down."""
    n.only("mode", "nearest", "linear", *(["bilinear"] if n.op == "Upsample" else []))
    n.only("coordinate_transformation_mode", *_COORDINATES)
    n.only("nearest_mode", *_ROUNDINGS)
    n.only("antialias", 0)
    n.only("exclude_outside", 0)
    n.only("keep_aspect_ratio_policy", "stretch")
    x = n.x(0) if n.attr("mode", "nearest") == "nearest" else n.floats(0)
    if n.moved is not None:
        n.only("mode", "nearest")
    axes = [ops.check_axis(axis, rank(x), n.op) for axis in n.attr("axes", list(range(rank(x))))]
    old = n.opset < 11  # scales are the second operand or, of Upsample 7, an attribute
    scales = n.known(1 if old else 2, None)
    if scales is None and "scales" in n.attrs:
        scales = np.asarray(n.attr("scales"), np.float32)
    size = None if old else n.optional_ints(3)
    own = dims(x)
    if size is None and (scales is None or scales.size == 0):
        raise n.refuse("neither scales nor sizes are given")
    given = dict(zip(axes, size if size is not None else [float(v) for v in np.ravel(scales)]))
    for axis in (0, 1):
        kept = given.get(axis, own[axis] if size is not None else 1.0)
        if getattr(kept, "dim", kept) != (own[axis] if size is not None else 1.0):
            raise n.refuse(f"axis {axis} is resized", expected="spatial axes alone", got=str(kept))
    attrs = {
        "mode": "nearest" if n.attr("mode", "nearest") == "nearest" else "bilinear",
        "coordinates": n.attr("coordinate_transformation_mode", "asymmetric" if old else "half_pixel"),
        "rounding": n.attr("nearest_mode", "floor" if old else "round_prefer_floor"),
    }
    if size is not None:
        return n.emit(
            "resize", (x,), size=tuple(int(given.get(axis, own[axis])) for axis in range(2, rank(x))), **attrs
        )
    spatial = tuple(float(given.get(axis, 1.0)) for axis in range(2, rank(x)))
    if attrs["coordinates"] == "align_corners" and any(
        isinstance(size, int) and size * f != int(size * f) for size, f in zip(own[2:], spatial)
    ):
        raise n.refuse("align_corners with scales that give no whole size", got=spatial, hint="give sizes")
    return n.emit("resize", (x,), scales=spatial, **attrs)
