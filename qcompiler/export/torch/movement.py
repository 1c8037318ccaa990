"""Ops that move elements, of any type, and those that read sizes."""

from __future__ import annotations

import numpy as np
import torch

from qcompiler.dims import Dim
from qcompiler.export.torch.node import LAST, MOVES, NodeWriter, Tensor, cut, padded, writes
from qcompiler.ops.activations import Dropout
from qcompiler.ops.indexing import Gather, GatherElements
from qcompiler.ops.shape import (
    Concat,
    Expand,
    Flip,
    Pad,
    Reshape,
    Size,
    Slice,
    Tile,
    Transpose,
    Trilu,
    sizes_of,
    triangle,
)
from qcompiler.ops.shuffle import ChannelShuffle, PixelShuffle, PixelUnshuffle
from qcompiler.types import MAX_ELEMENTS, DType


@writes(MOVES, Size)
def size(w: NodeWriter) -> Tensor:
    found = w.type().shape[w.op.axis]
    if not isinstance(found, Dim):
        return w.buffer(np.asarray(found, np.int64))
    return torch.ops.aten.scalar_tensor(w.size(found), dtype=torch.int64)


@writes(MOVES, Reshape)
def reshape(w: NodeWriter) -> Tensor:
    return w.x().reshape(w.sizes(sizes_of(w.op.shape)))


@writes(MOVES, Transpose)
def transpose(w: NodeWriter) -> Tensor:
    return torch.permute(w.x(), list(w.op.perm))


@writes(MOVES, Expand)
def expand(w: NodeWriter) -> Tensor:
    return w.x().expand(w.sizes(sizes_of(w.op.shape)))


@writes(MOVES, Slice)
def slice_(w: NodeWriter) -> Tensor:
    op, x = w.op, w.x()
    for axis, start, stop, step in zip(op.axes, sizes_of(op.starts), sizes_of(op.stops), op.steps):
        end = LAST if isinstance(stop, int) and stop >= MAX_ELEMENTS else w.size(stop)
        x = cut(x, axis, w.size(start), end, step)
    return x


@writes(MOVES, Concat)
def concat(w: NodeWriter) -> Tensor:
    return torch.cat(w.xs(), w.op.axis)


@writes(MOVES, Flip)
def flip(w: NodeWriter) -> Tensor:
    return torch.flip(w.x(), list(w.op.axes))


@writes(MOVES, Tile)
def tile(w: NodeWriter) -> Tensor:
    return w.x().repeat(list(w.op.repeats))


@writes(MOVES, Dropout)
def dropout(w: NodeWriter) -> Tensor:
    return torch.ops.aten.alias(w.x())


@writes(MOVES, Pad)
def pad(w: NodeWriter) -> Tensor:
    value = w.op.value
    if w.type().dtype.is_float or w.op.mode != "constant":
        return pad_with(w, value)
    return pad_with(w, int(value))


def pad_with(w: NodeWriter, value: float) -> Tensor:
    """x with a border. A border that repeats or reflects is an index along each axis."""
    x = w.x()
    if w.op.mode == "constant":
        if w.type().dtype is DType.BOOL:
            return padded(x.to(torch.uint8), w.op.padding, value).to(torch.bool)
        return padded(x, w.op.padding, value)
    for axis, pair in enumerate(w.op.padding):
        if pair != (0, 0):
            (length,) = w.known(w.type().shape[axis : axis + 1], f"a border of the mode {w.op.mode}")
            x = torch.index_select(x, axis, w.buffer(np.pad(np.arange(length), pair, mode=w.op.mode)))
    return x


@writes(MOVES, Trilu)
def trilu(w: NodeWriter) -> Tensor:
    rows, columns = w.known(w.type().shape[-2:], "a triangle")
    kept = w.buffer(triangle(rows, columns, w.op.upper, w.op.diagonal))
    return torch.where(kept, w.x(), w.buffer(np.zeros((), w.type().dtype.numpy)))


# -- between channels and pixels


@writes(MOVES, PixelShuffle)
def pixel_shuffle(w: NodeWriter) -> Tensor:
    *lead, channels, height, width = w.type().shape
    r, n = w.op.factor, w.type().rank - 3
    split = w.x().reshape(w.sizes((*lead, channels // (r * r), r, r, height, width)))
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    return torch.permute(split, order).reshape(w.sizes(w.out.shape))


@writes(MOVES, PixelUnshuffle)
def pixel_unshuffle(w: NodeWriter) -> Tensor:
    *lead, channels, height, width = w.type().shape
    r, n = w.op.factor, w.type().rank - 3
    split = w.x().reshape(w.sizes((*lead, channels, height // r, r, width // r, r)))
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return torch.permute(split, order).reshape(w.sizes(w.out.shape))


@writes(MOVES, ChannelShuffle)
def channel_shuffle(w: NodeWriter) -> Tensor:
    batch, channels, *rest = w.type().shape
    split = w.x().reshape(w.sizes((batch, w.op.groups, channels // w.op.groups, *rest)))
    return torch.transpose(split, 1, 2).reshape(w.sizes(w.type().shape))


# -- by index


def index(w: NodeWriter, operand: int, size: object, part: Tensor = None) -> Tensor:
    """Indices as i64, those below 0 from the end."""
    found = (w.x(operand) if part is None else part).to(torch.int64)
    return torch.where(found < 0, found + size, found)


@writes(MOVES, Gather)
def gather(w: NodeWriter) -> Tensor:
    axis, shape, picked = w.op.axis, w.type().shape, w.type(1).shape
    flat = index(w, 1, w.size(shape[axis])).reshape([-1])
    found = torch.index_select(w.x(), axis, flat)
    return found.reshape(w.sizes((*shape[:axis], *picked, *shape[axis + 1 :])))


@writes(MOVES, GatherElements)
def gather_elements(w: NodeWriter) -> Tensor:
    return torch.gather(w.x(), w.op.axis, index(w, 1, w.size(w.type().shape[w.op.axis])))
