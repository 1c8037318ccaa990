"""Convolutions by Winograd have the bits of the direct sum, and are taken only where the weights prove it.

The cases are the most extreme codes and weights, sizes around the patch and the tile, and every element type of
residual and result. `kernels.test_interpreted` runs the kernels of all levels.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from qcompiler.backends.lower import lower
from qcompiler.backends.rules import winograd
from qcompiler.backends.target import parse_target
from qcompiler.dims import Dim, DimLike
from qcompiler.ir import Graph
from qcompiler.types import DType, QuantParams, TensorType
from tests.backends.rules.harness import check_graph, conv_attrs

WORDS = ["x86-64+avx2", "x86-64+avx512"]
Size = tuple[DimLike, int, int]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take Winograd also where the direct sum is estimated to be faster."""
    monkeypatch.setattr(winograd, "_GAIN", math.inf)


def network(
    weight: np.ndarray,
    size: Size,
    *,
    padding: int = 1,
    zero_point: int = 0,
    weight_zero: int = 0,
    out: DType = DType.U8,
    residual: DType | None = None,
    bias: int | None = None,
    activation: str = "none",
) -> Graph:
    """One convolution. size: images, height and width of x."""
    outputs, channels = weight.shape[:2]
    images, height, width = size
    graph = Graph("winograd", stage="integer")
    x_quant = QuantParams.per_tensor(0.5, zero_point, DType.U8)
    x = graph.add_input("x", TensorType(DType.U8, (images, channels, height, width), x_quant))
    dtype = DType.U8 if weight.dtype == np.uint8 else DType.I8
    quant = QuantParams.per_channel([0.25] * outputs, weight_zero, 0, dtype, dtype.min, dtype.max)
    w = graph.add_const("w", weight, TensorType(dtype, weight.shape, quant))
    y_shape = (images, outputs, height + 2 * padding - 2, width + 2 * padding - 2)
    scale = channels * 9 * 128 * 0.125
    codes = {DType.U8: (scale, 128), DType.I16: (scale / 250, -5)}
    operands = [x, w, None, None]
    if bias is not None:
        bias_quant = QuantParams.per_channel([0.125] * outputs, 0, 0, DType.I32)
        operands[2] = graph.add_const(
            "b", np.full(outputs, bias, np.int32), TensorType(DType.I32, (outputs,), bias_quant)
        )
    if residual is not None:
        added = None if residual is DType.F32 else QuantParams.per_tensor(*codes[residual], residual)
        operands[3] = graph.add_input("r", TensorType(residual, y_shape, added))
    y_quant = None if out is DType.F32 else QuantParams.per_tensor(*codes[out], out)
    attrs = conv_attrs(2, padding=padding, groups=1, activation=activation)
    if residual is None:
        operands = operands[:3]
    graph.set_outputs(graph.create("conv", operands, attrs, types=TensorType(out, y_shape, y_quant)).results)
    return graph


def given(graph: Graph, code: int | None = None, seed: int = 0) -> list[np.ndarray]:
    """Arrays for the inputs: all of one code, or random ones."""
    rng, found = np.random.default_rng(seed), []
    for value in graph.inputs:
        type = value.type
        if type.dtype is DType.F32:
            found.append(rng.normal(0, 100, type.sizes).astype(np.float32))
        elif code is None or type.dtype is not DType.U8:
            info = np.iinfo(type.dtype.numpy)
            found.append(rng.integers(info.min, info.max + 1, type.sizes).astype(type.dtype.numpy))
        else:
            found.append(np.full(type.sizes, code, np.uint8))
    return found


def kernels(graph: Graph, level: str, sizes: dict[str, int] | None = None) -> list[str]:
    return [step.kernel for step in lower(graph, parse_target(level, exact=True), sizes or {}).steps]


def is_winograd(graph: Graph, level: str = "x86-64+avx2", sizes: dict[str, int] | None = None) -> bool:
    return any(kernel.startswith("winograd_u8") for kernel in kernels(graph, level, sizes))


def random_weights(outputs: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (outputs, channels, 3, 3)).astype(np.int8)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("weight", [-128, -127, 127])
@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("channels", [32, 1760])
def test_extremes(channels: int, code: int, weight: int) -> None:
    """1760 channels are nearly the most whose sums of |weight| = 128 provably fit."""
    graph = network(np.full((3, channels, 3, 3), weight, np.int8), (1, 3, 4), padding=0)
    assert is_winograd(graph)
    check_graph(graph, given(graph, code))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("pattern", ["alternating", "checkered", "spike"])
def test_the_largest_transformed_values(pattern: str) -> None:
    """Signs that make B^T d B and G g G^T as large as they can be."""
    signs = np.array([[1, -1, 1], [-1, 1, -1], [1, -1, 1]])
    weight = np.where(np.broadcast_to(signs, (4, 32, 3, 3)) > 0, 127, -128).astype(np.int8)
    graph = network(weight, (1, 6, 5), zero_point=255)
    rows, columns = np.indices((6, 5))
    chosen = {
        "alternating": rows % 4 < 2,
        "checkered": (rows + columns) % 2 == 0,
        "spike": (rows == 2) & (columns == 3),
    }
    check_graph(graph, [np.where(np.broadcast_to(chosen[pattern], (1, 32, 6, 5)), 255, 0).astype(np.uint8)])
    assert is_winograd(graph)


@pytest.mark.sampled(2)
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [(1, 3, 3), (1, 4, 3), (2, 5, 7), (1, 8, 9), (3, 6, 6), (1, 14, 11)])
@pytest.mark.parametrize("outputs", [1, 16, 35])
def test_sizes(outputs: int, size: Size, padding: int) -> None:
    graph = network(random_weights(outputs, 32, padding), size, padding=padding, zero_point=7)
    assert is_winograd(graph)
    check_graph(graph, given(graph, seed=outputs))


@pytest.mark.sampled(3)
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize(
    "residual,out",
    [
        (None, DType.U8),
        (DType.U8, DType.U8),
        (DType.I16, DType.U8),
        (None, DType.I16),
        (DType.U8, DType.I16),
        (None, DType.F32),
        (DType.I16, DType.F32),
        (DType.F32, DType.F32),
    ],
)
@pytest.mark.parametrize("outputs", [16, 21])
def test_residuals_and_results(outputs: int, residual: DType | None, out: DType, activation: str) -> None:
    options = {"zero_point": 3, "out": out, "residual": residual, "bias": -1234567, "activation": activation}
    graph = network(random_weights(outputs, 32), (2, 5, 6), **options)  # type: ignore[arg-type]
    assert is_winograd(graph)
    check_graph(graph, given(graph))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("zero", [0, 128, 255])
def test_weights_of_nine_bits(zero: int) -> None:
    weight = np.random.default_rng(1).choice([0, 255], (5, 32, 3, 3)).astype(np.uint8)
    graph = network(weight, (1, 5, 4), zero_point=9, weight_zero=zero)
    assert is_winograd(graph)
    check_graph(graph, given(graph, 255))
    check_graph(graph, given(graph))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("channels,fits", [(1824, True), (1840, False)])
def test_a_sum_that_may_not_fit_four_times_is_computed_directly(channels: int, fits: bool) -> None:
    """4 * 255 * 9 * 128 * channels < 2^31 up to 1827 channels."""
    graph = network(np.full((2, channels, 3, 3), -128, np.int8), (1, 3, 3), padding=0)
    assert is_winograd(graph) == fits
    check_graph(graph, given(graph, 255))


@pytest.mark.usefixtures("always")
def test_what_it_does_not_serve() -> None:
    weight = random_weights(8, 32)
    served = network(weight, (1, 6, 6))
    assert all(is_winograd(served, level) for level in WORDS)
    for level in ("x86-64+avx512vnni", "x86-64+avxvnni", "aarch64+neon", "aarch64+dotprod"):
        assert not is_winograd(served, level)
    assert not is_winograd(network(random_weights(8, 24), (1, 6, 6))), "channels that do not fill registers"
    small = np.full((8, 32, 3, 3), 64, np.int8)
    assert not is_winograd(network(small, (1, 6, 6))), "pairs that fit i16 are faster"


@pytest.mark.parametrize("size", [(1, 56, 56), (1, 14, 14), (8, 28, 28)])
def test_it_is_taken_for_large_images(size: Size) -> None:
    assert is_winograd(network(random_weights(64, 64), size))


@pytest.mark.parametrize("size", [(1, 3, 3), (1, 3, 56)])
def test_the_direct_sum_is_taken_where_patches_are_mostly_empty(size: Size) -> None:
    assert not is_winograd(network(random_weights(64, 64), size, padding=0))


@pytest.mark.usefixtures("always")
def test_a_symbolic_number_of_images() -> None:
    graph = network(random_weights(6, 32), (Dim.name("B"), 6, 5))
    assert is_winograd(graph, sizes={"B": 1}) and is_winograd(graph, sizes={"B": 3})
    spatial = network(random_weights(64, 64), (1, Dim.name("H"), 56))  # type: ignore[arg-type]
    assert not is_winograd(spatial, sizes={"H": 56})


def test_transformed_weights_equal_the_formula() -> None:
    weight = np.random.default_rng(2).integers(-255, 256, (3, 4, 3, 3)).astype(np.int16)
    g = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.int64)
    expected = np.einsum("ia,ocab,jb->oijc", g, weight.astype(np.int64), g).reshape(3, -1)
    np.testing.assert_array_equal(winograd.transformed_weights(weight), expected)
