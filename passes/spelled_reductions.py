"""Norms and softmaxes that a region spells out: which ops come into question, and whether one of them fits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.errors import QCompilerError
from qcompiler.ir import AttrValue
from qcompiler.ops.norm import GroupNorm, InstanceNorm, L2Normalize, LayerNorm, Normalised, RmsNorm
from qcompiler.ops.reduce import LogSoftmax, Reduction, Softmax
from qcompiler.passes.regions import Region
from qcompiler.passes.spelled import SAME, Function, Miss, Rows, Spelled
from qcompiler.passes.spelled_norms import TOLERANCE, Norm

SIZES = (2, 3, 5, 7)
"""What symbolic sizes are while a region is tried, in turn."""

MOST_ELEMENTS = 2**24
"""Regions of larger operands are not tried."""

FINITE = 60.0
"""Up to this |x| a softmax without max(x) has to be finite; its exp overflows f32 at 88."""


def spelled_reduction(region: Region, dim_names: Sequence[str]) -> Spelled | str:
    """The norm or softmax that a region computes, or why it is none. Its result has the shape of its source."""
    sizes = {name: SIZES[index % len(SIZES)] for index, name in enumerate(dim_names)}
    source = region.source.type
    try:
        shape = source.bind(sizes).sizes
        length, elements = _reduced(region, sizes), math.prod(shape)
        if length is None:
            return "its reductions are over different numbers of elements"
        if length < 2 or not 0 < elements <= MOST_ELEMENTS:
            return f"it reduces {length} of {elements} elements"
        function = Function(region, sizes, shape)
        furthest = Miss(0, f"it is no norm or softmax of rows of {length} elements of {source}")
        for candidate in _candidates(shape, length):
            found = candidate.spelled_by(function)
            if isinstance(found, Spelled):
                return found
            furthest = max(furthest, found, key=lambda miss: miss.depth)
        return furthest.reason
    except QCompilerError as error:
        return f"it cannot be evaluated: {error.message}"


def _reduced(region: Region, sizes: Mapping[str, int]) -> int | None:
    """How many elements every reduction of the region reduces to one; None if they differ."""
    found = set()
    for node in region.nodes:
        reduction, norm = Reduction.of(node), Normalised.of(node)
        if reduction is not None:
            shape = reduction.x.type.bind(sizes).sizes
            found.add(math.prod(shape[axis] for axis in reduction.axes))
        elif norm is not None:
            group = norm.group_sizes(norm.x.type.bind(sizes).sizes)
            found.add(math.prod(size for size in group if isinstance(size, int)))
    return found.pop() if len(found) == 1 else None


def _candidates(shape: tuple[int, ...], length: int) -> Iterator[_Softmax | Norm]:
    """The ops that work on rows of so many elements."""
    for axis in (axis for axis, size in enumerate(shape) if size == length):
        rows = Rows(shape, shape, (axis,))
        for softmax in (Softmax, LogSoftmax):
            yield _Softmax(rows, softmax, softmax.complete_attrs({softmax.axis.name: axis}))
        yield Norm(rows, L2Normalize, {L2Normalize.axis.name: axis})
    rank = next((rank for rank in range(1, len(shape) + 1) if math.prod(shape[-rank:]) == length), None)
    if rank is not None:
        rows = Rows(shape, shape, tuple(range(len(shape) - rank, len(shape))))
        for norm in (LayerNorm, RmsNorm):
            yield Norm(rows, norm, {norm.normalized_rank.name: rank})
    else:
        for axis in (axis for axis, size in enumerate(shape) if size == length):
            for norm in (LayerNorm, RmsNorm):
                yield Norm(Rows(shape, shape, (axis,)), norm, {norm.normalized_rank.name: 1}, axis)
    channels, pixels = (shape[1], math.prod(shape[2:])) if len(shape) > 1 else (1, 0)
    if pixels and length % pixels == 0 and channels % (length // pixels) == 0:
        groups = channels * pixels // length
        rows = Rows(shape, (shape[0], groups, length), (2,))
        if groups == channels and len(shape) > 2:
            yield Norm(rows, InstanceNorm, {})
        else:
            yield Norm(rows, GroupNorm, {GroupNorm.groups.name: groups})


@dataclass(frozen=True)
class _Softmax:
    """softmax or log_softmax of each row."""

    rows: Rows
    op: type[Softmax] | type[LogSoftmax]
    attrs: Mapping[str, AttrValue]

    def spelled_by(self, function: Function) -> Spelled | Miss:
        """The op that a function computes, or why it computes none."""
        uniform = 1 / self.rows.length if issubclass(self.op, Softmax) else -math.log(self.rows.length)
        if not np.allclose(function.at_zero, uniform, rtol=SAME, atol=0):
            return Miss(0, f"it gives other values than {self.op.name} for rows of zeros")
        rng = np.random.default_rng(0)
        offsets_and_spreads = [(0.0, 1.0), (-30.0, 1.0), (30.0, 1.0), (0.0, 0.01), (0.0, 10.0), (0.0, 1000.0)]
        for kinds in self.rows.shared(offsets_and_spreads):
            offset, spread = kinds[:, :1], kinds[:, 1:]
            x = rng.normal(size=(self.rows.count, self.rows.length)) * spread + offset
            whole = self.rows.joined(x)
            got, wanted = (self.rows.split(y) for y in (function(whole), self.op.run_reference([whole], self.attrs)[0]))
            finite = np.isfinite(got)
            if not finite[np.abs(x).max(axis=1) <= FINITE].all():
                return Miss(2, f"it is near to {self.op.name}, but not finite for all |x| <= {FINITE:g}")
            apart = np.where(finite, np.abs(got - wanted), 0).max(axis=1) / np.abs(wanted).max(axis=1)
            worst = int(np.argmax(apart))
            if apart[worst] > TOLERANCE:
                return Miss(
                    2,
                    f"it differs from {self.op.name} by {apart[worst]:.2g} (relative) for a row of mean "
                    f"{offset[worst, 0]:g} and deviation {spread[worst, 0]:g}",
                )
        return Spelled(self.op, self.attrs)
