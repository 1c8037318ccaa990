"""ATen ops that stand for layers: products, convolutions, attention, normalization, pooling, resampling, padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import functional as F
from qcompiler.frontend import indexing
from qcompiler.frontend.array_ops import binary, cast, dims, rank
from qcompiler.frontend.einsum import einsum
from qcompiler.frontend.functional.embedding import BAG_MODES
from qcompiler.frontend.ranges import arange
from qcompiler.frontend.sizes import sized
from qcompiler.frontend.torch_ops.table import Later, Missing, aten, cast_to, meaning, scaled_by, unsupported
from qcompiler.types import DType

_INDICES = Missing("the indices of an adaptive max pool")
_STATISTICS = Missing("the mean of a normalization"), Missing("the deviation of a normalization")

aten("linear")(F.linear)
aten("matmul", "mm", "bmm", "mv", "dot")(ops.matmul)
aten("einsum")(lambda equation, operands, path=None: einsum(equation, *operands))
aten("bilinear")(F.bilinear)
aten("embedding")(lambda weight, indices, *args: F.embedding(indices, weight))


@aten("addmm", "baddbmm")
def _addmm(bias: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1) -> Any:
    return binary("add", scaled_by(ops.matmul(x, y), alpha), scaled_by(bias, beta))


for _spatial in (1, 2, 3):
    aten(f"conv{_spatial}d", f"conv{_spatial}d.padding")(getattr(F, f"conv{_spatial}d"))
    _overload = f"conv_transpose{_spatial}d" + ("" if _spatial == 1 else ".input")
    aten(_overload)(getattr(F, f"conv_transpose{_spatial}d"))


@aten("convolution")
def _convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    spatial = rank(weight) - 2
    if transposed:
        convolve = getattr(F, f"conv_transpose{spatial}d")
        return convolve(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return getattr(F, f"conv{spatial}d")(x, weight, bias, stride, padding, dilation, groups)


@aten("scaled_dot_product_attention")
def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if enable_gqa:
        key, value = (_repeated_heads(each, ops.static_size(query, -3, "attention")) for each in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale)


def _repeated_heads(x: Any, heads: int) -> Any:
    """x [..., groups, S, D] with each group of heads repeated, one after the other, so that there are `heads`."""
    *batch, groups, length, size = dims(x)
    if not isinstance(groups, int) or heads % groups:
        raise unsupported(f"attention of {heads} heads to {groups} groups is not supported")
    spread = ops.expand(ops.expand_dims(x, -3), (*batch, groups, heads // groups, length, size))
    return ops.reshape(spread, (*batch, heads, length, size))


@aten("_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(
    weight: Any,
    indices: Any,
    offsets: Any,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> Any:
    """The mode is an index into BAG_MODES; a padding_idx of -1 means none."""
    found = F.embedding_bag(
        indices,
        weight,
        offsets,
        mode=BAG_MODES[mode],
        per_sample_weights=per_sample_weights,
        include_last_offset=include_last_offset,
        padding_idx=None if padding_idx < 0 else padding_idx,
    )
    return found, *[Missing("the bookkeeping of embedding_bag")] * 3


@meaning("aten._grouped_mm.default", "transformers.grouped_mm_fallback.default")
def _grouped_mm(x: Any, weight: Any, offs: Any, bias: Any = None, out_dtype: Any = None) -> Any:
    """Rows of x [S, K] times the matrix of their group, weight [G, K, N]; group g ends before row offs[g]. Every row is
    multiplied with every matrix, and its own product is picked."""
    if rank(x) != 2 or rank(weight) != 3 or offs is None or bias is not None:
        raise unsupported("a grouped product of other than rows and a matrix for each group is not supported")
    products = ops.matmul(ops.expand_dims(x, 0), weight)
    row = arange(0, sized(dims(x)[0], x.trace))
    ended = binary("less_equal", ops.expand_dims(offs, 0), ops.expand_dims(row, 1))
    last = ops.static_size(offs, 0, "grouped_mm") - 1
    group = binary("minimum", ops.total("sum", ended, 1), last)
    inside = binary("less", row, indexing.select(offs, 0, last))
    return ops.where(ops.expand_dims(inside, 1), indexing.take_many(products, {0: group, 1: row}), 0.0)


aten("group_norm")(
    lambda x, groups, weight=None, bias=None, eps=1e-5, cudnn=True: F.group_norm(x, groups, weight, bias, eps)
)
aten("rms_norm")(F.rms_norm)
aten("_safe_softmax")(lambda x, dim, dtype=None: ops.softmax(cast_to(x, dtype), dim, masked_is_zero=True))
aten("softmax.int")(lambda x, dim, dtype=None: F.softmax(cast_to(x, dtype), dim))
aten("log_softmax.int")(lambda x, dim, dtype=None: F.log_softmax(cast_to(x, dtype), dim))
aten("_softmax")(lambda x, dim, half_to_float: F.softmax(cast(x, DType.F32) if half_to_float else x, dim))
aten("_log_softmax")(lambda x, dim, half_to_float: F.log_softmax(cast(x, DType.F32) if half_to_float else x, dim))


@aten("layer_norm")
def _layer_norm(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enable: bool = True
) -> Any:
    return F.layer_norm(x, tuple(normalized_shape), weight, bias, eps)


aten("native_layer_norm")(lambda x, shape, weight, bias, eps: (_layer_norm(x, shape, weight, bias, eps), *_STATISTICS))


@aten("batch_norm")
def _batch_norm(
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Any:
    return F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)


@aten("_native_batch_norm_legit_no_training")
def _native_batch_norm(x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float) -> Any:
    return F.batch_norm(x, mean, var, weight, bias, False, momentum, eps), *_STATISTICS


@aten("instance_norm")
def _instance_norm(
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Any:
    return F.instance_norm(x, mean, var, weight, bias, use_input_stats, momentum, eps)


def _with_indices(name: str) -> Callable[..., Any]:
    """A max pool with two results."""
    pool = getattr(F, name)

    def meaning(x: Any, *args: Any) -> tuple[Any, Later]:
        return pool(x, *args), Later(lambda: pool(x, *args, return_indices=True)[1])

    return meaning


for _spatial in (1, 2, 3):
    aten(f"max_pool{_spatial}d")(getattr(F, f"max_pool{_spatial}d"))
    aten(f"avg_pool{_spatial}d")(getattr(F, f"avg_pool{_spatial}d"))
    aten(f"adaptive_avg_pool{_spatial}d")(getattr(F, f"adaptive_avg_pool{_spatial}d"))
    if _spatial > 1:
        aten(f"_adaptive_avg_pool{_spatial}d")(getattr(F, f"adaptive_avg_pool{_spatial}d"))
    aten(f"adaptive_max_pool{_spatial}d")(
        lambda x, size, _n=_spatial: (getattr(F, f"adaptive_max_pool{_n}d")(x, size), _INDICES)
    )
    aten(f"max_pool{_spatial}d_with_indices")(_with_indices(f"max_pool{_spatial}d"))
    aten(f"upsample_nearest{_spatial}d.vec")(lambda x, size, scales: F.interpolate(x, size, scales, "nearest"))
    aten(f"_upsample_nearest_exact{_spatial}d.vec")(
        lambda x, size, scales: F.interpolate(x, size, scales, "nearest-exact")
    )
for _name in ("upsample_linear1d.vec", "upsample_bilinear2d.vec", "upsample_trilinear3d.vec"):
    aten(_name)(lambda x, size, align, scales: F.interpolate(x, size, scales, "bilinear", align))
aten("pixel_shuffle")(F.pixel_shuffle)
aten("pixel_unshuffle")(F.pixel_unshuffle)
aten("channel_shuffle", "native_channel_shuffle")(F.channel_shuffle)
aten("pad")(F.pad)
aten("constant_pad_nd")(lambda x, pad, value=0: F.pad(x, pad, "constant", value))
for _spatial in (1, 2, 3):
    aten(f"reflection_pad{_spatial}d")(lambda x, pad: F.pad(x, pad, "reflect"))
    aten(f"replication_pad{_spatial}d")(lambda x, pad: F.pad(x, pad, "replicate"))
