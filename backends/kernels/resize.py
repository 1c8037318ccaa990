"""Linear interpolation over up to three spatial axes, channels last; axis after axis, the first one first."""

from __future__ import annotations

from collections.abc import Sequence

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I32, I64, vector

POINTERS = ("x", "places0", "weights0", "places1", "weights1", "places2", "weights2", "y")
EXTENTS = ("images", "n0", "n1", "n2", "channels", "x_image", "y_image", "ys0", "ys1", "ys2")


@kernel(pointers=POINTERS, extents=(*EXTENTS, "in_zero", "zero"), scalars=("scale", "low", "high"))
def interpolate(b: KernelBuilder, *, axes: int, codes: bool) -> None:
    """places: (left, right) byte offsets of each result place along an axis; weights: f32 of the right one. Only the
    last `axes` tables are interpolated. codes: u8 in, f32(q - in_zero) interpolated, times scale, requantized."""
    lanes = b.target.f32_lanes
    element = vector(I8 if codes else F32, lanes)
    size = 1 if codes else 4
    n0, n1, n2 = (b.extent(f"n{i}") for i in range(3))
    in_zero, zero = (b.splat(b.trunc(b.extent(name), I32), lanes) for name in ("in_zero", "zero"))
    scale, low, high = (b.splat(b.scalar(name), lanes) for name in ("scale", "low", "high"))

    def ends(axis: int, place: Value) -> tuple[list[Value], Value]:
        table = b.pointer(f"places{axis}")
        weight = b.load(F32, b.pointer(f"weights{axis}"), place * 4)
        return [b.load(I64, table, place * 16, disp=8 * side) for side in range(2)], b.splat(weight, lanes)

    lo, hi = b.share(b.extent("images") * n0 * n1 * n2)
    with b.loop(lo, hi) as pixel:
        rest, p2 = pixel.index // n2, pixel.index % n2
        rest, p1 = rest // n1, rest % n1
        image, p0 = rest // n0, rest % n0
        found = [ends(axis, place) for axis, place in ((0, p0), (1, p1), (2, p2))][3 - axes :]
        x = b.pointer("x") + image * b.extent("x_image")
        y = b.pointer("y") + (
            image * b.extent("y_image") + p0 * b.extent("ys0") + p1 * b.extent("ys1") + p2 * b.extent("ys2")
        )
        with b.loop(0, b.extent("channels"), lanes) as channel:
            left = b.extent("channels") - channel.index

            def corner(offsets: Sequence[Value], at: Value = channel.index, left: Value = left) -> Value:
                pointer = x
                for offset in offsets:
                    pointer = pointer + offset
                value = b.load_prefix(element, pointer, at * size, left)
                return b.sitofp(b.zext(value, I32) - in_zero) if codes else value

            def blend(axis: int, offsets: list[Value]) -> Value:
                """The value at these offsets along the axes after `axis`, axes up to it interpolated."""
                if axis < 0:
                    return corner(offsets)
                (first, second), weight = found[axis]
                one = b.const(weight.type, 1.0)
                return (
                    blend(axis - 1, [first, *offsets]) * (one - weight) + blend(axis - 1, [second, *offsets]) * weight
                )

            value = blend(axes - 1, [])
            if codes:
                value = b.trunc(b.target.round_to_i32(b, b.clamp(value * scale, low, high)) + zero, I8)
            b.store_prefix(value, y, channel.index * size, left)
