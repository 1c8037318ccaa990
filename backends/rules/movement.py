"""Lowers ops that move elements to a few strided copies between views of the operand and views of the result.

The views are taken by numpy's operations on axes, which `Geometry` has.
"""

from __future__ import annotations

import itertools

import numpy as np

from qcompiler.backends.lowering.geometry import Geometry
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView
from qcompiler.errors import InputError
from qcompiler.ops.shape import Concat, Expand, Flip, Pad, Slice, Tile, Transpose
from qcompiler.ops.shuffle import ChannelShuffle, PixelShuffle, PixelUnshuffle
from qcompiler.quantization import qmath


def _copy_views(s: NodeLowering, x: TensorView, x_part: Geometry, y: TensorView, y_part: Geometry) -> None:
    if x_part.shape != y_part.shape:
        raise InputError(
            f"the sizes of this call do not fit {s.node.op}",
            where=s.node.describe(),
            expected=y_part.shape,
            got=x_part.shape,
        )
    s.copy(x_part.part_of(x), y_part.part_of(y))


@lowers("transpose")
def transpose(s: NodeLowering) -> None:
    op = Transpose(s.node)
    x, y = s.view(op.x), s.result()
    _copy_views(s, x, Geometry.of(x).transposed(op.perm), y, Geometry.of(y))


@lowers("expand")
def expand(s: NodeLowering) -> None:
    x, y = s.view(Expand(s.node).x), s.result()
    _copy_views(s, x, Geometry.of(x).broadcast(y.shape), y, Geometry.of(y))


@lowers("slice")
def slice_(s: NodeLowering) -> None:
    op = Slice(s.node, s.attrs)
    x, y = s.view(op.x), s.result()
    _copy_views(s, x, Geometry.of(x).sliced(op.index()), y, Geometry.of(y))


@lowers("flip")
def flip(s: NodeLowering) -> None:
    op = Flip(s.node)
    x, y = s.view(op.x), s.result()
    _copy_views(s, x, Geometry.of(x).flipped(op.axes), y, Geometry.of(y))


@lowers("concat")
def concat(s: NodeLowering) -> None:
    """concat. Operands that their producers wrote directly into the result are not copied."""
    op, y = Concat(s.node), s.result()
    start, whole, axis = 0, Geometry.of(y), op.axis
    for value in op.xs:
        x = s.view(value)
        stop = start + x.shape[axis]
        part = whole.sliced((slice(None),) * axis + (slice(start, stop),))
        if x != part.part_of(y):
            _copy_views(s, x, Geometry.of(x), y, part)
        start = stop


@lowers("tile")
def tile(s: NodeLowering) -> None:
    op = Tile(s.node, s.attrs)
    x, y = s.view(op.x), s.result()
    source, target = Geometry.of(x), Geometry.of(y)
    for axis in reversed(range(len(x.shape))):
        count = op.repeats[axis]
        if count != 1:
            target = target.split(axis, count, x.shape[axis])
            source = source.expanded(axis)
    _copy_views(s, x, source.broadcast(target.shape), y, target)


@lowers("pixel_shuffle")
def pixel_shuffle(s: NodeLowering) -> None:
    op = PixelShuffle(s.node)
    x, y, r = s.view(op.x), s.result(), op.factor
    *_, channels, height, width = y.shape
    n = len(x.shape) - 3
    source = Geometry.of(x).split(n, channels, r, r)  # ..., C, r, r, H, W
    target = Geometry.of(y).split(n + 2, width // r, r).split(n + 1, height // r, r)  # ..., C, H, r, W, r
    _copy_views(s, x, source, y, target.transposed([*range(n + 1), n + 2, n + 4, n + 1, n + 3]))


@lowers("pixel_unshuffle")
def pixel_unshuffle(s: NodeLowering) -> None:
    op = PixelUnshuffle(s.node)
    x, y, r = s.view(op.x), s.result(), op.factor
    *_, channels, height, width = x.shape
    n = len(x.shape) - 3
    source = Geometry.of(x).split(n + 2, width // r, r).split(n + 1, height // r, r)
    _copy_views(
        s, x, source.transposed([*range(n + 1), n + 2, n + 4, n + 1, n + 3]), y, Geometry.of(y).split(n, channels, r, r)
    )


@lowers("channel_shuffle")
def channel_shuffle(s: NodeLowering) -> None:
    op = ChannelShuffle(s.node)
    x, y, groups = s.view(op.x), s.result(), op.groups
    per_group = x.shape[1] // groups
    _copy_views(
        s,
        x,
        Geometry.of(x).split(1, groups, per_group),
        y,
        Geometry.of(y).split(1, per_group, groups).swapped(1, 2),
    )


# -- pad


def _fill(s: NodeLowering, y: TensorView) -> np.ndarray:
    """The element that a constant pad writes."""
    value = Pad(s.node).value
    if s.out.is_quantized:
        return np.asarray(qmath.quantize(np.asarray(value, np.float32), s.out.params, s.out.dtype))
    return np.asarray(value, y.dtype)


def _regions(size: int, before: int, after: int, mode: str) -> list[tuple[slice, slice | None, bool]]:
    """The slices that a pad writes along one axis: (slice of the result, slice of the operand or None for the constant,
    whether that slice is repeated)."""
    found: list[tuple[slice, slice | None, bool]] = [(slice(before, before + size), slice(0, size), False)]
    if before:
        source = {"constant": None, "edge": slice(0, 1), "reflect": slice(before, 0, -1)}[mode]
        found.append((slice(0, before), source, mode == "edge"))
    if after:
        last = size - 2 - after
        source = {
            "constant": None,
            "edge": slice(size - 1, size),
            "reflect": slice(size - 2, last if last >= 0 else None, -1),
        }[mode]
        found.append((slice(before + size, before + size + after), source, mode == "edge"))
    return found


@lowers("pad")
def pad(s: NodeLowering) -> None:
    op = Pad(s.node, s.attrs)
    x, y = s.view(op.x), s.result()
    axes = [_regions(size, before, after, op.mode) for size, (before, after) in zip(x.shape, op.padding)]
    source, target = Geometry.of(x), Geometry.of(y)
    fill: TensorView | None = None
    for parts in itertools.product(*axes):
        part = target.sliced([p[0] for p in parts])
        if part.is_empty:
            continue
        if any(p[1] is None for p in parts):
            if fill is None:
                value = _fill(s, y)
                fill = TensorView(s.stored(value.reshape(1)), y.dtype, (), ())
            s.copy(fill.moved(0, part.shape, (0,) * len(part.shape)), part.part_of(y))
        else:
            taken = source.sliced([p[1] for p in parts if p[1] is not None])
            _copy_views(s, x, taken.broadcast(part.shape), y, part)
