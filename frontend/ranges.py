"""Values that are computed from sizes: a size as a number of the graph, and ranges of symbolic length."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.errors import ShapeError, TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, expand, lift
from qcompiler.frontend.proxy import Proxy
from qcompiler.frontend.recorder import Trace, required_trace
from qcompiler.frontend.sizes import Size, as_dim
from qcompiler.types import DType


def size_value(size: DimLike | Size, trace: Trace | None = None) -> Proxy:
    """A size as a traced number, i64[]. The names of a symbolic one are read from the graph's inputs.

    Raises:
        TraceError: no input has an axis that is just this name.
    """
    trace = trace or required_trace("a size")
    dim = as_dim(size)
    if not isinstance(dim, Dim):
        return lift(dim, trace)
    named = {name: _of_input(name, trace) for name in sorted(dim.names())}
    return lift(dim.evaluate(cast("dict[str, int]", named)), trace)


def _of_input(name: str, trace: Trace) -> Proxy:
    for value in trace.graph.inputs:
        for axis, size in enumerate(value.type.shape):
            if str(size) == name:
                return trace.emit("size", (trace.wrap(value),), {"axis": axis})
    raise TraceError(f"no input has an axis of size {name}", where=trace.place())


def arange(start: Any, stop: Any, step: Any = 1, dtype: DType | None = None) -> Proxy:
    """numpy's arange; i64 without `dtype`, or f32 if one of the numbers is a float. Sizes stay symbolic beside ints; a
    symbolic step stays so if it divides the distance from start to stop for all sizes."""
    trace = required_trace("arange")
    numbers = (start, stop, step)
    if any(isinstance(number, float) for number in numbers) or not any(isinstance(number, Size) for number in numbers):
        known = [number if isinstance(number, float) else int(number) for number in numbers]
        return lift(np.arange(*known), trace, dtype=dtype)
    first, end = as_dim(start), as_dim(stop)
    by: Any = step
    count = _steps(end - first, step) if isinstance(step, Size) else None
    if count is None:
        by = int(step)
        span = end - first if by > 0 else first - end
        count = (span + abs(by) - 1) // abs(by)
    elif isinstance(step, Size):
        by = size_value(step, trace)
    ones = expand(lift(1, trace), (Size(count, trace) if isinstance(count, Dim) else max(count, 0),))
    found = trace.emit("cumsum", (ones,), {"axis": 0, "exclusive": True})
    found = found if isinstance(by, int) and by == 1 else binary("mul", found, by)
    found = found if first == 0 else binary("add", found, size_value(first, trace))
    return found if dtype is None else ops.cast(found, dtype)


def _steps(span: DimLike, step: Size) -> DimLike | None:
    """How many symbolic steps a span has, if it is a multiple of the step for all sizes; else None. A guard is noted
    that the step is positive."""
    try:
        count = span // step.dim
    except ShapeError:
        return None
    least = count.bounds()[0] if isinstance(count, Dim) else count
    return count if least is not None and least >= 0 and step > 0 else None
