"""Pooling over up to three spatial axes, channels last; lanes lie across channels, windows are clipped to the input.

Each axis has a table with a (byte offset of the first tap, number of taps) pair for every output place, so strides, borders, dilation,
ceil_mode and adaptive windows are all data. Taps are taken in row-major order. Threads share rows of the output.
"""

from __future__ import annotations

from collections.abc import Callable

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I32, I64, Type, vector

_POINTERS = ("x", "depths", "heights", "widths", "divisors", "y")
_EXTENTS = ("images", "depth", "height", "width", "channels", "x_image", "tap_d", "tap_h", "tap_w", "y_image", "y_depth", "y_row", "y_pixel")


def _over_windows(b: KernelBuilder, element: Type, start: Value, combine: Callable[[Value, Value], Value],
                  finish: Callable[[Value, Value, Value], Value]) -> None:
    """combine(acc, loaded) over the taps; finish(acc, taps, divisor) gives what is stored. One register of channels at a time."""
    lanes, size = element.lanes, element.element.bits // 8
    height, depth = b.extent("height"), b.extent("depth")
    lo, hi = b.share(b.extent("images") * depth * height)

    def window(axis: str, place: Value) -> tuple[Value, Value]:
        table = b.pointer(axis)
        return b.load(I64, table, place * 16), b.load(I64, table, place * 16, disp=8)

    with b.loop(lo, hi) as row:
        plane, h = row.index // height, row.index % height
        image, d = plane // depth, plane % depth
        d_first, d_count = window("depths", d)
        h_first, h_count = window("heights", h)
        x_row = b.pointer("x") + (image * b.extent("x_image") + d_first + h_first)
        y_row = b.pointer("y") + (image * b.extent("y_image") + d * b.extent("y_depth") + h * b.extent("y_row"))
        with b.loop(0, b.extent("width")) as column:
            w_first, w_count = window("widths", column.index)
            divisor = b.load(F32, b.pointer("divisors"), ((d * height + h) * b.extent("width") + column.index) * 4)
            taps = d_count * h_count * w_count
            x_place, y_place = x_row + w_first, y_row + column.index * b.extent("y_pixel")
            with b.loop(0, b.extent("channels"), lanes) as channel:
                left = b.extent("channels") - channel.index
                x = x_place + channel.index * size

                def reduce(load: Callable[[Value, Value], Value], x: Value = x) -> Value:
                    with b.loop(0, d_count, carried=[start]) as ds:
                        x_d = x + ds.index * b.extent("tap_d")
                        with b.loop(0, h_count, carried=ds.carried) as hs:
                            x_h = x_d + hs.index * b.extent("tap_h")
                            with b.loop(0, w_count, carried=hs.carried) as ws:
                                ws.yield_([combine(ws.carried[0], load(x_h, ws.index * b.extent("tap_w")))])
                            hs.yield_(ws.results)
                        ds.yield_(hs.results)
                    return ds.results[0]

                with b.if_(left >= lanes) as whole:
                    found = finish(reduce(lambda p, o: b.load(element, p, o)), taps, divisor)
                    b.store(found, y_place, channel.index * size)
                    whole.yield_([])
                with whole.else_():
                    found = finish(reduce(lambda p, o, n=left: b.load_prefix(element, p, o, n)), taps, divisor)
                    b.store_prefix(found, y_place, channel.index * size, left)
                    whole.yield_([])


@kernel(pointers=_POINTERS, extents=_EXTENTS)
def max_pool_u8(b: KernelBuilder) -> None:
    """Largest code of each window. divisors are not read as such."""
    bytes_ = vector(I8, b.target.vector_bytes)
    _over_windows(b, bytes_, b.zero(bytes_), b.umax, lambda acc, taps, divisor: acc)


@kernel(pointers=_POINTERS, extents=_EXTENTS)
def max_pool_f32(b: KernelBuilder) -> None:
    """Largest value of each window; NaN if there is one."""
    floats = b.target.f32_vector()
    lowest = b.const(floats, float("-inf"))

    def combine(acc: Value, x: Value) -> Value:
        keep = (acc >= x) | (acc != acc)
        return b.select(keep, acc, x)

    _over_windows(b, floats, lowest, combine, lambda acc, taps, divisor: acc)


@kernel(pointers=_POINTERS, extents=_EXTENTS)
def avg_pool_f32(b: KernelBuilder) -> None:
    """Sum of each window over its divisor."""
    floats = b.target.f32_vector()
    _over_windows(b, floats, b.zero(floats), lambda acc, x: acc + x,
                  lambda acc, taps, divisor: acc / b.splat(divisor, floats.lanes))


@kernel(pointers=_POINTERS, extents=(*_EXTENTS, "in_zero", "zero"), scalars=("low", "high"))
def avg_pool_u8(b: KernelBuilder) -> None:
    """i32 sum of q - in_zero over each window, times its multiplier (in `divisors`), requantized."""
    lanes = b.target.i32_lanes
    low, high = b.splat(b.scalar("low"), lanes), b.splat(b.scalar("high"), lanes)
    zero = b.splat(b.trunc(b.extent("zero"), I32), lanes)

    def finish(acc: Value, taps: Value, multiplier: Value) -> Value:
        centered = acc - b.splat(b.trunc(taps * b.extent("in_zero"), I32), lanes)
        real = b.sitofp(centered) * b.splat(multiplier, lanes)
        return b.trunc(b.target.round_to_i32(b, b.clamp(real, low, high)) + zero, I8)

    _over_windows(b, vector(I8, lanes), b.zero(vector(I32, lanes)), lambda acc, q: acc + b.zext(q, I32), finish)
