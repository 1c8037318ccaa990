"""Ops that move elements, read sizes, or resize images, as ONNX's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.export.onnx.node import NodeWriter, Refusal, pads, writes
from qcompiler.ops.indexing import Gather, GatherElements, GatherNd
from qcompiler.ops.resize import Resize
from qcompiler.ops.scatter import ScatterNd, ScatterNdReduce
from qcompiler.ops.shape import Concat, Expand, Flip, Pad, Reshape, Size, Slice, Tile, Transpose, Trilu, sizes_of
from qcompiler.ops.shuffle import ChannelShuffle, PixelShuffle, PixelUnshuffle
from qcompiler.types import MAX_ELEMENTS, DType

_END = np.iinfo(np.int64).max


@writes(Size)
def size(w: NodeWriter) -> str:
    axis = w.op.axis
    return w.emit("Squeeze", w.emit("Shape", w.x(), start=axis, end=axis + 1), w.ints([0]))


@writes(Reshape)
def reshape(w: NodeWriter) -> str:
    return w.reshape(w.x(), sizes_of(w.op.shape))


@writes(Transpose)
def transpose(w: NodeWriter) -> str:
    return w.emit("Transpose", w.x(), perm=w.op.perm)


@writes(Expand)
def expand(w: NodeWriter) -> str:
    return w.emit("Expand", w.x(), w.shape(sizes_of(w.op.shape)))


@writes(Slice)
def slice_(w: NodeWriter) -> str:
    def bounds(entries: Sequence[int | str]) -> str:
        ends = [_END if isinstance(n, int) and n >= MAX_ELEMENTS else n for n in sizes_of(entries)]
        return w.shape(ends)

    op = w.op
    return w.emit("Slice", w.x(), bounds(op.starts), bounds(op.stops), w.ints(op.axes), w.ints(op.steps, "steps"))


@writes(Flip)
def flip(w: NodeWriter) -> str:
    axes = w.op.axes
    first, last = w.ints([-1] * len(axes), "starts"), w.ints([-_END] * len(axes), "stops")
    return w.emit("Slice", w.x(), first, last, w.ints(axes), w.ints([-1] * len(axes), "steps"))


@writes(Concat)
def concat(w: NodeWriter) -> str:
    return w.emit("Concat", *w.xs(), axis=w.op.axis)


@writes(Tile)
def tile(w: NodeWriter) -> str:
    return w.emit("Tile", w.x(), w.ints(w.op.repeats, "repeats"))


@writes(Pad)
def pad(w: NodeWriter) -> str:
    value = w.number(w.op.value) if w.op.mode == "constant" else ""
    return w.emit("Pad", w.x(), w.ints(pads(w.op.padding), "pads"), value, mode=w.op.mode)


@writes(Trilu)
def trilu(w: NodeWriter) -> str:
    diagonal = w.constant(np.array(w.op.diagonal, np.int64), "diagonal")
    return w.emit("Trilu", w.x(), diagonal, upper=int(w.op.upper))


# -- between channels and pixels


def _shuffled(
    w: NodeWriter, split: Sequence[DimLike], perm: Sequence[int], joined: Sequence[DimLike], x: str | None = None
) -> str:
    """x as the sizes `split`, transposed, as the sizes `joined`."""
    parts = w.emit("Transpose", w.reshape(w.x() if x is None else x, split), perm=list(perm))
    return w.reshape(parts, joined)


@writes(PixelShuffle)
def pixel_shuffle(w: NodeWriter) -> str:
    *lead, channels, height, width = w.type().shape
    r, n = w.op.factor, w.type().rank - 3
    if n == 1:
        return w.emit("DepthToSpace", w.x(), blocksize=r, mode="CRD")
    split = (*lead, channels // (r * r), r, r, height, width)
    return _shuffled(w, split, (*range(n), n, n + 3, n + 1, n + 4, n + 2), w.out.shape)


@writes(PixelUnshuffle)
def pixel_unshuffle(w: NodeWriter) -> str:
    *lead, channels, height, width = w.type().shape
    r, n = w.op.factor, w.type().rank - 3
    split = (*lead, channels, height // r, r, width // r, r)
    return _shuffled(w, split, (*range(n), n, n + 2, n + 4, n + 1, n + 3), w.out.shape)


@writes(ChannelShuffle)
def channel_shuffle(w: NodeWriter) -> str:
    batch, channels, *rest = w.type().shape
    split = (batch, w.op.groups, channels // w.op.groups, *rest)
    return _shuffled(w, split, (0, 2, 1, *range(3, 3 + len(rest))), w.type().shape)


# -- by index


@writes(Gather)
def gather(w: NodeWriter) -> str:
    return w.emit("Gather", w.x(), _index(w), axis=w.op.axis)


@writes(GatherElements)
def gather_elements(w: NodeWriter) -> str:
    return w.emit("GatherElements", w.x(), _index(w), axis=w.op.axis)


@writes(GatherNd)
def gather_nd(w: NodeWriter) -> str:
    return w.emit("GatherND", w.x(), _wide_index(w))


@writes(ScatterNd)
def scatter_nd(w: NodeWriter) -> str:
    return w.emit("ScatterND", w.x(), _wide_index(w), w.x(2))


@writes(ScatterNdReduce)
def scatter_nd_reduce(w: NodeWriter) -> str:
    return w.emit("ScatterND", w.x(), _wide_index(w), w.x(2), reduction=w.op.reduction)


def _index(w: NodeWriter) -> str:
    return w.x(1) if w.type(1).dtype in (DType.I64, DType.I32) else _wide_index(w)


def _wide_index(w: NodeWriter) -> str:
    return w.x(1) if w.type(1).dtype is DType.I64 else w.emit("Cast", w.x(1), to=7)


# -- images


@writes(Resize)
def resize(w: NodeWriter) -> str:
    """torch's arithmetic of positions differs from ONNX's in the last bits, which may choose another nearest pixel."""
    op = w.op
    own, spatial = w.type().shape, w.type().rank - 2
    if op.arithmetic == "multiply" and op.mode == "nearest" and not _same_pixels(w):
        raise Refusal("a nearest pixel that ONNX's arithmetic of positions does not choose")
    attrs = {
        "mode": "nearest" if op.mode == "nearest" else "linear",
        "coordinate_transformation_mode": op.coordinates,
        "nearest_mode": op.rounding if op.mode == "nearest" else None,
    }
    if op.scales is not None and not any(isinstance(size, Dim) for size in own[2:]):
        sizes = w.shape(w.out.shape)
        if all(int(size) * scale == int(out) for size, scale, out in zip(own[2:], op.scales, w.out.shape[2:])):  # type: ignore[arg-type]
            return w.emit("Resize", w.x(), "", "", sizes, **attrs)
    if op.scales is not None:
        scales = w.constant(np.array([1.0, 1.0, *op.scales], np.float32), "scales")
        return w.emit("Resize", w.x(), "", scales, **attrs)
    assert op.size is not None and spatial == len(op.size)
    return w.emit("Resize", w.x(), "", "", w.shape((*own[:2], *sizes_of(op.size))), **attrs)


def _same_pixels(w: NodeWriter) -> bool:
    """Whether both arithmetics choose the same pixels, for sizes that are known."""
    from qcompiler.ops.resize import nearest_indices, source_positions

    op = w.op
    for axis, (size, out) in enumerate(zip(w.type().shape[2:], w.out.shape[2:])):
        if isinstance(size, Dim) or isinstance(out, Dim):
            return False
        scale = None if op.scales is None else op.scales[axis]
        ours = nearest_indices(op.positions(axis, int(size), int(out)), int(size), op.rounding)
        positions = source_positions(int(size), int(out), scale, op.coordinates, "divide")
        if not np.array_equal(ours, nearest_indices(positions, int(size), op.rounding)):
            return False
    return True
