"""How far two models' outputs lie apart: SQNR, largest difference, agreement of the first choice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qcompiler.errors import InputError


@dataclass
class OutputError:
    """Differences of one output, summed over calls.

    `sqnr_db` is 10 log10(sum a^2 / sum (a - b)^2), inf where the outputs are equal. `agreement` is the share of samples
    whose largest element along the last axis stands in the same place; None for outputs without a class axis.
    """

    name: str
    signal: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0
    samples: int = 0
    agreeing: int = 0
    has_classes: bool = True

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Count one call: `a` is the reference. InputError for outputs of different shapes."""
        if a.shape != b.shape:
            raise InputError(
                f"the models' outputs {self.name!r} differ in shape", expected=list(a.shape), got=list(b.shape)
            )
        x, y = a.astype(np.float64), b.astype(np.float64)
        equal = (x == y) | (np.isnan(x) & np.isnan(y))
        with np.errstate(invalid="ignore"):
            difference = np.where(equal, 0.0, x - y)
        self.signal += float(np.sum(x * x))
        self.noise += float(np.sum(difference * difference))
        self.max_abs = float(np.maximum(self.max_abs, np.abs(difference).max(initial=0.0)))
        if a.ndim >= 2 and a.shape[-1] > 1:
            first, second = a.argmax(-1), b.argmax(-1)
            self.samples += first.size
            self.agreeing += int(np.sum(first == second))
        else:
            self.has_classes = False

    @property
    def sqnr_db(self) -> float:
        if self.noise == 0.0:
            return math.inf
        return 10.0 * math.log10(self.signal / self.noise) if self.signal > 0.0 else -math.inf

    @property
    def agreement(self) -> float | None:
        return self.agreeing / self.samples if self.has_classes and self.samples else None
