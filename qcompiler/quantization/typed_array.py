"""An operand at run time, as the integer meanings of ops take it: an array and its type."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qcompiler.errors import VerifyError
from qcompiler.quantization import qmath
from qcompiler.types import QuantParams, TensorType


def quant_of(type: TensorType) -> QuantParams:
    """The parameters of a quantized type; VerifyError for a real one."""
    if type.quant is None:
        raise VerifyError("an integer op works on quantized types", got=str(type))
    return type.quant


class TypedArray(NamedTuple):
    """Codes and their quantized type; plain numbers and their type for a parameter or an index."""

    array: np.ndarray
    type: TensorType

    @property
    def quant(self) -> QuantParams:
        return quant_of(self.type)

    @property
    def scales(self) -> np.ndarray:
        """f32 [1], or [channels] for per-channel parameters."""
        return self.quant.scales

    def centered(self) -> np.ndarray:
        """i32: the codes minus their zero points."""
        return qmath.centered(self.array, self.quant)
