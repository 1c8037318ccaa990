"""Ops that read or write at index tuples."""

from __future__ import annotations

import math

import torch

from qcompiler.export.torch.movement import index
from qcompiler.export.torch.node import MOVES, NodeWriter, Refusal, Tensor, writes
from qcompiler.ops.indexing import GatherNd
from qcompiler.ops.scatter import ScatterNd, ScatterNdReduce


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


@writes(MOVES, GatherNd)
def gather_nd(w: NodeWriter) -> Tensor:
    flat, depth = _flat_places(w)
    rows = w.x().reshape([-1, *w.sizes(w.type().shape[depth:])])
    return torch.index_select(rows, 0, flat.reshape([-1])).reshape(w.sizes(w.out.shape))


@writes(MOVES, ScatterNd)
def scatter_nd(w: NodeWriter) -> Tensor:
    """The last of several updates of a place stays, as in `index_copy` on the CPU."""
    flat, depth = _flat_places(w)
    rest = w.sizes(w.type().shape[depth:])
    rows, updates = w.x().reshape([-1, *rest]), w.x(2).reshape([-1, *rest])
    return torch.index_copy(rows, 0, flat.reshape([-1]), updates).reshape(w.sizes(w.out.shape))


@writes(MOVES, ScatterNdReduce)
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
