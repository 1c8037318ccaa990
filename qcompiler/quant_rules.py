"""How quantization treats an op: the rule that its declaration names (`Op.quant`)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from qcompiler.errors import VerifyError
from qcompiler.types import DType, QuantParams


class QuantKind(enum.Enum):
    """How quantization parameters of the result come about."""

    WEIGHTED = "weighted"  # i32 accumulator, requantized to a range of its own
    SHARES_INPUT = "shares_input"  # result has the parameters of its activation operands, all equal
    OWN_RANGE = "own_range"  # observed range
    FIXED = "fixed"  # known range: `fixed` below
    FLOAT_ONLY = "float_only"  # stays float


@dataclass(frozen=True)
class QuantRule:
    """Quantization of an op.

    Attributes:
        kind: see QuantKind.
        weight_axis: for WEIGHTED, the channel axis of the weight operand (output channels).
        fixed: for FIXED, u8 (scale, zero_point) of the result.
    """

    kind: QuantKind
    weight_axis: int | None = None
    fixed: tuple[float, int] | None = None

    def fixed_params(self) -> QuantParams:
        """The parameters of a FIXED result."""
        if self.fixed is None:
            raise VerifyError(f"an op of the kind {self.kind.value} has no fixed range")
        scale, zero_point = self.fixed
        return QuantParams.per_tensor(scale, zero_point, DType.U8)


OWN_RANGE = QuantRule(QuantKind.OWN_RANGE)
SHARES_INPUT = QuantRule(QuantKind.SHARES_INPUT)
FLOAT_ONLY = QuantRule(QuantKind.FLOAT_ONLY)


def weighted(axis: int) -> QuantRule:
    """An i32 accumulator; `axis` is the channel axis of the weight."""
    return QuantRule(QuantKind.WEIGHTED, weight_axis=axis)


def fixed(scale: float, zero_point: int) -> QuantRule:
    """A result of a known range, in u8."""
    return QuantRule(QuantKind.FIXED, fixed=(scale, zero_point))
