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


def _wrapped(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The quotient of two integers that have none: 0 by zero, and by -1 the smallest integer, x itself."""
    return np.where(y == 0, 0, x)


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
    """A division that floats have too, by a numpy function."""

    takes_floats = True
    function: ClassVar[np.ufunc]

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.dtype.kind == "f":
            return np.asarray(self.function(x, y))
        divisible = _divisible(x, y)
        result = self.function(x, np.where(divisible, y, 1))
        return np.where(divisible, result, self.without_quotient(x, y)).astype(x.dtype)

    def without_quotient(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The result for integers that have no quotient."""
        return np.zeros_like(x)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [*_Division.samples(), *binary_samples()]


class FloorDivide(_FloatDivision):
    """The quotient rounded down. torch.floor_divide and numpy.floor_divide, on floats too."""

    name = "floor_divide"
    function = np.floor_divide

    def without_quotient(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return _wrapped(x, y)


class TruncDivide(_Division):
    """The quotient of integers rounded towards zero. torch.div(rounding_mode="trunc"); ONNX Div."""

    name = "trunc_divide"

    def real(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        divisible = _divisible(x, y)
        divisor = np.where(divisible, y, 1)
        down = np.floor_divide(x, divisor)
        quotient = down + ((np.remainder(x, divisor) != 0) & ((x < 0) != (divisor < 0)))
        return np.where(divisible, quotient, _wrapped(x, y)).astype(x.dtype)


class Remainder(_FloatDivision):
    """x - y * floor(x / y), with the sign of y. torch.remainder, numpy.remainder; ONNX Mod."""

    name = "remainder"
    function = np.remainder


class Fmod(_FloatDivision):
    """x - y * trunc(x / y), with the sign of x. torch.fmod, numpy.fmod; ONNX Mod(fmod=1)."""

    name = "fmod"
    function = np.fmod
