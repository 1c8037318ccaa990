"""Finds out which sizes of a node the example makes equal, where the node needs them equal and their names differ."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qcompiler.dims import Dim, DimLike, evaluate, names_of, substitute
from qcompiler.frontend.recorder import Trace, Traced
from qcompiler.frontend.sizes import as_dim

_Decided = dict[str, tuple[DimLike, str]]
"""What a size is, and which node needs it, by the size's name."""
AS_IN_EXAMPLE = ", as in the example inputs"


class Decided(Exception):
    """Import has to start again with sizes that a node decides.

    Args:
        sizes: name -> (what it is, which node needs it).
        source: what else made the decision, as notes and messages say it: ", as in the example inputs", or nothing.
    """

    def __init__(self, sizes: _Decided, source: str) -> None:
        super().__init__(", ".join(sizes))
        self.sizes, self.source = sizes, source


def require_size(size: DimLike, number: DimLike, trace: Trace) -> None:
    """Raise Decided if a node needs a named size to be a number, and no example has another number for it."""
    if isinstance(size, Dim) and isinstance(number, int) and str(size) in size.names() - trace.sizes.keys():
        raise Decided({str(size): (number, trace.place())}, source="")


def equal_in_example(values: Sequence[Any], sizes: Mapping[str, int], where: str) -> _Decided:
    """A size of a node's operands that is another one's in the example, though not by its name. sizes: those of the
    example."""
    shapes = list(map(sizes_in, values))
    pairs = [
        (a, b)
        for one, other in itertools.permutations(shapes, 2)
        for a, b in (*zip(reversed(one), reversed(other)), *itertools.product(one, other))
        if isinstance(a, Dim) and a != b and b != 1 and str(a) in a.names()
    ]
    for a, b in sorted(pairs, key=lambda pair: isinstance(pair[1], int)):  # two names, if that is enough
        name, names = str(a), names_of(b)
        if name in names or not {name, *names} <= sizes.keys():
            continue
        if sizes[name] == evaluate(b, sizes):
            return {name: (b, where)}
    return _equal_as_numbers(shapes, sizes, where)


def _equal_as_numbers(shapes: Sequence[Sequence[DimLike]], sizes: Mapping[str, int], where: str) -> _Decided:
    """A size whose number in the example makes sizes of a node's operands equal, or their products: those of a
    reshape's operand and of the shape that it asks for."""
    pairs = [pair for one, other in itertools.combinations(shapes, 2) for pair in _equal_pairs(one, other)]
    for a, b in pairs:
        names = sorted(names_of(a) | names_of(b))
        if a == b or not set(names) <= sizes.keys():
            continue
        for name in names:
            number = {name: sizes[name]}
            if substitute(a, number) == substitute(b, number):
                return {name: (sizes[name], where)}
    return {}


def sizes_in(value: Any) -> Sequence[DimLike]:
    """The sizes of a value's axes, or those that a known array holds."""
    if isinstance(value, Traced):
        return value.value.type.shape
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [as_dim(size) for size in value.ravel()]
    return value.shape if isinstance(value, np.ndarray) else ()


def _equal_pairs(one: Sequence[DimLike], other: Sequence[DimLike]) -> list[tuple[DimLike, DimLike]]:
    """What may have to be equal: sizes that broadcast, and the numbers of elements, 0 in a wanted shape being the size
    at its place."""
    wanted = [one[axis] if size == 0 and axis < len(one) else size for axis, size in enumerate(other)]
    return [*zip(reversed(one), reversed(other)), (math.prod(one), math.prod(wanted))]
