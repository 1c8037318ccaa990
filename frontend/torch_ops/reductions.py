"""ATen ops that reduce axes."""

from __future__ import annotations

import functools
import math
from typing import Any

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, cast, kind_of, reduce, unary
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
aten("var.correction")(
    lambda x, dim=None, correction=1, keepdim=False: ops.variance(x, _axes(x, dim), keepdim, correction)
)
aten("std.correction")(
    lambda x, dim=None, correction=1, keepdim=False: unary("sqrt", ops.variance(x, _axes(x, dim), keepdim, correction))
)
aten("var.dim")(lambda x, dim, unbiased=True, keepdim=False: ops.variance(x, _axes(x, dim), keepdim, int(unbiased)))
aten("std.dim")(
    lambda x, dim, unbiased=True, keepdim=False: unary("sqrt", ops.variance(x, _axes(x, dim), keepdim, int(unbiased)))
)
for _name, _of in (("any", ops.any_of), ("all", ops.all_of)):

    @aten(_name, f"{_name}.dim", f"{_name}.dims")
    def _truth(x: Any, dim: Any = None, keepdim: bool = False, _of: Any = _of) -> Any:
        """Bools, but uint8 for uint8."""
        found = _of(x, dim, keepdim)
        return cast(found, DType.U8) if kind_of(x) is DType.U8 else found


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
    raise unsupported(f"vector norm of order {ord} is not supported")
