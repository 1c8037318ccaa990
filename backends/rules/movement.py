"""Lowers ops that move elements to a few strided copies between views of the operand and views of the result.

The views are taken by numpy's indexing on a tensor's `geometry`: an array that has its shape and strides but no
elements.
"""

from __future__ import annotations

import itertools

import numpy as np

from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView
from qcompiler.errors import InputError
from qcompiler.ops.shape import Concat, Expand, Flip, Pad, Slice, Tile, Transpose
from qcompiler.ops.shuffle import ChannelShuffle, PixelShuffle, PixelUnshuffle
from qcompiler.quantization import qmath

_BASE = np.empty(1, np.uint8)


def geometry(tensor: TensorView) -> np.ndarray:
    """An array with the shape and strides of a tensor. It has no elements of its own and must never be read."""
    return np.lib.stride_tricks.as_strided(_BASE, tensor.shape, tensor.strides)


def part_of(tensor: TensorView, array: np.ndarray) -> TensorView:
    """The part of a tensor that a view of its geometry selects."""
    offset = array.__array_interface__["data"][0] - _BASE.__array_interface__["data"][0]
    return tensor.moved(offset if array.size else 0, array.shape, array.strides)


def split_axis(array: np.ndarray, axis: int, *sizes: int) -> np.ndarray:
    """A view of the array with one axis split into several, the outermost first."""
    stride, strides = array.strides[axis], []
    for size in reversed(sizes):
        strides.append(stride)
        stride *= size
    shape = (*array.shape[:axis], *sizes, *array.shape[axis + 1 :])
    return np.lib.stride_tricks.as_strided(
        array, shape, (*array.strides[:axis], *reversed(strides), *array.strides[axis + 1 :])
    )


def _copy_views(s: NodeLowering, x: TensorView, x_view: np.ndarray, y: TensorView, y_view: np.ndarray) -> None:
    if x_view.shape != y_view.shape:
        raise InputError(
            f"the sizes of this call do not fit {s.node.op}",
            where=s.node.describe(),
            expected=y_view.shape,
            got=x_view.shape,
        )
    s.copy(part_of(x, x_view), part_of(y, y_view))


@lowers("transpose")
def transpose(s: NodeLowering) -> None:
    op = Transpose(s.node)
    x, y = s.view(op.x), s.result()
    _copy_views(s, x, geometry(x).transpose(op.perm), y, geometry(y))


@lowers("expand")
def expand(s: NodeLowering) -> None:
    x, y = s.view(Expand(s.node).x), s.result()
    _copy_views(s, x, np.broadcast_to(geometry(x), y.shape), y, geometry(y))


@lowers("slice")
def slice_(s: NodeLowering) -> None:
    op = Slice(s.node, s.attrs)
    x, y = s.view(op.x), s.result()
    _copy_views(s, x, geometry(x)[op.index()], y, geometry(y))


@lowers("flip")
def flip(s: NodeLowering) -> None:
    op = Flip(s.node)
    x, y = s.view(op.x), s.result()
    _copy_views(s, x, np.flip(geometry(x), op.axes), y, geometry(y))


@lowers("concat")
def concat(s: NodeLowering) -> None:
    """concat. Operands that their producers wrote directly into the result are not copied."""
    op, y = Concat(s.node), s.result()
    start, whole, axis = 0, geometry(y), op.axis
    for value in op.xs:
        x = s.view(value)
        stop = start + x.shape[axis]
        part = whole[(slice(None),) * axis + (slice(start, stop),)]
        if x != part_of(y, part):
            _copy_views(s, x, geometry(x), y, part)
        start = stop


@lowers("tile")
def tile(s: NodeLowering) -> None:
    op = Tile(s.node, s.attrs)
    x, y = s.view(op.x), s.result()
    source, target = geometry(x), geometry(y)
    for axis in reversed(range(len(x.shape))):
        count = op.repeats[axis]
        if count != 1:
            target = split_axis(target, axis, count, x.shape[axis])
            source = np.expand_dims(source, axis)
    _copy_views(s, x, np.broadcast_to(source, target.shape), y, target)


@lowers("pixel_shuffle")
def pixel_shuffle(s: NodeLowering) -> None:
    op = PixelShuffle(s.node)
    x, y, r = s.view(op.x), s.result(), op.factor
    *_, channels, height, width = y.shape
    n = len(x.shape) - 3
    source = split_axis(geometry(x), n, channels, r, r)  # ..., C, r, r, H, W
    target = split_axis(split_axis(geometry(y), n + 2, width // r, r), n + 1, height // r, r)  # ..., C, H, r, W, r
    _copy_views(s, x, source, y, target.transpose(*range(n + 1), n + 2, n + 4, n + 1, n + 3))


@lowers("pixel_unshuffle")
def pixel_unshuffle(s: NodeLowering) -> None:
    op = PixelUnshuffle(s.node)
    x, y, r = s.view(op.x), s.result(), op.factor
    *_, channels, height, width = x.shape
    n = len(x.shape) - 3
    source = split_axis(split_axis(geometry(x), n + 2, width // r, r), n + 1, height // r, r)
    _copy_views(
        s, x, source.transpose(*range(n + 1), n + 2, n + 4, n + 1, n + 3), y, split_axis(geometry(y), n, channels, r, r)
    )


@lowers("channel_shuffle")
def channel_shuffle(s: NodeLowering) -> None:
    op = ChannelShuffle(s.node)
    x, y, groups = s.view(op.x), s.result(), op.groups
    per_group = x.shape[1] // groups
    _copy_views(
        s,
        x,
        split_axis(geometry(x), 1, groups, per_group),
        y,
        split_axis(geometry(y), 1, per_group, groups).swapaxes(1, 2),
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
    source, target = geometry(x), geometry(y)
    fill: TensorView | None = None
    for parts in itertools.product(*axes):
        part = target[tuple(p[0] for p in parts)]
        if part.size == 0:
            continue
        if any(p[1] is None for p in parts):
            if fill is None:
                value = _fill(s, y)
                fill = TensorView(s.stored(value.reshape(1)), y.dtype, (), ())
            s.copy(fill.moved(0, part.shape, (0,) * part.ndim), part_of(y, part))
        else:
            taken = source[tuple(p[1] for p in parts)]
            _copy_views(s, x, np.broadcast_to(taken, part.shape), y, part)
