"""GridSample: an image at places that a grid gives."""

from __future__ import annotations

from typing import Any

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, cast, dims, expand, rank, reshape, unary, where
from qcompiler.frontend.indexing import gather_elements, select
from qcompiler.frontend.onnx_ops.node import OnnxNode, onnx
from qcompiler.types import DType


@onnx("GridSample")
def _grid_sample(n: OnnxNode) -> Any:
    """Of images [N, C, H, W] at places [N, H', W', 2], each (x, y) in -1 to 1."""
    n.only("mode", "linear", "bilinear", "nearest")
    n.only("padding_mode", "zeros", "border", "reflection")
    image, grid = n.floats(0), n.floats(1)
    if rank(image) != 4:
        raise n.refuse("the rank of the image", expected=4, got=rank(image))
    height, width = (ops.static_size(image, axis, n.op) for axis in (2, 3))
    if not height * width:
        raise n.refuse("the image is empty", expected="an element", got=str(dims(image)))
    corners, padding = bool(n.attr("align_corners", 0)), n.attr("padding_mode", "zeros")
    nearest = n.attr("mode", "linear") == "nearest"
    x, y = (_places(select(grid, -1, i), size, corners, padding, nearest) for i, size in enumerate((width, height)))
    batch, channels = dims(image)[:2]
    rows, columns = dims(grid)[1:3]
    flat = reshape(image, (batch, channels, height * width))

    def read(x: Any, y: Any) -> Any:
        """The elements at whole places, and 0 outside of the image."""
        inside = [binary("equal", ops.clip(at, 0.0, size - 1.0), at) for at, size in ((x, width), (y, height))]
        column, row = (cast(ops.clip(at, 0.0, size - 1.0), DType.I64) for at, size in ((x, width), (y, height)))
        index = reshape(binary("add", binary("mul", row, width), column), (batch, 1, rows * columns))
        found = gather_elements(flat, expand(index, (batch, channels, rows * columns)), 2)
        found = reshape(found, (batch, channels, rows, columns))
        return where(ops.expand_dims(binary("logical_and", *inside), 1), found, 0.0)

    if nearest:
        return read(x, y)
    left, top = unary("floor", x), unary("floor", y)
    right, bottom = (ops.expand_dims(binary("sub", at, low), 1) for at, low in ((x, left), (y, top)))

    def line(row: Any) -> Any:
        return _between(read(left, row), read(binary("add", left, 1.0), row), right)

    return _between(line(top), line(binary("add", top, 1.0)), bottom)


def _between(low: Any, high: Any, weight: Any) -> Any:
    return binary("add", binary("mul", low, binary("sub", 1.0, weight)), binary("mul", high, weight))


def _places(at: Any, size: int, corners: bool, padding: str, whole: bool) -> Any:
    """Indices along an axis.

    -1 and 1 are the centers of the outer elements (`corners`) or their far ends. `whole` rounds the indices, before
    they are reflected, as ONNX Runtime does. NaN lies outside, as do places so far out that no integer holds them.
    """
    if corners:
        at = binary("mul", binary("add", at, 1.0), (size - 1) / 2)
    else:
        at = binary("sub", binary("mul", binary("add", at, 1.0), size / 2), 0.5)
    at = unary("round", at) if whole else at
    if padding == "reflection":
        low, span = (0.0, float(size - 1)) if corners else (-0.5, float(size))
        if span:
            away = unary("abs", binary("sub", at, low))
            turns = unary("floor", binary("div", away, span))
            rest = binary("sub", away, binary("mul", turns, span))
            odd = binary("sub", turns, binary("mul", unary("floor", binary("mul", turns, 0.5)), 2.0))
            at = binary("add", where(binary("equal", odd, 0.0), rest, binary("sub", span, rest)), low)
        else:
            at = binary("mul", at, 0.0)
    at = where(binary("equal", at, at), at, -1.0)
    return ops.clip(at, -2.0, size + 1.0) if padding == "zeros" else ops.clip(at, 0.0, size - 1.0)
