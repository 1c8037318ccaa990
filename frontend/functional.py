"""Functions with the names and arguments of torch.nn.functional, on traced values or, outside of a trace, on arrays.

Inference only: a function asked to behave as in training raises TraceError. Each one records ops of the graph IR; those
without an op of their own (glu, normalize, attention) are written with others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from qcompiler.errors import TraceError, nearest
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import indexing
from qcompiler.frontend.array_ops import binary, dims, lift, rank, reshape, trace_of, unary
from qcompiler.frontend.recorder import current_trace
from qcompiler.frontend.source import user_place
from qcompiler.types import DType

_Function = TypeVar("_Function", bound=Callable[..., Any])


def traceable(function: _Function) -> _Function:
    """Outside of a trace, run the function on arrays through the interpreter."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if current_trace() is None:
            from qcompiler.frontend.tracer import run_eagerly

            return run_eagerly(function, args, kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def ints(value: Any, count: int, what: str) -> tuple[int, ...]:
    """An int for every axis, or one int an axis."""
    listed = tuple(value) if isinstance(value, (tuple, list)) else (value,) * count
    if len(listed) == 1:
        listed = listed * count
    if len(listed) != count:
        raise TraceError(f"{what}: one int, or one for each of {count} axes", where=user_place(), got=value)
    return tuple(int(item) for item in listed)


def _emit(op: str, x: Any, *operands: Any, **attrs: Any) -> Any:
    trace = trace_of(x, *operands)
    lifted = [None if item is None else lift(item, trace, dtype=DType.F32) for item in (x, *operands)]
    return trace.emit(op, lifted, attrs)


def _batched(x: Any, spatial: int, what: str, apply: Callable[[Any], Any]) -> Any:
    """Apply to a batch; an input without a batch axis gets one for the call."""
    x = lift(x, trace_of(x), dtype=DType.F32)
    if rank(x) == spatial + 1:
        return reshape(y := apply(ops.expand_dims(x, 0)), dims(y)[1:])
    if rank(x) != spatial + 2:
        raise TraceError(
            f"{what}: wrong number of axes",
            where=x.trace.place(),
            got=repr(x),
            expected=f"{spatial + 2}: batch, channels and {spatial} spatial axes",
        )
    return apply(x)


# -- linear, convolution


@traceable
def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x @ weight.T + bias."""
    return _emit("linear", x, weight, bias)


@traceable
def bilinear(x: Any, y: Any, weight: Any, bias: Any = None) -> Any:
    """b + x^T W y for each output; weight [out, in1, in2]."""
    trace = trace_of(x, y, weight)
    weight = lift(weight, trace)
    out, first, second = dims(weight)
    inner = _emit("linear", x, reshape(ops.transpose(weight, (0, 2, 1)), (out * second, first)))
    inner = reshape(inner, (*dims(inner)[:-1], out, second))
    product = ops.reduce("sum", binary("mul", inner, ops.expand_dims(lift(y, trace), -2)), -1)
    return product if bias is None else binary("add", product, bias)


def conv_padding(
    padding: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """torch's padding argument (int, ints, "same", "valid") as (before, after) pairs."""
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":
        if any(step != 1 for step in stride):
            raise TraceError("padding='same' needs stride 1", where=user_place(), got=f"stride {tuple(stride)}")
        totals = [d * (k - 1) for k, d in zip(kernel, dilation)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(padding, str):
        raise TraceError("unknown padding", where=user_place(), expected="ints, 'same' or 'valid'", got=padding)
    return tuple((p, p) for p in ints(padding, len(kernel), "padding"))


def _conv(spatial: int) -> Callable[..., Any]:
    def conv(
        x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> Any:
        weight = lift(weight, trace_of(x, weight), dtype=DType.F32)
        strides, dilations = ints(stride, spatial, "stride"), ints(dilation, spatial, "dilation")
        kernel = tuple(int(size) for size in weight.shape[2:])
        pairs = conv_padding(padding, kernel, strides, dilations)
        return _batched(
            x,
            spatial,
            f"conv{spatial}d",
            lambda x: _emit(
                "conv", x, weight, bias, stride=strides, padding=pairs, dilation=dilations, groups=int(groups)
            ),
        )

    conv.__name__ = conv.__qualname__ = f"conv{spatial}d"
    conv.__doc__ = f"torch.nn.functional.conv{spatial}d."
    return traceable(conv)


conv1d, conv2d, conv3d = _conv(1), _conv(2), _conv(3)


def _conv_transpose(spatial: int) -> Callable[..., Any]:
    def conv(
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        pairs = tuple((p, p) for p in ints(padding, spatial, "padding"))
        return _batched(
            x,
            spatial,
            f"conv_transpose{spatial}d",
            lambda x: _emit(
                "conv_transpose",
                x,
                weight,
                bias,
                stride=ints(stride, spatial, "stride"),
                padding=pairs,
                output_padding=ints(output_padding, spatial, "output_padding"),
                dilation=ints(dilation, spatial, "dilation"),
                groups=int(groups),
            ),
        )

    conv.__name__ = conv.__qualname__ = f"conv_transpose{spatial}d"
    conv.__doc__ = f"torch.nn.functional.conv_transpose{spatial}d."
    return traceable(conv)


conv_transpose1d, conv_transpose2d, conv_transpose3d = _conv_transpose(1), _conv_transpose(2), _conv_transpose(3)


@traceable
def embedding(indices: Any, weight: Any) -> Any:
    """Rows of `weight` [n, d] at integer indices of any shape."""
    trace = trace_of(indices, weight)
    return indexing.take(lift(weight, trace, dtype=DType.F32), indices, 0)


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
    """softmax(q k^T * scale + mask) v; q, k, v: [..., length, features]. A bool mask keeps where it is True."""
    if dropout_p:
        raise TraceError("attention with dropout is training", where=user_place(), hint="dropout_p=0.0")
    trace = trace_of(query, key, value)
    query, key, value = (lift(item, trace, dtype=DType.F32) for item in (query, key, value))
    if scale is None:
        scale = 1.0 / math.sqrt(ops.static_size(query, rank(query) - 1, "attention"))
    scores = binary("mul", ops.matmul(query, ops.swapaxes(key, -1, -2)), scale)
    if is_causal:
        import numpy as np

        rows = ops.static_size(query, rank(query) - 2, "causal attention")
        columns = ops.static_size(key, rank(key) - 2, "causal attention")
        attn_mask = np.tril(np.ones((rows, columns), bool))
    if attn_mask is not None:
        if ops.kind_of(attn_mask) is DType.BOOL:
            scores = ops.where(attn_mask, scores, -math.inf)
        else:
            scores = binary("add", scores, attn_mask)
    return ops.matmul(ops.softmax(scores, -1), value)


# -- activations


def _activation(op: str, name: str | None = None, **fixed: Any) -> Callable[..., Any]:
    def activation(x: Any, inplace: bool = False) -> Any:
        return unary(op, x, **fixed)

    activation.__name__ = activation.__qualname__ = name or op
    activation.__doc__ = f"torch.nn.functional.{name or op}."
    return traceable(activation)


relu, relu6, sigmoid, tanh = (_activation(op) for op in ("relu", "relu6", "sigmoid", "tanh"))
hardsigmoid, hardswish, silu, mish = (_activation(op) for op in ("hardsigmoid", "hardswish", "silu", "mish"))
selu, softsign, tanhshrink, logsigmoid = (_activation(op) for op in ("selu", "softsign", "tanhshrink", "logsigmoid"))


@traceable
def hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    return unary("hardtanh", x, min_value=float(min_val), max_value=float(max_val))


@traceable
def gelu(x: Any, approximate: str = "none") -> Any:
    return unary("gelu", x, approximate=approximate)


@traceable
def elu(x: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    return unary("elu", x, alpha=float(alpha))


@traceable
def celu(x: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    return unary("celu", x, alpha=float(alpha))


@traceable
def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    return unary("softplus", x, beta=float(beta), threshold=float(threshold))


@traceable
def softshrink(x: Any, lambd: float = 0.5) -> Any:
    return unary("softshrink", x, lambd=float(lambd))


@traceable
def hardshrink(x: Any, lambd: float = 0.5) -> Any:
    return unary("hardshrink", x, lambd=float(lambd))


@traceable
def leaky_relu(x: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    return unary("leaky_relu", x, negative_slope=float(negative_slope))


@traceable
def rrelu(x: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False) -> Any:
    """In inference the slope is the mean of the bounds."""
    _no_training("rrelu", training)
    return unary("leaky_relu", x, negative_slope=(lower + upper) / 2)


@traceable
def threshold(x: Any, threshold: float, value: float, inplace: bool = False) -> Any:
    return unary("threshold", x, threshold=float(threshold), value=float(value))


@traceable
def prelu(x: Any, weight: Any) -> Any:
    return _emit("prelu", x, weight)


@traceable
def glu(x: Any, dim: int = -1) -> Any:
    """The first half of an axis times the sigmoid of the second."""
    axis = ops.check_axis(dim, rank(x), "glu")
    size = ops.static_size(x, axis, "glu")
    if size % 2:
        raise TraceError("glu halves its axis", where=x.trace.place(), expected="an even size", got=size)
    first, second = indexing.split_at(x, [size // 2], axis)
    return binary("mul", first, unary("sigmoid", second))


@traceable
def softmax(x: Any, dim: int = -1) -> Any:
    return ops.softmax(x, dim)


@traceable
def log_softmax(x: Any, dim: int = -1) -> Any:
    return ops.softmax(x, dim, "log_softmax")


@traceable
def softmin(x: Any, dim: int = -1) -> Any:
    return ops.softmax(unary("neg", x), dim)


# -- dropout, normalization


def _no_training(what: str, training: bool) -> None:
    if training:
        raise TraceError(f"{what} in training mode", where=user_place(), hint="call model.eval() first")


@traceable
def dropout(x: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """Keeps its rate in the graph; the identity at inference."""
    _no_training("dropout", training)
    return _emit("dropout", x, rate=float(p))


@traceable
def batch_norm(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    _no_training("batch_norm", training)
    return _emit("batch_norm", x, running_mean, running_var, weight, bias, eps=float(eps))


@traceable
def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    shape = tuple(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if tuple(dims(lift(x))[-len(shape) :]) != shape:
        raise TraceError(
            "layer_norm: the last axes don't fit normalized_shape",
            where=user_place(),
            expected=list(shape),
            got=repr(x),
        )
    return _emit("layer_norm", x, weight, bias, normalized_rank=len(shape), eps=float(eps))


@traceable
def rms_norm(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """x / sqrt(mean(x^2) + eps) * weight."""
    count = len(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else 1
    mean = ops.reduce("mean", unary("square", x), tuple(range(-count, 0)), True)
    y = binary("mul", x, unary("rsqrt", binary("add", mean, 2.0**-23 if eps is None else float(eps))))
    return y if weight is None else binary("mul", y, weight)


@traceable
def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    return _emit("group_norm", x, weight, bias, groups=int(num_groups), eps=float(eps))


@traceable
def instance_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not use_input_stats:
        return _emit("batch_norm", x, running_mean, running_var, weight, bias, eps=float(eps))
    return _emit("instance_norm", x, weight, bias, eps=float(eps))


@traceable
def normalize(x: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Any:
    """x / max(|x|_p, eps) along an axis; p is 1 or 2."""
    if p not in (1, 2):
        raise TraceError("normalize: only p = 1 or 2", where=user_place(), got=p)
    if p == 1:
        norm = ops.reduce("sum", unary("abs", x), dim, True)
    else:
        norm = unary("sqrt", ops.reduce("sum", unary("square", x), dim, True))
    return binary("div", x, binary("maximum", norm, float(eps)))


# -- pooling


def _pool_arguments(kernel_size: Any, stride: Any, padding: Any, spatial: int) -> dict[str, Any]:
    kernel = ints(kernel_size, spatial, "kernel_size")
    stride = kernel if stride is None or stride == [] or stride == () else ints(stride, spatial, "stride")
    return {"kernel": kernel, "stride": stride, "padding": tuple((p, p) for p in ints(padding, spatial, "padding"))}


def _max_pool(spatial: int) -> Callable[..., Any]:
    def pool(
        x: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        if return_indices:
            raise TraceError("max_pool with return_indices is not supported", where=user_place())
        attrs = _pool_arguments(kernel_size, stride, padding, spatial)
        attrs |= {"dilation": ints(dilation, spatial, "dilation"), "ceil_mode": bool(ceil_mode)}
        return _batched(x, spatial, f"max_pool{spatial}d", lambda x: _emit("max_pool", x, **attrs))

    pool.__name__ = pool.__qualname__ = f"max_pool{spatial}d"
    pool.__doc__ = f"torch.nn.functional.max_pool{spatial}d."
    return traceable(pool)


def _avg_pool(spatial: int) -> Callable[..., Any]:
    def pool(
        x: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        attrs = _pool_arguments(kernel_size, stride, padding, spatial)
        attrs |= {
            "ceil_mode": bool(ceil_mode),
            "count_include_pad": bool(count_include_pad),
            "divisor_override": divisor_override,
        }
        return _batched(x, spatial, f"avg_pool{spatial}d", lambda x: _emit("avg_pool", x, **attrs))

    pool.__name__ = pool.__qualname__ = f"avg_pool{spatial}d"
    pool.__doc__ = f"torch.nn.functional.avg_pool{spatial}d."
    return traceable(pool)


def _adaptive_pool(op: str, spatial: int) -> Callable[..., Any]:
    name = f"{op.removesuffix('_pool')}_pool{spatial}d"

    def pool(x: Any, output_size: Any) -> Any:
        def apply(x: Any) -> Any:
            sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * spatial
            sizes = tuple(ops.static_size(x, 2 + i, name) if size is None else size for i, size in enumerate(sizes))
            return _emit(op, x, output_size=ints(sizes, spatial, "output_size"))

        return _batched(x, spatial, name, apply)

    pool.__name__ = pool.__qualname__ = name
    pool.__doc__ = f"torch.nn.functional.{name}."
    return traceable(pool)


max_pool1d, max_pool2d, max_pool3d = (_max_pool(n) for n in (1, 2, 3))
avg_pool1d, avg_pool2d, avg_pool3d = (_avg_pool(n) for n in (1, 2, 3))
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (
    _adaptive_pool("adaptive_avg_pool", n) for n in (1, 2, 3)
)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = (
    _adaptive_pool("adaptive_max_pool", n) for n in (1, 2, 3)
)


# -- resampling, padding, rearranging

_RESIZE_MODES = ("nearest", "nearest-exact", "linear", "bilinear", "trilinear")


@traceable
def interpolate(
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """Resize the spatial axes to `size`, or by `scale_factor`."""
    if mode not in _RESIZE_MODES or antialias:
        raise TraceError(
            "interpolate: unsupported mode" + (" (antialias)" if antialias else ""),
            where=user_place(),
            got=mode,
            hint=nearest(mode, _RESIZE_MODES),
        )
    if (size is None) == (scale_factor is None):
        raise TraceError("interpolate needs either size or scale_factor", where=user_place())
    x = lift(x, dtype=DType.F32)
    spatial = rank(x) - 2
    attrs: dict[str, Any] = {"mode": "nearest" if mode.startswith("nearest") else "bilinear"}
    if mode.startswith("nearest"):
        exact = mode == "nearest-exact"
        attrs["coordinates"] = "half_pixel" if exact else "asymmetric"
        attrs["rounding"] = "round_prefer_ceil" if exact else "floor"
    else:
        attrs["coordinates"] = "align_corners" if align_corners else "half_pixel"
    if size is not None:
        attrs["size"] = ints(size, spatial, "size")
    else:
        listed = tuple(scale_factor) if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * spatial
        factors = tuple(float(factor) for factor in listed)
        if recompute_scale_factor:
            attrs["size"] = tuple(int(ops.static_size(x, 2 + i, "interpolate") * f) for i, f in enumerate(factors))
        else:
            attrs["scales"] = factors
    return _emit("resize", x, **attrs)


upsample = interpolate


@traceable
def pad(x: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """torch's pad: (before, after) for the last axis first. Negative amounts crop. Modes: constant, reflect, replicate,
    circular."""
    if len(pad) % 2 or len(pad) > 2 * rank(x):
        raise TraceError(
            "pad takes two amounts an axis", where=user_place(), expected=f"at most {2 * rank(x)} ints", got=list(pad)
        )
    amounts = [int(amount) for amount in pad]
    pairs = [(amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)][::-1]
    pairs = [(0, 0)] * (rank(x) - len(pairs)) + pairs
    crops = {
        i: slice(max(-before, 0), -max(-after, 0) or None)
        for i, (before, after) in enumerate(pairs)
        if before < 0 or after < 0
    }
    if crops:
        x = indexing.slice_axes(x, crops)
        pairs = [(max(before, 0), max(after, 0)) for before, after in pairs]
    if mode == "circular":
        for axis, (before, after) in enumerate(pairs):
            parts = ([indexing.slice_axes(x, {axis: slice(-before, None)})] if before else []) + [x]
            parts += [indexing.slice_axes(x, {axis: slice(0, after)})] if after else []
            x = ops.concat(parts, axis)
        return x
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode not in modes:
        raise TraceError("pad: unknown mode", where=user_place(), got=mode, hint=nearest(mode, [*modes, "circular"]))
    return ops.pad(x, pairs, modes[mode], value or 0.0)


@traceable
def pixel_shuffle(x: Any, upscale_factor: int) -> Any:
    return _emit("pixel_shuffle", x, factor=int(upscale_factor))


@traceable
def pixel_unshuffle(x: Any, downscale_factor: int) -> Any:
    return _emit("pixel_unshuffle", x, factor=int(downscale_factor))


@traceable
def channel_shuffle(x: Any, groups: int) -> Any:
    return _emit("channel_shuffle", x, groups=int(groups))


@traceable
def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """torch.flatten."""
    return ops.flatten(x, start_dim, end_dim)


@traceable
def add(x: Any, y: Any, *, alpha: float = 1) -> Any:
    """torch.add: x + alpha * y."""
    return binary("add", x, y if alpha == 1 else binary("mul", y, alpha))


@traceable
def mul(x: Any, y: Any) -> Any:
    return binary("mul", x, y)


@traceable
def cat(xs: Sequence[Any], dim: int = 0) -> Any:
    return ops.concat(list(xs), dim)


@traceable
def stack(xs: Sequence[Any], dim: int = 0) -> Any:
    return ops.stack(list(xs), dim)


@traceable
def matmul(x: Any, y: Any) -> Any:
    return ops.matmul(x, y)
