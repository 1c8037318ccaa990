"""Ops that move elements, of any type, and those that read sizes."""

from __future__ import annotations

import math

import numpy as np
import torch

from qcompiler.dims import Dim
from qcompiler.export.torch.node import LAST, MOVES, NodeWriter, Refusal, Tensor, cut, padded, writes
from qcompiler.ops.shape import sizes_of, triangle
from qcompiler.types import MAX_ELEMENTS, DType


@writes(MOVES, "size")
def size(w: NodeWriter) -> Tensor:
    found = w.type().shape[w.op.axis]
    if not isinstance(found, Dim):
        return w.buffer(np.asarray(found, np.int64))
    return torch.ops.aten.scalar_tensor(w.size(found), dtype=torch.int64)


@writes(MOVES, "reshape")
def reshape(w: NodeWriter) -> Tensor:
    return w.x().reshape(w.sizes(sizes_of(w.op.shape)))


@writes(MOVES, "transpose")
def transpose(w: NodeWriter) -> Tensor:
    return torch.permute(w.x(), list(w.op.perm))


@writes(MOVES, "expand")
def expand(w: NodeWriter) -> Tensor:
    return w.x().expand(w.sizes(sizes_of(w.op.shape)))


@writes(MOVES, "slice")
def slice_(w: NodeWriter) -> Tensor:
    op, x = w.op, w.x()
    for axis, start, stop, step in zip(op.axes, sizes_of(op.starts), sizes_of(op.stops), op.steps):
        end = LAST if isinstance(stop, int) and stop >= MAX_ELEMENTS else w.size(stop)
        x = cut(x, axis, w.size(start), end, step)
    return x


@writes(MOVES, "concat")
def concat(w: NodeWriter) -> Tensor:
    return torch.cat(w.xs(), w.op.axis)


@writes(MOVES, "flip")
def flip(w: NodeWriter) -> Tensor:
    return torch.flip(w.x(), list(w.op.axes))


@writes(MOVES, "tile")
def tile(w: NodeWriter) -> Tensor:
    return w.x().repeat(list(w.op.repeats))


@writes(MOVES, "dropout")
def dropout(w: NodeWriter) -> Tensor:
    return torch.ops.aten.alias(w.x())


@writes(MOVES, "pad")
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


@writes(MOVES, "trilu")
def trilu(w: NodeWriter) -> Tensor:
    rows, columns = w.known(w.type().shape[-2:], "a triangle")
    kept = w.buffer(triangle(rows, columns, w.op.upper, w.op.diagonal))
    return torch.where(kept, w.x(), w.buffer(np.zeros((), w.type().dtype.numpy)))


# -- between channels and pixels


@writes(MOVES, "pixel_shuffle")
def pixel_shuffle(w: NodeWriter) -> Tensor:
    *lead, channels, height, width = w.type().shape
    r, n = w.op.factor, w.type().rank - 3
    split = w.x().reshape(w.sizes((*lead, channels // (r * r), r, r, height, width)))
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    return torch.permute(split, order).reshape(w.sizes(w.out.shape))


@writes(MOVES, "pixel_unshuffle")
def pixel_unshuffle(w: NodeWriter) -> Tensor:
    *lead, channels, height, width = w.type().shape
    r, n = w.op.factor, w.type().rank - 3
    split = w.x().reshape(w.sizes((*lead, channels, height // r, r, width // r, r)))
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return torch.permute(split, order).reshape(w.sizes(w.out.shape))


@writes(MOVES, "channel_shuffle")
def channel_shuffle(w: NodeWriter) -> Tensor:
    batch, channels, *rest = w.type().shape
    split = w.x().reshape(w.sizes((batch, w.op.groups, channels // w.op.groups, *rest)))
    return torch.transpose(split, 1, 2).reshape(w.sizes(w.type().shape))


# -- by index


def index(w: NodeWriter, operand: int, size: object, part: Tensor = None) -> Tensor:
    """Indices as i64, those below 0 from the end."""
    found = (w.x(operand) if part is None else part).to(torch.int64)
    return torch.where(found < 0, found + size, found)


@writes(MOVES, "gather")
def gather(w: NodeWriter) -> Tensor:
    axis, shape, picked = w.op.axis, w.type().shape, w.type(1).shape
    flat = index(w, 1, w.size(shape[axis])).reshape([-1])
    found = torch.index_select(w.x(), axis, flat)
    return found.reshape(w.sizes((*shape[:axis], *picked, *shape[axis + 1 :])))


@writes(MOVES, "gather_elements")
def gather_elements(w: NodeWriter) -> Tensor:
    return torch.gather(w.x(), w.op.axis, index(w, 1, w.size(w.type().shape[w.op.axis])))


def _flat_places(w: NodeWriter) -> tuple[Tensor, int]:
    """The index tuples of operand 1 as indices into the first axes of x taken together, and how many axes these are."""
    (depth,) = w.known(w.type(1).shape[-1:], "index tuples")
    last = w.type(1).rank - 1
    flat = None
    for axis in range(depth):
        length = w.size(w.type().shape[axis])
        place = index(w, 1, length, torch.select(w.x(1), last, axis))
        flat = place if flat is None else flat * length + place
    return flat, depth


@writes(MOVES, "gather_nd")
def gather_nd(w: NodeWriter) -> Tensor:
    flat, depth = _flat_places(w)
    rows = w.x().reshape([-1, *w.sizes(w.type().shape[depth:])])
    return torch.index_select(rows, 0, flat.reshape([-1])).reshape(w.sizes(w.out.shape))


@writes(MOVES, "scatter_nd")
def scatter_nd(w: NodeWriter) -> Tensor:
    """The last of several updates of a place stays, as in `index_copy` on the CPU."""
    flat, depth = _flat_places(w)
    rest = w.sizes(w.type().shape[depth:])
    rows, updates = w.x().reshape([-1, *rest]), w.x(2).reshape([-1, *rest])
    return torch.index_copy(rows, 0, flat.reshape([-1]), updates).reshape(w.sizes(w.out.shape))


@writes(MOVES, "scatter_nd_reduce")
def scatter_nd_reduce(w: NodeWriter) -> Tensor:
    kind = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}.get(w.op.reduction)
    if kind is None:
        raise Refusal(f"the reduction {w.op.reduction}")
    flat, depth = _flat_places(w)
    rest = w.type().shape[depth:]
    rows = w.x().reshape([-1, w.size(math.prod(rest))])
    updates = w.x(2).reshape([-1, w.size(math.prod(rest))])
    places = flat.reshape([-1, 1]).expand([-1, w.size(math.prod(rest))])
    return torch.scatter_reduce(rows, 0, places, updates, kind).reshape(w.sizes(w.out.shape))
