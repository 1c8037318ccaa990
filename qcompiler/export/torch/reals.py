"""The float meaning of each op in torch ops. Results agree with the reference within float roundings."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from qcompiler.export.torch.codes import activated, adaptive, pool_counts, resized
from qcompiler.export.torch.node import (
    DTYPES,
    LAST,
    REALS,
    NodeWriter,
    Refusal,
    Tensor,
    Writer,
    convolved,
    cut,
    padded,
    torch_weight,
    window_pads,
    windows,
    writes,
)
from qcompiler.types import DType

F = torch.nn.functional
_SAME: dict[str, Callable[..., Tensor]] = {
    "matmul": torch.matmul, "sub": torch.sub, "minimum": torch.minimum, "maximum": torch.maximum, "equal": torch.eq,
    "not_equal": torch.ne, "less": torch.lt, "less_equal": torch.le, "greater": torch.gt, "greater_equal": torch.ge,
    "where": torch.where, "neg": torch.neg, "abs": torch.abs, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt,
    "exp": torch.exp, "expm1": torch.expm1, "log": torch.log, "log1p": torch.log1p, "sin": torch.sin,
    "cos": torch.cos, "erf": torch.erf, "atan": torch.atan, "floor": torch.floor, "ceil": torch.ceil,
    "round": torch.round, "sign": torch.sign,
    "square": torch.square, "div": torch.div, "reciprocal": torch.reciprocal,
    "logical_and": torch.logical_and, "logical_or": torch.logical_or, "logical_not": torch.logical_not,
    "bitwise_and": torch.bitwise_and, "bitwise_or": torch.bitwise_or, "bitwise_xor": torch.bitwise_xor,
    "bitwise_not": torch.bitwise_not, "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "hardswish": F.hardswish, "silu": F.silu, "mish": F.mish, "selu": torch.selu, "logsigmoid": F.logsigmoid,
    "hardsigmoid": F.hardsigmoid, "relu6": F.relu6, "remainder": torch.remainder, "fmod": torch.fmod,
}  # fmt: skip
"""Ops that are one function of torch with the same operands and no attributes."""
_ATTRS: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "hardtanh": (F.hardtanh, ("min_value", "max_value")),
    "elu": (F.elu, ("alpha",)),
    "celu": (torch.celu, ("alpha",)),
    "softplus": (F.softplus, ("beta", "threshold")),
    "softshrink": (F.softshrink, ("lambd",)),
    "hardshrink": (torch.hardshrink, ("lambd",)),
    "leaky_relu": (F.leaky_relu, ("negative_slope",)),
    "threshold": (torch.threshold, ("threshold", "value")),
    "log_softmax": (torch.log_softmax, ("axis",)),
}
"""Ops that are one function of torch with these attributes in order."""


def _same(function: Callable[..., Tensor]) -> Writer:
    return lambda w: function(*w.xs())


for _op, _function in _SAME.items():
    writes(REALS, _op)(_same(_function))


@writes(REALS, *_ATTRS)
def with_attributes(w: NodeWriter) -> Tensor:
    function, names = _ATTRS[w.op.name]
    return function(w.x(), *(getattr(w.op, name) for name in names))


@writes(REALS, "add", "mul")
def fusing(w: NodeWriter) -> Tensor:
    function = torch.add if w.op.name == "add" else torch.mul
    return activated(function(w.x(), w.x(1)), w.op.activation)


@writes(REALS, "pow")
def power(w: NodeWriter) -> Tensor:
    if not w.type().dtype.is_float:
        raise Refusal("a power of integers")
    return torch.pow(w.x().to(torch.float64), w.x(1).to(torch.float64)).to(DTYPES[w.out.dtype])


@writes(REALS, "floor_divide")
def floor_divide(w: NodeWriter) -> Tensor:
    return torch.floor_divide(w.x(), w.x(1))


@writes(REALS, "trunc_divide")
def trunc_divide(w: NodeWriter) -> Tensor:
    return torch.div(w.x(), w.x(1), rounding_mode="trunc")


@writes(REALS, "shift_left", "shift_right")
def shift(w: NodeWriter) -> Tensor:
    function = torch.bitwise_left_shift if w.op.name == "shift_left" else torch.bitwise_right_shift
    return function(w.x(), w.x(1))


@writes(REALS, "cast")
def cast(w: NodeWriter) -> Tensor:
    """Float to integer saturates, and takes NaN to 0."""
    dtype = w.op.dtype
    if not (w.type().dtype.is_float and dtype.is_integer):
        return w.x().to(DTYPES[dtype])
    whole = torch.trunc(w.x().to(torch.float64))
    whole = torch.where(whole != whole, 0.0, whole)
    most = float(np.nextafter(2.0**63, 0)) if dtype is DType.I64 else float(dtype.max)
    found = torch.clamp(whole, float(dtype.min), most).to(DTYPES[dtype])
    return torch.where(whole > most, dtype.max, found) if dtype is DType.I64 else found


@writes(REALS, "gelu")
def gelu(w: NodeWriter) -> Tensor:
    return F.gelu(w.x(), approximate=w.op.approximate)


@writes(REALS, "softsign")
def softsign(w: NodeWriter) -> Tensor:
    return w.x() / (torch.abs(w.x()) + 1)


@writes(REALS, "tanhshrink")
def tanhshrink(w: NodeWriter) -> Tensor:
    return w.x() - torch.tanh(w.x())


@writes(REALS, "prelu")
def prelu(w: NodeWriter) -> Tensor:
    slope = w.x(1)
    if w.type(1).shape[0] != 1:
        slope = slope.reshape([1, -1, *[1] * (w.type().rank - 2)])
    return torch.where(w.x() > 0, w.x(), slope * w.x())


# -- products


def _finish(w: NodeWriter, y: Tensor, residual: int) -> Tensor:
    return activated(y + w.x(residual) if w.has(residual) else y, w.op.activation)


@writes(REALS, "linear")
def linear(w: NodeWriter) -> Tensor:
    return _finish(w, F.linear(w.x(), w.x(1), w.x(2) if w.has(2) else None), 3)


@writes(REALS, "conv", "conv_transpose")
def conv(w: NodeWriter) -> Tensor:
    transposed = w.op.name == "conv_transpose"
    weight = torch_weight(w, w.x(1)) if transposed else w.x(1)
    y = convolved(w.x(), weight, w.op, transposed)
    if w.has(2):
        y = y + w.x(2).reshape([1, -1, *[1] * (w.out.rank - 2)])
    return activated(y, w.op.activation) if transposed else _finish(w, y, 3)


@writes(REALS, "dynamic_linear")
def dynamic_linear(w: NodeWriter) -> Tensor:
    real = (w.x(0).to(torch.float32) - w.x(2).to(torch.float32)) * w.x(1)
    y = torch.matmul(real, torch.transpose(w.x(3).to(torch.float32), 0, 1))
    return activated(y + w.x(4) if w.has(4) else y, w.op.activation)


@writes(REALS, "dynamic_quantize")
def dynamic_quantize(w: NodeWriter) -> tuple[Tensor, ...]:
    """Rule (7) of qmath."""
    from qcompiler.quantization.qmath import LEAST_DYNAMIC_SCALE

    op, x = w.op, w.x()
    if op.by_row and w.type().shape[-1] == 0 or not op.by_row and 0 in w.type().shape:
        raise Refusal("the range of no elements")
    low, high = (
        function(x, [-1] if op.by_row else list(range(w.type().rank)), op.by_row)
        for function in (torch.amin, torch.amax)
    )
    low, high = torch.where(low > 0, 0.0, low), torch.where(high < 0, 0.0, high)
    scale = (high - low) / w.buffer(np.float32(op.qmax - op.qmin))
    is_finite = torch.abs(scale) < math.inf
    scale = torch.where(scale < LEAST_DYNAMIC_SCALE, 1.0, scale)
    scale = torch.where(is_finite, scale, w.buffer(np.float32(np.nan)))

    def clamp(y: Tensor, least: Tensor, most: Tensor) -> Tensor:
        y = torch.where(y > least, y, least)
        return torch.where(y < most, y, most)

    ends = w.buffer(np.float32(op.qmin)), w.buffer(np.float32(op.qmax))
    zero = torch.round(clamp(ends[0] - low / scale, *ends))
    codes = torch.round(clamp(x / scale, ends[0] - zero, ends[1] - zero)) + zero
    return codes.to(torch.uint8), scale, zero.to(torch.uint8)


# -- pools and reductions


@writes(REALS, "max_pool")
def max_pool(w: NodeWriter) -> Tensor:
    op = w.op
    least = -math.inf if w.type().dtype.is_float else w.type().dtype.min
    seen, axes = windows(padded(w.x(), window_pads(w), least), op.kernel, op.stride, op.dilation)
    return torch.amax(seen, axes)


@writes(REALS, "max_pool_indices")
def max_pool_indices(w: NodeWriter) -> Tensor:
    """By a window's first tap whose element is its largest."""
    op = w.op
    sizes = w.known(w.type().shape[2:], "indices of a pool")
    padding = window_pads(w)
    least = -math.inf if w.type().dtype.is_float else w.type().dtype.min
    seen, axes = windows(padded(w.x(), padding, least), op.kernel, op.stride, op.dilation)
    places = np.pad(np.arange(math.prod(sizes)).reshape(sizes), padding, constant_values=-1)
    found, _ = windows(w.buffer(places[None, None]), op.kernel, op.stride, op.dilation)
    batch, channels = w.type().shape[:2]
    outputs = w.known(w.out.shape[2:], "indices of a pool")
    taps = math.prod(op.kernel)
    best = torch.argmax(seen.reshape([*w.sizes((batch, channels)), *outputs, taps]), -1, True)
    spread = found.reshape([1, 1, *outputs, taps]).expand([*w.sizes((batch, channels)), *outputs, taps])
    return torch.squeeze(torch.gather(spread, -1, best), -1)


@writes(REALS, "avg_pool")
def avg_pool(w: NodeWriter) -> Tensor:
    op = w.op
    seen, axes = windows(padded(w.x(), window_pads(w)), op.kernel, op.stride, (1,) * len(op.kernel))
    return torch.sum(seen, axes) / w.buffer(pool_counts(w).astype(w.type().dtype.numpy))


@writes(REALS, "adaptive_avg_pool")
def adaptive_avg_pool(w: NodeWriter) -> Tensor:
    return adaptive(w, w.x(), torch.mean)[0]


@writes(REALS, "adaptive_max_pool")
def adaptive_max_pool(w: NodeWriter) -> Tensor:
    return adaptive(w, w.x(), torch.amax)[0]


@writes(REALS, "mean", "sum")
def mean(w: NodeWriter) -> Tensor:
    function = torch.mean if w.op.name == "mean" else torch.sum
    wide = torch.float64 if w.type().dtype.is_float else DTYPES[w.type().dtype]
    return function(w.x(), list(w.op.axes), w.op.keepdims, dtype=wide).to(DTYPES[w.out.dtype])


@writes(REALS, "max", "min")
def extreme(w: NodeWriter) -> Tensor:
    return (torch.amax if w.op.name == "max" else torch.amin)(w.x(), list(w.op.axes), w.op.keepdims)


@writes(REALS, "prod")
def prod(w: NodeWriter) -> Tensor:
    x = w.x().to(torch.float64) if w.type().dtype.is_float else w.x()
    for axis in sorted(w.op.axes, reverse=True):
        x = torch.prod(x, axis, w.op.keepdims, dtype=torch.float64 if w.type().dtype.is_float else torch.int64)
    return x.to(DTYPES[w.out.dtype])


@writes(REALS, "cumsum")
def cumsum(w: NodeWriter) -> Tensor:
    op, wide = w.op, torch.float64 if w.type().dtype.is_float else torch.int64
    x = torch.flip(w.x(), [op.axis]) if op.reverse else w.x()
    total = torch.cumsum(x, op.axis, dtype=wide)
    if op.exclusive:
        total = total - x.to(wide)
    return (torch.flip(total, [op.axis]) if op.reverse else total).to(DTYPES[w.out.dtype])


@writes(REALS, "argmax", "argmin")
def arg_extreme(w: NodeWriter) -> Tensor:
    return (torch.argmax if w.op.name == "argmax" else torch.argmin)(w.x(), w.op.axis, w.op.keepdims)


@writes(REALS, "argsort")
def argsort(w: NodeWriter) -> Tensor:
    return torch.argsort(w.x(), stable=True, dim=w.op.axis, descending=w.op.descending)


@writes(REALS, "softmax")
def softmax(w: NodeWriter) -> Tensor:
    y = torch.softmax(w.x(), w.op.axis)
    if w.op.masked_is_zero:
        y = torch.where(torch.amax(w.x(), [w.op.axis], True) == -math.inf, 0.0, y)
    return y


# -- norms


def _parameter(w: NodeWriter, index: int) -> Tensor:
    return w.x(index) if w.has(index) else None


@writes(REALS, "batch_norm")
def batch_norm(w: NodeWriter) -> Tensor:
    given = (w.x(1), w.x(2), _parameter(w, 3), _parameter(w, 4))
    return F.batch_norm(w.x(), *given, False, 0.0, w.op.eps)


@writes(REALS, "layer_norm", "rms_norm", "group_norm", "instance_norm")
def norm(w: NodeWriter) -> Tensor:
    """In float64, as the reference."""
    op, rank = w.op, w.type().rank
    n = math.prod(w.known(op.group_sizes(w.type().shape), "a norm over groups"))
    x = w.x().to(torch.float64).reshape([-1, n])
    if op.centers:
        x = x - torch.mean(x, [-1], True)
    y = x / torch.sqrt(torch.mean(x * x, [-1], True) + op.eps)
    y = y.reshape(w.sizes(w.type().shape))
    shape = w.type().shape[rank - op.normalized_rank :] if hasattr(op, "normalized_rank") else None
    for index, function in ((1, torch.mul), (2, torch.add)):
        if w.has(index):
            sizes = [1, -1, *[1] * (rank - 2)] if shape is None else w.sizes(shape)
            y = function(y, w.x(index).reshape(sizes))
    return y.to(DTYPES[w.out.dtype])


@writes(REALS, "l2_normalize")
def l2_normalize(w: NodeWriter) -> Tensor:
    x = w.x().to(torch.float64)
    length = torch.sqrt(torch.sum(x * x, [w.op.axis], True))
    return (x / torch.clamp(length, w.op.eps)).to(DTYPES[w.out.dtype])


@writes(REALS, "resize")
def resize(w: NodeWriter) -> Tensor:
    return resized(w, w.x())


# -- recurrent layers


_ACTIVATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "sigmoid": lambda x, a, b: torch.sigmoid(x),
    "tanh": lambda x, a, b: torch.tanh(x),
    "relu": lambda x, a, b: torch.relu(x),
    "affine": lambda x, a, b: x * a + b,
    "leaky_relu": lambda x, a, b: torch.where(x < 0, x * a, x),
    "thresholded_relu": lambda x, a, b: torch.where(x <= a, 0.0, x),
    "scaled_tanh": lambda x, a, b: torch.tanh(x * b) * a,
    "hardsigmoid": lambda x, a, b: torch.clamp(x * a + b, 0.0, 1.0),
    "elu": lambda x, a, b: torch.where(x < 0, torch.expm1(torch.clamp(x, None, 0.0)) * a, x),
    "softsign": lambda x, a, b: x / (torch.abs(x) + 1),
    "softplus": lambda x, a, b: torch.clamp(x, 0.0) + torch.log1p(torch.exp(-torch.abs(x))),
}


@writes(REALS, "lstm", "gru", "rnn")
def recurrent(w: NodeWriter) -> tuple[Tensor, ...]:
    """The reference's steps in float64, written out for each time."""
    op = w.op
    (steps,) = w.known(w.type().shape[:1], "a recurrent layer over a time")
    rows = w.type().shape[1]
    units = w.type(2).sizes[0] // op.gate_count
    names, parameters = op.activations(), op.parameters()

    def act(index: int, x: Tensor) -> Tensor:
        if op.clip is not None and index < 2:
            x = torch.clamp(x, -float(np.float32(op.clip)), float(np.float32(op.clip)))
        return _ACTIVATIONS[names[index]](x, *parameters[index])

    def wide(index: int) -> Tensor:
        return w.x(index).to(torch.float64) if w.has(index) else None

    def state(index: int, size: int) -> Tensor:
        found = wide(index)
        return w.buffer(np.zeros((1, size))).expand([w.size(rows), size]) if found is None else found

    w_ih, w_hh, bias_ih, bias_hh = (wide(index) for index in (1, 2, 3, 4))
    gates = torch.matmul(wide(0), torch.transpose(w_ih, 0, 1))
    gates = gates if bias_ih is None else gates + bias_ih
    recurrent_weight = torch.transpose(w_hh, 0, 1)

    def part(x: Tensor, index: int) -> Tensor:
        return cut(x, -1, index * units, (index + 1) * units)

    def product(h: Tensor, start: int = 0, stop: int = LAST) -> Tensor:
        y = torch.matmul(h, cut(recurrent_weight, 1, start, stop))
        return y if bias_hh is None else y + cut(bias_hh, 0, start, stop)

    def lstm(g: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        g, peephole = g + product(h), wide(8)
        i, f, o = part(g, 0), part(g, 1), part(g, 3)
        if peephole is not None:
            i, f = i + cut(peephole, 0, 0, units) * c, f + cut(peephole, 0, units, 2 * units) * c
        i = act(0, i)
        f = 1 - i if op.input_forget else act(0, f)
        c = f * c + i * act(1, part(g, 2))
        o = o if peephole is None else o + cut(peephole, 0, 2 * units, 3 * units) * c
        h = act(0, o) * act(2, c)
        return (torch.matmul(h, torch.transpose(wide(9), 0, 1)) if w.has(9) else h), c

    def gru(g: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        both = cut(g, -1, 0, 2 * units) + product(h, 0, 2 * units)
        r, z = act(0, part(both, 0)), act(0, part(both, 1))
        linear_before = op.linear_before_reset
        inner = r * product(h, 2 * units) if linear_before else product(r * h, 2 * units)
        n = act(1, part(g, 2) + inner)
        return (n + z * (h - n),)

    def rnn(g: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        return (act(0, g + product(h)),)

    states: tuple[Tensor, ...]
    step: Callable[..., tuple[Tensor, ...]]
    if op.name == "lstm":
        step, states = lstm, (state(5, w.type(2).sizes[1]), state(7, units))
    elif op.name == "gru":
        step, states = gru, (state(5, units),)
    else:
        step, states = rnn, (state(5, units),)
    outputs: list[Tensor] = [None] * steps
    for t in reversed(range(steps)) if op.reverse else range(steps):
        after = step(torch.select(gates, 0, t), *states)
        if w.has(6):
            active = torch.unsqueeze(w.x(6) > t, 1)
            after = tuple(torch.where(active, new, old) for new, old in zip(after, states))
            outputs[t] = torch.where(active, after[0], 0.0)
        else:
            outputs[t] = after[0]
        states = after
    return torch.stack(outputs, 0).to(torch.float32), *(state.to(torch.float32) for state in states)
