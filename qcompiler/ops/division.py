"""Division with a rounded quotient, and remainders.

Integers are computed in their own type and wrap. Division by 0 gives 0, as numpy does; torch and ONNX Runtime stop the
program there, which a compiled graph can't. The smallest integer divided by -1 wraps to itself, with remainder 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from qcompiler.opdef import FLOAT_ONLY, Sample
from qcompiler.ops.elementwise import Binary, binary_samples, check_number
from qcompiler.ops.logic import check_integer
from qcompiler.types import TensorType


def _divisible(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the quotient of two integers exists."""
    return (y != 0) & ~((y == -1) & (x == np.iinfo(x.dtype).min))


class _Division(Binary):
    """A quotient rounded to a whole number, or what it leaves. Floats give the floats that torch and numpy give, whose
    remainder is exact."""

    quant = FLOAT_ONLY
    takes_floats: ClassVar[bool] = False

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        if self.takes_floats:
            check_number(self, x)
        else:
            check_integer(self, x)
        return super().infer(x, y)

    @staticmethod
    def samples() -> Sequence[Sample]:
        integers = ((4, "i4", 3), (17, "i8", -5), (33, "i2", 7), (9, "i1", -2), (16, "u1", 6))
        return [Sample((np.arange(-n, n).astype(dtype), np.asarray(divisor, dtype))) for n, dtype, divisor in integers]


class _FloatDivision(_Division):
    """A division that floats have too."""

    takes_floats = True

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [*_Division.samples(), *binary_samples()]


class FloorDivide(_FloatDivision):
    """The quotient rounded down. torch.floor_divide and numpy.floor_divide, on floats too."""

    name = "floor_divide"

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.dtype.kind == "f":
            return np.asarray(np.floor_divide(x, y))
        divisible = _divisible(x, y)
        return np.where(divisible, np.floor_divide(x, np.where(divisible, y, 1)), np.where(y == 0, 0, x)).astype(
            x.dtype
        )


class TruncDivide(_Division):
    """The quotient of integers rounded towards zero. torch.div(rounding_mode="trunc"); ONNX Div."""

    name = "trunc_divide"

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        divisible = _divisible(x, y)
        divisor = np.where(divisible, y, 1)
        down = np.floor_divide(x, divisor)
        quotient = down + ((np.remainder(x, divisor) != 0) & ((x < 0) != (divisor < 0)))
        return np.where(divisible, quotient, np.where(y == 0, 0, x)).astype(x.dtype)


class Remainder(_FloatDivision):
    """x - y * floor(x / y), with the sign of y. torch.remainder, numpy.remainder; ONNX Mod."""

    name = "remainder"

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.dtype.kind == "f":
            return np.asarray(np.remainder(x, y))
        divisible = _divisible(x, y)
        return np.where(divisible, np.remainder(x, np.where(divisible, y, 1)), 0).astype(x.dtype)


class Fmod(_FloatDivision):
    """x - y * trunc(x / y), with the sign of x. torch.fmod, numpy.fmod; ONNX Mod(fmod=1)."""

    name = "fmod"

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.dtype.kind == "f":
            return np.asarray(np.fmod(x, y))
        divisible = _divisible(x, y)
        return np.where(divisible, np.fmod(x, np.where(divisible, y, 1)), 0).astype(x.dtype)
