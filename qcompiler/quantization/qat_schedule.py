"""When the phases of training with rounding begin. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from qcompiler.arguments import check_type
from qcompiler.errors import QuantizationError

NEVER = 2**62
"""A step that no training reaches."""


@dataclass(frozen=True)
class QatSchedule:
    """At which training step, counted from 0 by calls of forward in training mode, a phase begins.

    Attributes:
        quantize: values and weights are rounded from here on. Before it ranges are only observed.
        freeze_observers: ranges stay as they are.
        freeze_batch_norm: batch norms use their running statistics, which stay as they are.
        learn_scales: scales and zero points become parameters, which gradients change (LSQ, Esser et al. 2020; LSQ+,
            Bhalgat et al. 2020), and ranges freeze. Activations begin with the part of the observed range that
            has the least error on the first batch, weights with three deviations from their mean. By default they are
            never learned.

    Raises:
        QuantizationError: a step below 0, or no step at which ranges are observed.
    """

    quantize: int = 0
    freeze_observers: int = NEVER
    freeze_batch_norm: int = NEVER
    learn_scales: int = NEVER

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            check_type(field.name, value, int, "a number of training steps")
            if value < 0:
                raise QuantizationError("a training step", where=field.name, expected="at least 0", got=value)
        for name in ("freeze_observers", "learn_scales"):
            if getattr(self, name) == 0:
                raise QuantizationError("no range is ever observed", where=name, expected="at least 1", got=0)

    @property
    def learns(self) -> bool:
        """Whether scales are ever learned."""
        return self.learn_scales < NEVER
