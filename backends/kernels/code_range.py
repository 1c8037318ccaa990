"""What kernels with quantized results share: the part of their signatures, and the element types of codes."""

from __future__ import annotations

from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder
from qcompiler.backends.kernel_ir.definition import E, Group, S
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import I8, I16, I32, Type

CODES: dict[str, Type] = {"u8": I8, "i16": I16}
"""The element types of codes, by their names in static arguments."""


def as_i32(b: KernelBuilder, codes: Value) -> Value:
    """Codes as i32: bytes are unsigned, words are signed."""
    return b.zext(codes, I32) if codes.type.element is I8 else b.sext(codes, I32)


class CodeRange(Group, Generic[E, S]):
    """The codes of a quantized result.

    Attributes:
        zero: the zero point.
        low, high: the smallest and the largest code minus the zero point, after a fused activation. Kernels clamp to
            this range in float.
    """

    zero: E
    low: S
    high: S
