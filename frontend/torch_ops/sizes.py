"""ATen ops and Python functions on sizes, and torch's checks, which are ignored."""

from __future__ import annotations

import math
import operator
from typing import Any

from qcompiler.frontend.torch_ops.table import Meaning, Missing, aten, meaning

aten("sym_size.int")(lambda x, dim: x.shape[dim])
aten("sym_numel")(lambda x: x.numel())
CHECKS = frozenset(
    f"aten.{name}"
    for name in (
        "_assert_scalar.default",
        "_assert_async.msg",
        "sym_constrain_range.default",
        "sym_constrain_range_for_size.default",
        "_assert_tensor_metadata.default",
    )
)
"""Checks of torch, which are ignored."""
meaning(*CHECKS)(lambda *args, **kwargs: None)
aten("_local_scalar_dense", "item")(lambda x: Missing("a Python number that depends on data"))
SIZE_FUNCTIONS: dict[Any, Meaning] = {
    operator.getitem: operator.getitem,
    operator.add: operator.add,
    operator.sub: operator.sub,
    operator.mul: operator.mul,
    operator.floordiv: operator.floordiv,
    operator.mod: operator.mod,
    operator.truediv: operator.truediv,
    operator.neg: operator.neg,
    operator.pow: operator.pow,
    operator.eq: operator.eq,
    operator.ne: operator.ne,
    operator.lt: operator.lt,
    operator.le: operator.le,
    operator.gt: operator.gt,
    operator.ge: operator.ge,
    math.ceil: math.ceil,
    math.floor: math.floor,
    math.trunc: math.trunc,
}
SIZE_NAMES: dict[str, Meaning] = {
    "sym_max": max,
    "sym_min": min,
    "sym_float": float,
    "sym_int": int,
    "sym_not": operator.not_,
    "_sym_sqrt": math.sqrt,
}
