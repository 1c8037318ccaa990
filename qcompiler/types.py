"""Types of the graph IR: element types, quantization parameters, layouts and tensor types.

All are frozen values. Quantization parameters live in the type, so propagating them is type inference. Does not own
how parameters are chosen (`quantization/observers.py`) nor any rounding (`quantization/qmath.py`).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qcompiler.arguments import check_type, described
from qcompiler.dims import Dim, DimLike, evaluate, substitute
from qcompiler.errors import QuantizationError, ShapeError
from qcompiler.fork_safety import cached_property
from qcompiler.traced_size import whole

MAX_RANK = 8
MAX_ELEMENTS = 2**31 - 1
MAX_BYTES = 2**40
MIN_SCALE = 2.0**-60
MAX_SCALE = 2.0**60


class DType(enum.Enum):
    """Element types. The value is the spelling in text."""

    F32 = "f32"
    F16 = "f16"
    F64 = "f64"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    I4 = "i4"
    U4 = "u4"
    BOOL = "bool"

    @property
    def is_float(self) -> bool:
        return self in (DType.F32, DType.F16, DType.F64)

    @property
    def is_integer(self) -> bool:
        return not self.is_float and self is not DType.BOOL

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy type of one element; 4-bit types are held one to a byte."""
        return _NUMPY[self]

    @property
    def bits(self) -> int:
        return _BITS[self]

    @property
    def min(self) -> int:
        if not self.is_integer:
            raise ShapeError(f"{self} has no integer range")
        return 0 if self in (DType.U8, DType.U4) else -(1 << (self.bits - 1))

    @property
    def max(self) -> int:
        if not self.is_integer:
            raise ShapeError(f"{self} has no integer range")
        return (1 << self.bits) - 1 if self in (DType.U8, DType.U4) else (1 << (self.bits - 1)) - 1

    @staticmethod
    def from_numpy(dtype: np.dtype[Any] | type) -> DType:
        """The DType of a numpy element type; ShapeError where there is none."""
        found = _FROM_NUMPY.get(np.dtype(dtype))
        if found is None:
            raise ShapeError(f"element type {np.dtype(dtype)} is not supported", expected=", ".join(map(str, DType)))
        return found

    def __str__(self) -> str:
        return self.value

    def __repr__(self) -> str:
        return f"DType.{self.name}"


_NUMPY: dict[DType, np.dtype[Any]] = {
    DType.F32: np.dtype(np.float32),
    DType.F16: np.dtype(np.float16),
    DType.F64: np.dtype(np.float64),
    DType.I64: np.dtype(np.int64),
    DType.I32: np.dtype(np.int32),
    DType.I16: np.dtype(np.int16),
    DType.I8: np.dtype(np.int8),
    DType.U8: np.dtype(np.uint8),
    DType.I4: np.dtype(np.int8),
    DType.U4: np.dtype(np.uint8),
    DType.BOOL: np.dtype(np.bool_),
}
_FROM_NUMPY = {v: k for k, v in _NUMPY.items() if k not in (DType.I4, DType.U4)}
_BITS = {
    DType.F32: 32,
    DType.F16: 16,
    DType.F64: 64,
    DType.I64: 64,
    DType.I32: 32,
    DType.I16: 16,
    DType.I8: 8,
    DType.U8: 8,
    DType.I4: 4,
    DType.U4: 4,
    DType.BOOL: 8,
}


def float32(value: float) -> float:
    """`value` rounded once to float32, as a Python float."""
    return float(np.float32(value))


@dataclass(frozen=True)
class QuantParams:
    """real = scale * (q - zero_point), with q in [qmin, qmax].

    Attributes:
        scale: float32-exact floats; one, or one per channel when `axis` is given.
        zero_point: ints, as many as scales.
        axis: the channel axis (per_channel), or None (per_tensor).
        qmin, qmax: the legal quantized range.

    Raises:
        QuantizationError: a scale outside [2^-60, 2^60] or not finite, a zero point outside the range (i32
            parameters of biases and accumulators excepted), lengths that differ.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None
    qmin: int
    qmax: int

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.zero_point) or not self.scale:
            raise QuantizationError(
                "scale and zero_point differ in length", expected=len(self.scale), got=len(self.zero_point)
            )
        if self.axis is None and len(self.scale) != 1:
            raise QuantizationError("per-tensor parameters have one scale", got=f"{len(self.scale)} scales")
        given = np.array(self.scale, np.float64)
        if not ((given >= MIN_SCALE) & (given <= MAX_SCALE)).all():
            wrong = next(scale for scale in self.scale if not MIN_SCALE <= scale <= MAX_SCALE)
            raise QuantizationError("scale out of range", expected="2^-60 <= scale <= 2^60", got=wrong)
        if self.qmin >= self.qmax:
            raise QuantizationError("empty quantized range", got=f"[{self.qmin}, {self.qmax}]")
        first = self.zero_point[0]
        same = self.zero_point.count(first) == len(self.zero_point)
        for zero_point in (first,) if same else (min(self.zero_point), max(self.zero_point)):
            if not self.qmin <= zero_point <= self.qmax:
                raise QuantizationError(
                    "zero_point outside the quantized range", expected=f"[{self.qmin}, {self.qmax}]", got=zero_point
                )

    @staticmethod
    def per_tensor(
        scale: float, zero_point: int, dtype: DType, qmin: int | None = None, qmax: int | None = None
    ) -> QuantParams:
        """Parameters with one scale; the range defaults to the dtype's own."""
        check_type("scale", scale, (int, float, np.floating), "a positive number")
        check_type("zero_point", zero_point, (int, np.integer), "a code")
        check_type("dtype", dtype, DType, "a DType")
        return QuantParams(
            (float32(scale),),
            (int(zero_point),),
            None,
            dtype.min if qmin is None else qmin,
            dtype.max if qmax is None else qmax,
        )

    @staticmethod
    def per_channel(
        scale: Sequence[float],
        zero_point: Sequence[int] | int,
        axis: int,
        dtype: DType,
        qmin: int | None = None,
        qmax: int | None = None,
    ) -> QuantParams:
        """Parameters with one scale per channel along `axis`; an int zero_point serves all channels."""
        scales = tuple(float(s) for s in np.asarray(scale, np.float32).tolist())
        points = (zero_point,) * len(scales) if isinstance(zero_point, int) else tuple(int(z) for z in zero_point)
        return QuantParams(
            scales, points, axis, dtype.min if qmin is None else qmin, dtype.max if qmax is None else qmax
        )

    @property
    def is_per_channel(self) -> bool:
        return self.axis is not None

    @cached_property
    def scales(self) -> np.ndarray:
        """float32[n], read-only."""
        array = np.array(self.scale, np.float32)
        array.setflags(write=False)
        return array

    @cached_property
    def zero_points(self) -> np.ndarray:
        """int32[n], read-only."""
        array = np.array(self.zero_point, np.int32)
        array.setflags(write=False)
        return array

    def along(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """(scales, zero_points) shaped to broadcast against a tensor of this rank."""
        if self.axis is None:
            return self.scales.reshape(()), self.zero_points.reshape(())
        shape = [1] * rank
        shape[self.axis] = -1
        return self.scales.reshape(shape), self.zero_points.reshape(shape)

    def moved(self, axis: int | None) -> QuantParams:
        """The same parameters along another axis (transpose, reshape)."""
        return replace(self, axis=axis)


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in memory; only at stage lowered. The interpreter ignores it.

    Attributes:
        order: "row_major" (as the shape reads) or "channels_last" (axis 1 innermost; rank >= 3).
        channel_stride: elements from one pixel to the next (channels_last); channels rounded up to a multiple of 4.
        halo: (before, after) for each spatial axis: the width of a border in memory that holds real zero.
    """

    order: str = "row_major"
    channel_stride: int = 0
    halo: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class TensorType:
    """Element type, shape and, for quantized tensors, quantization parameters.

    `shape` holds ints and `Dim`s. A `u8`, `i8`, `i16` or `i32` tensor with `quant` stands for real numbers; without,
    for plain integers (indices, masks).

    Raises:
        ShapeError: rank above 8, a negative size, sizes other than 0 whose product is 2^31 or more.
        QuantizationError: a channel axis that does not fit the shape, or a float dtype with parameters.
    """

    dtype: DType
    shape: tuple[DimLike, ...]
    quant: QuantParams | None = None
    layout: Layout | None = field(default=None)

    def __post_init__(self) -> None:
        if not isinstance(self.dtype, DType):
            raise ShapeError("the element type of a tensor", expected="a DType", got=described(self.dtype))
        if not isinstance(self.shape, tuple):
            if not isinstance(self.shape, Sequence) or isinstance(self.shape, (str, bytes)):
                raise ShapeError("the shape of a tensor", expected="a tuple of sizes", got=described(self.shape))
            object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.shape) > MAX_RANK:
            raise ShapeError("too many axes", expected=f"at most {MAX_RANK}", got=len(self.shape))
        for size in self.shape:
            if not isinstance(size, (Dim, int, np.integer)):
                raise ShapeError("a size of a tensor", expected="an int or a Dim", got=described(size))
            if not isinstance(size, Dim) and size < 0:
                raise ShapeError("negative size", got=f"{self.dtype}[{','.join(map(str, self.shape))}]")
        elements = math.prod(whole(size) for size in self.shape if not isinstance(size, Dim) and size)
        if elements > MAX_ELEMENTS:  # sizes of 0 do not count: numpy has no such array either
            raise ShapeError("tensor too large", expected=f"at most {MAX_ELEMENTS} elements", got=elements)
        if self.quant is not None:
            self._check_quant(self.quant)

    def _check_quant(self, quant: QuantParams) -> None:
        if not self.dtype.is_integer:
            raise QuantizationError(f"{self.dtype} cannot carry quantization parameters", got=str(self.dtype))
        if quant.qmin < self.dtype.min or quant.qmax > self.dtype.max:
            raise QuantizationError(
                "quantized range exceeds the dtype",
                expected=f"[{self.dtype.min}, {self.dtype.max}]",
                got=f"[{quant.qmin}, {quant.qmax}]",
            )
        if quant.axis is not None:
            if not 0 <= quant.axis < self.rank:
                raise QuantizationError(
                    "channel axis outside the shape", expected=f"0..{self.rank - 1}", got=quant.axis
                )
            size = self.shape[quant.axis]
            if not isinstance(size, Dim) and size != len(quant.scale):
                raise QuantizationError("one scale per channel", expected=f"{size} scales", got=f"{len(quant.scale)}")

    @property
    def rank(self) -> int:
        return len(self.shape)

    @cached_property
    def is_static(self) -> bool:
        return not any(isinstance(size, Dim) for size in self.shape)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of a static type.

        Raises:
            ShapeError: a size is symbolic.
        """
        sizes = tuple(whole(size) for size in self.shape if not isinstance(size, Dim))
        if len(sizes) != len(self.shape):
            raise ShapeError("a size is symbolic", expected="a static shape", got=str(self))
        return sizes

    @property
    def params(self) -> QuantParams:
        """The quantization parameters of a quantized type.

        Raises:
            QuantizationError: the type has none.
        """
        if self.quant is None:
            raise QuantizationError("a type has no quantization parameters", got=str(self))
        return self.quant

    @property
    def is_quantized(self) -> bool:
        return self.quant is not None

    @property
    def elements(self) -> DimLike:
        """The number of elements."""
        total: DimLike = 1
        for size in self.shape:
            total = total * size
        return total

    @property
    def nbytes(self) -> DimLike:
        """Bytes of the data without any layout; 4-bit types take a byte per element."""
        return self.elements * (self.dtype.bits // 8 if self.dtype.bits >= 8 else 1)

    @cached_property
    def dim_names(self) -> frozenset[str]:
        return frozenset().union(*(size.names() for size in self.shape if isinstance(size, Dim)))

    def expressed(self) -> TensorType:
        """The real-valued type: f32 in place of a quantized dtype. Plain integers stay."""
        return self._expressed if self.quant is not None or self.layout is not None else self

    @cached_property
    def _expressed(self) -> TensorType:
        return TensorType(DType.F32, self.shape) if self.quant is not None else replace(self, layout=None)

    def quantized(self, dtype: DType, quant: QuantParams) -> TensorType:
        return TensorType(dtype, self.shape, quant)

    def with_shape(self, shape: Sequence[DimLike]) -> TensorType:
        """The type with another shape. The quantization parameters stay: a channel axis must still fit."""
        return TensorType(self.dtype, tuple(shape), self.quant)

    def with_layout(self, layout: Layout | None) -> TensorType:
        return replace(self, layout=layout)

    def bind(self, sizes: Mapping[str, int]) -> TensorType:
        """The type with all names replaced by ints."""
        return self if self.is_static else replace(self, shape=tuple(evaluate(size, sizes) for size in self.shape))

    def substitute(self, sizes: Mapping[str, DimLike]) -> TensorType:
        return replace(self, shape=tuple(substitute(size, sizes) for size in self.shape))

    def __str__(self) -> str:
        from qcompiler.text.printer import format_type

        return format_type(self)


def tensor(dtype: DType | str, *shape: DimLike | str) -> TensorType:
    """A plain type in short form, for tests and tools: `tensor("f32", "B", 64)`."""
    sizes = tuple(Dim.name(size) if isinstance(size, str) else size for size in shape)
    return TensorType(DType(dtype) if isinstance(dtype, str) else dtype, sizes)


def type_of(array: np.ndarray) -> TensorType:
    """The plain type of a numpy array."""
    return TensorType(DType.from_numpy(array.dtype), tuple(int(size) for size in array.shape))
