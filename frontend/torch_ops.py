"""What each ATen op means in the graph IR: the table behind `import_torch`.

Keys are printed names of torch's overloads ("aten.conv2d.default"); a meaning takes the op's own arguments, traced
values in place of tensors. Ops that stand for a whole layer arrive as one IR op. torch itself is not imported here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import functional as F
from qcompiler.frontend import indexing
from qcompiler.frontend.array_ops import binary, cast, dims, kind_of, lift, rank, reduce, reshape, unary
from qcompiler.frontend.einsum import einsum
from qcompiler.frontend.proxy import power
from qcompiler.frontend.recorder import required_trace
from qcompiler.frontend.sizes import as_dim
from qcompiler.types import DType

Meaning = Callable[..., Any]
TABLE: dict[str, Meaning] = {}
_DTYPES = {
    "torch.float32": DType.F32,
    "torch.float64": DType.F32,
    "torch.float16": DType.F32,
    "torch.bfloat16": DType.F32,
    "torch.int64": DType.I64,
    "torch.int32": DType.I32,
    "torch.int16": DType.I16,
    "torch.int8": DType.I8,
    "torch.uint8": DType.U8,
    "torch.bool": DType.BOOL,
}


def aten(*names: str) -> Callable[[Meaning], Meaning]:
    """Register a meaning under overload names; without a dot, `.default` is meant."""

    def add(meaning: Meaning) -> Meaning:
        for name in names:
            TABLE[f"aten.{name}" if "." in name else f"aten.{name}.default"] = meaning
        return meaning

    return add


def dtype_of(dtype: Any) -> DType:
    """The IR's element type for a torch dtype; all floats are f32."""
    found = _DTYPES.get(str(dtype))
    if found is None:
        raise TraceError(f"element type {dtype} is not supported", where=required_trace("import").place())
    return found


def _unsupported(what: str) -> TraceError:
    return TraceError(what, where=required_trace("import").place())


# -- elementwise

for _name, _op in (("sub", "sub"), ("add", "add")):

    @aten(f"{_name}.Tensor", f"{_name}.Scalar")
    def _scaled(x: Any, y: Any, alpha: Any = 1, _op: str = _op) -> Any:
        return binary(_op, x, y if alpha == 1 else binary("mul", y, alpha))


for _name, _op in (
    ("mul", "mul"),
    ("maximum", "maximum"),
    ("minimum", "minimum"),
    ("eq", "equal"),
    ("ne", "not_equal"),
    ("lt", "less"),
    ("le", "less_equal"),
    ("gt", "greater"),
    ("ge", "greater_equal"),
):
    aten(_name, f"{_name}.Tensor", f"{_name}.Scalar")(lambda x, y, _op=_op: binary(_op, x, y))
aten("logical_and", "bitwise_and.Tensor")(lambda x, y: binary("logical_and", x, y))
aten("logical_or", "bitwise_or.Tensor")(lambda x, y: binary("logical_or", x, y))
aten("logical_xor", "bitwise_xor.Tensor")(lambda x, y: binary("not_equal", x, y))
aten("logical_not", "bitwise_not")(ops.logical_not)
aten("rsub.Scalar", "rsub.Tensor")(lambda x, y, alpha=1: binary("sub", y, x if alpha == 1 else binary("mul", x, alpha)))
aten("max.other")(lambda x, y: binary("maximum", x, y))
aten("min.other")(lambda x, y: binary("minimum", x, y))
aten("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")(power)
for _name, _op in (
    ("neg", "neg"),
    ("abs", "abs"),
    ("sqrt", "sqrt"),
    ("rsqrt", "rsqrt"),
    ("reciprocal", "reciprocal"),
    ("exp", "exp"),
    ("log", "log"),
    ("sin", "sin"),
    ("cos", "cos"),
    ("erf", "erf"),
    ("floor", "floor"),
    ("ceil", "ceil"),
    ("round", "round"),
    ("sign", "sign"),
    ("square", "square"),
    ("relu", "relu"),
    ("relu6", "relu6"),
    ("sigmoid", "sigmoid"),
    ("hardsigmoid", "hardsigmoid"),
    ("tanh", "tanh"),
    ("hardswish", "hardswish"),
    ("silu", "silu"),
    ("mish", "mish"),
    ("selu", "selu"),
):
    aten(_name)(lambda x, _op=_op: unary(_op, x))
aten("log_sigmoid")(lambda x: unary("logsigmoid", x))
aten("log_sigmoid_forward")(lambda x: (unary("logsigmoid", x), None))
aten("softshrink")(F.softshrink)
aten("hardshrink")(F.hardshrink)
aten("celu")(F.celu)
aten("softplus")(F.softplus)
aten("leaky_relu")(F.leaky_relu)
aten("hardtanh")(F.hardtanh)
aten("glu")(F.glu)
aten("threshold")(F.threshold)
aten("prelu")(F.prelu)
aten("_prelu_kernel")(lambda x, weight: F.prelu(x, reshape(weight, (ops.type_of(weight).elements,))))
aten("rrelu")(lambda x, lower=1 / 8, upper=1 / 3, training=False, generator=None: F.rrelu(x, lower, upper, training))
aten("log2")(lambda x: binary("mul", unary("log", x), 1 / math.log(2)))
aten("log10")(lambda x: binary("mul", unary("log", x), 1 / math.log(10)))
aten("log1p")(lambda x: unary("log", binary("add", x, 1.0)))
aten("expm1")(lambda x: binary("sub", unary("exp", x), 1.0))
aten("exp2")(lambda x: unary("exp", binary("mul", x, math.log(2))))
aten("isnan")(lambda x: binary("not_equal", x, x))
aten("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")(ops.where)
aten("masked_fill.Scalar", "masked_fill.Tensor")(lambda x, mask, value: ops.where(mask, value, x))
aten("clamp", "clip", "clamp.Tensor")(lambda x, min=None, max=None: ops.clip(x, min, max))
aten("clamp_min", "clamp_min.Tensor")(lambda x, min: ops.clip(x, min, None))
aten("clamp_max", "clamp_max.Tensor")(lambda x, max: ops.clip(x, None, max))
aten("addcmul")(lambda x, a, b, value=1: binary("add", x, _scaled_by(binary("mul", a, b), value)))
aten("addcdiv")(lambda x, a, b, value=1: binary("add", x, _scaled_by(binary("div", a, b), value)))
aten("lerp.Scalar", "lerp.Tensor")(
    lambda x, end, weight: binary("add", x, binary("mul", weight, binary("sub", end, x)))
)
aten("remainder.Scalar", "remainder.Tensor")(
    lambda x, y: binary("sub", x, binary("mul", unary("floor", binary("div", x, y)), y))
)
aten("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")(lambda x, p, train: F.dropout(x, p, train))
aten("gelu")(lambda x, approximate="none": unary("gelu", x, approximate=approximate))


def _scaled_by(x: Any, factor: Any) -> Any:
    return x if factor == 1 else binary("mul", x, factor)


@aten("elu")
def _elu(x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    if input_scale != 1:
        raise _unsupported("elu with input_scale is not supported")
    return _scaled_by(unary("elu", x, alpha=float(alpha)), scale)


@aten("div.Tensor", "div.Scalar", "true_divide.Tensor", "div.Tensor_mode", "div.Scalar_mode", "floor_divide")
def _div(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    quotient = binary("div", x, y)
    if rounding_mode is None:
        return quotient
    rounded = (
        unary("floor", quotient)
        if rounding_mode == "floor"
        else binary("mul", unary("sign", quotient), unary("floor", unary("abs", quotient)))
    )
    ints = not any(kind_of(item).is_float for item in (x, y))
    return cast(rounded, DType.I64) if ints else rounded


TABLE["aten.floor_divide.default"] = lambda x, y: _div(x, y, "floor")


# -- element types, identities

aten(
    "alias",
    "clone",
    "detach",
    "contiguous",
    "lift_fresh_copy",
    "lift_fresh",
    "positive",
    "view_as_real_copy",
    "to.device",
    "dropout_identity",
)(lambda x, *args, **kwargs: x)
aten("type_as")(lambda x, other: cast(x, kind_of(other)))
aten("to.other")(lambda x, other, *args, **kwargs: cast(x, kind_of(other)))
aten("_to_copy")(lambda x, dtype=None, **kwargs: x if dtype is None else cast(x, dtype_of(dtype)))
aten("to.dtype", "to.dtype_layout")(
    lambda x, dtype=None, *args, **kwargs: x if dtype is None else cast(x, dtype_of(dtype))
)


# -- products, convolution

aten("linear")(F.linear)
aten("matmul", "mm", "bmm", "mv", "dot")(ops.matmul)
aten("einsum")(lambda equation, operands, path=None: einsum(equation, *operands))
aten("bilinear")(F.bilinear)
aten("embedding")(lambda weight, indices, *args: F.embedding(indices, weight))


@aten("addmm", "baddbmm")
def _addmm(bias: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1) -> Any:
    return binary("add", _scaled_by(ops.matmul(x, y), alpha), _scaled_by(bias, beta))


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
        raise _unsupported("attention with grouped queries is not supported")
    return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale)


# -- normalization, reductions

aten("group_norm")(
    lambda x, groups, weight=None, bias=None, eps=1e-5, cudnn=True: F.group_norm(x, groups, weight, bias, eps)
)
aten("rms_norm")(F.rms_norm)
aten("softmax.int", "_softmax", "_safe_softmax")(lambda x, dim, dtype=None: F.softmax(x, dim))
aten("log_softmax.int", "_log_softmax")(lambda x, dim, dtype=None: F.log_softmax(x, dim))


@aten("layer_norm")
def _layer_norm(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enable: bool = True
) -> Any:
    return F.layer_norm(x, tuple(normalized_shape), weight, bias, eps)


aten("native_layer_norm")(lambda x, shape, weight, bias, eps: (_layer_norm(x, shape, weight, bias, eps), None, None))


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
    return F.batch_norm(x, mean, var, weight, bias, False, momentum, eps), None, None


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
    raise _unsupported(f"vector norm of order {ord} is not supported")


# -- pooling, resampling

for _spatial in (1, 2, 3):
    aten(f"max_pool{_spatial}d")(getattr(F, f"max_pool{_spatial}d"))
    aten(f"avg_pool{_spatial}d")(getattr(F, f"avg_pool{_spatial}d"))
    for _name in (f"adaptive_avg_pool{_spatial}d", f"_adaptive_avg_pool{_spatial}d"):
        aten(_name)(getattr(F, f"adaptive_avg_pool{_spatial}d"))
    aten(f"adaptive_max_pool{_spatial}d")(
        lambda x, size, _n=_spatial: (getattr(F, f"adaptive_max_pool{_n}d")(x, size), None)
    )
    aten(f"max_pool{_spatial}d_with_indices")(
        lambda x, *args, _n=_spatial: (getattr(F, f"max_pool{_n}d")(x, *args), None)
    )
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


# -- shape

aten("view", "reshape", "_unsafe_view", "view_copy")(reshape)
aten("flatten.using_ints")(ops.flatten)
aten("t", "numpy_T")(ops.transpose)
aten("permute")(ops.transpose)
aten("transpose.int")(ops.swapaxes)
aten("movedim.int", "movedim.intlist")(ops.moveaxis)
aten("unsqueeze")(ops.expand_dims)
aten("squeeze")(ops.squeeze)
aten("expand")(lambda x, sizes, implicit=False: ops.expand(x, sizes))
aten("expand_as")(lambda x, other: ops.expand(x, dims(other)))
aten("broadcast_to")(ops.expand)
aten("repeat", "tile")(ops.tile)
aten("flip")(ops.flip)
aten("roll")(lambda x, shifts, dims=(): indexing.roll(x, shifts, list(dims) or None))
aten("select.int")(indexing.select)
aten("cat")(lambda xs, dim=0: _cat(xs, dim))
aten("stack")(ops.stack)
aten("chunk")(lambda x, chunks, dim=0: x.chunk(chunks, dim))
aten("split.Tensor")(lambda x, size, dim=0: x.split(int(size), dim))
aten("split_with_sizes", "split.sizes")(lambda x, sizes, dim=0: x.split(list(sizes), dim))
aten("unbind.int")(
    lambda x, dim=0: tuple(
        indexing.select(x, dim, i) for i in range(ops.static_size(x, ops.check_axis(dim, rank(x), "unbind"), "unbind"))
    )
)
aten("narrow")(lambda x, dim, start, length: _slice(x, dim, start, start + length))
aten("index_select")(lambda x, dim, index: indexing.take(x, index, dim))
aten("gather")(lambda x, dim, index, sparse_grad=False: indexing.gather_elements(x, index, dim))


def _cat(xs: Sequence[Any], dim: int) -> Any:
    """torch skips empty tensors of rank 1."""
    kept = [x for x in xs if not (rank(x) == 1 and dims(x) == (0,))]
    return ops.concat(kept, dim)


@aten("squeeze.dim", "squeeze.dims")
def _squeeze(x: Any, dim: Any) -> Any:
    """torch leaves axes of another size alone."""
    axes = [ops.check_axis(axis, rank(x), "squeeze") for axis in (dim if isinstance(dim, (list, tuple)) else [dim])]
    return ops.squeeze(x, [axis for axis in axes if dims(x)[axis] == 1])


@aten("slice.Tensor")
def _slice(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    axis = ops.check_axis(dim, rank(x), "slice")
    stop = None if isinstance(end, int) and end >= indexing.FULL else end
    return indexing.slice_axes(x, {axis: slice(start, stop, step)})


@aten("select_scatter")
def _select_scatter(x: Any, source: Any, dim: int, index: int) -> Any:
    axis = ops.check_axis(dim, rank(x), "select_scatter")
    at = index if index >= 0 else index + ops.static_size(x, axis, "select_scatter")
    return _slice_scatter(x, ops.expand_dims(source, axis), axis, at, at + 1)


@aten("slice_scatter")
def _slice_scatter(x: Any, source: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    """x with a slice replaced by `source`."""
    axis = ops.check_axis(dim, rank(x), "slice_scatter")
    low, high, step = slice(start, end, step).indices(ops.static_size(x, axis, "slice_scatter"))
    if step != 1:
        raise _unsupported("assignment to a stepped slice is not supported")
    parts = [indexing.slice_axes(x, {axis: slice(0, low)})] if low > 0 else []
    parts.append(cast(source, kind_of(x)))
    if high < ops.static_size(x, axis, "slice_scatter"):
        parts.append(indexing.slice_axes(x, {axis: slice(high, None)}))
    return ops.concat(parts, axis)


aten("copy")(lambda x, source, non_blocking=False: ops.expand(cast(source, kind_of(x)), dims(x)))


@aten("unflatten.int")
def _unflatten(x: Any, dim: int, sizes: Sequence[Any]) -> Any:
    axis = ops.check_axis(dim, rank(x), "unflatten")
    return reshape(x, (*dims(x)[:axis], *sizes, *dims(x)[axis + 1 :]))


@aten("index.Tensor")
def _index(x: Any, indices: Sequence[Any]) -> Any:
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1:
        raise _unsupported("indexing with several tensors at once is not supported")
    return indexing.take(x, given[0][1], given[0][0])


# -- new tensors


def _filled(shape: Sequence[Any], value: Any, dtype: DType) -> Any:
    sizes = tuple(as_dim(size) for size in shape)
    return ops.expand(lift(value, dtype=dtype), sizes)


def _new_dtype(dtype: Any, value: Any) -> DType:
    if dtype is not None:
        return dtype_of(dtype)
    return DType.F32 if isinstance(value, float) else DType.BOOL if isinstance(value, bool) else DType.I64


aten("full")(lambda size, value, dtype=None, **kwargs: _filled(size, value, _new_dtype(dtype, value)))
aten("zeros")(lambda size, dtype=None, **kwargs: _filled(size, 0, _new_dtype(dtype, 0.0)))
aten("ones")(lambda size, dtype=None, **kwargs: _filled(size, 1, _new_dtype(dtype, 0.0)))
aten("scalar_tensor")(lambda value, dtype=None, **kwargs: lift(value, dtype=_new_dtype(dtype, 0.0)))
aten("full_like", "new_full")(lambda x, *args, **kwargs: _full_like(x, *args, **kwargs))
aten("zeros_like")(lambda x, dtype=None, **kwargs: _full_like(x, 0, dtype=dtype))
aten("ones_like")(lambda x, dtype=None, **kwargs: _full_like(x, 1, dtype=dtype))
aten("new_zeros")(
    lambda x, size, dtype=None, **kwargs: _filled(size, 0, kind_of(x) if dtype is None else dtype_of(dtype))
)
aten("new_ones")(
    lambda x, size, dtype=None, **kwargs: _filled(size, 1, kind_of(x) if dtype is None else dtype_of(dtype))
)
TABLE["aten.new_full.default"] = lambda x, size, value, dtype=None, **kwargs: _filled(
    size, value, kind_of(x) if dtype is None else dtype_of(dtype)
)


def _full_like(x: Any, value: Any, dtype: Any = None, **kwargs: Any) -> Any:
    return _filled(dims(x), value, kind_of(x) if dtype is None else dtype_of(dtype))


def _arange(start: Any, end: Any, step: Any = 1, dtype: Any = None, **kwargs: Any) -> Any:
    bounds = [float(v) if isinstance(v, float) else int(v) for v in (start, end, step)]
    kind = _new_dtype(dtype, float("nan") if any(isinstance(v, float) for v in bounds) else 0)
    return lift(np.arange(*bounds), dtype=kind)


aten("arange.start_step")(_arange)
aten("arange.start")(lambda start, end, **kwargs: _arange(start, end, **kwargs))
aten("arange")(lambda end, **kwargs: _arange(0, end, **kwargs))


def _triangle(lower: bool) -> Meaning:
    def triangle(x: Any, diagonal: int = 0) -> Any:
        rows = ops.static_size(x, rank(x) - 2, "triangle")
        columns = ops.static_size(x, rank(x) - 1, "triangle")
        mask = (np.tril if lower else np.triu)(np.ones((rows, columns), bool), diagonal)
        return ops.where(mask, x, 0 if kind_of(x) is not DType.F32 else 0.0)

    return triangle


aten("tril")(_triangle(True))
aten("triu")(_triangle(False))


# -- sizes and checks

aten("sym_size.int")(lambda x, dim: x.shape[dim])
aten("sym_numel")(lambda x: x.numel())
aten(
    "_assert_scalar",
    "_assert_async.msg",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
    "_assert_tensor_metadata",
)(lambda *args, **kwargs: None)
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
