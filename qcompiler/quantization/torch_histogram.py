"""torch's HistogramObserver: one histogram of equal bins over the range seen so far, and a greedy search in it for the
best range.

The algorithm is that of torch.ao.quantization.observer (2.13), written for arrays. It follows torch's float32 rounding
where that decides something, so that it picks torch's range. All of it is computed in units of a power of two near the
largest magnitude. That changes no bit of a result unless torch's own arithmetic leaves float32, as for masks of
finfo.min: the search cubes distances. The state depends on the order of the batches, so merging is refused.
"""

from __future__ import annotations

import numpy as np

from qcompiler.errors import QuantizationError
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.minmax import Bound, MinMax, checked
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import QuantParams

F32 = np.float32
_QUANTILE = 1e-5  # by how much the search moves
_UPSAMPLE = 16  # how many finer bins an old bin becomes when the range widens


class TorchHistogram(MinMax):
    """A histogram of 2048 bins; the order of batches matters."""

    BINS = 2048
    fields = ("low", "high", "counts")

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.counts = np.zeros(self.BINS, F32)

    def observe(self, array: np.ndarray, name: str = "") -> None:
        array = checked(array, name).reshape(-1)
        if not array.size:
            return
        low, high = array.min(), array.max()
        if self.is_empty:
            self.low, self.high = low, high
            self.counts = self._histogram(array, low, high)
            return
        low, high = np.minimum(self.low, low), np.maximum(self.high, high)
        added = self._histogram(array, low, high)
        if (low, high) == (self.low, self.high):
            self.counts = self.counts + added
        elif self.low == self.high:
            self.counts = self._histogram(np.array([self.low]), low, high) * self.counts.sum(dtype=F32) + added
        else:
            self.counts = added + self._moved(low, high)
        self.low, self.high = low, high

    def merge(self, other: MinMax) -> None:
        raise QuantizationError(
            "torch's histogram depends on the order of the data and cannot be merged",
            hint="calibrate in one run, or use the observer histogram or minmax",
        )

    def _why_impossible(self) -> str | None:
        wrong = super()._why_impossible()
        if wrong is not None:
            return wrong
        if not np.isfinite(self.counts).all() or (self.counts < 0).any() or self.counts.sum(dtype=np.float64) > 2.0**62:
            return "the counts are negative or too large"
        return None if self.counts.any() != self.is_empty else "there are counts without bounds, or the reverse"

    def _histogram(self, array: np.ndarray, low: Bound, high: Bound) -> np.ndarray:
        """torch.histc: f32[BINS]; a range of no width is widened by one on both sides."""
        low, high = F32(low), F32(high)
        if low == high:
            low, high = low - F32(1), high + F32(1)
        if low == high:  # a constant beyond 2^24, from which 1 is lost
            return np.bincount(np.full(array.size, self.BINS // 2), minlength=self.BINS).astype(F32)
        array, low, high = (np.ldexp(item, -_exponent(low, high)) for item in (array, low, high))
        place = ((array - low) * F32(self.BINS) / (high - low)).astype(np.int64)
        return np.bincount(np.minimum(place, self.BINS - 1), minlength=self.BINS).astype(F32)

    def _moved(self, low: Bound, high: Bound) -> np.ndarray:
        """The counts over [low, high]: each old bin is cut into 16, which count where their middles lie."""
        fine = np.repeat(self.counts, _UPSAMPLE) / F32(_UPSAMPLE)
        exponent = _exponent(low, high)
        first, last, low, high = (np.ldexp(bound, -exponent) for bound in (self.low, self.high, low, high))
        width = (last - first) / F32(self.BINS * _UPSAMPLE)
        middles = _linspace(first, last, self.BINS * _UPSAMPLE + 1)[:-1] + F32(0.5) * width
        places = np.searchsorted(_linspace(low, high, self.BINS + 1), middles, side="right") - 1
        return np.bincount(np.clip(places, 0, self.BINS - 1), weights=fine, minlength=self.BINS).astype(F32)

    def qparams(self) -> QuantParams:
        if self.is_empty:
            return super().qparams()
        first, last = self._chosen_bins()
        low, high, exponent = self._bounds()
        width = (high - low) / F32(self.BINS)
        most = np.finfo(F32).max
        with np.errstate(over="ignore"):  # the last bound may round to one that is not finite
            low, high = (np.ldexp(low + width * F32(edge), exponent) for edge in (first, last + 1))
        return choose_qparams(np.clip(low, -most, most), np.clip(high, -most, most), self.spec)

    def _bounds(self) -> tuple[Bound, Bound, int]:
        """(low, high, exponent): the observed range is [low, high] * 2^exponent, with magnitudes of at most 1."""
        exponent = _exponent(self.low, self.high)
        return np.ldexp(self.low, -exponent), np.ldexp(self.high, -exponent), exponent

    def _chosen_bins(self) -> tuple[int, int]:
        """(first, last) bin of the chosen range.

        From both ends quantiles move inwards by 1e-5, each time at the end that drops more bins, while the error of
        quantizing falls.
        """
        total = float(self.counts.sum(dtype=F32))
        below = np.cumsum(self.counts, dtype=np.float64).astype(F32)
        steps = round(1 / _QUANTILE) + 2
        alphas = np.cumsum(np.full(steps, _QUANTILE))  # added one by one, as the search does
        betas = np.subtract.accumulate(np.concatenate([[1.0], np.full(steps, _QUANTILE)]))[1:]
        lefts = np.searchsorted(below, (alphas * total).astype(F32), side="left").tolist()
        rights = (np.searchsorted(below, (betas * total).astype(F32), side="right") - 1).tolist()
        first, last, least = 0, self.BINS - 1, float("inf")
        i = j = 0  # steps taken from below and from above
        while (alphas[i - 1] if i else 0.0) < (betas[j - 1] if j else 1.0):
            left, right = min(max(lefts[i], first), last), max(min(rights[j], last), first)
            next_first, next_last = first, last
            if left - first > last - right:
                next_first = left
                i += 1
            else:
                next_last = right
                j += 1
            if (next_first, next_last) == (first, last):
                continue
            error = self._error(next_first, next_last)
            if error > least:
                break
            first, last, least = next_first, next_last, error
        return first, last

    def _error(self, first: int, last: int) -> float:
        """The squared error of quantizing all bins to 2^bits levels over bins first..last, for values that are uniform
        inside a bin."""
        levels = 2**self.spec.dtype.bits
        low, high, _ = self._bounds()
        width = (float(high) - float(low)) / self.BINS
        step = width * (last - first + 1) / levels
        if step == 0.0:
            return 0.0
        begin = (np.arange(self.BINS) - first).astype(F32) * F32(width)
        end = begin + F32(width)
        level_of_begin, level_of_end = (
            np.clip(np.floor_divide(edge, F32(step)), 0, levels - 1) for edge in (begin, end)
        )
        center_of_begin = (level_of_begin + F32(0.5)) * F32(step)
        center_of_end = level_of_end * F32(step) + F32(step / 2)
        density = self.counts / F32(width)
        half = F32(step / 2)
        error = _cubes(begin - center_of_begin, half, density)
        error = error + (level_of_end - level_of_begin - F32(1)) * _cubes(-half, half, density)
        error = error + _cubes(-half, end - center_of_end, density)
        return float(error.sum(dtype=F32))


def _exponent(low: Bound, high: Bound) -> int:
    """The exponent of the power of two next above the magnitudes of two bounds."""
    return int(np.frexp(np.maximum(np.abs(low), np.abs(high)))[1])


def _cubes(begin: Bound, end: Bound, density: np.ndarray) -> np.ndarray:
    """density times the integral of x^2 from begin to end."""
    return density * ((end * end * end - begin * begin * begin) / F32(3))


def _linspace(low: Bound, high: Bound, count: int) -> np.ndarray:
    """torch.linspace in f32: counted from the nearer end."""
    step = (F32(high) - F32(low)) / F32(count - 1)
    index = np.arange(count)
    return np.where(
        index < count // 2, F32(low) + step * index.astype(F32), F32(high) - step * (count - 1 - index).astype(F32)
    ).astype(F32)
