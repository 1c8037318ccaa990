"""Types: what they refuse, what follows from them, and that they are values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qcompiler.dims import Dim
from qcompiler.errors import QCompilerError, QuantizationError, ShapeError
from qcompiler.text.parser import parse_type
from qcompiler.types import DType, Layout, QuantParams, TensorType, float32, tensor, type_of

U8 = QuantParams.per_tensor(0.1, 128, DType.U8)
B = Dim.name("B")


@pytest.mark.parametrize("dtype", list(DType), ids=str)
def test_dtypes(dtype: DType) -> None:
    assert dtype.is_float + dtype.is_integer + (dtype is DType.BOOL) == 1
    assert DType(str(dtype)) is dtype
    if dtype not in (DType.I4, DType.U4):
        assert DType.from_numpy(dtype.numpy) is dtype and dtype.bits == 8 * dtype.numpy.itemsize
    if not dtype.is_integer:
        with pytest.raises(ShapeError, match="no integer range"):
            _ = dtype.max
    else:
        assert dtype.max - dtype.min == 2**dtype.bits - 1 and (dtype.min == 0) == str(dtype).startswith("u")
        if dtype.bits >= 8:
            assert (dtype.min, dtype.max) == (np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max)


def test_element_types_without_a_dtype() -> None:
    for numpy_type in (np.complex64, np.uint16, object, "U3"):
        with pytest.raises(ShapeError, match="not supported"):
            DType.from_numpy(np.dtype(numpy_type))


# -- quantization parameters


def test_scales_are_float32_exact() -> None:
    assert U8.scale == (float32(0.1),) != (0.1,)
    params = QuantParams.per_channel([0.1, 0.2], 0, 1, DType.I8, -127, 127)
    assert params.scale == (float32(0.1), float32(0.2)) and params.zero_point == (0, 0)
    assert params.scales.dtype == np.float32 and params.zero_points.dtype == np.int32
    assert (params.qmin, params.qmax) == (-127, 127) and params.is_per_channel and not U8.is_per_channel
    for array in (params.scales, params.zero_points):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_along_broadcasts_against_the_tensor() -> None:
    params = QuantParams.per_channel([0.5, 2.0], (1, 2), 1, DType.U8)
    scales, points = params.along(4)
    assert scales.shape == points.shape == (1, 2, 1, 1) and points.ravel().tolist() == [1, 2]
    assert [array.shape for array in U8.along(3)] == [(), ()]
    assert params.moved(0).axis == 0 and params.moved(0).scale == params.scale


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: QuantParams((0.5,), (1, 2), None, 0, 255), "differ in length"),
        (lambda: QuantParams((), (), 0, 0, 255), "differ in length"),
        (lambda: QuantParams((0.5, 0.5), (0, 0), None, 0, 255), "one scale"),
        (lambda: QuantParams.per_tensor(0.0, 0, DType.U8), "scale out of range"),
        (lambda: QuantParams.per_tensor(-1.0, 0, DType.U8), "scale out of range"),
        (lambda: QuantParams.per_tensor(float("nan"), 0, DType.U8), "scale out of range"),
        (lambda: QuantParams.per_tensor(2.0**61, 0, DType.U8), "scale out of range"),
        (lambda: QuantParams.per_tensor(2.0**-61, 0, DType.U8), "scale out of range"),
        (lambda: QuantParams.per_tensor(0.5, 256, DType.U8), "zero_point outside"),
        (lambda: QuantParams.per_tensor(0.5, -1, DType.U8), "zero_point outside"),
        (lambda: QuantParams.per_channel([0.5, 0.5], (0, 300), 0, DType.U8), "zero_point outside"),
        (lambda: QuantParams.per_tensor(0.5, 3, DType.U8, 3, 3), "empty quantized range"),
    ],
)
def test_parameters_that_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        make()


def test_the_limits_of_scales_themselves() -> None:
    for scale in (2.0**-60, 2.0**60):
        assert QuantParams.per_tensor(scale, 0, DType.I8).scale == (scale,)


# -- tensor types


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: tensor("f32", *[1] * 9), "too many axes"),
        (lambda: tensor("f32", 2, -1), "negative size"),
        (lambda: tensor("i8", 2**16, 2**15), "too large"),
        (lambda: tensor("i8", 0, 2**31), "too large"),
        (lambda: tensor("i8", 2**16, Dim.name("B"), 0, 2**15), "too large"),
        (lambda: tensor("f32", 4).quantized(DType.F32, U8), "cannot carry"),
        (lambda: tensor("f32", 4).quantized(DType.I8, U8), "exceeds the dtype"),
        (lambda: TensorType(DType.U8, (4,), QuantParams.per_channel([0.5], 0, 1, DType.U8)), "axis outside"),
        (lambda: TensorType(DType.U8, (4,), QuantParams.per_channel([0.5] * 3, 0, 0, DType.U8)), "one scale per"),
    ],
)
def test_types_that_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(QCompilerError, match=message):
        make()


def test_the_largest_tensor_is_allowed() -> None:
    assert tensor("u8", 2**31 - 1).elements == 2**31 - 1


def test_static_and_symbolic_shapes() -> None:
    symbolic, static = tensor("f32", "B", 64), tensor("f32", 3, 64)
    assert not symbolic.is_static and symbolic.dim_names == {"B"} and symbolic.elements == 64 * B
    assert static.is_static and static.sizes == (3, 64) and static.elements == 192 and static.nbytes == 768
    assert symbolic.bind({"B": 3}) == static and static.bind({}) is static
    assert symbolic.substitute({"B": 2 * B}).shape == (2 * B, 64)
    assert symbolic.nbytes == 256 * B and tensor("u4", 3).nbytes == 3
    with pytest.raises(ShapeError, match="symbolic"):
        _ = symbolic.sizes
    with pytest.raises(KeyError):
        symbolic.bind({})


def test_quantized_types_stand_for_reals() -> None:
    real = tensor("f32", 2, 3)
    quantized = real.quantized(DType.U8, U8)
    assert quantized.is_quantized and quantized.expressed() == real and quantized.params is U8
    assert tensor("i32", 2).expressed() == tensor("i32", 2)
    assert quantized.with_layout(Layout("channels_last", 4)).expressed() == real
    with pytest.raises(QuantizationError, match="no quantization parameters"):
        _ = real.params


def test_types_are_values() -> None:
    assert tensor("f32", "B") == tensor(DType.F32, Dim.name("B")) and hash(tensor("f32", 2)) == hash(tensor("f32", 2))
    assert tensor("f32", 2) != tensor("f32", 2).with_layout(Layout()) and tensor("f32", 2) != tensor("i32", 2)
    assert TensorType(DType.F32, [2, 3]).shape == (2, 3)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        tensor("f32", 2).shape = (3,)  # type: ignore[misc]


def test_types_of_arrays_and_text() -> None:
    assert type_of(np.zeros((2, 0), np.int16)) == tensor("i16", 2, 0)
    for type in (
        tensor("f32"),
        tensor("bool", "B", 2),
        tensor("f32", 3, 4).quantized(DType.U8, U8),
        TensorType(DType.F32, (1, 3, 4, 4), None, Layout("channels_last", 4, ((1, 1), (0, 2)))),
    ):
        assert parse_type(str(type)) == type


def test_with_shape_keeps_the_parameters() -> None:
    channels = TensorType(DType.I8, (2, 3), QuantParams.per_channel([0.5, 0.25], 0, 0, DType.I8))
    assert channels.with_shape((2, 6)).quant == channels.quant
    with pytest.raises(QuantizationError, match="one scale per channel"):
        channels.with_shape((6,))
