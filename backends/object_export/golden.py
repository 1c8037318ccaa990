"""Golden data of the self-test: inputs that a small generator makes here and in the object, and the outputs that they
must give.

The generator is s' = 1664525 s + 1013904223 (mod 2^32), with one seed for each port. An element is made of the high
bits of s':

    floats:    (s' as i32 >> shift) * 2^step      exact: 24 bits (11 for f16) times a power of two
    integers:  low + (s' * span >> 32)            codes take their whole range, other integers 0 and 1 (legal indices)

Outputs up to STORED_BYTES are stored and compared element by element. Larger ones are compared by a digest,
h' = h * DIGEST_FACTOR + element bits (mod 2^64), which every change of a single element changes. Two NaNs are equal,
because architectures differ in which NaN an operation gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.object_export.interface import Interface, Port
from qcompiler.types import DType, QuantParams

FACTOR, INCREMENT = 1664525, 1013904223
DIGEST_FACTOR = 0x9E3779B97F4A7C15
STORED_BYTES = 1 << 16
FLOAT_SHIFT = {DType.F32: 8, DType.F64: 8, DType.F16: 21}
NAN_ABOVE = {2: 0x7C00, 4: 0x7F800000, 8: 0x7FF0000000000000}
"""Element size -> the bits of infinity. A float is NaN if its bits without the sign are larger."""
_PLAIN_EXPONENT = 1  # floats that nothing quantizes: [-2, 2)


@dataclass(frozen=True)
class Recipe:
    """How one input is generated. step: the exponent of the power of two that scales floats; low, span: the range of
    integers."""

    port: Port
    seed: int
    step: float
    low: int
    span: int

    @property
    def shift(self) -> int:
        return FLOAT_SHIFT[self.port.type.dtype]

    def generate(self) -> np.ndarray:
        """The input, as the emitted code makes it."""
        state = _states(self.seed, self.port.elements)
        dtype = self.port.type.dtype
        if dtype.is_float:
            values: np.ndarray = (state.view(np.int32) >> self.shift) * np.float64(self.step)
        else:
            values = self.low + (state.astype(np.uint64) * np.uint64(self.span) >> np.uint64(32)).astype(np.int64)
        return values.astype(dtype.numpy).reshape(self.port.type.sizes)


def _states(seed: int, count: int) -> np.ndarray:
    """u32[count]: the first states after the seed, all sums and products mod 2^32."""
    powers = np.full(count, FACTOR, np.uint32).cumprod(dtype=np.uint32)
    sums = np.concatenate([np.ones(min(count, 1), np.uint32), powers[:-1]]).cumsum(dtype=np.uint32)
    return powers * np.uint32(seed) + sums * np.uint32(INCREMENT)


def make_recipes(interface: Interface, ranges: list[QuantParams | None]) -> list[Recipe]:
    """A recipe for each input. ranges: the parameters that the model quantizes a float input with, or None."""
    recipes = []
    for index, (port, range_) in enumerate(zip(interface.inputs, ranges, strict=True)):
        quant = port.type.quant
        low, span = (0, 2) if quant is None else (quant.qmin, quant.qmax - quant.qmin + 1)
        dtype = port.type.dtype
        bits = 31 - FLOAT_SHIFT[dtype] if dtype.is_float else 0
        exponent = _PLAIN_EXPONENT if range_ is None else _exponent(range_, dtype)
        recipes.append(Recipe(port, 2654435769 * (index + 1) % 2**32, 2.0 ** (exponent - bits), low, span))
    return recipes


def _exponent(quant: QuantParams, dtype: DType) -> int:
    """The least e for which the range is inside [-2^e, 2^e] and all steps are normal numbers of the dtype."""
    reach = max(
        abs(scale * (bound - zero))
        for scale, zero in zip(quant.scale, quant.zero_point)
        for bound in (quant.qmin, quant.qmax)
    )
    least, most = (-4, 15) if dtype is DType.F16 else (-64, 80)
    return min(max(math.ceil(math.log2(reach)), least), most)


def is_stored(port: Port) -> bool:
    """Whether the golden data of this output is the output itself, not a digest."""
    return port.nbytes <= STORED_BYTES


def golden_bytes(port: Port, output: np.ndarray) -> bytes:
    """The data that the self-test compares an output with: its bytes, or its digest."""
    bits = np.ascontiguousarray(output).reshape(-1).view(f"u{port.itemsize}")
    if is_stored(port):
        return bits.tobytes()
    if port.type.dtype.is_float:
        infinity = NAN_ABOVE[port.itemsize]
        sign = bits.dtype.type(1) << bits.dtype.type(8 * port.itemsize - 1)
        bits = np.where((bits & ~sign) > infinity, bits.dtype.type(infinity + 1), bits)
    powers = np.full(bits.size, DIGEST_FACTOR, np.uint64)
    powers[-1] = 1
    powers = powers[::-1].cumprod(dtype=np.uint64)[::-1]
    return (bits.astype(np.uint64) * powers).sum(dtype=np.uint64).tobytes()
