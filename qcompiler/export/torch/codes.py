"""The integer meaning of each op in torch ops, to the bit that of its reference.

Sums of products of codes are computed in float64, which is exact below 2^53, and every f32 operation stands in the
order of `quantization/qmath.py`. Multipliers are computed here, by the same functions as the reference's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from qcompiler.dims import Dim
from qcompiler.export.torch.dynamic import dynamic_product
from qcompiler.export.torch.node import (
    CODES,
    DTYPES,
    NodeWriter,
    Tensor,
    along,
    convolved,
    cut,
    padded,
    torch_weight,
    window_pads,
    windows,
    writes,
)
from qcompiler.opdef import Op
from qcompiler.ops.activations import Prelu
from qcompiler.ops.conv import Conv, ConvTranspose
from qcompiler.ops.dynamic import DynamicLinear
from qcompiler.ops.elementwise import Add, Div, Maximum, Minimum, Mul, Sub
from qcompiler.ops.linear import Linear, Matmul
from qcompiler.ops.norm import (
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    L2Normalize,
    LayerNorm,
    RmsNorm,
    batch_norm_terms,
    length_floor,
    normalised_eps,
)
from qcompiler.ops.pool import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool, adaptive_bounds, window_counts
from qcompiler.ops.quantized import Dequantize, Lookup, Quantize, Requantize
from qcompiler.ops.reduce import Max, Mean, Min, Softmax, Sum, softmax_table
from qcompiler.ops.resize import Resize, linear_weights, nearest_indices
from qcompiler.ops.shape import Pad, Trilu, triangle
from qcompiler.quantization import qmath
from qcompiler.quantization.tables import interpolation_bits, interpolation_shift
from qcompiler.types import TensorType

# -- rules of qmath


def number(value: Any) -> float:
    """An f32 as a Python number, which torch rounds to itself."""
    return float(np.asarray(value).reshape(()))


def scaled(w: NodeWriter, real: Tensor, multiplier: np.ndarray, axis: int = 0, rank: int = 0) -> Tensor:
    """real * M, with M for all elements or one for each along an axis."""
    if multiplier.size == 1:
        return real * number(multiplier)
    return real * w.buffer(along(multiplier, axis, rank))


def centered(w: NodeWriter, index: int = 0, dtype: torch.dtype = torch.int32) -> Tensor:
    """Codes minus zero points."""
    return centered_as(w, w.x(index), w.type(index), dtype)


def centered_as(w: NodeWriter, x: Tensor, type: TensorType, dtype: torch.dtype = torch.int32) -> Tensor:
    quant, wide = type.params, x.to(dtype)
    if len(set(quant.zero_point)) == 1:
        return wide - quant.zero_point[0] if quant.zero_point[0] else wide
    points = along(quant.zero_points, quant.axis or 0, type.rank)
    return wide - w.buffer(points).to(dtype)


def rounded(real: Tensor, out: TensorType, low: int, high: int) -> Tensor:
    """The end of rules (2), (3) and (5): clamp, round to even, shift. NaN takes the low bound."""
    zero = out.params.zero_point[0]
    bounded = torch.where(real > float(low - zero), real, float(low - zero))
    bounded = torch.where(bounded < float(high - zero), bounded, float(high - zero))
    codes = torch.round(bounded)
    if out.dtype.bits > 16:
        codes = codes.to(torch.float64)
    return (codes + float(zero)).to(DTYPES[out.dtype])


def requantize(real: Tensor, out: TensorType, activation: str = "none") -> Tensor:
    low, high = qmath.activation_range(activation, out.params)
    return rounded(real, out, low, high)


def activated(y: Tensor, activation: str) -> Tensor:
    if activation in ("relu", "relu6"):
        y = torch.where(y < 0, 0.0, y)
    if activation == "relu6":
        y = torch.where(y > 6, 6.0, y)
    return y


def real_of(w: NodeWriter, index: int) -> Tensor:
    """Rule (1) of codes; real numbers as they are."""
    type = w.type(index)
    if not type.is_quantized:
        return w.x(index)
    wide = torch.int32 if type.dtype.bits <= 16 else torch.int64
    real = centered(w, index, wide).to(torch.float32)
    return scaled(w, real, type.params.scales, type.params.axis or 0, type.rank)


def finish_product(w: NodeWriter, total: Tensor, axis: int, residual: int | None) -> Tensor:
    """Rules (3) to (6). total: the exact sums, float64."""
    out, rank = w.out, w.out.rank
    x, weight = w.type(0).params.scales, w.type(1).params.scales
    over = out.params.scales if out.is_quantized else np.float64(1.0)
    real = scaled(w, total.to(torch.float32), qmath.multiplier(x, weight, over=over), axis, rank)
    activation = getattr(w.op, "activation", "none")
    if not out.is_quantized:
        if residual is not None and w.has(residual):
            real = real + real_of(w, residual)
        return activated(real, activation)
    if residual is not None and w.has(residual):
        factor = qmath.multiplier(w.type(residual).params.scales, over=out.params.scales)
        real = real + centered(w, residual).to(torch.float32) * number(factor)
    return requantize(real, out, activation)


# -- conversions and tables


@writes(CODES, Quantize)
def quantize(w: NodeWriter) -> Tensor:
    out = w.out
    quant = out.params
    scale = w.buffer(along(quant.scales, quant.axis or 0, out.rank))
    real = w.x().to(torch.float32) / scale
    if len(set(quant.zero_point)) == 1:
        return rounded(real, out, quant.qmin, quant.qmax)
    points = along(quant.zero_points, quant.axis or 0, out.rank)
    low, high = (w.buffer((q - points).astype(np.float32)) for q in (quant.qmin, quant.qmax))
    bounded = torch.where(real > low, real, low)
    codes = torch.round(torch.where(bounded < high, bounded, high))
    return (codes.to(torch.float64) + w.buffer(points.astype(np.float64))).to(DTYPES[out.dtype])


@writes(CODES, Dequantize)
def dequantize(w: NodeWriter) -> Tensor:
    return real_of(w, 0)


@writes(CODES, Requantize)
def requantize_node(w: NodeWriter) -> Tensor:
    return requantize(rescaled(w, 0), w.out)


def rescaled(w: NodeWriter, index: int) -> Tensor:
    """An operand in units of the result's scale."""
    quant = w.type(index).params
    factor = qmath.multiplier(quant.scales, over=w.out.params.scale[0])
    return scaled(w, centered(w, index).to(torch.float32), factor, quant.axis or 0, w.type(index).rank)


def shared_or_requantized(w: NodeWriter, codes: Tensor) -> Tensor:
    source, out = w.type(), w.out
    if source.quant == out.quant and source.dtype is out.dtype:
        return codes
    factor = qmath.multiplier(source.params.scales, over=out.params.scale[0])
    return requantize(centered_as(w, codes, source).to(torch.float32) * number(factor), out)


def looked_up(w: NodeWriter, table: Tensor) -> Tensor:
    least = w.type().dtype.min
    index = w.x().to(torch.int64)
    return torch.take(table, index - least if least else index)


@writes(CODES, Lookup)
def lookup(w: NodeWriter) -> Tensor:
    if w.type().dtype.bits <= 8:
        return looked_up(w, w.x(1))
    knots, out = w.x(1).to(torch.int64), w.out
    shift = interpolation_shift(int(w.type(1).sizes[0]))
    bits = interpolation_bits(shift)
    place = w.x().to(torch.int64) + 2**15
    index = torch.bitwise_right_shift(place, shift)
    fraction = torch.bitwise_and(place, 2**shift - 1)
    first = torch.take(knots, index)
    rise = (torch.take(knots, index + 1) - first) * fraction
    total = first * 2**shift + rise + 2 ** (bits - 1)
    codes = torch.clamp(torch.bitwise_right_shift(total, bits), out.params.qmin, out.params.qmax)
    return codes.to(DTYPES[out.dtype])


# -- products


@writes(CODES, Linear)
def linear(w: NodeWriter) -> Tensor:
    weight = torch.transpose(centered(w, 1, torch.float64), 0, 1)
    total = torch.matmul(centered(w, 0, torch.float64), weight)
    total = total + w.x(2).to(torch.float64) if w.has(2) else total
    return finish_product(w, total, w.out.rank - 1, 3)


@writes(CODES, Matmul)
def matmul(w: NodeWriter) -> Tensor:
    total = torch.matmul(centered(w, 0, torch.float64), centered(w, 1, torch.float64))
    return finish_product(w, total, w.out.rank - 1, None)


@writes(CODES, Conv, ConvTranspose)
def conv(w: NodeWriter) -> Tensor:
    transposed = isinstance(w.op, ConvTranspose)
    weight = centered(w, 1, torch.float64)
    weight = torch_weight(w, weight) if transposed else weight
    total = convolved(centered(w, 0, torch.float64), weight, w.op, transposed)
    if w.has(2):
        total = total + w.x(2).to(torch.float64).reshape([1, -1, *[1] * (w.out.rank - 2)])
    return finish_product(w, total, 1, None if transposed else 3)


@writes(CODES, DynamicLinear)
def dynamic_linear(w: NodeWriter) -> Tensor:
    y = dynamic_product(w.x(0), w.x(1), w.x(2), centered(w, 3, torch.float64), w.buffer(w.type(3).params.scales))
    return activated(y + w.x(4) if w.has(4) else y, w.op.activation)


# -- elementwise


@writes(CODES, Add, Sub, Minimum, Maximum)
def exact(w: NodeWriter) -> Tensor:
    functions: dict[type[Op], Any] = {
        Add: torch.add,
        Sub: torch.sub,
        Minimum: torch.minimum,
        Maximum: torch.maximum,
    }
    function = functions[type(w.op)]
    return requantize(function(rescaled(w, 0), rescaled(w, 1)), w.out, getattr(w.op, "activation", "none"))


def _scale(w: NodeWriter, index: int) -> np.ndarray:
    return w.type(index).params.along(w.type(index).rank)[0]


@writes(CODES, Mul)
def mul(w: NodeWriter) -> Tensor:
    product = (centered(w, 0, torch.int64) * centered(w, 1, torch.int64)).to(torch.float32)
    factor = qmath.multiplier(_scale(w, 0), _scale(w, 1), over=w.out.params.scale[0])
    real = product * (number(factor) if factor.size == 1 else w.buffer(factor))
    return requantize(real, w.out, w.op.activation)


@writes(CODES, Div)
def div(w: NodeWriter) -> Tensor:
    over = _scale(w, 1).astype(np.float64) * np.float64(w.out.params.scale[0])
    factor = qmath.multiplier(_scale(w, 0), over=over)
    quotient = centered(w, 0).to(torch.float32) / centered(w, 1).to(torch.float32)
    return requantize(quotient * (number(factor) if factor.size == 1 else w.buffer(factor)), w.out)


@writes(CODES, Prelu)
def prelu(w: NodeWriter) -> Tensor:
    slopes, over = w.data(1, "the slopes"), w.out.params.scales
    shaped = along(slopes, 1, w.type().rank)
    slope = qmath.multiplier(w.type().params.scales, shaped, over=over)
    slope = slope.reshape(()) if slope.size == 1 else slope
    codes = centered(w)
    factor = torch.where(codes > 0, w.buffer(qmath.multiplier(w.type().params.scales, over=over)), w.buffer(slope))
    return requantize(codes.to(torch.float32) * factor, w.out)


# -- pools and reductions


@writes(CODES, MaxPool)
def max_pool(w: NodeWriter) -> Tensor:
    op = w.op
    wide = padded(w.x().to(torch.int32), window_pads(w), w.type().dtype.min)
    seen, axes = windows(wide, op.kernel, op.stride, op.dilation)
    return shared_or_requantized(w, torch.amax(seen, axes).to(DTYPES[w.type().dtype]))


def mean_factor(w: NodeWriter, count: np.ndarray | int) -> np.ndarray:
    return qmath.multiplier(w.type().params.scale[0], over=np.float64(w.out.params.scale[0]) * np.asarray(count))


@writes(CODES, AvgPool)
def avg_pool(w: NodeWriter) -> Tensor:
    op = w.op
    seen, axes = windows(padded(centered(w), window_pads(w), 0), op.kernel, op.stride, (1,) * len(op.kernel))
    sums = torch.sum(seen, axes, dtype=torch.int64).to(torch.float32)
    factor = np.unique(mean_factor(w, (counts := pool_counts(w))))
    if factor.size == 1:
        return requantize(sums * number(factor), w.out)
    return requantize(sums * w.buffer(mean_factor(w, counts)), w.out)


def pool_counts(w: NodeWriter) -> np.ndarray:
    """The divisors of an average pool; of open sizes where all windows are alike."""
    op = w.op
    if op.divisor_override is not None:
        return np.asarray(op.divisor_override)
    if not any(size for pair in op.padding for size in pair) and not op.ceil_mode:
        return np.asarray(math.prod(op.kernel))
    shape = w.known(w.type().shape[2:], "a padded average")
    return window_counts(
        (1, 1, *shape), op.kernel, op.stride, op.padding, op.ceil_mode, op.count_include_pad, op.divisor_override
    )


def parts_of(w: NodeWriter, axis: int, out: int) -> list[tuple[int, int]]:
    """The bounds of the windows of an adaptive pool along an axis."""
    (size,) = w.known(w.type().shape[axis : axis + 1], "adaptive pooling")
    return adaptive_bounds(size, out)


def adaptive(w: NodeWriter, x: Tensor, reduce: Any) -> tuple[Tensor, np.ndarray | None]:
    """Windows reduced axis by axis, and how many elements each has; None for all of open sizes."""
    outputs = w.op.output_size
    if set(outputs) == {1}:
        for axis in range(2, 2 + len(outputs)):
            x = reduce(x, [axis], True)
        sizes = w.type().shape[2:]
        return x, None if any(isinstance(size, Dim) for size in sizes) else np.asarray(math.prod(w.known(sizes, "")))
    counts = np.ones([1] * len(outputs), np.int64)
    for axis, out in enumerate(outputs, 2):
        bounds = parts_of(w, axis, out)
        x = torch.cat([reduce(cut(x, axis, a, b), [axis], True) for a, b in bounds], axis)
        lengths = np.array([b - a for a, b in bounds])
        counts = counts * lengths.reshape([-1 if i == axis - 2 else 1 for i in range(len(outputs))])
    return x, counts


@writes(CODES, AdaptiveAvgPool)
def adaptive_avg_pool(w: NodeWriter) -> Tensor:
    sums, counts = adaptive(w, centered(w, 0, torch.int64), torch.sum)
    return _divided(w, sums.to(torch.float32), counts, w.type().shape[2:])


def _divided(w: NodeWriter, sums: Tensor, counts: np.ndarray | None, sizes: Sequence[Any]) -> Tensor:
    """Sums times M = f32(f64(s_in) / (f64(s_out) * count)); the count may be open."""
    if counts is not None:
        factor = mean_factor(w, counts)
        return requantize(sums * (number(factor) if factor.size == 1 else w.buffer(factor)), w.out)
    count: Any = 1
    for size in sizes:
        count = count * w.size(size)
    factor = float(np.float64(w.type().params.scale[0])) / (float(np.float64(w.out.params.scale[0])) * count)
    return requantize(sums * factor, w.out)


@writes(CODES, AdaptiveMaxPool)
def adaptive_max_pool(w: NodeWriter) -> Tensor:
    return shared_or_requantized(w, adaptive(w, w.x(), torch.amax)[0])


def _sum(w: NodeWriter) -> Tensor:
    return torch.sum(centered(w), list(w.op.axes), w.op.keepdims, dtype=torch.int64).to(torch.float32)


@writes(CODES, Mean)
def mean(w: NodeWriter) -> Tensor:
    sizes = [w.type().shape[axis] for axis in w.op.axes]
    is_open = any(isinstance(size, Dim) for size in sizes)
    return _divided(w, _sum(w), None if is_open else np.asarray(math.prod(w.known(sizes, ""))), sizes)


@writes(CODES, Sum)
def total(w: NodeWriter) -> Tensor:
    factor = qmath.multiplier(w.type().params.scale[0], over=w.out.params.scale[0])
    return requantize(_sum(w) * number(factor), w.out)


@writes(CODES, Max, Min)
def extreme(w: NodeWriter) -> Tensor:
    function = torch.amax if isinstance(w.op, Max) else torch.amin
    return shared_or_requantized(w, function(w.x(), list(w.op.axes), w.op.keepdims))


@writes(CODES, Softmax)
def softmax(w: NodeWriter) -> Tensor:
    q, axis = w.x().to(torch.int64), w.op.axis
    table = w.buffer(softmax_table(TensorType(w.type().dtype, (), w.type().quant)))
    e = torch.take(table, torch.amax(q, [axis], True) - q)
    sums = torch.sum(e, [axis], True, dtype=torch.int64)
    p = e.to(torch.float32) / sums.to(torch.float32)
    return requantize(p * number(qmath.multiplier(1.0, over=w.out.params.scale[0])), w.out)


# -- norms


def _channels(w: NodeWriter, parameter: np.ndarray) -> Tensor:
    return w.buffer(parameter.reshape(1, -1, *[1] * (w.type().rank - 2)))


@writes(CODES, BatchNorm)
def batch_norm(w: NodeWriter) -> Tensor:
    given = [w.data(i, "a parameter") if w.has(i) else None for i in range(1, 5)]
    assert given[0] is not None and given[1] is not None
    factor, shift = batch_norm_terms(
        given[0], given[1], given[2], given[3], w.op.eps, w.type().params.scale[0], w.out.params.scale[0]
    )
    real = centered(w).to(torch.float32) * _channels(w, factor.astype(np.float32))
    return requantize(real + _channels(w, shift.astype(np.float32)), w.out)


@writes(CODES, LayerNorm, RmsNorm, GroupNorm, InstanceNorm)
def norm(w: NodeWriter) -> Tensor:
    op, shape, rank = w.op, w.type().shape, w.type().rank
    codes = centered(w, 0, torch.int64)
    groups = op.group_sizes(shape)
    n = math.prod(w.known(groups, "a norm over groups"))
    c = codes.reshape([-1, n])
    s2 = torch.sum(c * c, [-1], True)
    squares = s2 * n
    if op.centers:
        s1 = torch.sum(c, [-1], True)
        squares = squares - s1 * s1
        away = c.to(torch.float32) - s1.to(torch.float32) / w.buffer(np.float32(n))
    else:
        away = c.to(torch.float32)
    var = squares.to(torch.float32) / w.buffer(np.float32(n * n))
    inv = w.buffer(np.float32(1)) / torch.sqrt(var + number(normalised_eps(op.eps, w.type())))
    y = (away * inv).reshape(w.sizes(shape))
    over = w.out.params.scale[0]
    weight = w.data(1, "the weight") if w.has(1) else None
    if weight is None:
        y = y * number(qmath.multiplier(1.0, over=over))
    else:
        y = y * w.buffer(op.along(qmath.multiplier(weight, over=over), rank))
    if w.has(2):
        y = y + w.buffer(op.along(qmath.multiplier(w.data(2, "the bias"), over=over), rank))
    return requantize(y, w.out)


@writes(CODES, L2Normalize)
def l2_normalize(w: NodeWriter) -> Tensor:
    c = centered(w, 0, torch.int64)
    s2 = torch.sum(c * c, [w.op.axis], True)
    length = torch.clamp(torch.sqrt(s2.to(torch.float32)), number(length_floor(w.op.eps, w.type())))
    inv = w.buffer(np.float32(1)) / length
    factor = number(qmath.multiplier(1.0, over=w.out.params.scale[0]))
    return requantize(c.to(torch.float32) * inv * factor, w.out)


# -- movers that compute


@writes(CODES, Pad)
def pad(w: NodeWriter) -> Tensor:
    from qcompiler.export.torch.movement import pad_with

    fill = int(qmath.quantize(np.asarray(w.op.value, np.float32), w.out.params, w.out.dtype))
    return pad_with(w, fill)


@writes(CODES, Trilu)
def trilu(w: NodeWriter) -> Tensor:
    rows, columns = w.known(w.type().shape[-2:], "a triangle")
    kept = w.buffer(triangle(rows, columns, w.op.upper, w.op.diagonal))
    zero = w.type().params.zero_point[0]
    return torch.where(kept, w.x(), w.buffer(np.asarray(zero, w.type().dtype.numpy)))


@writes(CODES, Resize)
def resize(w: NodeWriter) -> Tensor:
    if w.op.mode == "nearest":
        return shared_or_requantized(w, resized(w, w.x()))
    real = resized(w, centered(w).to(torch.float32))
    return requantize(real * number(qmath.multiplier(w.type().params.scales, over=w.out.params.scales)), w.out)


def resized(w: NodeWriter, x: Tensor) -> Tensor:
    """The reference's arithmetic, axis after axis."""
    sizes = w.known(w.type().shape[2:], "a resize")
    outputs = w.known(w.out.shape[2:], "a resize")
    for axis, (size, out) in enumerate(zip(sizes, outputs)):
        positions = w.op.positions(axis, size, out)
        if w.op.mode == "nearest":
            index = nearest_indices(positions, size, w.op.rounding)
            x = torch.index_select(x, axis + 2, w.buffer(index))
            continue
        left, right, weight = linear_weights(positions, size)
        shape = [-1 if i == axis + 2 else 1 for i in range(w.type().rank)]
        parts = [torch.index_select(x, axis + 2, w.buffer(index)) for index in (left, right)]
        factors = [w.buffer(factor.reshape(shape)) for factor in (np.float32(1) - weight, weight)]
        x = parts[0] * factors[0] + parts[1] * factors[1]
    return x
