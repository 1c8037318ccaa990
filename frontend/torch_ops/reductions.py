"""ATen ops that reduce axes."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, cast, kind_of, reduce, reshape, unary
from qcompiler.frontend.proxy import power
from qcompiler.frontend.torch_ops.table import aten, cast_to, dtype_of, unsupported
from qcompiler.types import DType


def _axes(x: Any, dim: Any) -> Any:
    return None if dim is None or (isinstance(dim, (list, tuple)) and not dim) else dim


def _mean(x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return reduce("mean", cast_to(x, dtype), _axes(x, dim), keepdim)


def _total(op: str, x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return ops.total(op, x, _axes(x, dim), keepdim, None if dtype is None else dtype_of(dtype))


aten("mean")(lambda x, dtype=None: _mean(x, dtype=dtype))
aten("mean.dim")(_mean)
aten("sum")(lambda x, dtype=None: _total("sum", x, dtype=dtype))
aten("sum.dim_IntList")(functools.partial(_total, "sum"))
aten("prod")(lambda x, dtype=None: _total("prod", x, dtype=dtype))
aten("prod.dim_int")(functools.partial(_total, "prod"))
aten("amax")(lambda x, dim=(), keepdim=False: reduce("max", x, _axes(x, dim), keepdim))
aten("amin")(lambda x, dim=(), keepdim=False: reduce("min", x, _axes(x, dim), keepdim))
aten("max")(lambda x: reduce("max", x))
aten("min")(lambda x: reduce("min", x))
aten("max.dim")(lambda x, dim, keepdim=False: (reduce("max", x, dim, keepdim), ops.argmax(x, dim, keepdim)))
aten("min.dim")(lambda x, dim, keepdim=False: (reduce("min", x, dim, keepdim), ops.argmin(x, dim, keepdim)))
aten("cumsum")(lambda x, dim, dtype=None: ops.cumsum(x, dim, None if dtype is None else dtype_of(dtype)))
aten("argmax")(lambda x, dim=None, keepdim=False: ops.argmax(x, dim, keepdim))
aten("argmin")(lambda x, dim=None, keepdim=False: ops.argmin(x, dim, keepdim))
aten("var.correction")(lambda x, *args, **kwargs: _variance(x, *args, **kwargs))
aten("std.correction")(lambda x, *args, **kwargs: _deviation(x, *args, **kwargs))
aten("var.dim")(lambda x, dim, unbiased=True, keepdim=False: ops.variance(x, _axes(x, dim), keepdim, int(unbiased)))
aten("std.dim")(
    lambda x, dim, unbiased=True, keepdim=False: unary("sqrt", ops.variance(x, _axes(x, dim), keepdim, int(unbiased)))
)
aten("var_mean.correction")(lambda x, *args, **kwargs: _with_mean(_variance, x, *args, **kwargs))
aten("std_mean.correction")(lambda x, *args, **kwargs: _with_mean(_deviation, x, *args, **kwargs))
for _name, _of in (("any", ops.any_of), ("all", ops.all_of)):

    @aten(_name, f"{_name}.dim", f"{_name}.dims")
    def _truth(x: Any, dim: Any = None, keepdim: bool = False, _of: Any = _of) -> Any:
        """Bools, but uint8 for uint8."""
        found = _of(x, dim, keepdim)
        return cast(found, DType.U8) if kind_of(x) is DType.U8 else found


def _variance(x: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
    return ops.variance(x, _axes(x, dim), keepdim, 1 if correction is None else correction)


def _deviation(x: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
    return unary("sqrt", _variance(x, dim, correction=correction, keepdim=keepdim))


def _with_mean(spread: Any, x: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
    return spread(x, dim, correction=correction, keepdim=keepdim), reduce("mean", x, _axes(x, dim), keepdim)


aten("logsumexp")(lambda x, dim, keepdim=False: _logsumexp(x, dim, keepdim))


def _logsumexp(x: Any, dim: Any, keepdim: bool) -> Any:
    top = reduce("max", x, dim, True)
    top = ops.where(binary("equal", unary("abs", top), math.inf), 0.0, top)  # inf - inf is NaN
    total = binary("add", unary("log", reduce("sum", unary("exp", binary("sub", x, top)), dim, True)), top)
    return total if keepdim else ops.squeeze(total, tuple(dim) if isinstance(dim, (list, tuple)) else dim)


@aten("linalg_vector_norm", "norm.ScalarOpt_dim")
def _vector_norm(x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    x = cast_to(x, dtype)
    if ord in (None, 2):
        return unary("sqrt", reduce("sum", unary("square", x), _axes(x, dim), keepdim))
    if ord == 1:
        return reduce("sum", unary("abs", x), _axes(x, dim), keepdim)
    if ord == math.inf:
        return reduce("max", unary("abs", x), _axes(x, dim), keepdim)
    if ord == -math.inf:
        return reduce("min", unary("abs", x), _axes(x, dim), keepdim)
    if ord == 0:
        return reduce("sum", cast(binary("not_equal", x, 0), kind_of(x)), _axes(x, dim), keepdim)
    return power(reduce("sum", power(unary("abs", x), float(ord)), _axes(x, dim), keepdim), 1 / float(ord))


@aten("histc")
def _histc(x: Any, bins: int = 100, min: Any = 0, max: Any = 0) -> Any:
    """How many elements lie in each of `bins` intervals from min to max; the last one is closed."""
    if not min < max:
        raise unsupported("histc over the range of the data is not supported")
    flat = ops.single(reshape(x, (-1, 1)), "histc")
    at = unary("floor", binary("mul", binary("div", binary("sub", flat, min), max - min), bins))
    at = ops.where(binary("equal", flat, max), bins - 1, at)  # elements outside are in none of the bins
    return reduce("sum", cast(binary("equal", at, np.arange(bins, dtype=np.float32)), kind_of(x)), 0)


@aten("_cdist_forward")
def _cdist(x: Any, y: Any, p: float, compute_mode: Any = None) -> Any:
    """The norm of order p of the difference of every two rows."""
    apart = binary("sub", ops.expand_dims(x, -2), ops.expand_dims(y, -3))
    return _vector_norm(apart, p, -1)
