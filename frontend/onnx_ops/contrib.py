"""Ops that ONNX Runtime's transformer optimizer fuses: attention, norms of sums, embeddings, GELU and its kin; and what
its quantize_dynamic makes of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import functional as F
from qcompiler.frontend import indexing
from qcompiler.frontend.array_ops import binary, cast, dims, expand_dims, lift, rank, reshape, unary
from qcompiler.frontend.functional.attention import attend
from qcompiler.frontend.indexing import slice_axes, split_at
from qcompiler.frontend.onnx_ops.dynamic import product, scaled
from qcompiler.frontend.onnx_ops.node import OnnxNode, onnx
from qcompiler.frontend.ranges import arange
from qcompiler.frontend.sizes import sized
from qcompiler.types import DType

# -- functions of one element


@onnx("com.microsoft.Gelu", "com.microsoft.BiasGelu")
def _gelu(n: OnnxNode) -> Any:
    return F.gelu(_biased(n))


@onnx("com.microsoft.FastGelu")
def _fast_gelu(n: OnnxNode) -> Any:
    return F.gelu(_biased(n), approximate="tanh")


def _biased(n: OnnxNode) -> Any:
    return binary("add", n.floats(0), n.x(1)) if n.has(1) else n.floats(0)


@onnx("com.microsoft.QuickGelu")
def _quick_gelu(n: OnnxNode) -> Any:
    x, alpha = n.floats(0), n.number("alpha", 1.702)
    return binary("mul", x, unary("sigmoid", x if alpha == 1 else binary("mul", x, alpha)))


# -- products


@onnx("com.microsoft.FusedMatMul")
def _fused_matmul(n: OnnxNode) -> Any:
    n.only("transBatchA", 0)
    n.only("transBatchB", 0)
    a, b, alpha = n.floats(0), n.floats(1), n.number("alpha", 1.0)
    a = ops.swapaxes(a, -1, -2) if n.attr("transA", 0) and rank(a) > 1 else a
    if n.attr("transB", 0) and rank(b) > 1:
        turned = np.swapaxes(n.raw(1), -1, -2) if isinstance(n.raw(1), np.ndarray) else ops.swapaxes(b, -1, -2)
        b = lift(np.ascontiguousarray(turned) if isinstance(turned, np.ndarray) else turned, n.trace)
    y = ops.matmul(a, b)
    return y if alpha == 1 else binary("mul", y, alpha)


# -- norms of sums


@onnx("com.microsoft.SkipLayerNormalization", "com.microsoft.SkipSimplifiedLayerNormalization")
def _skip_norm(n: OnnxNode) -> Any:
    """The norm of input + skip + bias, and that sum as the fourth output."""
    n.unused(1, 2)
    is_centered = n.op.endswith("SkipLayerNormalization")
    gamma, beta, bias = n.x(2), (n.optional(3) if is_centered else None), n.optional(4 if is_centered else 3)
    total = binary("add", n.floats(0), n.x(1))
    total = total if bias is None else binary("add", total, bias)
    shape, eps = dims(gamma), n.number("epsilon", 1e-12 if is_centered else 1e-5)
    y = F.layer_norm(total, shape, gamma, beta, eps) if is_centered else F.rms_norm(total, shape, gamma, eps)
    return y, None, None, total


@onnx("SimplifiedLayerNormalization")
def _simplified_norm(n: OnnxNode) -> Any:
    n.only("axis", -1, rank(n.x(0)) - 1)
    n.unused(1)
    return F.rms_norm(n.floats(0), dims(n.x(1)), n.x(1), n.number("epsilon", 1e-5))


# -- embeddings


@onnx("com.microsoft.EmbedLayerNormalization")
def _embed_norm(n: OnnxNode) -> Any:
    segments = indexing.take(n.x(4), n.x(1), 0) if n.has(1) and n.has(4) else None
    words = indexing.take(n.x(2), n.x(0), 0)
    return _normed_embedding(n, words, n.x(3), segments, n.x(5), n.x(6), mask=7, position_ids=n.optional(8))


@onnx("com.microsoft.QEmbedLayerNormalization")
def _quantized_embed_norm(n: OnnxNode) -> Any:
    def table(index: int, scale: int, zero_point: int, at: Any = None) -> Any:
        """A table of codes, or its rows at indices, as real numbers."""
        codes = lift(n.raw(index), n.trace)
        codes = codes if at is None else indexing.take(codes, at, 0)
        return binary("mul", cast(binary("sub", cast(codes, DType.I32), _point(n, zero_point)), DType.F32), n.x(scale))

    words, positions = table(2, 8, 13, n.x(0)), table(3, 9, 14)
    segments = table(4, 10, 15, n.x(1)) if n.has(1) and n.has(4) else None
    return _normed_embedding(n, words, positions, segments, table(5, 11, 16), table(6, 12, 17), mask=7)


def _point(n: OnnxNode, index: int) -> Any:
    """A zero point of one number, as i32."""
    return cast(reshape(n.held(index), ()), DType.I32)


def _normed_embedding(
    n: OnnxNode,
    words: Any,
    positions: Any,
    segments: Any,
    gamma: Any,
    beta: Any,
    mask: int,
    position_ids: Any = None,
) -> Any:
    """The norm of word, position and segment embeddings [B, S, H], how many of each row the mask shows, and the sum
    that was normed."""
    batch, length, _ = dims(words)
    if position_ids is None:
        own = slice_axes(positions, {0: slice(0, sized(length, n.trace))})
    else:
        own = indexing.take(positions, position_ids, 0)
    total = binary("add", words, own)
    total = total if segments is None else binary("add", total, segments)
    y = F.layer_norm(total, dims(gamma), gamma, beta, n.number("epsilon", 1e-12))
    if not (len(n.outputs) > 1 and n.outputs[1]):
        return y, None, total
    if n.has(mask):
        count = cast(ops.reduce("sum", cast(binary("equal", n.x(mask), 1), DType.I32), 1), DType.I32)
    else:
        count = ops.expand(lift(np.int32(0), n.trace, dtype=DType.I32), (batch,))
    return y, count, total


# -- attention


@onnx("com.microsoft.Attention")
def _attention(n: OnnxNode) -> Any:
    n.only("do_rotary", 0)
    n.only("past_present_share_buffer", 0)
    _without(n, (4, "past"), (6, "past_sequence_length"))
    n.unused(1)
    weights, bias = n.raw(1), n.raw(2)
    if isinstance(weights, np.ndarray):
        sizes = _hidden_sizes(n, weights.shape[1])
        projected = n.emit("linear", (n.floats(0), np.ascontiguousarray(weights.T), bias))
    else:
        projected = ops.matmul(n.floats(0), n.x(1))
        sizes = _hidden_sizes(n, dims(projected)[-1])
        projected = projected if bias is None else binary("add", projected, n.x(2))
    return _attended(n, _split(projected, sizes), mask=3, added=n.optional(5))


@onnx("com.microsoft.QAttention")
def _quantized_attention(n: OnnxNode) -> Any:
    n.only("do_rotary", 0)
    n.only("past_present_share_buffer", 0)
    _without(n, (8, "past"))
    n.unused(1)
    sums = product(n, n.held(0), n.raw(1), n.raw(6), n.raw(7))
    projected = scaled(n, sums, _one(n, 3), _one(n, 4), n.optional(2))
    return _attended(n, _split(projected, _hidden_sizes(n, dims(projected)[-1])), mask=5)


def _one(n: OnnxNode, index: int) -> Any:
    """An operand, without the axis of a list of one."""
    value = n.x(index)
    return reshape(value, ()) if dims(value) == (1,) else value


@onnx("com.microsoft.MultiHeadAttention")
def _multi_head(n: OnnxNode) -> Any:
    _without(n, (6, "past_key"), (7, "past_value"), (8, "past_sequence_length"), (9, "cache_indirection"))
    n.unused(1, 2, 3)
    if not (n.has(1) and n.has(2)) or {rank(n.x(0)), rank(n.x(1)), rank(n.x(2))} != {3}:
        raise n.refuse("packed operands are not supported", expected="query, key and value of rank 3")
    parts = [n.floats(0), n.floats(1), n.floats(2)]
    if n.has(3):
        sizes = [dims(part)[-1] for part in parts]
        biases = split_at(n.x(3), [int(sizes[0]), int(sizes[0]) + int(sizes[1])], 0)  # type: ignore[arg-type]
        parts = [binary("add", part, bias) for part, bias in zip(parts, biases)]
    return _attended(n, parts, mask=4, added=n.optional(5))


def _without(n: OnnxNode, *operands: tuple[int, str]) -> None:
    for index, name in operands:
        if n.has(index):
            raise n.refuse(f"{name} is not supported", hint="export the model without a cache")


def _hidden_sizes(n: OnnxNode, total: Any) -> list[int]:
    given = n.attr("qkv_hidden_sizes", None)
    if given is not None and len(given) == 3 and sum(given) == total:
        return [int(size) for size in given]
    if given is not None or not isinstance(total, int) or total % 3:
        raise n.refuse("the sizes of query, key and value", expected=f"three that add up to {total}", got=given)
    return [total // 3] * 3


def _split(projected: Any, sizes: list[int]) -> list[Any]:
    return split_at(projected, [sizes[0], sizes[0] + sizes[1]], -1)


def _attended(n: OnnxNode, parts: list[Any], mask: int, added: Any = None) -> Any:
    """Attention of query [B, S, H], key and value [B, T, H]; `mask`: which operand is ONNX Runtime's mask_index."""
    heads = int(n.attr("num_heads"))
    sizes = [dims(part)[-1] for part in parts]
    if any(not isinstance(size, int) or size % heads for size in sizes):
        raise n.refuse("num_heads does not divide the features", expected=f"divisors of {sizes}", got=heads)
    q, k, v = (
        ops.swapaxes(reshape(part, (*dims(part)[:2], heads, int(size) // heads)), 1, 2)  # type: ignore[arg-type]
        for part, size in zip(parts, sizes)
    )
    (batch, _, length, size), keys = dims(q), dims(k)[2]
    hidden = _hidden(n, mask, batch, length, keys)
    bias = None if hidden is None else ops.where(hidden, n.number("mask_filter_value", -10000.0), 0.0)
    if n.attr("unidirectional", 0):
        row, column = (arange(0, sized(count, n.trace)) for count in (length, keys))
        later = binary("greater", expand_dims(column, 0), expand_dims(row, 1))
        bias = ops.where(later, float(np.finfo(np.float32).min), 0.0 if bias is None else bias)
    if added is not None:
        bias = added if bias is None else binary("add", bias, added)
    scale = n.attr("scale", 0.0)
    y, _ = attend(q, k, v, bias, scale=float(scale) if scale else 1 / math.sqrt(int(size)))  # type: ignore[arg-type]
    return reshape(ops.swapaxes(y, 1, 2), (batch, length, sizes[2]))


def _hidden(n: OnnxNode, index: int, batch: Any, length: Any, keys: Any) -> Any:
    """Where a mask lets no key be read, bool [B, 1, 1 or S, T], or None. It is the number of keys of each row [B], or 1
    where a key may be read, [B, T] or [B, S, T]."""
    if not n.has(index):
        return None
    mask = n.x(index)
    shape = dims(mask)
    if shape == (batch,):
        places = reshape(arange(0, sized(keys, n.trace)), (1, 1, 1, keys))
        return binary("greater_equal", cast(places, DType.I32), reshape(cast(mask, DType.I32), (batch, 1, 1, 1)))
    if shape == (batch, keys):
        return reshape(binary("less_equal", mask, 0), (batch, 1, 1, keys))
    if shape == (batch, length, keys):
        return reshape(binary("less_equal", mask, 0), (batch, 1, length, keys))
    raise n.refuse(
        "the mask", expected=f"shape [{batch}], [{batch},{keys}] or [{batch},{length},{keys}]", got=f"{list(shape)}"
    )
