"""An operand at run time, as the integer meanings of ops take it: an array and its type."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qcompiler.quantization import qmath
from qcompiler.types import QuantParams, TensorType


class TypedArray(NamedTuple):
    """Codes and their quantized type; plain numbers and their type for a parameter or an index."""

    array: np.ndarray
    type: TensorType

    @property
    def quant(self) -> QuantParams:
        return self.type.params

    @property
    def scales(self) -> np.ndarray:
        """f32 [1], or [channels] for per-channel parameters."""
        return self.quant.scales

    def real(self) -> np.ndarray:
        """f32: the real numbers that the codes stand for, or the array itself."""
        return qmath.dequantize(self.array, self.quant) if self.type.is_quantized else self.array

    def centered(self) -> np.ndarray:
        """i32: the codes minus their zero points."""
        return qmath.centered(self.array, self.quant)
