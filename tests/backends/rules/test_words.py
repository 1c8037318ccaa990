"""16-bit codes beside bytes: every level has the interpreter's bits, in every mix of operands and results."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from qcompiler.ir import Graph
from qcompiler.opdef import opdef
from qcompiler.quantization import qmath
from qcompiler.types import DType, QuantParams, TensorType, tensor
from tests.backends.rules.harness import check_graph, check_op

SIZES = (1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129)
BINARY = ("add", "sub", "mul", "div", "minimum", "maximum")
CODES = (DType.U8, DType.I16)
MIXES = [mix for mix in itertools.product(CODES, repeat=3) if DType.I16 in mix]
"""The element types of two operands and the result, at least one of them i16."""
ENDS = {DType.U8: (0, 3, 255), DType.I16: (-32768, 5, 32767)}
"""Zero points at both ends of the range, and one between them."""


def codes(dtype: DType, scale: float, zero_point: int = 0) -> QuantParams:
    return QuantParams.per_tensor(scale, zero_point, dtype)


def some_codes(type: TensorType, rng: np.random.Generator) -> np.ndarray:
    """Random codes of the whole range. Both its ends and the zero point are among them where there is room."""
    low, high = type.params.qmin, type.params.qmax
    found = rng.integers(low, high, type.sizes, endpoint=True)
    given = [low, high, type.params.zero_point[0]]
    found.reshape(-1)[: len(given)] = given[: found.size]
    return found.astype(type.dtype.numpy)


def one_op(
    op: str, types: Sequence[TensorType], out: tuple[DType, QuantParams], attrs: Mapping[str, Any] | None = None
) -> Graph:
    """A graph of one node whose operands are all inputs."""
    graph, definition = Graph("words", "integer"), opdef(op)
    operands = [graph.add_input(f"x{i}", type) for i, type in enumerate(types)]
    complete = definition.complete_attrs(attrs or {})
    [expressed] = definition.infer_types(types, complete)
    graph.set_outputs(graph.create(op, operands, complete, types=expressed.quantized(*out)).results)
    return graph


# -- conversions


@pytest.mark.parametrize("zero_point", ENDS[DType.I16])
@pytest.mark.parametrize("scale", [2.0**-59, 1 / 3, 0.0003, 7.3, 2.0**59])
def test_quantize_divides_at_ties(scale: float, zero_point: int) -> None:
    """The quotients at the f32 nearest to each tie, at their neighbours, and beyond both ends; infinities and NaN."""
    ends = np.r_[-65540:-65520, -32800:-32750, -300:300, 32750:32800, 65520:65540]
    nearest = ((ends + 0.5) * np.float64(np.float32(scale))).astype(np.float32)
    beside = [np.nextafter(nearest, np.float32(side)) for side in (-np.inf, np.inf)]
    special = np.full_like(nearest, np.nan)
    special[1::3], special[2::3] = np.inf, -np.inf
    x = np.stack([nearest, *beside, special])
    graph = Graph("quantize", "integer")
    value = graph.add_input("x", tensor("f32", *x.shape))
    types = value.type.quantized(DType.I16, codes(DType.I16, scale, zero_point))
    graph.set_outputs(graph.create("quantize", [value], types=types).results)
    [got] = check_graph(graph, [x])
    assert got.min() == -32768 and got.max() == 32767


@pytest.mark.parametrize("zero_point", ENDS[DType.I16])
def test_dequantize_every_code(zero_point: int) -> None:
    params = codes(DType.I16, 0.0003, zero_point)
    x = np.arange(-32768, 32768).astype(np.int16)
    graph = Graph("dequantize", "integer")
    value = graph.add_input("x", TensorType(DType.I16, x.shape, params))
    graph.set_outputs(graph.create("dequantize", [value], types=tensor("f32", *x.shape)).results)
    [got] = check_graph(graph, [x])
    exact = (x.astype(np.int64) - zero_point) * np.float64(params.scale[0])
    assert (np.abs(got - exact) <= np.abs(exact) * 2.0**-24).all()  # one rounding


@pytest.mark.sampled(3)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("source,to", [(a, b) for a, b in itertools.product(CODES, CODES) if DType.I16 in (a, b)])
def test_requantize(source: DType, to: DType, size: int) -> None:
    rng = np.random.default_rng(size)
    scales = {DType.U8: 0.02, DType.I16: 0.0001}
    for first, second in zip(ENDS[source], reversed(ENDS[to])):
        x = TensorType(source, (3, size), codes(source, scales[source], first))
        graph = one_op("requantize", [x], (to, codes(to, scales[to] * 0.7, second)))
        check_graph(graph, [some_codes(x, rng)])


def test_requantize_to_bytes_and_back_is_the_nearest_byte() -> None:
    """A 16-bit code becomes a byte of 256 times the scale. What comes back is the nearest multiple of 256, with ties to
    even."""
    x = TensorType(DType.I16, (65536,), codes(DType.I16, 1 / 256))
    graph = Graph("there_and_back", "integer")
    value = graph.add_input("x", x)
    there = graph.create("requantize", [value], types=x.quantized(DType.U8, codes(DType.U8, 1.0, 128))).result
    graph.set_outputs(graph.create("requantize", [there], types=x).results)
    given = np.arange(-32768, 32768).astype(np.int16)
    [got] = check_graph(graph, [given])
    assert np.array_equal(got, np.clip(np.rint(given / 256), -128, 127) * 256)


def test_channels_last() -> None:
    """16-bit codes have no gap after their channels and bytes have one; conversions go between the two, and to f32."""
    rng = np.random.default_rng(0)
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
    for channels in (1, 3, 4, 17):
        graph = Graph("layouts", "integer")
        x = graph.add_input("x", tensor("f32", 2, channels, 5, 3))
        bytes_, words = codes(DType.U8, 0.02, 100), codes(DType.I16, 0.0002, -7)
        first = graph.create("quantize", [x], types=x.type.quantized(DType.I16, words)).result
        second = graph.create("requantize", [first], types=x.type.quantized(DType.U8, bytes_)).result
        weight_type = TensorType(DType.I8, (channels, channels, 1, 1), codes(DType.I8, 0.02))
        weight = graph.add_const("w", some_codes(weight_type, rng), weight_type)
        third = graph.create("conv", [second, weight], opdef("conv").complete_attrs(attrs), types=second.type).result
        fourth = graph.create("requantize", [third], types=first.type).result
        total = graph.create("add", [fourth, third], {"activation": "none"}, types=first.type).result
        graph.set_outputs([total, graph.create("dequantize", [total], types=x.type).result])
        check_graph(graph, [rng.normal(size=x.type.sizes).astype(np.float32)])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("size", SIZES)
def test_tables_of_words(size: int) -> None:
    """Look-ups and functions of one operand, from bytes to 16-bit codes."""
    rng = np.random.default_rng(size)
    x = TensorType(DType.U8, (2, size), codes(DType.U8, 0.03, 128))
    out = (DType.I16, codes(DType.I16, 0.0001, 17))
    check_graph(one_op("gelu", [x], out), [some_codes(x, rng)])
    graph = Graph("lookup", "integer")
    table = graph.add_const("table", rng.integers(-32768, 32768, 256).astype(np.int16))
    node = graph.create("lookup", [graph.add_input("x", x), table], types=x.quantized(*out))
    graph.set_outputs(node.results)
    check_graph(graph, [some_codes(x, rng)])


# -- products

CONV = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
"""Attributes of a convolution that keeps the size of an image with a window of 3 by 3."""
RESIDUAL = 3
"""The position of the residual among the operands of conv and linear."""
WRITES: list[tuple[DType | None, DType]] = [
    (None, DType.I16), (DType.U8, DType.I16), (DType.I16, DType.U8), (DType.I16, DType.I16), (DType.I16, DType.F32),
]  # fmt: skip
"""Element types of the residual and the result of a product that reads u8, at least one of them i16."""


def product(
    op: str, operands: Sequence[Any], attrs: Mapping[str, Any], mix: Sequence[DType | None], **options: Any
) -> None:
    """A product on every level. operands: with a residual, which is left out where the mix has none."""
    residual, out = mix
    real = {"to_f32": ()} if out is DType.F32 else {"out_dtype": out}
    given = operands if residual else operands[:RESIDUAL]
    dtypes = {RESIDUAL: residual} if residual else {}
    check_op(op, given, attrs, quantized=True, dtypes=dtypes, **real, **options)


@pytest.mark.sampled(16)
@pytest.mark.parametrize("mix", WRITES, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 7, 15])
@pytest.mark.parametrize("depth,outputs", [(1, 1), (3, 33), (64, 10), (65, 32), (130, 65)])
def test_linear(rows: int, depth: int, outputs: int, mix: tuple[DType | None, DType]) -> None:
    weights = (tensor("f32", outputs, depth), tensor("f32", outputs))
    operands = (tensor("f32", rows, depth), *weights, tensor("f32", rows, outputs))
    product("linear", operands, {"activation": ("none", "relu", "relu6")[(rows + depth) % 3]}, mix, seed=rows)


@pytest.mark.sampled(32)
@pytest.mark.parametrize("activation", ["none", "relu6"])
@pytest.mark.parametrize("mix", WRITES, ids=str)
@pytest.mark.parametrize(
    "inputs,outputs,groups", [(3, 5, 1), (8, 33, 1), (6, 6, 6), (35, 70, 35), (6, 9, 3), (66, 66, 66)]
)
@pytest.mark.parametrize("behind_a_pool", [False, True])
def test_conv(
    inputs: int, outputs: int, groups: int, mix: tuple[DType | None, DType], activation: str, behind_a_pool: bool
) -> None:
    weights = (tensor("f32", outputs, inputs // groups, 3, 3), tensor("f32", outputs))
    operands = (tensor("f32", 2, inputs, 5, 9), *weights, tensor("f32", 2, outputs, 5, 9))
    attrs = {**CONV, "groups": groups, "activation": activation}
    product("conv", operands, attrs, mix, behind_a_pool=behind_a_pool, threads=(1, 3))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("op", ["conv", "conv_transpose", "linear", "matmul"])
@pytest.mark.parametrize("index", range(5))
def test_samples_of_products(op: str, index: int) -> None:
    sample = opdef(op).samples()[index]
    check_op(op, sample.operands, sample.attrs, quantized=True, out_dtype=DType.I16, low=sample.low, high=sample.high)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("m", [1, 5, 15])
@pytest.mark.parametrize("k,n", [(1, 1), (7, 17), (33, 65), (64, 32)])
def test_matmul_to_words(m: int, k: int, n: int) -> None:
    check_op("matmul", (tensor("f32", 2, m, k), tensor("f32", 2, k, n)), quantized=True, out_dtype=DType.I16)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("zero_point", ENDS[DType.I16])
@pytest.mark.parametrize("out", [DType.U8, DType.I16, DType.F32])
@pytest.mark.parametrize("scale", [2.0**-20, 0.3, 2.0**12])
def test_extremes_of_products(out: DType, zero_point: int, scale: float) -> None:
    """Sums beyond 2^24 with residuals of both ends: results that saturate, round, or vanish beside the residual."""
    rng = np.random.default_rng(0)
    x = TensorType(DType.U8, (4, 1027), codes(DType.U8, 0.75, 3))
    weight = TensorType(DType.I8, (35, 1027), QuantParams.per_tensor(0.5, 0, DType.I8, -127, 127))
    residual = TensorType(DType.I16, (4, 35), codes(DType.I16, scale, zero_point))
    data = rng.choice([-127, 127], weight.shape).astype(np.int8)
    data[:12] = np.where(np.arange(12) % 2, 127, -127)[:, None]
    given = [np.where(np.arange(4)[:, None] % 2, 255, 0).astype(np.uint8) + np.zeros(x.shape, np.uint8)]
    given.append(rng.choice([-32768, 0, 32767], residual.shape).astype(np.int16))
    for ratio in (2.0**-10, 1.0, 2.0**10):
        graph = Graph("products", "integer")
        operands = [graph.add_input("x", x), graph.add_const("w", data, weight), None, graph.add_input("r", residual)]
        real = tensor("f32", 4, 35)
        zero = zero_point if out is DType.I16 else 200
        type = real if out is DType.F32 else real.quantized(out, codes(out, scale * ratio, zero))
        node = graph.create("linear", operands, opdef("linear").complete_attrs({}), types=type)
        graph.set_outputs(node.results)
        check_graph(graph, given, threads=(1,))


def test_words_among_convolutions() -> None:
    """Depthwise and dense convolutions, of whose results and residuals some are words with a halo around them."""
    rng = np.random.default_rng(1)
    for channels in (4, 6, 33):
        graph = Graph("halo", "integer")
        x = graph.add_input("x", TensorType(DType.U8, (2, channels, 6, 7), codes(DType.U8, 0.02, 100)))
        dense = TensorType(DType.I8, (channels, channels, 3, 3), codes(DType.I8, 0.02))
        deep = TensorType(DType.I8, (channels, 1, 3, 3), codes(DType.I8, 0.02))
        weights = [graph.add_const(name, some_codes(type, rng), type) for name, type in (("a", dense), ("b", deep))]
        words = x.type.quantized(DType.I16, codes(DType.I16, 0.001, 40))
        attrs = [opdef("conv").complete_attrs({**CONV, "groups": groups}) for groups in (1, channels)]
        first = graph.create("conv", [x, weights[0]], attrs[0], types=words).result
        second = graph.create("conv", [x, weights[1], None, first], attrs[1], types=x.type).result
        third = graph.create("conv", [second, weights[0], None, first], attrs[0], types=x.type).result
        fourth = graph.create("conv", [third, weights[1], None, third], attrs[1], types=words).result
        graph.set_outputs([graph.create("add", [fourth, third], {"activation": "none"}, types=words).result])
        check_graph(graph, [some_codes(x.type, rng)])


# -- softmax


@pytest.mark.sampled(6)
@pytest.mark.parametrize("source,to", [(a, b) for a, b in itertools.product(CODES, CODES) if DType.I16 in (a, b)])
@pytest.mark.parametrize("size", SIZES)
def test_softmax(size: int, source: DType, to: DType) -> None:
    """Along each axis, row major and channels last, where bytes have gaps."""
    rng = np.random.default_rng(size)
    out = (to, codes(to, 1 / 256 if to is DType.U8 else 1 / 65536, to.min))
    for shape, axis in (((5, size), 1), ((size, 5), 0), ((2, size, 3, 4), 1), ((2, 3, size, 4), 2)):
        x = TensorType(source, shape, codes(source, 0.02 if source is DType.U8 else 0.0003, 7))
        check_graph(one_op("softmax", [x], out, {"axis": axis}), [some_codes(x, rng)], threads=(1, 3))
    options: dict[str, Any] = {"quantized": True, "dtypes": {0: source}, "out": out[1], "out_dtype": to}
    for axis in (1, 2, 3):
        check_op("softmax", (tensor("f32", 2, min(size, 33), 3, 4),), {"axis": axis}, behind_a_pool=True, **options)


@pytest.mark.parametrize("scale", [2.0**-20, 0.0003, 1.0, 2.0**20])
def test_softmax_of_extremes(scale: float) -> None:
    """Codes at both ends, whose distance takes the last entry of the table; lines of one value; sums beyond 2^31."""
    x = TensorType(DType.I16, (5, 1030), codes(DType.I16, scale))
    given = np.zeros(x.shape, np.int16)
    given[0], given[1], given[2] = -32768, 32767, np.resize([-32768, 32767], 1030)
    given[3, 7], given[4] = 32767, np.linspace(-32768, 32767, 1030)
    graph = one_op("softmax", [x], (DType.I16, codes(DType.I16, 1 / 65536, -32768)), {"axis": 1})
    [got] = check_graph(graph, [given], threads=(2,))
    real = given * np.float64(np.float32(scale))
    exact = np.exp(real - real.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    bound = 0.5 + 65536 * ((1 + 1030 * exact) * 2.0**-23 + 3 * 2.0**-24 * exact)
    assert (np.abs(got + 32768.0 - np.minimum(exact * 65536, 65535)) <= bound).all()


# -- norms

NORMS: dict[str, dict[str, Any]] = {
    "layer_norm": {"normalized_rank": 1}, "rms_norm": {"normalized_rank": 1}, "l2_normalize": {"axis": 1},
    "group_norm": {"groups": 1}, "instance_norm": {},
}  # fmt: skip
"""The norms and attributes with which they normalize the last axes."""
PAIRS = [(a, b) for a, b in itertools.product(CODES, CODES) if DType.I16 in (a, b)]
"""Element types of an operand and a result, at least one of them i16."""


@pytest.mark.sampled(16)
@pytest.mark.parametrize("source,to", PAIRS)
@pytest.mark.parametrize("size", [*SIZES, 768])
@pytest.mark.parametrize("op", NORMS)
def test_norms(op: str, size: int, source: DType, to: DType) -> None:
    rng = np.random.default_rng(size)
    channels = op in ("group_norm", "instance_norm")
    shape = (2, 6, size) if channels else (5, size)
    terms = [
        rng.uniform(-2, 2, 6 if channels else size).astype(np.float32) for _ in range(0 if op == "l2_normalize" else 2)
    ]
    options: dict[str, Any] = {"quantized": True, "dtypes": {0: source}, "out_dtype": to, "seed": size}
    check_op(op, (tensor("f32", *shape), *terms), NORMS[op], **options)


@pytest.mark.parametrize("source,to", PAIRS)
@pytest.mark.parametrize("channels,groups", [(4, 2), (6, 6), (33, 11), (65, 5)])
def test_norms_channels_last(channels: int, groups: int, source: DType, to: DType) -> None:
    options: dict[str, Any] = {"quantized": True, "dtypes": {0: source}, "out_dtype": to, "behind_a_pool": True}
    image = tensor("f32", 2, channels, 5, 3)
    check_op("group_norm", (image,), {"groups": groups}, **options)
    check_op("instance_norm", (image,), {}, **options)
    check_op("l2_normalize", (image,), {"axis": 1}, **options)


@pytest.mark.parametrize("zero_point", ENDS[DType.I16])
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm", "l2_normalize"])
def test_norms_of_extremes(op: str, zero_point: int) -> None:
    """The longest rows that the bound of the sums allows: all codes at one end, at both, near a square of 2^31, and
    long enough that the partial sums of a chunk are largest."""
    reach = max(zero_point + 32768, 32767 - zero_point)
    longest = (2**31 - 1) // reach
    x = TensorType(DType.I16, (6, longest), codes(DType.I16, 0.01, zero_point))
    given = np.empty(x.shape, np.int64)
    given[0], given[1], given[2] = -32768, 32767, np.resize([-32768, 32767], longest)
    given[3], given[4], given[5] = 255, -32513, np.resize([zero_point, 32767, -1, -32768], longest)
    graph = one_op(op, [x], (DType.I16, codes(DType.I16, 2.0**-12, 5)), NORMS[op])
    with np.errstate(all="ignore"):
        check_graph(graph, [given.astype(np.int16)], threads=(2,))


def test_norms_are_those_of_real_numbers() -> None:
    """Beside float64 the codes are right up to the f32 roundings, which the module of the ops bounds."""
    rng = np.random.default_rng(0)
    x = TensorType(DType.I16, (4, 768), codes(DType.I16, 2.0**-8, 1000))
    graph = one_op("layer_norm", [x], (DType.I16, codes(DType.I16, 2.0**-12)), {"normalized_rank": 1})
    given = some_codes(x, rng)
    [got] = check_graph(graph, [given])
    real = (given.astype(np.float64) - 1000) * 2.0**-8
    centered = real - real.mean(axis=1, keepdims=True)
    want = centered / np.sqrt(np.square(centered).mean(axis=1, keepdims=True) + 1e-5)
    assert (np.abs(got - want * 2.0**12) <= 0.5 + 10 * 2.0**-24 * np.abs(want) * 2.0**12).all()


# -- elementwise


@pytest.mark.sampled(48)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: "-".join(map(str, mix)))
@pytest.mark.parametrize("op", BINARY)
def test_binary(op: str, mix: tuple[DType, DType, DType], size: int) -> None:
    x, y, out = mix
    for other in ((3, size), (1, size), (3, 1), ()):
        operands = (tensor("f32", 3, size), tensor("f32", *other))
        check_op(op, operands, quantized=True, low=0.5, high=3.0, dtypes={0: x, 1: y}, out_dtype=out, seed=size)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("out", CODES)
@pytest.mark.parametrize("op", BINARY)
def test_extremes_of_codes_and_zero_points(op: str, out: DType) -> None:
    """All pairs of the ends of both ranges: sums up to +-65535 * 2, products up to 2^32, quotients by 0 and of 0 by
    0."""
    values = {DType.U8: np.r_[0, 1, 254, 255], DType.I16: np.r_[-32768, -32767, -1, 0, 1, 32766, 32767]}
    for first, second in itertools.product(CODES, CODES):
        if DType.I16 not in (first, second, out):
            continue
        a, b = (each.ravel() for each in np.meshgrid(values[first], values[second]))
        for zero_x, zero_y, zero in itertools.product(ENDS[first][::2], ENDS[second], ENDS[out]):
            for scale in (2.0**-8, 1.0, 2.0**17):
                types = [
                    TensorType(dtype, a.shape, codes(dtype, 1.0, point))
                    for dtype, point in ((first, zero_x), (second, zero_y))
                ]
                graph = one_op(op, types, (out, codes(out, scale, zero)))
                given = [a.astype(first.numpy), b.astype(second.numpy)]
                with np.errstate(all="ignore"):
                    check_graph(graph, given, threads=(1,))


@pytest.mark.parametrize("activation", ["relu", "relu6"])
@pytest.mark.parametrize("op", ["add", "mul"])
def test_fused_activations(op: str, activation: str) -> None:
    for mix in MIXES:
        check_op(
            op,
            (tensor("f32", 5, 33), tensor("f32", 5, 33)),
            {"activation": activation},
            quantized=True,
            low=-3.0,
            high=4.0,
            dtypes={0: mix[0], 1: mix[1]},
            out_dtype=mix[2],
        )


@pytest.mark.sampled(2)
@pytest.mark.parametrize("source,to", [(a, b) for a, b in itertools.product(CODES, CODES) if DType.I16 in (a, b)])
@pytest.mark.parametrize("channels", [1, 7, 8, 33])
def test_maps_of_channels(channels: int, source: DType, to: DType) -> None:
    """prelu and batch_norm, whose parameters differ by channel."""
    rng = np.random.default_rng(channels)
    slopes, mean, gain, shift = (rng.uniform(-1, 1, channels).astype(np.float32) for _ in range(4))
    options: dict[str, Any] = {"quantized": True, "dtypes": {0: source}, "out_dtype": to}
    for spatial in ((), (5,), (3, 4)):
        image = tensor("f32", 2, channels, *spatial)
        check_op("prelu", (image, slopes), **options)
        check_op("batch_norm", (image, mean, np.abs(mean) + np.float32(0.1), gain, shift), **options)


def test_the_product_of_two_words_is_rounded_once() -> None:
    """65535 * 65533 has 32 bits, and its f32 is the one nearest to the exact product."""
    types = [TensorType(DType.I16, (1,), codes(DType.I16, 1.0, -32768))] * 2
    graph = one_op("mul", types, (DType.I16, codes(DType.I16, 2.0**17, -32768)))
    given = [np.array([32767], np.int16), np.array([32765], np.int16)]
    [got] = check_graph(graph, given)
    real = np.float32(65535 * 65533) * np.float32(2.0**-17)
    assert got[0] == np.rint(real) - 32768
    assert qmath.centered(given[0], types[0].params)[0] == 65535


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_of_mixed_readers(seed: int) -> None:
    """Chains in which values of both widths are read by nodes that write either."""
    rng = np.random.default_rng(seed)
    graph, shape = Graph("mixed", "integer"), (int(rng.integers(1, 4)), int(rng.integers(1, 70)))

    def some_type() -> TensorType:
        dtype = CODES[rng.integers(2)]
        scale = float(rng.uniform(0.5, 2) / (dtype.max - dtype.min))
        zero_point = int(rng.integers(dtype.min, dtype.max, endpoint=True))
        return TensorType(dtype, shape, codes(dtype, scale, zero_point))

    values = [graph.add_input(f"x{i}", some_type()) for i in range(2)]
    for _ in range(10):
        op = ("requantize", *BINARY)[rng.integers(1 + len(BINARY))]
        read = [values[rng.integers(len(values))] for _ in range(1 if op == "requantize" else 2)]
        values.append(graph.create(op, read, opdef(op).complete_attrs({}), types=some_type()).result)
    graph.set_outputs(values[2:])
    with np.errstate(all="ignore"):
        check_graph(graph, [some_codes(value.type, rng) for value in graph.inputs])
