"""Attention: softmax of scaled scores, and the masks that torch's modules take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, rank, trace_of
from qcompiler.frontend.functional.calling import traceable
from qcompiler.frontend.proxy import Proxy
from qcompiler.frontend.source import user_place
from qcompiler.ir import Const
from qcompiler.types import DType


@traceable
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Any:
    """softmax(q k^T * scale + mask) v; q, k, v: [..., length, features]. A bool mask selects where it is True. A
    row whose scores are all masked gives 0."""
    if dropout_p:
        raise TraceError("attention with dropout is training", where=user_place(), hint="dropout_p=0.0")
    return attend(query, key, value, attn_mask, is_causal, scale)[0]


def attend(
    query: Any, key: Any, value: Any, attn_mask: Any = None, is_causal: bool = False, scale: float | None = None
) -> tuple[Proxy, Proxy]:
    """The result of `scaled_dot_product_attention`, and its weights [..., length, length of the key]."""
    trace = trace_of(query, key, value)
    query, key, value = (ops.single(item, "attention", trace) for item in (query, key, value))
    if scale is None:
        scale = 1.0 / math.sqrt(ops.static_size(query, rank(query) - 1, "attention"))
    scores = binary("mul", ops.matmul(query, ops.swapaxes(key, -1, -2)), scale)
    if is_causal:
        rows = ops.static_size(query, rank(query) - 2, "causal attention")
        columns = ops.static_size(key, rank(key) - 2, "causal attention")
        attn_mask = np.tril(np.ones((rows, columns), bool))
    has_masked_rows = attn_mask is not None and _may_mask_rows(attn_mask)
    if attn_mask is not None:
        if ops.kind_of(attn_mask) is DType.BOOL:
            scores = ops.where(attn_mask, scores, -math.inf)
        else:
            scores = binary("add", scores, attn_mask)
    weights = ops.softmax(scores, -1, masked_is_zero=True) if has_masked_rows else ops.softmax(scores, -1)
    return ops.matmul(weights, value), weights


def _may_mask_rows(mask: Any) -> bool:
    """Whether a mask of attention may mask a whole row; of constants this is known."""
    data = mask.value.data if isinstance(mask, Proxy) and isinstance(mask.value, Const) else mask
    if not isinstance(data, np.ndarray):
        return True
    masked = ~data if data.dtype == bool else data == -math.inf
    return bool(masked.all(axis=-1).any()) if data.ndim else bool(masked)


def selecting(masks: Sequence[Any]) -> Any:
    """The mask of `attend` that says what these masks say together, None if there are none.

    masks: as torch's modules take them, with shapes that broadcast: bools that are True where nothing is read, or
    floats that are added.
    """
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    if all(ops.kind_of(mask) is DType.BOOL for mask in given):
        hidden = given[0]
        for mask in given[1:]:
            hidden = binary("logical_or", hidden, mask)
        return ops.logical_not(hidden)
    added = [ops.where(mask, -math.inf, 0.0) if ops.kind_of(mask) is DType.BOOL else mask for mask in given]
    total = added[0]
    for mask in added[1:]:
        total = binary("add", total, mask)
    return total
