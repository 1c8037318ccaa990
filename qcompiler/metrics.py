"""How far arrays or two models' outputs lie apart: SQNR, largest difference, agreement of the first choice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qcompiler.errors import InputError


def sqnr(reference: np.ndarray, got: np.ndarray) -> float:
    """The signal to quantization noise ratio in dB: 10 log10(sum reference^2 / sum (reference - got)^2).

    It is inf for equal arrays, and -inf where entries that are not finite differ.
    """
    reference, got = np.asarray(reference, np.float64), np.asarray(got, np.float64)
    finite = np.isfinite(reference) & np.isfinite(got)
    if not np.array_equal(reference[~finite], got[~finite], equal_nan=True):
        return -math.inf
    signal, noise = np.square(reference[finite]).sum(), np.square(reference[finite] - got[finite]).sum()
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


@dataclass
class OutputError:
    """The differences of one output, summed over calls."""

    name: str
    signal: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0
    samples: int = 0
    agreeing: int = 0
    has_classes: bool = True

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Add one call's outputs, `a` being the reference. InputError for outputs of different shapes."""
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
        """10 log10(sum a^2 / sum (a - b)^2); inf if the outputs are equal."""
        if self.noise == 0.0:
            return math.inf
        return 10.0 * math.log10(self.signal / self.noise) if self.signal > 0.0 else -math.inf

    @property
    def agreement(self) -> float | None:
        """The share of samples whose largest element along the last axis has the same index; None without a class
        axis."""
        return self.agreeing / self.samples if self.has_classes and self.samples else None
