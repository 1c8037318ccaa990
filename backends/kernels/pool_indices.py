"""Where the maxima of windows lie, row major: one element at a time, in the order of the elements in memory."""

from __future__ import annotations

from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I32, I64

_NAN = 2**31 - 1
"""The key of every NaN; no other float has it."""


class PoolAxis(Group, Generic[P, E]):
    """One axis of the windows.

    Attributes:
        windows: for each position of the result a pair of i64: the position of the first tap in x, the number of taps.
        count: positions of the result. size: positions of x. tap: positions from tap to tap.
    """

    windows: P
    count: E
    size: E
    tap: E


class PoolIndices(Arguments["PoolIndices"], Generic[P, E]):
    """The arguments of `max_pool_indices`. x: f32 [images, sizes of the axes]; y: i64 [images, counts of the axes]."""

    x: P
    y: Written[P]
    axes: tuple[PoolAxis[P, E], PoolAxis[P, E], PoolAxis[P, E]]
    images: E


def _key(b: KernelBuilder, x: Value) -> Value:
    """An i32 that is ordered as f32 are. Both zeros have key 0."""
    bits = b.bitcast(x + 0.0, I32)  # -0 + 0 is 0
    return b.select(x != x, b.const(I32, _NAN), bits ^ b.lshr(bits >> 31, 1))


@kernel
def max_pool_indices(b: KernelBuilder, a: PoolIndices) -> None:
    """The index in its image of each window's first maximum, or of its last NaN; -1 for a window without taps. Threads
    share rows of the result."""
    depth, height, width = a.axes

    def taps(axis: PoolAxis, at: Value) -> tuple[Value, Value]:
        return b.load(I64, axis.windows, at * 16), b.load(I64, axis.windows, at * 16, disp=8)

    lo, hi = b.share(a.images * depth.count * height.count)
    with b.loop(lo, hi) as row:
        d_first, d_count = taps(depth, row.index // height.count % depth.count)
        h_first, h_count = taps(height, row.index % height.count)
        image = row.index // (height.count * depth.count)
        x = a.x + image * (depth.size * height.size * width.size * F32.bytes)
        with b.loop(0, width.count) as column:
            w_first, w_count = taps(width, column.index)
            with b.loop(0, d_count, carried=[b.const(I32, -(2**31)), b.i64(-1)]) as i:
                plane = (d_first + i.index * depth.tap) * height.size
                with b.loop(0, h_count, carried=i.carried) as j:
                    first = (plane + h_first + j.index * height.tap) * width.size + w_first
                    with b.loop(0, w_count, carried=j.carried) as k:
                        best, found = k.carried
                        at = first + k.index * width.tap
                        key = _key(b, b.load(F32, x, at * F32.bytes))
                        better = (key > best) | (key == _NAN)
                        k.yield_([b.select(better, key, best), b.select(better, at, found)])
                    j.yield_(k.results)
                i.yield_(j.results)
            b.store(i.results[1], a.y, (row.index * width.count + column.index) * 8)
