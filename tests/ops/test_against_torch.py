"""References against torch, over every op's samples and more geometries.

Torch runs in float64 on the same f32 operands, so its value v is exact for our purpose. Bounds, with u = 2^-24:

    exact   the op selects, moves, compares, or is one IEEE operation: within u * |v|, half a unit in the last place
    once    the reference works in float64 and rounds once: the same bound, and 2^-40 for float64's own error
    few     a handful of f32 operations without cancellation: 6 * u * (magnitude)
    dot     n products added in f32 in any order: (n + 4) * u * (magnitude), the classical bound on |fl(x.y) - x.y|

magnitude is the same torch function of the operands' absolute values, which for sums of products is the sum of |terms|.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qcompiler.opdef import Sample, Trait, all_ops, opdef
from qcompiler.types import DType, tensor
from tests.ops.test_registry import arrays_of

torch = pytest.importorskip("torch")
F = torch.nn.functional
U = 2.0**-24
Oracle = Callable[..., Any]


def fused(y: Any, activation: str) -> Any:
    return {"none": lambda t: t, "relu": F.relu, "relu6": F.relu6}[activation](y)


def bordered(x: Any, padding: tuple[tuple[int, int], ...], value: float = 0.0) -> Any:
    return F.pad(x, [n for pair in reversed(padding) for n in pair], value=value)


def conv(x, weight, bias=None, residual=None, *, stride, padding, dilation, groups, activation):
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(stride)]
    y = function(bordered(x, padding), weight, bias, stride, 0, dilation, groups)
    return fused(y if residual is None else y + residual, activation)


def conv_transpose(x, weight, bias=None, *, stride, padding, dilation, groups, output_padding, activation):
    function = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[len(stride)]
    weight = torch.cat(weight.chunk(groups, 1))  # torch's groups lie one below the other
    y = function(x, weight, bias, stride, [p[0] for p in padding], output_padding, groups, dilation)
    cut = [p[1] - p[0] for p in padding]  # torch crops both ends alike
    assert min(cut) >= 0
    return fused(y[(..., *(slice(0, size - c) for size, c in zip(y.shape[2:], cut)))], activation)


def linear(x, weight, bias=None, residual=None, *, activation):
    y = F.linear(x, weight, bias)
    return fused(y if residual is None else y + residual, activation)


def cumsum(x, *, axis, exclusive, reverse):
    x = x.flip(axis) if reverse else x
    total = x.cumsum(axis) - x if exclusive else x.cumsum(axis)
    return total.flip(axis) if reverse else total


def max_pool(x, *, kernel, stride, padding, dilation, ceil_mode):
    function = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(stride)]
    return function(x, kernel, stride, [p[0] for p in padding], dilation, ceil_mode)


def max_pool_indices(x, *, kernel, stride, padding, dilation, ceil_mode):
    function = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(stride)]
    return function(x, kernel, stride, [p[0] for p in padding], dilation, ceil_mode, return_indices=True)[1]


def avg_pool(x, *, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override):
    function = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(stride)]
    more = {} if len(stride) == 1 else {"divisor_override": divisor_override}
    return function(x, kernel, stride, [p[0] for p in padding], ceil_mode, count_include_pad, **more)


def adaptive(kind: str) -> Oracle:
    functions = [getattr(F, f"adaptive_{kind}_pool{rank}d") for rank in (1, 2, 3)]
    return lambda x, output_size: functions[len(output_size) - 1](x, output_size)


def resize(x, *, size, scales, mode, coordinates, rounding, arithmetic):
    """torch's own arithmetic is "multiply". Where no step is fractional, and in linear modes, "divide" is as near."""
    if mode == "nearest":  # round_prefer_floor is nearest-exact too where no pixel lies halfway
        assert (
            (coordinates, rounding) == ("asymmetric", "floor")
            or coordinates == "half_pixel"
            and rounding.startswith("round")
        )
        return F.interpolate(x, size, scales, "nearest" if rounding == "floor" else "nearest-exact")
    name = {1: "linear", 2: "bilinear", 3: "trilinear"}[x.ndim - 2]
    return F.interpolate(x, size, scales, name, align_corners=coordinates == "align_corners")


def pad(x, *, padding, mode, value):
    if mode == "constant":
        return bordered(x, padding, value)
    used = [axis for axis, pair in enumerate(padding) if pair != (0, 0)]
    lead = x.reshape(1, 1, *x.shape)  # torch pads the last axes of [N, C, ...] only
    rest = [pair for pair in padding]
    assert len(used) <= 3 and len(rest) <= 4
    spatial = lead.reshape(1, -1, *x.shape[min(used) :])
    flat = [n for pair in reversed(padding[min(used) :]) for n in pair]
    out = F.pad(spatial, flat, mode={"reflect": "reflect", "edge": "replicate"}[mode])
    return out.reshape(*x.shape[: min(used)], *out.shape[2:])


def sliced(x, *, axes, starts, stops, steps):
    index = [slice(None)] * x.ndim
    for axis, start, stop, step in zip(axes, starts, stops, steps):
        index[axis] = slice(start, stop, step)
    return x[tuple(index)]


def gather(x, indices, *, axis):
    at = torch.where(indices < 0, indices + x.shape[axis], indices).long()
    picked = torch.index_select(x, axis, at.reshape(-1))
    return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def gather_elements(x, indices, *, axis):
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices).long())


def scatter_nd(x, indices, updates, reduction=None):
    combine = {"add": torch.add, "mul": torch.mul, "max": torch.maximum, "min": torch.minimum}.get(reduction)
    y = x.clone()
    for place in np.ndindex(*indices.shape[:-1]):
        at = tuple(indices[place].tolist())
        y[at] = updates[place] if combine is None else combine(y[at], updates[place])
    return y


def cast(x, *, dtype):
    kinds = {
        DType.I32: torch.int32,
        DType.I64: torch.int64,
        DType.F32: torch.float64,
        DType.BOOL: torch.bool,
        DType.U8: torch.uint8,
    }
    return (x.clamp(0, 255) if dtype is DType.U8 else x).to(kinds[dtype])


def channel_shuffle(x, groups):
    return F.channel_shuffle(x[..., None, None], groups)[..., 0, 0]  # torch wants two spatial axes


def layer_norm(x, weight=None, bias=None, *, normalized_rank, eps):
    return F.layer_norm(x, x.shape[-normalized_rank:], weight, bias, eps)


def rms_norm(x, weight=None, bias=None, *, normalized_rank, eps):
    y = F.rms_norm(x, x.shape[-normalized_rank:], weight, eps)
    return y if bias is None else y + bias


def reduction(function: Oracle) -> Oracle:
    return lambda x, axes, keepdims: function(x, axes, keepdims)


def product(x, axes, keepdims):
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdims)
    return x


def plain(function: Oracle) -> Oracle:
    """Call the torch function on the operands alone, then the fused activation."""
    return lambda *arrays, activation="none": fused(function(*arrays), activation)


ORACLES: dict[str, tuple[str, Oracle]] = {
    "linear": ("dot", linear),
    "matmul": ("dot", torch.matmul),
    "conv": ("dot", conv),
    "conv_transpose": ("dot", conv_transpose),
    "add": ("exact", plain(torch.add)),
    "sub": ("exact", torch.sub),
    "mul": ("exact", plain(torch.mul)),
    "div": ("exact", torch.div),
    "minimum": ("exact", torch.minimum),
    "maximum": ("exact", torch.maximum),
    "pow": ("once", torch.pow),
    "equal": ("exact", torch.eq),
    "not_equal": ("exact", torch.ne),
    "less": ("exact", torch.lt),
    "less_equal": ("exact", torch.le),
    "greater": ("exact", torch.gt),
    "greater_equal": ("exact", torch.ge),
    "logical_and": ("exact", torch.logical_and),
    "logical_or": ("exact", torch.logical_or),
    "logical_not": ("exact", torch.logical_not),
    "floor_divide": ("exact", torch.floor_divide),
    "trunc_divide": ("exact", functools.partial(torch.div, rounding_mode="trunc")),
    "remainder": ("exact", torch.remainder),
    "fmod": ("exact", torch.fmod),
    "bitwise_and": ("exact", torch.bitwise_and),
    "bitwise_or": ("exact", torch.bitwise_or),
    "bitwise_xor": ("exact", torch.bitwise_xor),
    "bitwise_not": ("exact", torch.bitwise_not),
    "shift_left": ("exact", torch.bitwise_left_shift),
    "shift_right": ("exact", torch.bitwise_right_shift),
    "where": ("exact", torch.where),
    "cast": ("exact", cast),
    "neg": ("exact", torch.neg),
    "abs": ("exact", torch.abs),
    "sqrt": ("exact", torch.sqrt),
    "rsqrt": ("few", torch.rsqrt),
    "reciprocal": ("exact", torch.reciprocal),
    "exp": ("once", torch.exp),
    "expm1": ("once", torch.expm1),
    "log": ("once", torch.log),
    "log1p": ("once", torch.log1p),
    "sin": ("once", torch.sin),
    "cos": ("once", torch.cos),
    "atan": ("once", torch.atan),
    "erf": ("once", torch.erf),
    "floor": ("exact", torch.floor),
    "ceil": ("exact", torch.ceil),
    "round": ("exact", torch.round),
    "sign": ("exact", torch.sign),
    "square": ("exact", torch.square),
    "relu": ("exact", F.relu),
    "relu6": ("exact", F.relu6),
    "hardtanh": ("exact", F.hardtanh),
    "sigmoid": ("once", torch.sigmoid),
    "hardsigmoid": ("once", F.hardsigmoid),
    "tanh": ("once", torch.tanh),
    "hardswish": ("once", F.hardswish),
    "silu": ("once", F.silu),
    "gelu": ("once", F.gelu),
    "mish": ("once", F.mish),
    "elu": ("once", F.elu),
    "selu": ("once", F.selu),
    "celu": ("once", F.celu),
    "softplus": ("once", F.softplus),
    "softsign": ("once", F.softsign),
    "softshrink": ("once", F.softshrink),
    "hardshrink": ("once", F.hardshrink),
    "tanhshrink": ("once", F.tanhshrink),
    "logsigmoid": ("once", F.logsigmoid),
    "leaky_relu": ("once", F.leaky_relu),
    "threshold": ("once", F.threshold),
    "prelu": ("exact", F.prelu),
    "dropout": ("exact", lambda x, rate: F.dropout(x, rate, False)),
    "max_pool": ("exact", max_pool),
    "max_pool_indices": ("exact", max_pool_indices),
    "avg_pool": ("dot", avg_pool),
    "adaptive_avg_pool": ("dot", adaptive("avg")),
    "adaptive_max_pool": ("exact", adaptive("max")),
    "mean": ("once", reduction(torch.mean)),
    "sum": ("once", reduction(torch.sum)),
    "max": ("exact", reduction(torch.amax)),
    "min": ("exact", reduction(torch.amin)),
    "prod": ("once", product),
    "argmax": ("exact", torch.argmax),
    "argmin": ("exact", torch.argmin),
    "cumsum": ("once", cumsum),
    "softmax": ("once", lambda x, axis, masked_is_zero: torch.softmax(x, axis)),
    "log_softmax": ("once", torch.log_softmax),
    "batch_norm": (
        "once",
        lambda x, mean, var, weight=None, bias=None, eps=0.0: F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps),
    ),
    "layer_norm": ("once", layer_norm),
    "rms_norm": ("once", rms_norm),
    "l2_normalize": ("once", lambda x, axis, eps: F.normalize(x, dim=axis, eps=eps)),
    "group_norm": (
        "once",
        lambda x, weight=None, bias=None, *, groups, eps: F.group_norm(x, groups, weight, bias, eps),
    ),
    "instance_norm": (
        "once",
        lambda x, weight=None, bias=None, *, eps: F.instance_norm(x, None, None, weight, bias, eps=eps),
    ),
    "reshape": ("exact", torch.reshape),
    "transpose": ("exact", lambda x, perm: x.permute(perm)),
    "expand": ("exact", lambda x, shape: x.expand(shape)),
    "slice": ("exact", sliced),
    "concat": ("exact", lambda *xs, axis: torch.cat(xs, axis)),
    "flip": ("exact", torch.flip),
    "tile": ("exact", torch.tile),
    "pad": ("exact", pad),
    "trilu": ("exact", lambda x, upper, diagonal: (torch.triu if upper else torch.tril)(x, diagonal)),
    "pixel_shuffle": ("exact", lambda x, factor: F.pixel_shuffle(x, factor)),
    "pixel_unshuffle": ("exact", lambda x, factor: F.pixel_unshuffle(x, factor)),
    "channel_shuffle": ("exact", channel_shuffle),
    "resize": ("few", resize),
    "gather": ("exact", gather),
    "gather_elements": ("exact", gather_elements),
    "gather_nd": ("exact", lambda x, indices: x[tuple(indices.long().unbind(-1))]),
    "scatter_nd": ("exact", scatter_nd),
    "scatter_nd_reduce": ("few", scatter_nd),
    "argsort": ("exact", lambda x, axis, descending: torch.argsort(x, stable=True, dim=axis, descending=descending)),
    "size": ("exact", lambda x, axis: torch.tensor(x.shape[axis])),
}
NOT_IN_TORCH = {
    **dict.fromkeys(("lstm", "gru", "rnn"), "several results; tests/ops/test_recurrent.py compares them with torch"),
    "quantize": "torch multiplies by 1/scale; tests/quantization compares ours with onnxruntime",
    "dequantize": "meaning of types, not of arrays",
    "requantize": "no such operation on tensors",
    "lookup": "no such operation on tensors",
    "observe": "no samples",
    "fake_quantize": "torch multiplies by 1/scale",
    "channel_range": "as value_range",
    **dict.fromkeys(("dynamic_quantize", "dynamic_linear"), "tests/ops/test_dynamic.py compares with onnxruntime"),
    "value_range": "torch.aminmax has no rule for NaN, -0 and no elements; tests/quantization compares it with numpy",
    "value_counts": "torch.histc has bins of any width; tests/quantization compares it with numpy",
}
RENAMED = {
    "flip": {"axes": "dims"},
    "tile": {"repeats": "dims"},
    "argmax": {"axis": "dim", "keepdims": "keepdim"},
    "argmin": {"axis": "dim", "keepdims": "keepdim"},
    "log_softmax": {"axis": "dim"},
    "hardshrink": {},
    "hardtanh": {"min_value": "min_val", "max_value": "max_val"},
}


def test_every_op_has_an_oracle_or_a_reason() -> None:
    known = {op.name for op in all_ops()}
    assert not set(ORACLES) & set(NOT_IN_TORCH)
    assert known <= set(ORACLES) | set(NOT_IN_TORCH) and set(ORACLES) <= known


def in_float64(array: np.ndarray | None) -> Any:
    if array is None:
        return None
    return torch.from_numpy(np.array(array, np.float64) if array.dtype.kind == "f" else np.array(array))


def terms(name: str, operands: list[np.ndarray | None], attrs: dict) -> int:
    """How many products or addends one element of a dot-like result has."""
    if name in ("linear", "matmul"):
        return operands[0].shape[-1] + 2
    if name.startswith("conv"):
        return int(operands[1].size // min(operands[1].shape[:2])) + 2
    return int(np.prod(attrs["kernel"])) if "kernel" in attrs else int(np.prod(operands[0].shape[2:]))


def compare(name: str, sample: Sample, seed: int = 0) -> None:
    kind, oracle = ORACLES[name]
    operands, attrs = arrays_of(sample, seed), opdef(name).complete_attrs(sample.attrs)
    given = {RENAMED.get(name, {}).get(key, key): value for key, value in attrs.items()}
    wanted = oracle(*map(in_float64, operands), **given).numpy()
    got = opdef(name).run_reference(operands, attrs)[0]
    assert got.shape == wanted.shape
    if wanted.dtype.kind != "f":
        assert np.array_equal(got, wanted)
        return
    assert got.dtype == np.float32
    bound = U * np.abs(wanted) + 2.0**-149
    if kind == "once":
        bound = bound * (1 + 2.0**-10) + 2.0**-40
    elif kind != "exact":
        sizes = [None if a is None else np.abs(a) if a.dtype.kind == "f" else a for a in operands]
        magnitude = oracle(
            *map(in_float64, sizes), **{**given, **({"activation": "none"} if "activation" in given else {})}
        ).numpy()
        factor = terms(name, operands, attrs) + 4 if kind == "dot" else 6
        bound = factor * U * magnitude.max(initial=0) if name == "resize" else factor * U * magnitude
    assert (np.abs(got.astype(np.float64) - wanted) <= bound).all()


SAMPLES = [(op.name, index) for op in all_ops() if op.name in ORACLES for index in range(len(op.samples()))]


@pytest.mark.parametrize(("name", "index"), SAMPLES, ids=lambda value: str(value))
def test_samples(name: str, index: int) -> None:
    compare(name, opdef(name).samples()[index], seed=index)


# more geometries than the samples have


def _windows(rank: int) -> list[dict[str, Any]]:
    return [
        {"kernel": (k,) * rank, "stride": (s,) * rank, "padding": ((p, p),) * rank, "ceil_mode": ceil}
        for k, s, p, ceil in (
            (2, 2, 0, True),
            (3, 2, 1, True),
            (3, 2, 1, False),
            (3, 1, 1, False),
            (2, 3, 1, True),
            (4, 3, 2, True),
        )
    ]


@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pools(rank: int, size: int) -> None:
    x = tensor("f32", 2, 3, *(size + axis for axis in range(rank)))
    for attrs, dilation in itertools.product(_windows(rank), (1, 2)):
        if max(attrs["padding"][0]) <= attrs["kernel"][0] // 2:  # torch's own limit
            compare("max_pool", Sample((x,), {**attrs, "dilation": (dilation,) * rank}))
            compare("max_pool_indices", Sample((x,), {**attrs, "dilation": (dilation,) * rank}))
    for attrs, include in itertools.product(_windows(rank), (True, False)):
        compare("avg_pool", Sample((x,), {**attrs, "count_include_pad": include}))
        if rank > 1:
            compare("avg_pool", Sample((x,), {**attrs, "count_include_pad": include, "divisor_override": 5}))
    for out in (1, 2, 3, size):
        compare("adaptive_avg_pool", Sample((x,), {"output_size": (out,) * rank}))
        compare("adaptive_max_pool", Sample((x,), {"output_size": (out,) * rank}))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions(rank: int, groups: int) -> None:
    for kernel, stride, dilation, before, after in (
        (1, 1, 1, 0, 0),
        (3, 1, 1, 1, 1),
        (3, 2, 1, 0, 1),
        (2, 2, 2, 2, 1),
        (4, 3, 1, 2, 0),
    ):
        attrs = {
            "stride": (stride,) * rank,
            "padding": ((before, after),) * rank,
            "dilation": (dilation,) * rank,
            "groups": groups,
        }
        x, bias = tensor("f32", 2, 4, *((7, 6, 5)[:rank])), tensor("f32", 8)
        compare("conv", Sample((x, tensor("f32", 8, 4 // groups, *(kernel,) * rank), bias), attrs))
        for extra in range(max(stride, dilation)):
            if after < before:
                continue
            weight = tensor("f32", 4 // groups, 8, *(kernel,) * rank)
            compare("conv_transpose", Sample((x, weight, bias), {**attrs, "output_padding": (extra,) * rank}))


@pytest.mark.parametrize("out", [(1, 1), (3, 5), (7, 4), (11, 13), (8, 10)])
def test_resize_modes(out: tuple[int, int]) -> None:
    x = tensor("f32", 2, 3, 4, 5)
    for mode, coordinates, rounding in (
        ("nearest", "asymmetric", "floor"),
        ("nearest", "half_pixel", "round_prefer_ceil"),
        ("bilinear", "half_pixel", "floor"),
        ("bilinear", "align_corners", "floor"),
    ):
        attrs = {"mode": mode, "coordinates": coordinates, "rounding": rounding}
        compare("resize", Sample((x,), {**attrs, "size": out}))
        compare("resize", Sample((tensor("f32", 1, 2, 6),), {**attrs, "size": out[:1]}))
        compare("resize", Sample((tensor("f32", 1, 2, 3, 4, 2),), {**attrs, "size": (*out, 3)}))


@pytest.mark.parametrize("factor", [0.5, 1.5, 2.0, 2.7])
def test_resize_by_scales(factor: float) -> None:
    x = tensor("f32", 1, 2, 7, 5)
    for mode, coordinates in (("nearest", "asymmetric"), ("bilinear", "half_pixel")):
        compare("resize", Sample((x,), {"mode": mode, "coordinates": coordinates, "scales": (factor, factor)}))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad_modes(mode: str) -> None:
    for shape, padding in (
        ((2, 3, 7), ((0, 0), (0, 0), (3, 2))),
        ((2, 3, 5, 6), ((0, 0), (0, 0), (4, 0), (1, 5))),
        ((5, 6), ((2, 1), (0, 3))),
        ((9,), ((8, 8),)),
    ):
        compare(
            "pad",
            Sample(
                (tensor("f32", *shape),),
                {"padding": padding, "mode": mode, "value": -1.5 if mode == "constant" else 0.0},
            ),
        )


SPECIAL = np.array(
    [-np.inf, np.inf, np.nan, -0.0, 0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, -100.0, 100.0, 6.0, -3.0, 3.0, 0.5, -0.5],
    np.float32,
)
UNARY = [op.name for op in all_ops() if Trait.UNARY in op.traits]


@pytest.mark.parametrize("name", UNARY)
def test_unary_ops_on_special_values(name: str) -> None:
    """Infinities, NaN and the ends of the range give what torch gives in float64."""
    attrs = opdef(name).complete_attrs({})
    given = {RENAMED.get(name, {}).get(key, key): value for key, value in attrs.items()}
    with np.errstate(all="ignore"):
        wanted = ORACLES[name][1](torch.from_numpy(SPECIAL.astype(np.float64)), **given).numpy().astype(np.float32)
        got = opdef(name).run_reference([SPECIAL], attrs)[0]
    assert got.dtype == np.float32
    np.testing.assert_array_max_ulp(got[np.isfinite(wanted)], wanted[np.isfinite(wanted)], 2)
    rest = ~np.isfinite(wanted)
    np.testing.assert_array_equal(got[rest], wanted[rest])
