"""Sizes that are one number for a range of others, as S // 256 is for all S below 256.

torch.export decides relations of such sizes by its example where its own code broadcasts, and does not say so in the
sizes of the results. An op that is refused for the sizes of its operands gets the example's numbers for them, each with
a guard. A size that no other example would share keeps its name, so an open axis stays open.
"""

from __future__ import annotations

from typing import Any

from qcompiler.dims import Dim
from qcompiler.frontend.array_ops import dims
from qcompiler.frontend.indexing import slice_axes
from qcompiler.frontend.proxy import Proxy
from qcompiler.frontend.recorder import Trace
from qcompiler.frontend.sizes import Size
from qcompiler.notes import Guard


def stepped(size: Any, trace: Trace) -> int | None:
    """The example's number of a size that has the same number for a neighbour of the example; None for other sizes."""
    if not isinstance(size, Dim) or not size.names() <= trace.sizes.keys():
        return None
    number = size.evaluate(trace.sizes)
    names = sorted(size.names())
    near = ({**trace.sizes, name: trace.sizes[name] + step} for name in names for step in (-1, 1))
    return number if any(size.evaluate(sizes) == number for sizes in near) else None


def with_numbers(value: Any, trace: Trace) -> Any:
    """An operand with numbers in place of its stepped sizes. The trace notes a guard for each."""
    if isinstance(value, Size):
        number = stepped(value.dim, trace)
        if number is not None:
            trace.guard(Guard(value.dim, "==", number))
        return value if number is None else number
    if not isinstance(value, Proxy):
        return value
    found = {axis: stepped(size, trace) for axis, size in enumerate(dims(value))}
    cuts = {}
    for axis, number in found.items():
        if number is not None:
            trace.guard(Guard(dims(value)[axis], "==", number))
            cuts[axis] = slice(0, number)
    return slice_axes(value, cuts) if cuts else value
