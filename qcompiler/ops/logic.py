"""Logic: on bools, and on the bits of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from qcompiler.errors import ShapeError
from qcompiler.opdef import FLOAT_ONLY, Op, Sample, Trait, index_operand
from qcompiler.ops.elementwise import check_types
from qcompiler.ops.linear import broadcast_shapes
from qcompiler.types import DType, TensorType


def check_integer(op: Op, x: TensorType) -> None:
    if not x.dtype.is_integer:
        raise ShapeError(
            f"operands of {op.name}",
            expected="an integer type",
            got=str(x.dtype),
            hint="insert a cast, or compare, which gives bools",
        )


class _Logic(Op):
    """A numpy function of bools or integers, `combine`, whose result has the operands' type."""

    quant = FLOAT_ONLY
    combine: ClassVar[np.ufunc]

    def check(self, x: TensorType) -> None:
        """ShapeError unless the op takes operands of this type."""
        raise NotImplementedError(self.name)


class _OfOne(_Logic):
    """A function of one operand."""

    traits = frozenset({Trait.ELEMENTWISE})
    x = index_operand()

    def infer(self, x: TensorType) -> TensorType:
        self.check(x)
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.combine(x))


class _OfTwo(_Logic):
    """A commutative function of two operands of one type."""

    traits = frozenset({Trait.ELEMENTWISE, Trait.COMMUTATIVE})
    x = index_operand()
    y = index_operand()

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        check_types(self, x, y)
        self.check(x)
        return TensorType(x.dtype, broadcast_shapes(x.shape, y.shape, self.name))

    def reference(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(self.combine(x, y))


# -- bools


class _OnBools(_Logic):
    """Takes bools alone."""

    def check(self, x: TensorType) -> None:
        if x.dtype is not DType.BOOL:
            raise ShapeError(
                f"operands of {self.name}", expected="bool", got=str(x.dtype), hint="compare with not_equal"
            )

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            Sample(tuple(np.arange(n) % divisor == 0 for divisor in (2, 3)[: cls.combine.nin]))
            for n in (1, 2, 7, 16, 33)
        ]


class LogicalAnd(_OnBools, _OfTwo):
    """x and y, bools."""

    name = "logical_and"
    combine = np.logical_and


class LogicalOr(_OnBools, _OfTwo):
    """x or y, bools."""

    name = "logical_or"
    combine = np.logical_or


class LogicalNot(_OnBools, _OfOne):
    """not x, bool."""

    name = "logical_not"
    combine = np.logical_not


# -- bits


class _OnIntegers(_Logic):
    """Takes integers alone. Bools have logical_and, logical_or, logical_not and not_equal."""

    def check(self, x: TensorType) -> None:
        check_integer(self, x)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        sizes = ((1, "i4"), (7, "i8"), (33, "i2"), (16, "i1"), (9, "u1"))
        return [
            Sample((np.arange(-n, n).astype(dtype), np.arange(2 * n).astype(dtype))[: cls.combine.nin])
            for n, dtype in sizes
        ]


class BitwiseAnd(_OnIntegers, _OfTwo):
    """The bits that are set in both. torch.bitwise_and; ONNX BitwiseAnd."""

    name = "bitwise_and"
    combine = np.bitwise_and


class BitwiseOr(_OnIntegers, _OfTwo):
    """The bits that are set in either. torch.bitwise_or; ONNX BitwiseOr."""

    name = "bitwise_or"
    combine = np.bitwise_or


class BitwiseXor(_OnIntegers, _OfTwo):
    """The bits that are set in one of the two. torch.bitwise_xor; ONNX BitwiseXor."""

    name = "bitwise_xor"
    combine = np.bitwise_xor


class _Shift(_OnIntegers, _OfTwo):
    """x shifted by y bits. A count that is negative, or not below the width, shifts every bit out, as in torch and
    numpy."""

    traits = frozenset({Trait.ELEMENTWISE})

    def reference(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        inside = (y >= 0) & (y < 8 * x.dtype.itemsize)
        shifted = self.combine(x, np.where(inside, y, 0).astype(x.dtype))
        return np.where(inside, shifted, self.emptied(x)).astype(x.dtype)

    def emptied(self, x: np.ndarray) -> np.ndarray:
        """What is left of x if all its bits were shifted out."""
        raise NotImplementedError(self.name)


class ShiftLeft(_Shift):
    """x shifted to the left by y bits; zeros enter. torch.bitwise_left_shift; ONNX BitShift(direction=LEFT)."""

    name = "shift_left"
    combine = np.left_shift

    def emptied(self, x: np.ndarray) -> np.ndarray:
        return np.zeros_like(x)


class ShiftRight(_Shift):
    """x shifted to the right by y bits; the sign enters, or zeros if the type is unsigned. torch.bitwise_right_shift;
    ONNX BitShift(direction=RIGHT)."""

    name = "shift_right"
    combine = np.right_shift

    def emptied(self, x: np.ndarray) -> np.ndarray:
        return np.where(x < 0, -1, 0)


class BitwiseNot(_OnIntegers, _OfOne):
    """Every bit flipped. torch.bitwise_not; ONNX BitwiseNot."""

    name = "bitwise_not"
    combine = np.invert
