"""Observers that count values in a histogram, and the ranges that they choose from it."""

from __future__ import annotations

import numpy as np

from qcompiler.errors import QuantizationError
from qcompiler.quantization import value_counts
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.minmax import MinMax
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import QuantParams


class Histogram(MinMax):
    """Integer counts in bins of a power-of-two width anchored at 0.

    Bin i holds [i * w, (i + 1) * w) with w = 2^e. When the data outgrows the bins, w doubles and neighbours merge: the
    state depends only on the multiset of values, never on order or chunking, and merging two histograms is exact.

    All that it takes of an array is its range and its counts (`value_counts`), which kernels may have computed, of a
    part of the array perhaps: `observe_counts`.
    """

    BINS = value_counts.BINS  # on each side of 0
    fields = ("low", "high", "exponent", "counts")

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.exponent = value_counts.LEAST_EXPONENT
        self.counts = np.zeros(2 * self.BINS, np.int64)

    def observe(self, array: np.ndarray, name: str = "") -> None:
        bounds = value_counts.value_range(array)
        self.observe_counts(bounds, value_counts.value_counts(array, bounds), name)

    def observe_counts(self, bounds: np.ndarray, counts: np.ndarray, name: str = "", each: int = 1) -> None:
        """Take in a value of which only the range and the counts are known.

        Args:
            each: how many elements a counted one stands for, if only a part of the value was counted. The smallest and
                the largest element always count.

        Raises:
            QuantizationError: the value is not finite.
        """
        self.observe_range(bounds, name)
        if not bounds[0] <= bounds[1]:
            return
        exponent = value_counts.bin_exponent(bounds)
        if each > 1:
            counts = counts * np.int64(each)
            ends = np.floor(bounds.astype(np.float64) * 2.0**-exponent).astype(np.int64) + self.BINS
            counts[ends] = np.maximum(counts[ends], 1)
        self._add(exponent, counts)

    def merge(self, other: MinMax) -> None:
        if not isinstance(other, Histogram):
            raise QuantizationError("only histograms merge with histograms", got=type(other).__name__)
        super().merge(other)
        self._add(other.exponent, other.counts)

    def _why_impossible(self) -> str | None:
        wrong = super()._why_impossible()
        if wrong is not None:
            return wrong
        if not value_counts.LEAST_EXPONENT <= self.exponent <= value_counts.MOST_EXPONENT:
            return f"the bins are 2^{self.exponent} wide"
        used = np.flatnonzero(self.counts)
        if (self.counts < 0).any() or self.counts.sum(dtype=np.float64) > 2.0**62:
            return "the counts are negative or too large"
        if self.is_empty or not used.size:
            return None if self.is_empty and not used.size else "there are counts without bounds, or the reverse"
        first, last = (int(np.floor(float(bound) * 2.0**-self.exponent)) for bound in (self.low, self.high))
        counted = (int(used[0]) - self.BINS, int(used[-1]) - self.BINS)
        if (first, last) != counted:
            return f"the bounds lie in bins {first} and {last}, the counts in {counted[0]} to {counted[1]}"
        return None

    def _add(self, exponent: int, counts: np.ndarray) -> None:
        """Add counts in bins of the width 2^exponent. The result has the wider ones of both bins."""
        wider = max(self.exponent, exponent)
        self.counts = _widened(self.counts, wider - self.exponent) + _widened(counts, wider - exponent)
        self.exponent = wider

    def filled_bins(self) -> tuple[np.ndarray, np.ndarray]:
        """(middles, counts), both f64, of the bins that hold values."""
        used = np.flatnonzero(self.counts)
        return (used - self.BINS + 0.5) * 2.0**self.exponent, self.counts[used].astype(np.float64)

    def qparams(self) -> QuantParams:
        """The range of least squared error among 64 x 64 shrunken ranges, rounding and clipping both counted."""
        if self.is_empty:
            return super().qparams()
        low, high = min(float(self.low), 0.0), max(float(self.high), 0.0)
        if low == high:
            return choose_qparams(low, high, self.spec)
        middles, weights = self.filled_bins()
        centers = np.clip(middles, float(self.low), float(self.high))
        fractions = np.linspace(1.0, 0.02, 64)
        below = self._clip_errors(-centers, weights, -low * fractions)
        above = self._clip_errors(centers, weights, high * fractions)
        span = -low * fractions[:, None] * -1
        scale = (high * fractions[None, :] - span) / (self.spec.qmax - self.spec.qmin)
        error = below[:, None] + above[None, :] + weights.sum() * scale**2 / 12
        i, j = np.unravel_index(int(np.argmin(error)), error.shape)
        return choose_qparams(low * fractions[i], high * fractions[j], self.spec)

    @staticmethod
    def _clip_errors(values: np.ndarray, weights: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """Sum of weights * max(values - bound, 0)^2 for each bound."""
        beyond = np.maximum(values[None, :] - bounds[:, None], 0.0)
        return (beyond**2) @ weights


def _widened(counts: np.ndarray, doublings: int) -> np.ndarray:
    """The counts in bins that are 2^doublings times as wide."""
    half = counts.size // 4
    for _ in range(min(doublings, counts.size.bit_length())):  # then all lie in the two bins at 0, and stay there
        pairs = counts.reshape(-1, 2).sum(axis=1)
        counts = np.zeros_like(counts)
        counts[half : 3 * half] = pairs
    return counts


class Percentile(Histogram):
    """The range that holds the middle `percent` of all values; half of the rest is cut on each side."""

    def __init__(self, spec: QuantSpec, percent: float = 99.99) -> None:
        super().__init__(spec)
        if not 50 < percent <= 100:
            raise QuantizationError("percentile", expected="above 50, up to 100", got=percent)
        self.percent = percent

    def qparams(self) -> QuantParams:
        if self.is_empty:
            return super().qparams()
        total = int(self.counts.sum())
        cut = int(total * (100 - self.percent) / 200)
        below = np.cumsum(self.counts)
        first = int(np.searchsorted(below, cut, side="right"))
        last = int(np.searchsorted(below, total - cut, side="left"))
        low = (first - self.BINS) * 2.0**self.exponent
        high = (last - self.BINS + 1) * 2.0**self.exponent
        return choose_qparams(max(low, float(self.low)), min(high, float(self.high)), self.spec)


class MeanSquaredError(Histogram):
    """The shrunken range whose quantized values are nearest to the data.

    For each candidate, every bin is quantized with the candidate's own parameters.
    """

    def qparams(self) -> QuantParams:
        if self.is_empty:
            return super().qparams()
        middles, weights = self.filled_bins()
        values = np.clip(middles, float(self.low), float(self.high))
        best, least = choose_qparams(self.low, self.high, self.spec), np.inf
        for fraction in np.linspace(1.0, 0.1, 91):
            params = choose_qparams(float(self.low) * fraction, float(self.high) * fraction, self.spec)
            scale, zero = float(params.scale[0]), params.zero_point[0]
            codes = np.clip(np.rint(values / scale), params.qmin - zero, params.qmax - zero)
            error = float((codes * scale - values) ** 2 @ weights)
            if error < least:
                best, least = params, error
        return best


class Entropy(Histogram):
    """The clipped range whose quantized distribution is nearest to the data's by Kullback-Leibler divergence.

    As in TensorRT's calibration (Migacz, GTC 2017), values beyond the range count in its last bin. Both sides are cut
    at the same fraction. Two measures keep a spike from deciding the cut; half of a ReLU's results are 0, for example:

    - Zero is exact in every range, and the ends of the data are exact in the whole one. A spike in these bins counts
      no more than the bin beside it, as bin 0 does in NVIDIA's pytorch-quantization (calib/histogram.py).
    - A range whose squared error, rounding and clipping both counted, is more than twice that of the whole range is no
      candidate. So the signal-to-noise ratio is at most 3 dB below that of min-max.
    """

    NOISE = 2.0  # the most squared error, in units of that of the whole range

    def qparams(self) -> QuantParams:
        if self.is_empty:
            return super().qparams()
        levels = self.spec.qmax - self.spec.qmin + 1
        used = np.flatnonzero(self.counts)
        first, last = int(used[0]), int(used[-1])
        counts = self._without_spikes(first, last)
        fractions = np.linspace(1.0, 0.1, 46)
        noise = self._noise(fractions, counts.sum())
        best, least = 1.0, np.inf
        for fraction in fractions[noise <= self.NOISE * noise[0]]:
            size = max(int(round(counts.size * fraction)), min(levels, counts.size))
            start = min(max(int(round((self.BINS - first) * (1 - fraction))), 0), counts.size - size)
            clipped = counts[start : start + size].copy()
            inside = clipped.copy()
            clipped[0] += counts[:start].sum()
            clipped[-1] += counts[start + size :].sum()
            divergence = _divergence(clipped, _requantized(inside, levels))
            if divergence < least:
                best, least = fraction, divergence
        return choose_qparams(float(self.low) * best, float(self.high) * best, self.spec)

    def _without_spikes(self, first: int, last: int) -> np.ndarray:
        """The counts of bins first to last, where the two bins at zero and those at the ends are lowered to the larger
        of the counts beside them."""
        counts = self.counts[first : last + 1].astype(np.float64)
        zero = self.BINS - first
        lowered = counts.copy()
        for begin, end in ((zero - 1, zero + 1), (0, 1), (counts.size - 1, counts.size)):
            begin, end = max(begin, 0), min(end, counts.size)
            beside = np.concatenate([counts[max(begin - 1, 0) : begin], counts[end : end + 1]])
            if begin < end and beside.any():
                lowered[begin:end] = np.minimum(counts[begin:end], beside.max())
        return lowered

    def _noise(self, fractions: np.ndarray, rounded: float) -> np.ndarray:
        """The squared error that each fraction of the observed range would give, by the histogram.

        Args:
            rounded: how many values are not exact.
        """
        low, high = min(float(self.low), 0.0), max(float(self.high), 0.0)
        middles, weights = self.filled_bins()
        centers = np.clip(middles, low, high)
        scale = (high - low) * fractions / (self.spec.qmax - self.spec.qmin)
        clipped = self._clip_errors(centers, weights, high * fractions)
        return clipped + self._clip_errors(-centers, weights, -low * fractions) + rounded * scale**2 / 12


def _requantized(counts: np.ndarray, levels: int) -> np.ndarray:
    """The counts after merging bins into `levels` equal groups, spread evenly over each group's non-empty bins."""
    group = np.arange(counts.size) * levels // counts.size
    sums = np.bincount(group, counts, minlength=levels)
    present = counts > 0
    members = np.bincount(group, present, minlength=levels)
    return np.where(present, sums[group] / np.maximum(members[group], 1), 0.0)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) of two unnormalised histograms; bins that are empty in q alone cost much, but not infinitely much."""
    p, q = p / p.sum(), q / max(q.sum(), 1e-300)
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))))
