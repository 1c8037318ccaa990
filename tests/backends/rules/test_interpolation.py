"""Functions of 16-bit codes by knots: the same bits on every level, and the promised error against float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from qcompiler.errors import VerifyError
from qcompiler.ir import Graph
from qcompiler.passes.integerize import Integerize
from qcompiler.quantization.qconfig import get_qconfig
from qcompiler.quantization.tables import INTERVALS, build_knots, interpolate
from qcompiler.types import DType, TensorType, tensor
from qcompiler.verify import verify
from tests.backends.rules.harness import check_graph
from tests.backends.rules.test_words import CODES, SIZES, codes, some_codes

EVERY = np.arange(-32768, 32768).astype(np.int16)


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([value * 0.5 * math.erfc(-value / math.sqrt(2)) for value in x.ravel()]).reshape(x.shape)


FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, dict[DType, float]]] = {
    "gelu": (gelu, 8 / 32768, {DType.U8: 8 / 120, DType.I16: 9 / 32767}),
    "tanh": (np.tanh, 6 / 32768, {DType.U8: 1 / 120, DType.I16: 1 / 32767}),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 10 / 32768, {DType.U8: 1 / 120, DType.I16: 1 / 32767}),
    "negated": (lambda x: -x, 1 / 32768, {DType.U8: 1 / 120, DType.I16: 1 / 32768}),
}
"""Functions, the scale of their operand, and of their results."""


def lookup(knots: np.ndarray, x: TensorType, out: TensorType) -> Graph:
    graph = Graph("knots", "integer")
    node = graph.create("lookup", [graph.add_input("x", x), graph.add_const("knots", knots)], types=out)
    graph.set_outputs(node.results)
    return graph


@pytest.mark.parametrize("to", CODES)
@pytest.mark.parametrize("zero_point", [-5000, 0, 700])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_code(name: str, zero_point: int, to: DType) -> None:
    """The error is that which `build_knots` gives: at most 0.75 of a code, or with the most knots one."""
    function, scale, scales = FUNCTIONS[name]
    x = TensorType(DType.I16, EVERY.shape, codes(DType.I16, scale, zero_point))
    out = TensorType(to, EVERY.shape, codes(to, scales[to], 130 if to is DType.U8 else -3))
    knots, error = build_knots(function, x, out)
    [got] = check_graph(lookup(knots, x, out), [EVERY], threads=(3,))
    real = function((EVERY.astype(np.float64) - zero_point) * np.float64(x.params.scale[0]))
    exact = np.clip(real / np.float64(out.params.scale[0]) + out.params.zero_point[0], out.params.qmin, out.params.qmax)
    assert np.abs(got - exact).max() == error <= (0.75 if len(knots) < 1025 else 1.0)
    assert len(knots) - 1 in INTERVALS


def test_a_table_has_more_knots_if_its_error_is_above_the_limit() -> None:
    """With these scales 256 intervals leave an error of 0.75003 codes of the result, just above the limit of 0.75."""
    scale, places = 2.0**-12, np.linspace(-32768, 32768, 257)
    x, out = (TensorType(DType.I16, EVERY.shape, codes(DType.I16, each)) for each in (scale, 1 / 660))
    exact = np.tanh(EVERY * scale) / np.float64(out.params.scale[0])
    few = np.rint(np.tanh(places * scale) / np.float64(out.params.scale[0]) * 16).astype(np.int32)
    assert 0.75 < np.abs(interpolate(EVERY, few, out) - exact).max() < 0.7501
    knots, error = build_knots(np.tanh, x, out)
    assert len(knots) == 513 and error < 0.75


@pytest.mark.parametrize("intervals", INTERVALS)
def test_the_derived_bound(intervals: int) -> None:
    """The error of a parabola, whose second derivative is known, for each number of knots."""
    distance, bend = 65536 // intervals, 2.0**-16  # y = bend * q * q / 2 in codes; y'' = bend
    places = np.arange(intervals + 1) * distance - 32768.0
    knots = np.rint(bend / 2 * places**2 * 16).astype(np.int32)
    out = TensorType(DType.I16, EVERY.shape, codes(DType.I16, 1.0))
    error = np.abs(interpolate(EVERY, knots, out) - bend / 2 * EVERY.astype(np.float64) ** 2).max()
    bound = 0.5 + 1 / 32 + bend * distance**2 / 8
    assert bound - 0.15 < error <= bound


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: int) -> None:
    rng = np.random.default_rng(size)
    for to, intervals in zip(CODES * 2, (256, 512, 1024, 256)):
        x = TensorType(DType.I16, (3, size), codes(DType.I16, 0.001, 9))
        out = TensorType(to, (3, size), codes(to, 0.1, 100))
        knots = rng.integers(-(2**20), 2**20, intervals + 1).astype(np.int32)
        check_graph(lookup(knots, x, out), [some_codes(x, rng)])


def test_knots_of_any_size_wrap_alike() -> None:
    """A file may hold any knots: sums beyond i32 wrap, on every level as in the reference."""
    rng = np.random.default_rng(0)
    knots = rng.integers(-(2**31), 2**31, 257).astype(np.int32)
    knots[:4] = [-(2**31), 2**31 - 1, -(2**31), 0]
    x = TensorType(DType.I16, EVERY.shape, codes(DType.I16, 1.0))
    for to in CODES:
        with np.errstate(over="ignore"):
            check_graph(lookup(knots, x, TensorType(to, EVERY.shape, codes(to, 1.0))), [EVERY], threads=(1,))


def test_no_other_tables() -> None:
    words = TensorType(DType.I16, (8,), codes(DType.I16, 1.0))
    for table in (np.zeros(256, np.int32), np.zeros(257, np.int16)):
        with pytest.raises(VerifyError, match="lookup by i16 reads plain knots"):
            verify(lookup(table, words, words))
    bytes_ = TensorType(DType.U8, (8,), codes(DType.U8, 1.0))
    with pytest.raises(VerifyError, match="lookup reads 8 bits"):
        verify(lookup(np.zeros(257, np.uint8), bytes_, bytes_))


CONFIGS = {op: get_qconfig("int8") for op in ("silu", "exp")}
"""The qconfigs of the nodes of `qdq`."""


def qdq(op: str, scale: float, to: TensorType) -> Graph:
    """A function between a dequantize of words and a quantize."""
    graph, shape = Graph("function", "qdq"), to.shape
    x = graph.add_input("x", TensorType(DType.I16, shape, codes(DType.I16, scale)))
    real = graph.create("dequantize", [x], types=tensor("f32", *shape)).result
    value = graph.create(op, [real], types=real.type).result
    graph.set_outputs(graph.create("quantize", [value], types=to).results)
    return graph


@pytest.mark.parametrize("to", CODES)
def test_integerize_makes_them(to: DType) -> None:
    out = TensorType(to, (2, 40), codes(to, 0.05 if to is DType.U8 else 0.0004, 3))
    graph = Integerize(CONFIGS).run(qdq("silu", 8 / 32768, out))
    assert [node.op for node in graph.nodes] == ["lookup"]
    given = some_codes(graph.inputs[0].type, np.random.default_rng(0))
    [got] = check_graph(graph, [given])
    real = given * np.float64(graph.inputs[0].type.params.scale[0])
    exact = real / (1 + np.exp(-real)) / np.float64(out.params.scale[0]) + 3
    assert np.abs(got - np.clip(exact, out.params.qmin, out.params.qmax)).max() <= 0.75


def test_functions_that_bend_too_much_stay_float() -> None:
    """exp over 16 octaves: between 1025 knots it bends by more than a code."""
    out = TensorType(DType.I16, (2, 40), codes(DType.I16, 2.0**-4))
    graph = Integerize(CONFIGS).run(qdq("exp", 2.0**-7, out))
    assert [node.op for node in graph.nodes] == ["dequantize", "exp", "quantize"]


def test_imported_graphs_are_not_interpolated() -> None:
    """Their functions have the codes that float arithmetic gives."""
    out = TensorType(DType.I16, (2, 40), codes(DType.I16, 0.0004, 3))
    graph = Integerize().run(qdq("silu", 8 / 32768, out))
    assert [node.op for node in graph.nodes] == ["dequantize", "silu", "quantize"]
