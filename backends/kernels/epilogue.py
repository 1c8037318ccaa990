"""The parts of signatures that say how the sums of a product become results, and whether they may be clamped late."""

from __future__ import annotations

from typing import Generic

from qcompiler.backends.kernel_ir.definition import E, Group, P, S
from qcompiler.backends.kernel_ir.types import F32, I8, I16, Type
from qcompiler.backends.kernels.code_range import CodeRange

RESIDUALS: dict[str | None, Type | None] = {None: None, "u8": I8, "i16": I16, "f32": F32}
"""The element type of a residual, by its name in static arguments. Only real results have a residual of f32."""


class Requantize(Group, Generic[P, E, S]):
    """How i32 sums become codes: rules (3) and (5) of qmath.

    Attributes:
        multiplier: f32 [packed channels], M of rule (4).
        codes: the codes of the result.
        low_code, high_code: the bounds of `codes` as integers.
        residual_zero, residual_scale: the residual's zero point, and its scale over that of the result.
    """

    multiplier: P
    codes: CodeRange[E, S]
    low_code: E
    high_code: E
    residual_zero: S
    residual_scale: S


class Clamp(Group, Generic[S]):
    """The bounds of a float result's fused activation. NaN passes, as in torch."""

    low: S
    high: S


class Dequantize(Group, Generic[P, S]):
    """How i32 sums become f32: rule (6) of qmath.

    Attributes:
        multiplier: f32 [packed channels], M of rule (6).
        residual_zero, residual_scale: the zero point and the scale of a residual of codes.
        clamp: the fused activation.
    """

    multiplier: P
    residual_zero: S
    residual_scale: S
    clamp: Clamp[S]


class DynamicDequantize(Group, Generic[P, S]):
    """How i32 sums become f32 by rule (8) of qmath, where each pixel has a scale and a zero point.

    The residual holds them: for each pixel eight bytes, its scale as f32 and its zero point as i32.

    Attributes:
        sums: i32 [packed channels], the sum of each channel's weights.
        multiplier: f32 [packed channels], the scales of the weights.
        bias: f32 [packed channels].
        clamp: the fused activation.
    """

    sums: P
    multiplier: P
    bias: P
    clamp: Clamp[S]
