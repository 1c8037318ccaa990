"""The part of a signature that all kernels with a quantized result share."""

from __future__ import annotations

from typing import Generic

from qcompiler.backends.kernel_ir.definition import E, Group, S


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
