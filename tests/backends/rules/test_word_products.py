"""Products that read 16-bit codes: two planes of bytes by the same weights, to the bit on every level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from qcompiler.errors import PassError
from qcompiler.ir import Graph
from qcompiler.opdef import opdef
from qcompiler.passes.verify_integer_safety import VerifyIntegerSafety
from qcompiler.types import DType, QuantParams, TensorType, tensor
from tests.backends.rules.harness import check_graph, check_op
from tests.backends.rules.test_words import CONV, ENDS, RESIDUAL, SIZES, codes, some_codes

MIXES: list[tuple[DType | None, DType]] = [
    (None, DType.U8), (None, DType.I16), (None, DType.F32), (DType.U8, DType.I16), (DType.I16, DType.U8),
    (DType.I16, DType.F32),
]  # fmt: skip
"""Element types of the residual and the result."""


def check(
    op: str,
    operands: Sequence[TensorType],
    attrs: dict[str, object],
    mix: tuple[DType | None, DType],
    **options: object,
) -> None:
    """A product of words on every level. operands: with a residual, which is left out where the mix has none."""
    residual, out = mix
    given = operands if residual else operands[:RESIDUAL]
    dtypes = {0: DType.I16, **({RESIDUAL: residual} if residual else {})}
    real = {"to_f32": ()} if out is DType.F32 else {"out_dtype": out}
    check_op(op, given, attrs, quantized=True, dtypes=dtypes, **real, **options)  # type: ignore[arg-type]


@pytest.mark.sampled(10)
@pytest.mark.parametrize("mix", MIXES, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 7, 15])
@pytest.mark.parametrize("depth,outputs", [(1, 1), (3, 33), (64, 10), (65, 32), (130, 65)])
def test_linear(rows: int, depth: int, outputs: int, mix: tuple[DType | None, DType]) -> None:
    weights = (tensor("f32", outputs, depth), tensor("f32", outputs))
    operands = (tensor("f32", rows, depth), *weights, tensor("f32", rows, outputs))
    check("linear", operands, {"activation": ("none", "relu", "relu6")[(rows + depth) % 3]}, mix, seed=rows)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("depth", SIZES)
def test_depths(depth: int) -> None:
    check("linear", (tensor("f32", 5, depth), tensor("f32", 17, depth), tensor("f32", 17)), {}, (None, DType.I16))


@pytest.mark.sampled(16)
@pytest.mark.parametrize("mix", MIXES, ids=str)
@pytest.mark.parametrize(
    "inputs,outputs,groups", [(3, 5, 1), (8, 33, 1), (6, 6, 6), (35, 70, 35), (6, 9, 3), (16, 16, 16)]
)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("behind_a_pool", [False, True])
def test_conv(
    inputs: int, outputs: int, groups: int, kernel: int, mix: tuple[DType | None, DType], behind_a_pool: bool
) -> None:
    border = ((kernel // 2, kernel // 2),) * 2
    weights = (tensor("f32", outputs, inputs // groups, kernel, kernel), tensor("f32", outputs))
    operands = (tensor("f32", 2, inputs, 5, 9), *weights, tensor("f32", 2, outputs, 5, 9))
    attrs = {**CONV, "padding": border, "groups": groups, "activation": "relu"}
    check("conv", operands, attrs, mix, behind_a_pool=behind_a_pool, threads=(1, 3))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("op", ["conv", "conv_transpose", "linear"])
@pytest.mark.parametrize("index", range(5))
def test_samples(op: str, index: int) -> None:
    sample = opdef(op).samples()[index]
    options = {"quantized": True, "dtypes": {0: DType.I16}, "low": sample.low, "high": sample.high}
    check_op(op, sample.operands, sample.attrs, **options)  # type: ignore[arg-type]
    check_op(op, sample.operands, sample.attrs, **options, out_dtype=DType.I16)  # type: ignore[arg-type]


@pytest.mark.parametrize("groups,outputs", [(1, 5), (4, 2), (2, 3)])
def test_transposed_groups(groups: int, outputs: int) -> None:
    attrs = {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "output_padding": (1, 1)}
    operands = (
        tensor("f32", 1, 4, 4, 5),
        tensor("f32", 4 // groups, outputs * groups, 3, 3),
        tensor("f32", outputs * groups),
    )
    check("conv_transpose", operands, {**attrs, "groups": groups}, (None, DType.I16))


def test_words_with_halos() -> None:
    """Convolutions read words that lie with a border around them, and such a border from a pointwise convolution."""
    rng = np.random.default_rng(1)
    for channels in (3, 8, 33):
        graph = Graph("halo", "integer")
        x = graph.add_input("x", TensorType(DType.U8, (2, channels, 6, 7), codes(DType.U8, 0.02, 100)))
        types = [TensorType(DType.I8, (channels, channels, n, n), codes(DType.I8, 0.02)) for n in (1, 3)]
        point, window = (graph.add_const(f"w{i}", some_codes(type, rng), type) for i, type in enumerate(types))
        words = x.type.quantized(DType.I16, codes(DType.I16, 0.001, 40))
        pads = [opdef("conv").complete_attrs({**CONV, "padding": ((n, n), (n, n))}) for n in (0, 1)]
        first = graph.create("conv", [x, window], pads[1], types=words).result
        second = graph.create("conv", [first, point], pads[0], types=words).result
        third = graph.create("conv", [first, window, None, second], pads[1], types=words).result
        graph.set_outputs([graph.create("conv", [third, window], pads[1], types=x.type).result])
        check_graph(graph, [some_codes(x.type, rng)])


@pytest.mark.parametrize("zero_point", ENDS[DType.I16])
@pytest.mark.parametrize("weight_zero", [0, 5])
def test_sums_at_the_limit(zero_point: int, weight_zero: int) -> None:
    """Sums of nearly 2^31, whose parts leave i32: all codes at one end with weights of one sign, and both ends."""
    reach = max(zero_point + 32768, 32767 - zero_point, 32768)
    largest = 127 + weight_zero
    depth = (2**31 - 1) // (reach * largest)
    x = TensorType(DType.I16, (4, depth), codes(DType.I16, 2.0**-10, zero_point))
    weight = TensorType(DType.I8, (35, depth), QuantParams.per_tensor(0.5, weight_zero, DType.I8, -127, 127))
    rng = np.random.default_rng(0)
    data = rng.choice([-127, 127], weight.shape).astype(np.int8)
    data[:20] = np.where(np.arange(20) % 2, 127, -127)[:, None]
    given = rng.choice([-32768, 32767, zero_point], x.shape).astype(np.int16)
    given[0], given[1] = -32768, 32767
    for out in (DType.U8, DType.I16, DType.F32):
        graph = Graph("limit", "integer")
        operands = [graph.add_input("x", x), graph.add_const("w", data, weight)]
        real = tensor("f32", 4, 35)
        type = real if out is DType.F32 else real.quantized(out, codes(out, 2.0**5, 3))
        graph.set_outputs(graph.create("linear", operands, opdef("linear").complete_attrs({}), types=type).results)
        VerifyIntegerSafety().run(graph)
        check_graph(graph, [given], threads=(1,))


def test_one_more_product_is_refused() -> None:
    """The proof counts 16-bit codes: a sum that could leave i32 is an error."""
    depth = (2**31 - 1) // (32768 * 127)
    for extra in (0, 1):
        x = TensorType(DType.I16, (1, depth + extra), codes(DType.I16, 1.0))
        weight = TensorType(DType.I8, (1, depth + extra), codes(DType.I8, 1.0))
        graph = Graph("limit", "integer")
        operands = [graph.add_input("x", x), graph.add_const("w", np.full(weight.shape, 127, np.int8), weight)]
        out = tensor("f32", 1, 1)
        graph.set_outputs(graph.create("linear", operands, opdef("linear").complete_attrs({}), types=out).results)
        if not extra:
            VerifyIntegerSafety().run(graph)
            continue
        with pytest.raises(PassError, match="accumulator could reach"):
            VerifyIntegerSafety().run(graph)


def test_outliers_beside_bytes() -> None:
    """A product whose few wide input channels are words: their product is the residual of that of the bytes. The
    result is that of one product of words within the rounding of the bytes."""
    rng = np.random.default_rng(0)
    rows, depth, wide, outputs = 9, 64, 3, 33
    x = rng.normal(size=(rows, depth)).astype(np.float32)
    x[:, :wide] *= 60
    weights = rng.integers(-127, 127, (outputs, depth)).astype(np.int8)
    bytes_, words, unit = codes(DType.U8, 8 / 255, 128), codes(DType.I16, 300 / 32767), codes(DType.I8, 0.01)
    graph = Graph("outliers", "integer")
    left = graph.add_input("wide", tensor("f32", rows, wide))
    right = graph.add_input("rest", tensor("f32", rows, depth - wide))
    linear, out = opdef("linear").complete_attrs({}), tensor("f32", rows, outputs)
    parts = []
    for value, dtype, params, data in (
        (left, DType.I16, words, weights[:, :wide]),
        (right, DType.U8, bytes_, weights[:, wide:]),
    ):
        quantized = graph.create("quantize", [value], types=value.type.quantized(dtype, params)).result
        weight = graph.add_const(f"w.{value.name}", np.ascontiguousarray(data), TensorType(DType.I8, data.shape, unit))
        parts.append((quantized, weight))
    first = graph.create("linear", [*parts[0], None, None], linear, types=out).result
    graph.set_outputs(graph.create("linear", [*parts[1], None, first], linear, types=out).results)
    [got] = check_graph(graph, [x[:, :wide], x[:, wide:]])
    want = x.astype(np.float64) @ (weights.T * 0.01)
    error = 8 / 255 * 0.5 * np.abs(weights[:, wide:] * 0.01).sum(axis=1)
    error += 300 / 32767 * 0.5 * np.abs(weights[:, :wide] * 0.01).sum(axis=1)
    assert (np.abs(got - want) <= error + 2.0**-20 * np.abs(want)).all()
