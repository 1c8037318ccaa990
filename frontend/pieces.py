"""Functions of one value that are given in pieces: np.select, np.piecewise and np.interp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, cast, kind_of, lift
from qcompiler.frontend.recorder import Traced
from qcompiler.frontend.source import user_place
from qcompiler.types import DType


def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Any:
    """numpy.select: the choice of the first condition that holds, else the default."""
    if len(condlist) != len(choicelist) or not len(condlist):
        raise TraceError(
            "np.select: not one choice for each condition",
            where=user_place(),
            expected="conditions and choices of one length, above 0",
            got=f"{len(condlist)} conditions, {len(choicelist)} choices",
        )
    chosen = default
    for condition, choice in reversed(list(zip(condlist, choicelist))):
        chosen = ops.where(condition, choice, chosen)
    return chosen


def piecewise(x: Any, condlist: Any, funclist: Sequence[Any], *args: Any, **kw: Any) -> Any:
    """numpy.piecewise: the function of the last condition that holds, of all of x. Without a function for the rest, the
    rest is 0."""
    x = lift(x)
    conditions = [condlist] if isinstance(condlist, Traced) else list(condlist)
    rest = len(funclist) - len(conditions)
    if rest not in (0, 1):
        raise TraceError(
            "np.piecewise: the functions don't fit the conditions",
            where=user_place(),
            expected=f"{len(conditions)} functions, or one more for the rest",
            got=len(funclist),
        )
    pieces = [cast(lift(f(x, *args, **kw) if callable(f) else f, x.trace), kind_of(x)) for f in funclist]
    chosen = pieces[-1] if rest else lift(0, x.trace, dtype=kind_of(x))
    for condition, piece in zip(conditions, pieces):
        chosen = ops.where(condition, piece, chosen)
    return chosen


def interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Any:
    """numpy.interp on a constant line of points whose xp increase: linear between them, `left` and `right` beyond."""
    known = [np.asarray(item) for item in (xp, fp) if not isinstance(item, Traced)]
    if len(known) != 2 or isinstance(left, Traced) or isinstance(right, Traced):
        raise TraceError("np.interp: the points depend on data", where=user_place(), expected="constant xp, fp")
    at, of = (points.astype(np.float64) for points in known)
    if at.ndim != 1 or at.shape != of.shape or len(at) < 1 or not (np.diff(at) > 0).all() or not np.isfinite(at).all():
        raise TraceError(
            "np.interp: malformed points",
            where=user_place(),
            expected="xp that increase, and as many fp",
            got=f"xp of shape {at.shape}, fp of shape {of.shape}",
        )
    if period is not None:
        raise TraceError(
            "np.interp with a period is not supported", where=user_place(), hint="np.interp(x % period, ...)"
        )
    x = lift(x)
    x = x if kind_of(x) in (DType.F32, DType.F64) else cast(x, DType.F32)
    result = lift(float(of[-1]), x.trace, dtype=kind_of(x))
    slopes = np.diff(of) / np.diff(at)
    for start, value, slope, end in reversed(list(zip(at, of, slopes, at[1:]))):
        line = binary("add", binary("mul", binary("sub", x, float(start)), float(slope)), float(value))
        result = ops.where(binary("less", x, float(end)), line, result)
    result = ops.where(binary("less", x, float(at[0])), float(of[0] if left is None else left), result)
    if right is not None:
        result = ops.where(binary("greater", x, float(at[-1])), float(right), result)
    return result if len(at) == 1 else ops.where(binary("equal", x, x), result, x)  # NaN stays, as in numpy
