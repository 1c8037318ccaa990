"""Levels without a dot product of bytes multiply pixels that were widened to i16: once for all readers, in pairs, and
exactly for the most extreme codes and weights."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.backends.lower import lower
from qcompiler.backends.target import parse_target
from qcompiler.dims import Dim
from qcompiler.ir import Graph
from qcompiler.types import DType, QuantParams, TensorType
from tests.backends.rules.harness import check_graph, conv_attrs

WORDS = ["x86-64+avx2", "x86-64+avx512"]


def product(
    op: str,
    x_shape: tuple[int | str, ...],
    weight: np.ndarray,
    out_shape: tuple[int | str, ...],
    attrs: dict[str, object],
    *,
    readers: int = 1,
    codes: DType = DType.U8,
) -> Graph:
    """`readers` products of one input with different weights, of which the first is `weight`."""
    graph = Graph("words", stage="integer")
    x = graph.add_input("x", TensorType(codes, x_shape, QuantParams.per_tensor(1.0, codes.min, codes)))
    found = []
    for reader in range(readers):
        scales = QuantParams.per_channel([1.0] * len(weight), 0, 0, DType.I8, -128, 127)
        data = np.roll(weight, reader, axis=1)
        w = graph.add_const(f"w{reader}", data, TensorType(DType.I8, weight.shape, scales))
        out = QuantParams.per_tensor(float(np.prod(weight.shape[1:])) * 130, 128, DType.U8)
        found += graph.create(op, [x, w, None], attrs, types=TensorType(DType.U8, out_shape, out)).results
    graph.set_outputs(found)
    return graph


def kernels(graph: Graph, level: str, sizes: dict[str, int] | None = None) -> list[str]:
    return [step.kernel for step in lower(graph, parse_target(level, exact=True), sizes or {}).steps]


@pytest.mark.parametrize("x_code", [0, 255])
@pytest.mark.parametrize("weight", [-128, -127, 127])
@pytest.mark.parametrize("rows", [1, 3, 5, 16])
def test_extremes_of_long_rows(rows: int, weight: int, x_code: int) -> None:
    depth = 4612
    graph = product("linear", (rows, depth), np.full((17, depth), weight, np.int8), (rows, 17), {})
    check_graph(graph, [np.full((rows, depth), x_code, np.uint8)])


@pytest.mark.parametrize("weight", [-128, 127])
@pytest.mark.parametrize("groups,channels", [(1, 5), (2, 8), (3, 12)])
def test_extremes_of_windows(groups: int, channels: int, weight: int) -> None:
    attrs = conv_attrs(2, padding=1, groups=groups)
    outputs = 6 * groups
    filters = np.full((outputs, channels // groups, 3, 3), weight, np.int8)
    graph = product("conv", (2, channels, 7, 9), filters, (2, outputs, 7, 9), attrs)
    check_graph(graph, [np.full((2, channels, 7, 9), 255, np.uint8)])
    check_graph(graph, [np.random.default_rng(1).integers(0, 256, (2, channels, 7, 9)).astype(np.uint8)])


@pytest.mark.parametrize("code", [-32768, 32767])
def test_extremes_of_16_bit_codes(code: int) -> None:
    graph = product("linear", (3, 70), np.full((9, 70), -128, np.int8), (3, 9), {}, codes=DType.I16)
    check_graph(graph, [np.full((3, 70), code, np.int16)])


@pytest.mark.parametrize("level", WORDS)
def test_all_readers_share_one_widened_copy(level: str) -> None:
    graph = product("linear", (7, 8), np.full((8, 8), 127, np.int8), (7, 8), {}, readers=3)
    found = kernels(graph, level)
    assert found.count("widen_bytes") == 1 and sum("conv_u8" in kernel for kernel in found) == 3


@pytest.mark.parametrize("level", WORDS)
def test_nothing_is_widened_for_pairs_that_fit_i16(level: str) -> None:
    graph = product("linear", (3, 64), np.full((9, 64), 64, np.int8), (3, 9), {})
    found = kernels(graph, level)
    assert "widen_bytes" not in found and any("pairs1" in kernel for kernel in found)


@pytest.mark.parametrize("level", WORDS)
@pytest.mark.parametrize("rows,is_narrow", [(1, True), (4, True), (5, False), ("B", False)])
def test_few_rows_stream_weights_of_one_byte(level: str, rows: int | str, is_narrow: bool) -> None:
    """A symbolic size does not, because all bindings share the packed weights."""
    size = Dim.name(rows) if isinstance(rows, str) else rows
    graph = product("linear", (size, 64), np.full((9, 64), 127, np.int8), (size, 9), {})
    found = kernels(graph, level, {"B": 1} if isinstance(rows, str) else {})
    assert any("narrow1" in kernel for kernel in found) == is_narrow


def test_levels_with_a_dot_product_of_bytes_widen_nothing() -> None:
    graph = product("linear", (5, 64), np.full((9, 64), 127, np.int8), (5, 9), {})
    for level in ("x86-64+avx512vnni", "x86-64+avxvnni", "aarch64+dotprod", "aarch64+neon"):
        assert "widen_bytes" not in kernels(graph, level)
