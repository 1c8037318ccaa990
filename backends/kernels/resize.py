"""Linear interpolation over up to three spatial axes, channels last. It interpolates along one axis after the other,
beginning with the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I32, I64, vector
from qcompiler.backends.kernels.code_range import CodeRange


class ResizeAxis(Group, Generic[P, E]):
    """One spatial axis of the result.

    Attributes:
        places: for each position along the axis a pair of i64: the byte offsets in x of the two elements between which
            it lies.
        weights: for each position the f32 weight of the second element.
        size: how many positions there are.
        y_stride: bytes from position to position in y.
    """

    places: P
    weights: P
    size: E
    y_stride: E


class Interpolate(Arguments["Interpolate"], Generic[P, E, S]):
    """The arguments of `interpolate`: images and their resized copies.

    Attributes:
        axes: the spatial axes; missing ones come first, with one position.
        x_image, y_image: bytes from image to image.
        scale, in_zero, codes: only read for codes: the scale of x over that of y, the zero point of x, and the codes of
            y.
    """

    x: P
    y: Written[P]
    axes: tuple[ResizeAxis[P, E], ResizeAxis[P, E], ResizeAxis[P, E]]
    images: E
    channels: E
    x_image: E
    y_image: E
    scale: S
    in_zero: E
    codes: CodeRange[E, S]


@kernel
def interpolate(b: KernelBuilder, a: Interpolate, *, axes: int, codes: bool) -> None:
    """Interpolate along the last `axes` axes. codes: x and y are u8: f32(q - in_zero) is interpolated, multiplied with
    the scale, and requantized."""
    lanes = b.target.f32_lanes
    element = vector(I8 if codes else F32, lanes)
    size = 1 if codes else 4
    n0, n1, n2 = (axis.size for axis in a.axes)
    in_zero, zero = (b.splat(b.trunc(v, I32), lanes) for v in (a.in_zero, a.codes.zero))
    scale, low, high = (b.splat(v, lanes) for v in (a.scale, a.codes.low, a.codes.high))

    def ends(axis: ResizeAxis, place: Value) -> tuple[list[Value], Value]:
        weight = b.load(F32, axis.weights, place * 4)
        return [b.load(I64, axis.places, place * 16, disp=8 * side) for side in range(2)], b.splat(weight, lanes)

    lo, hi = b.share(a.images * n0 * n1 * n2)
    with b.loop(lo, hi) as pixel:
        rest, p2 = pixel.index // n2, pixel.index % n2
        rest, p1 = rest // n1, rest % n1
        image, p0 = rest // n0, rest % n0
        found = [ends(axis, place) for axis, place in zip(a.axes, (p0, p1, p2))][3 - axes :]
        x = a.x + image * a.x_image
        offset = image * a.y_image
        for axis, place in zip(a.axes, (p0, p1, p2)):
            offset = offset + place * axis.y_stride
        y = a.y + offset
        with b.loop(0, a.channels, lanes) as channel:
            left = a.channels - channel.index

            def corner(offsets: Sequence[Value], at: Value = channel.index, left: Value = left) -> Value:
                pointer = x
                for offset in offsets:
                    pointer = pointer + offset
                value = b.load_prefix(element, pointer, at * size, left)
                return b.sitofp(b.zext(value, I32) - in_zero) if codes else value

            def blend(axis: int, offsets: list[Value]) -> Value:
                """The value at these offsets along the axes after `axis`, interpolated along the axes up to it."""
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
