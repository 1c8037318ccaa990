"""Codes of quantized ONNX tensors: their element types, and what they are as plain integers and as real numbers.

A tensor of codes is `Codes`, a traced value of quantized type, as long as one quantization says what it stands for.
Ops that move elements keep it; any other op reads the plain integers, which are computed exactly from the real ones.
The IR has no u16 and no four-bit activations: u16 codes are held as i16, less 32768, and four-bit codes as u8 or i8
with a narrow [qmin, qmax], which stand for the same real numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, unary
from qcompiler.frontend.proxy import Proxy
from qcompiler.frontend.recorder import Traced
from qcompiler.types import DType, QuantParams


@dataclass(frozen=True)
class CodeType:
    """An ONNX element type of codes.

    Attributes:
        name: numpy's (and ml_dtypes') name of it.
        number: its number in TensorProto.DataType.
        dtype: the element type in the IR.
        shift: code in the IR = code in the file - shift.
        low, high: the least and the largest code in the file.
    """

    name: str
    number: int
    dtype: DType
    shift: int
    low: int
    high: int

    @property
    def is_own(self) -> bool:
        """Whether the IR has this element type, so that its codes can be read as integers."""
        return (self.dtype.min, self.dtype.max) == (self.low, self.high)

    def params(self, scale: np.ndarray, zero_point: np.ndarray, axis: int | None) -> QuantParams:
        """The IR's parameters, from those of the file: arrays of rank 1, of one element where axis is None."""
        scales = tuple(float(s) for s in np.asarray(scale, np.float32))
        points = tuple(int(z) - self.shift for z in zero_point)
        return QuantParams(scales, points, axis, self.low - self.shift, self.high - self.shift)

    def held(self, data: np.ndarray) -> np.ndarray:
        """Codes of the file as the IR holds them."""
        return (data.astype(np.int32) - self.shift).astype(self.dtype.numpy)

    def filed(self, data: np.ndarray) -> np.ndarray:
        """Codes of the IR as the file has them."""
        import ml_dtypes  # onnx depends on it

        dtype = getattr(ml_dtypes, self.name) if self.high < 16 else np.dtype(self.name)
        return (data.astype(np.int32) + self.shift).astype(dtype)


UINT8 = CodeType("uint8", 2, DType.U8, 0, 0, 255)
INT8 = CodeType("int8", 3, DType.I8, 0, -128, 127)
UINT16 = CodeType("uint16", 4, DType.I16, 2**15, 0, 2**16 - 1)
INT16 = CodeType("int16", 5, DType.I16, 0, -(2**15), 2**15 - 1)
INT32 = CodeType("int32", 6, DType.I32, 0, -(2**31), 2**31 - 1)
UINT4 = CodeType("uint4", 21, DType.U8, 0, 0, 15)
INT4 = CodeType("int4", 22, DType.I8, 0, -8, 7)
CODE_TYPES = (UINT8, INT8, UINT16, INT16, INT32, UINT4, INT4)


def code_type(name: str) -> CodeType | None:
    """The type of codes with this numpy name."""
    return next((found for found in CODE_TYPES if found.name == name), None)


class Codes(Proxy):
    """A traced value of quantized type, with the element type that its codes have in the file."""

    __slots__ = ("element",)

    def __init__(self, traced: Traced, element: CodeType) -> None:
        super().__init__(traced.trace, traced.value)
        self.element = element


class Sums(Proxy):
    """Sums of products of integers, which are i32 in the file. The traced value holds what they round to in f32, which
    is all that a cast to float reads.

    Attributes:
        integers: records the exact i32 numbers.
    """

    __slots__ = ("integers",)

    def __init__(self, traced: Traced, integers: Callable[[], Any]) -> None:
        super().__init__(traced.trace, traced.value)
        self.integers = integers

    def real(self) -> Proxy:
        return Proxy(self.trace, self.value)


def element_of(value: Any) -> CodeType | None:
    """The type of codes that a value of the import has, or could be read as; None for anything else."""
    if isinstance(value, Codes):
        return value.element
    if isinstance(value, np.ndarray):
        return code_type(value.dtype.name)
    dtype = value.value.type.dtype
    return next((found for found in CODE_TYPES if found.dtype is dtype and found.is_own), None)


def as_codes(value: Any) -> Any:
    """A value of the import, as `Codes` if it is of quantized type: an input is, once DequantizeLinear has read it."""
    if isinstance(value, Codes) or not isinstance(value, Traced) or not value.value.type.is_quantized:
        return value
    element = element_of(value)
    return value if element is None else Codes(value, element)


def real(value: Traced) -> Any:
    """The real numbers that codes stand for."""
    return value.trace.emit("dequantize", (value,))


def held_as_reals(codes: Codes) -> Any:
    """The codes, as the IR holds them, as f32 integers. Exact: k * scale / scale is off by less than k * 2^-22 from k,
    and k has at most 17 bits."""
    type = codes.value.type
    scale, zero_point = type.params.along(type.rank)
    k = unary("round", binary("div", real(codes), scale))
    return k if not zero_point.any() else binary("add", k, zero_point.astype(np.float32))


def as_integers(codes: Codes) -> Any:
    """The codes as plain integers.

    Raises:
        TraceError: the IR has no such integers.
    """
    if not codes.element.is_own:
        raise TraceError(
            f"{codes.element.name} codes are read as integers",
            expected="DequantizeLinear, or ops that move elements",
            hint="quantize to int8, uint8 or int16",
        )
    return ops.cast(held_as_reals(codes), codes.element.dtype)


def as_reals(integers: Any, element: CodeType, quant: QuantParams) -> Any:
    """What plain integers of the file stand for under parameters of the IR: f32(q - zero_point) * scale."""
    scale, zero_point = quant.along(ops.rank(integers))
    return _scaled(ops.cast(integers, DType.F32), scale, zero_point + element.shift)


def reinterpreted(codes: Codes, quant: QuantParams) -> Any:
    """What codes stand for under other parameters of the IR than their own."""
    scale, zero_point = quant.along(codes.value.type.rank)
    return _scaled(held_as_reals(codes), scale, zero_point)


def _scaled(codes: Any, scale: np.ndarray, zero_point: np.ndarray) -> Any:
    centered = codes if not np.any(zero_point) else binary("sub", codes, zero_point.astype(np.float32))
    return binary("mul", centered, scale)
