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
    n.only("mode", "nearest", "linear", *(["bilinear"] if n.op == "Upsample" else ["cubic"]))
    n.only("coordinate_transformation_mode", *_COORDINATES)
    n.only("nearest_mode", *_ROUNDINGS)
    n.only("antialias", 0)
    cubic = n.attr("mode", "nearest") == "cubic"
    if not cubic:
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
    if cubic:
        return _cubic(n, x, given, size is not None)
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


def _cubic(n: OnnxNode, x: Any, given: dict[int, Any], as_sizes: bool) -> Any:
    """Cubic interpolation, one axis after the other: each is a product with a constant matrix."""
    coordinates = n.attr("coordinate_transformation_mode", "half_pixel")
    a, inside_only = float(n.attr("cubic_coeff_a", -0.75)), bool(n.attr("exclude_outside", 0))
    for axis in range(2, rank(x)):
        own = dims(x)[axis]
        if not isinstance(own, int):
            raise n.refuse("mode='cubic' of an open axis", got=str(own), hint="compile with example_inputs")
        wanted = given.get(axis, own if as_sizes else 1.0)
        scale = int(wanted) / own if as_sizes else float(wanted)
        size = int(wanted) if as_sizes else int(own * scale)
        if coordinates == "align_corners" and not as_sizes and own * scale != size:
            raise n.refuse("align_corners with scales that give no whole size", got=scale, hint="give sizes")
        if size == own and scale == 1:
            continue
        matrix = cubic_matrix(own, size, scale, coordinates, a, inside_only)
        last = rank(x) - 1
        x = ops.swapaxes(ops.matmul(ops.swapaxes(x, axis, last), matrix.T), axis, last)
    return x


def cubic_matrix(
    own: int, size: int, scale: float, coordinates: str, a: float = -0.75, inside_only: bool = False
) -> np.ndarray[Any, Any]:
    """f32 [size, own]: what each pixel of the resized axis takes from the axis.

    Keys' cubic convolution (Cubic Convolution Interpolation for Digital Image Processing, 1981) with the coefficient a,
    as ONNX's Resize specifies it. Pixels outside are those at the edge. With `inside_only` they take no part, and the
    weights of the others are scaled to a sum of 1.
    """
    index = np.arange(size, dtype=np.float64)
    if coordinates == "align_corners":
        place = index * ((own - 1) / (size - 1)) if size > 1 else index * 0
    elif coordinates == "asymmetric":
        place = index / scale
    else:
        place = (index + 0.5) / scale - 0.5
        if coordinates == "pytorch_half_pixel" and size == 1:
            place = place * 0
    matrix = np.zeros((size, own))
    for tap in range(-1, 3):
        pixel = np.floor(place) + tap
        distance = np.abs(place - pixel)
        near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        if inside_only:
            weight = np.where((pixel >= 0) & (pixel < own), weight, 0.0)
        np.add.at(matrix, (np.arange(size), np.clip(pixel, 0, own - 1).astype(np.int64)), weight)
    if inside_only:
        matrix /= matrix.sum(1, keepdims=True)
    return matrix.astype(np.float32)
