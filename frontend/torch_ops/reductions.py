"""ATen ops that reduce axes."""

from __future__ import annotations

import math
from typing import Any

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, cast, reduce, unary
from qcompiler.frontend.torch_ops.table import aten, dtype_of, unsupported


def _axes(x: Any, dim: Any) -> Any:
    return None if dim is None or (isinstance(dim, (list, tuple)) and not dim) else dim


def _as(x: Any, dtype: Any) -> Any:
    return x if dtype is None else cast(x, dtype_of(dtype))


for _op in ("mean", "sum"):
    aten(_op)(lambda x, dtype=None, _op=_op: _as(reduce(_op, x), dtype))
    aten(f"{_op}.dim", f"{_op}.dim_IntList")(
        lambda x, dim=None, keepdim=False, dtype=None, _op=_op: _as(reduce(_op, x, _axes(x, dim), keepdim), dtype)
    )
aten("amax")(lambda x, dim=(), keepdim=False: reduce("max", x, _axes(x, dim), keepdim))
aten("amin")(lambda x, dim=(), keepdim=False: reduce("min", x, _axes(x, dim), keepdim))
aten("max")(lambda x: reduce("max", x))
aten("min")(lambda x: reduce("min", x))
aten("max.dim")(lambda x, dim, keepdim=False: (reduce("max", x, dim, keepdim), ops.argmax(x, dim, keepdim)))
aten("min.dim")(
    lambda x, dim, keepdim=False: (reduce("min", x, dim, keepdim), ops.argmax(unary("neg", x), dim, keepdim))
)
aten("prod")(lambda x, dtype=None: reduce("prod", x))
aten("prod.dim_int")(lambda x, dim, keepdim=False, dtype=None: reduce("prod", x, dim, keepdim))
aten("cumsum")(lambda x, dim, dtype=None: ops.cumsum(x, dim, None if dtype is None else dtype_of(dtype)))
aten("argmax")(lambda x, dim=None, keepdim=False: ops.argmax(x, dim, keepdim))
aten("argmin")(lambda x, dim=None, keepdim=False: ops.argmax(unary("neg", x), dim, keepdim))
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
aten("any", "any.dim", "any.dims")(ops.any_of)
aten("all", "all.dim", "all.dims")(ops.all_of)
aten("logsumexp")(lambda x, dim, keepdim=False: _logsumexp(x, dim, keepdim))


def _logsumexp(x: Any, dim: Any, keepdim: bool) -> Any:
    top = reduce("max", x, dim, True)
    total = binary("add", unary("log", reduce("sum", unary("exp", binary("sub", x, top)), dim, True)), top)
    return total if keepdim else ops.squeeze(total, tuple(dim) if isinstance(dim, (list, tuple)) else dim)


@aten("linalg_vector_norm", "norm.ScalarOpt_dim")
def _vector_norm(x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    if ord in (None, 2):
        return unary("sqrt", reduce("sum", unary("square", x), _axes(x, dim), keepdim))
    if ord == 1:
        return reduce("sum", unary("abs", x), _axes(x, dim), keepdim)
    if ord == math.inf:
        return reduce("max", unary("abs", x), _axes(x, dim), keepdim)
    raise unsupported(f"vector norm of order {ord} is not supported")
