"""Trigonometric and hyperbolic functions as formulas of the graph's own ops: sin, cos, atan, exp, log, sqrt.

Operands are traced values of a float type. f16 is computed in f32 and rounded once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, cast, kind_of, unary
from qcompiler.types import DType

_Formula = Callable[..., Any]


def _rounded_once(formula: _Formula) -> _Formula:
    """The formula with f16 operands computed in f32, and integers taken for f32."""

    @functools.wraps(formula)
    def wrapped(*operands: Any) -> Any:
        kind = ops.common_dtype(*operands)
        if kind in (DType.F32, DType.F64):
            return formula(*(cast(each, kind) for each in operands))
        found = formula(*(cast(each, DType.F32) for each in operands))
        return cast(found, kind) if kind is DType.F16 else found

    return wrapped


@_rounded_once
def tan(x: Any) -> Any:
    """sin(x) / cos(x)."""
    return binary("div", unary("sin", x), unary("cos", x))


@_rounded_once
def asin(x: Any) -> Any:
    """2 atan(x / (1 + sqrt((1 - x)(1 + x)))); NaN outside of [-1, 1]."""
    root = unary("sqrt", binary("mul", binary("sub", 1.0, x), binary("add", 1.0, x)))
    return binary("mul", unary("atan", binary("div", x, binary("add", root, 1.0))), 2.0)


@_rounded_once
def acos(x: Any) -> Any:
    """2 atan(sqrt((1 - x) / (1 + x))); NaN outside of [-1, 1]."""
    below, above = binary("sub", 1.0, x), binary("add", 1.0, x)
    return binary("mul", unary("atan", unary("sqrt", binary("div", below, above))), 2.0)


@_rounded_once
def atan2(y: Any, x: Any) -> Any:
    """The angle of the point (x, y), of all four quadrants, as C's atan2 gives it for signed zeros and infinities.

    a = atan(min(|x|, |y|) / max(|x|, |y|)) is an angle of the first octant. It is pi / 2 - a in the second one, pi less
    that for negative x, and takes the sign of y.
    """
    across, up = unary("abs", x), unary("abs", y)
    large, small = binary("maximum", across, up), binary("minimum", across, up)
    equal = binary("equal", large, small)  # 0 / 0 and inf / inf too
    ratio = binary("div", small, ops.where(equal, 1.0, large))
    ratio = ops.where(equal, ops.where(binary("equal", large, 0.0), 0.0, 1.0), ratio)
    angle = unary("atan", ratio)
    angle = ops.where(binary("greater", up, across), binary("sub", math.pi / 2, angle), angle)
    angle = ops.where(_has_sign(x), binary("sub", math.pi, angle), angle)
    angle = ops.where(_has_sign(y), unary("neg", angle), angle)
    return ops.where(_is_nan(x), x, ops.where(_is_nan(y), y, angle))


def _is_nan(x: Any) -> Any:
    return binary("not_equal", x, x)


def _has_sign(x: Any) -> Any:
    """Whether x is negative or -0."""
    return binary("less", ops.where(binary("equal", x, 0.0), unary("reciprocal", x), x), 0.0)


@_rounded_once
def atanh(x: Any) -> Any:
    """(log(1 + x) - log(1 - x)) / 2; NaN outside of [-1, 1]."""
    grown, shrunk = unary("log1p", x), unary("log1p", unary("neg", x))
    return binary("mul", binary("sub", grown, shrunk), 0.5)


@_rounded_once
def asinh(x: Any) -> Any:
    """sign(x) log1p(a + a^2 / (1 + sqrt(a^2 + 1))) with a = |x|."""
    size = unary("abs", x)
    a, large = _below_limit(size)
    square = binary("mul", a, a)
    root = unary("sqrt", binary("add", square, 1.0))
    near = unary("log1p", binary("add", a, binary("div", square, binary("add", root, 1.0))))
    found = ops.where(large, _log_of_twice(size, large), near)
    return ops.where(binary("less", x, 0.0), unary("neg", found), found)


@_rounded_once
def acosh(x: Any) -> Any:
    """log1p(t + sqrt(t) sqrt(t + 2)) with t = x - 1; NaN below 1."""
    a, large = _below_limit(x)
    t = binary("sub", a, 1.0)
    root = binary("mul", unary("sqrt", t), unary("sqrt", binary("add", t, 2.0)))
    return ops.where(large, _log_of_twice(x, large), unary("log1p", binary("add", t, root)))


def _below_limit(size: Any) -> tuple[Any, Any]:
    """(size, or 2 beyond the limit; whether it is beyond). From 2^14, 2^30 in f64, asinh(a) and acosh(a) are
    log(2 a) to within eps: they differ from it by 1 / (4 a^2)."""
    large = binary("greater", size, 2.0**30 if kind_of(size) is DType.F64 else 2.0**14)
    return ops.where(large, 2.0, size), large


def _log_of_twice(size: Any, large: Any) -> Any:
    """log(2 size) where `large` holds, for sizes whose double would overflow too."""
    return binary("add", unary("log", ops.where(large, size, 2.0)), math.log(2))


@_rounded_once
def sinh(x: Any) -> Any:
    """(e^x - e^-x) / 2; within 1 of 0, where both terms are near 1/2, t + t / (1 + t) over 2 with t = e^x - 1."""
    grown, shrunk = _halves(x)
    t = unary("expm1", x)
    near = binary("mul", binary("add", t, binary("div", t, binary("add", t, 1.0))), 0.5)
    return ops.where(binary("less", unary("abs", x), 1.0), near, binary("sub", grown, shrunk))


@_rounded_once
def cosh(x: Any) -> Any:
    """(e^x + e^-x) / 2."""
    return binary("add", *_halves(x))


def _halves(x: Any) -> tuple[Any, Any]:
    """(e^x / 2, e^-x / 2) as a^2 / 2 and 1 / (2 a^2) with a = e^(x/2), which is finite wherever the results are."""
    root = unary("exp", binary("mul", x, 0.5))
    return binary("mul", binary("mul", root, 0.5), root), binary("div", binary("div", 0.5, root), root)
