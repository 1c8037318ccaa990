"""Multi-head attention and transformer encoders. Parameters have torch's names and shapes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import functional as F
from qcompiler.frontend.array_ops import dims, expand_dims, lift, rank, reshape, trace_of
from qcompiler.frontend.functional.attention import attend, selecting
from qcompiler.frontend.functional.calling import no_training
from qcompiler.frontend.indexing import split_at
from qcompiler.frontend.nn import init
from qcompiler.frontend.nn.linear import Dropout, Linear
from qcompiler.frontend.nn.module import Module, ModuleList, Parameter
from qcompiler.frontend.nn.norm import LayerNorm
from qcompiler.frontend.proxy import Proxy
from qcompiler.frontend.source import user_place
from qcompiler.types import DType


class MultiheadAttention(Module):
    """(query [L, N, E], key [S, N, kdim], value [S, N, vdim]) to (y [L, N, E], the weights of the heads or None).

    With `batch_first`, N stands first; without a batch there is no N. Masks are bools, which are True where nothing is
    read, or floats, which are added to the scores: `key_padding_mask` [N, S], `attn_mask` [L, S] or [N * heads, L, S].
    The weights are [N, L, S], the mean over the heads, or [N, heads, L, S] with `average_attn_weights=False`. A
    query that may read no key gives weights of 0, where torch gives NaN if it returns the weights.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise TraceError(
                "sizes of MultiheadAttention",
                where=user_place(),
                expected="num_heads that divides embed_dim, both above 0",
                got=f"embed_dim={embed_dim}, num_heads={num_heads}",
            )
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.kdim, self.vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        self.add_zero_attn, self.batch_first = add_zero_attn, batch_first
        if self.kdim == self.vdim == embed_dim:
            self.in_proj_weight = _xavier_uniform((3 * embed_dim, embed_dim))
        else:
            for name, size in (("q", embed_dim), ("k", self.kdim), ("v", self.vdim)):
                self.register_parameter(f"{name}_proj_weight", _xavier_uniform((embed_dim, size)))
        self.register_parameter("in_proj_bias", Parameter(np.zeros(3 * embed_dim)) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias)
        if bias:
            self.out_proj.bias = Parameter(np.zeros(embed_dim))
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, init.normal((1, 1, embed_dim)) if add_bias_kv else None)

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> Any:
        if self.dropout:
            no_training("MultiheadAttention with dropout", self.training)
        if is_causal and attn_mask is None:
            raise TraceError("is_causal says that attn_mask is causal", where=user_place(), expected="an attn_mask")
        trace = trace_of(query, key, value)
        is_self, is_shared = query is key and key is value, key is value
        query = ops.single(query, "attention", trace)
        key = query if is_self else ops.single(key, "attention", trace)
        value = key if is_shared else ops.single(value, "attention", trace)
        is_batched = rank(query) == 3
        if rank(query) not in (2, 3) or {rank(key), rank(value)} != {rank(query)}:
            raise TraceError(
                "operands of MultiheadAttention",
                where=user_place(),
                expected="query, key and value of rank 3, or of rank 2 without a batch",
                got=f"{query!r}, {key!r}, {value!r}",
            )
        heads = [self._batch_first(x, is_batched) for x in self._projected(query, key, value)]
        masks = self._masks(heads, key_padding_mask, attn_mask, is_batched)
        q, (k, masks), (v, _) = heads[0], self._longer(heads[1], "bias_k", masks), self._longer(heads[2], "bias_v", [])
        q, k, v = (self._by_heads(x) for x in (q, k, v))
        if self.add_zero_attn:
            k, v = (ops.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0))) for x in (k, v))
            masks = [_with_one_more_key(mask) for mask in masks]
        y, weights = attend(q, k, v, selecting(masks))
        batch, _, length, _ = dims(y)
        y = self.out_proj(reshape(ops.swapaxes(y, 1, 2), (batch, length, self.embed_dim)))
        if not is_batched:
            y, weights = ops.squeeze(y, 0), ops.squeeze(weights, 0)
        elif not self.batch_first:
            y = ops.swapaxes(y, 0, 1)
        if not need_weights:
            return y, None
        return y, ops.reduce("mean", weights, -3) if average_attn_weights else weights

    def _projected(self, query: Proxy, key: Proxy, value: Proxy) -> list[Proxy]:
        """The operands times their weights: one product if they are one value."""
        size, bias = self.embed_dim, self.in_proj_bias
        if self.kdim == self.vdim == size and query is key and key is value:
            return split_at(F.linear(query, self.in_proj_weight, bias), [size, 2 * size], -1)
        if self.kdim == self.vdim == size:
            weights = [self.in_proj_weight[i * size : (i + 1) * size] for i in range(3)]
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        biases = [None] * 3 if bias is None else [bias[i * size : (i + 1) * size] for i in range(3)]
        return [F.linear(x, weight, b) for x, weight, b in zip((query, key, value), weights, biases)]

    def _batch_first(self, x: Proxy, is_batched: bool) -> Proxy:
        if not is_batched:
            return expand_dims(x, 0)
        return x if self.batch_first else ops.swapaxes(x, 0, 1)

    def _by_heads(self, x: Proxy) -> Proxy:
        """[N, L, E] as [N, heads, L, E / heads]."""
        batch, length, size = dims(x)
        return ops.swapaxes(reshape(x, (batch, length, self.num_heads, int(size) // self.num_heads)), 1, 2)  # type: ignore[arg-type]

    def _masks(self, heads: list[Proxy], key_padding: Any, attn: Any, is_batched: bool) -> list[Proxy]:
        """The masks that were given, with the axes [N, heads, L, S]."""
        trace, found = heads[0].trace, []
        (batch, length, _), keys = dims(heads[0]), dims(heads[1])[1]
        if key_padding is not None:
            mask = lift(key_padding, trace)
            _check_mask("key_padding_mask", mask, (batch, keys) if is_batched else (keys,))
            found.append(reshape(mask, (batch, 1, 1, keys)))
        if attn is not None:
            mask = lift(attn, trace)
            whole = (batch * self.num_heads, length, keys)
            _check_mask("attn_mask", mask, (length, keys) if rank(mask) == 2 else whole)
            found.append(mask if rank(mask) == 2 else reshape(mask, (batch, self.num_heads, length, keys)))
        return found

    def _longer(self, x: Proxy, name: str, masks: list[Proxy]) -> tuple[Proxy, list[Proxy]]:
        """x [N, S, E] and masks with the learned key or value as one more, if there is one."""
        learned = self._parameters[name]
        if learned is None:
            return x, masks
        batch, _, size = dims(x)
        more = ops.expand(lift(np.asarray(learned), x.trace), (batch, 1, size))
        return ops.concat([x, more], axis=1), [_with_one_more_key(mask) for mask in masks]

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}, batch_first={self.batch_first}"


def _check_mask(what: str, mask: Proxy, shape: tuple[Any, ...]) -> None:
    dtype = ops.kind_of(mask)
    if dims(mask) != shape or not (dtype is DType.BOOL or dtype is DType.F32):
        raise TraceError(
            f"{what} of MultiheadAttention",
            where=user_place(),
            expected=f"bool or f32, of shape [{','.join(map(str, shape))}]",
            got=repr(mask),
        )


def _with_one_more_key(mask: Proxy) -> Proxy:
    """A mask whose last axis has one more key, which all may read."""
    *lead, _ = dims(mask)
    none = lift(False if ops.kind_of(mask) is DType.BOOL else 0.0, mask.trace)
    return ops.concat([mask, ops.expand(none, (*lead, 1))], axis=-1)


def _xavier_uniform(shape: tuple[int, int]) -> Parameter:
    return init.uniform(shape, math.sqrt(6.0 / sum(shape)))


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": F.relu, "gelu": F.gelu}


class TransformerEncoderLayer(Module):
    """Self attention, then two linear layers, each with a residual and a norm; src [L, N, d_model], or [N, L, d_model]
    with `batch_first`, to the same shape. `activation`: "relu", "gelu", or a function. Masks are those of
    `MultiheadAttention`."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Any], Any] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if not callable(activation) and activation not in _ACTIVATIONS:
            raise TraceError(
                "activation of TransformerEncoderLayer",
                where=user_place(),
                expected=f"{' | '.join(_ACTIVATIONS)}, or a function",
                got=repr(activation),
            )
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first)
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.norm_first = norm_first
        self.activation = activation if callable(activation) else _ACTIVATIONS[activation]

    def forward(self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False) -> Any:
        def attended(x: Any) -> Any:
            return self.dropout1(self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal)[0])

        def fed_forward(x: Any) -> Any:
            return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))

        x = lift(src)
        if self.norm_first:
            x = x + attended(self.norm1(x))
            return x + fed_forward(self.norm2(x))
        x = self.norm1(x + attended(x))
        return self.norm2(x + fed_forward(x))


class TransformerEncoder(Module):
    """`num_layers` copies of an encoder layer one after the other, and a norm behind them if one is given. Places that
    `src_key_padding_mask` hides are computed like others; torch's fast path, nested tensors, gives 0 there."""

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = ModuleList(copy.deepcopy(encoder_layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool | None = None
    ) -> Any:
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal))
        return src if self.norm is None else self.norm(src)
