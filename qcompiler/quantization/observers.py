"""Observers: collect the range of a tensor over calibration data, in memory O(bins), and choose its parameters.

A user's class with the same methods joins by `register_observer`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from qcompiler.errors import QuantizationError, nearest
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import QuantParams


class Observer(Protocol):
    """What calibration asks of an observer."""

    def observe(self, array: np.ndarray, name: str = "") -> None: ...

    def qparams(self) -> QuantParams: ...

    def merge(self, other: Observer) -> None: ...


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(array, np.float32)
    if array.size and not np.isfinite(array).all():
        raise QuantizationError("calibration data is not finite", where=f"%{name}", got="NaN or Inf",
                                hint="check the calibration samples and the model's weights")
    return array


class MinMax:
    """The smallest and the largest value seen. Merging is exact in any order."""

    def __init__(self, spec: QuantSpec) -> None:
        self.spec = spec
        self.low, self.high = np.float32(np.inf), np.float32(-np.inf)

    @property
    def is_empty(self) -> bool:
        return bool(self.low > self.high)

    def observe(self, array: np.ndarray, name: str = "") -> None:
        array = _checked(array, name)
        if array.size:
            self.low, self.high = np.minimum(self.low, array.min()), np.maximum(self.high, array.max())

    def merge(self, other: MinMax) -> None:
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)

    def qparams(self) -> QuantParams:
        if self.is_empty:
            raise QuantizationError("no calibration data reached a tensor", hint="check that every branch runs on the samples")
        return choose_qparams(self.low, self.high, self.spec)


class MovingAverage(MinMax):
    """torch's MovingAverageMinMaxObserver: each batch moves the range by `constant`. Depends on the order of batches."""

    constant = np.float32(0.01)

    def observe(self, array: np.ndarray, name: str = "") -> None:
        array = _checked(array, name)
        if not array.size:
            return
        if self.is_empty:
            self.low, self.high = array.min(), array.max()
        else:
            self.low = self.low + self.constant * (array.min() - self.low)
            self.high = self.high + self.constant * (array.max() - self.high)

    def merge(self, other: MinMax) -> None:
        raise QuantizationError("moving averages depend on the order of the data and cannot be merged",
                                hint="calibrate in one run, or use histogram or minmax")


class Histogram(MinMax):
    """Integer counts in bins of a power-of-two width anchored at 0.

    Bin i holds [i * w, (i + 1) * w) with w = 2^e. When the data outgrows 2048 bins on either side of 0, w doubles and
    neighbours merge: the state depends only on the multiset of values, never on order or chunking, and merging two
    histograms is exact.
    """

    BINS = 2048  # a side

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.exponent = -126
        self.counts = np.zeros(2 * self.BINS, np.int64)

    def observe(self, array: np.ndarray, name: str = "") -> None:
        array = _checked(array, name).reshape(-1)
        super().observe(array, name)
        if not array.size:
            return
        self._widen(self._needed(max(float(array.max()), -float(array.min()))))
        index = np.floor(array.astype(np.float64) * 2.0**-self.exponent).astype(np.int64)
        self.counts += np.bincount(index + self.BINS, minlength=2 * self.BINS)

    def _needed(self, magnitude: float) -> int:
        """The least exponent at which `magnitude` lies strictly inside the bins."""
        if magnitude == 0:
            return self.exponent
        _, exponent = np.frexp(magnitude)
        return max(self.exponent, int(exponent) - (self.BINS.bit_length() - 1) + 1)

    def _widen(self, exponent: int) -> None:
        while self.exponent < exponent:
            if not self.counts.any():
                self.exponent = exponent
                return
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros_like(self.counts)
            half = self.BINS // 2
            self.counts[half:half + self.BINS] = pairs
            self.exponent += 1

    def merge(self, other: MinMax) -> None:
        if not isinstance(other, Histogram):
            raise QuantizationError("only histograms merge with histograms", got=type(other).__name__)
        super().merge(other)
        copy = Histogram(other.spec)
        copy.exponent, copy.counts = other.exponent, other.counts.copy()
        exponent = max(self.exponent, copy.exponent)
        self._widen(exponent)
        copy._widen(exponent)
        self.counts = self.counts + copy.counts

    def qparams(self) -> QuantParams:
        """The range of least squared error among 64 x 64 shrunken ranges, rounding and clipping both counted."""
        if self.is_empty:
            return super().qparams()
        low, high = min(float(self.low), 0.0), max(float(self.high), 0.0)
        if low == high:
            return choose_qparams(low, high, self.spec)
        used = np.flatnonzero(self.counts)
        centers = np.clip((used - self.BINS + 0.5) * 2.0**self.exponent, float(self.low), float(self.high))
        weights = self.counts[used].astype(np.float64)
        fractions = np.linspace(1.0, 0.02, 64)
        below = self._clip_errors(-centers, weights, -low * fractions)
        above = self._clip_errors(centers, weights, high * fractions)
        span = -low * fractions[:, None] * -1
        step = (high * fractions[None, :] - span) / (self.spec.qmax - self.spec.qmin)
        error = below[:, None] + above[None, :] + weights.sum() * step**2 / 12
        i, j = np.unravel_index(int(np.argmin(error)), error.shape)
        return choose_qparams(low * fractions[i], high * fractions[j], self.spec)

    @staticmethod
    def _clip_errors(values: np.ndarray, weights: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """Sum of weights * max(values - bound, 0)^2 for each bound."""
        beyond = np.maximum(values[None, :] - bounds[:, None], 0.0)
        return (beyond**2) @ weights


_OBSERVERS: dict[str, Callable[[QuantSpec], Observer]] = {"histogram": Histogram, "minmax": MinMax, "moving_average": MovingAverage}


def register_observer(name: str, factory: Callable[[QuantSpec], Observer]) -> None:
    """Let a QuantSpec name a user's observer: `factory(spec)` has observe, qparams and merge."""
    if name in _OBSERVERS:
        raise QuantizationError(f"the observer {name!r} exists already")
    _OBSERVERS[name] = factory


def make_observer(spec: QuantSpec) -> Observer:
    """A fresh observer for a spec.

    Raises:
        QuantizationError: unknown name (nearest given).
    """
    factory = _OBSERVERS.get(spec.observer)
    if factory is None:
        raise QuantizationError(f"unknown observer {spec.observer!r}", hint=nearest(spec.observer, _OBSERVERS))
    return factory(spec)
