"""Observers: collect the range of a tensor over calibration data, in memory O(bins), and choose its parameters.

A user's class with the same methods joins by `register_observer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def checked(array: np.ndarray, name: str) -> np.ndarray:
    """The array in f32; QuantizationError for NaN and Inf."""
    array = np.asarray(array, np.float32)
    if array.size and not np.isfinite(array).all():
        raise QuantizationError(
            "calibration data is not finite",
            where=f"%{name}",
            got="NaN or Inf",
            hint="check the calibration samples and the model's weights",
        )
    return array


class MinMax:
    """The smallest and the largest value seen. Merging is exact in any order.

    fields: what the observer has learnt, as arrays; a calibration saves and restores them.
    """

    fields: tuple[str, ...] = ("low", "high")

    def __init__(self, spec: QuantSpec) -> None:
        self.spec = spec
        self.low, self.high = np.float32(np.inf), np.float32(-np.inf)

    @property
    def is_empty(self) -> bool:
        return bool(self.low > self.high)

    def observe(self, array: np.ndarray, name: str = "") -> None:
        array = checked(array, name)
        if array.size:
            self.low, self.high = np.minimum(self.low, array.min()), np.maximum(self.high, array.max())

    def merge(self, other: MinMax) -> None:
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)

    def state(self) -> dict[str, np.ndarray]:
        """The fields, by name."""
        return {name: np.asarray(getattr(self, name)) for name in self.fields}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over the fields of `state()`.

        Raises:
            QuantizationError: a field is missing: the state is of an observer that keeps less.
        """
        missing = [name for name in self.fields if name not in state]
        if missing:
            raise QuantizationError(
                f"the calibration did not keep what {self.spec.observer} needs",
                expected=", ".join(self.fields),
                got=", ".join(state),
                hint="calibrate with this qconfig, or with the observer histogram",
            )
        for name in self.fields:
            mine, given = np.asarray(getattr(self, name)), np.asarray(state[name])
            if given.shape != mine.shape and self.fixed_shapes:
                raise QuantizationError(
                    f"the field {name} of an observer has another shape", expected=mine.shape, got=given.shape
                )
            setattr(self, name, given.astype(mine.dtype) if given.ndim else mine.dtype.type(given))

    fixed_shapes = True

    def qparams(self) -> QuantParams:
        if self.is_empty:
            raise QuantizationError(
                "no calibration data reached a tensor", hint="check that every branch runs on the samples"
            )
        return choose_qparams(self.low, self.high, self.spec)


class MovingAverage(MinMax):
    """torch's MovingAverageMinMaxObserver: each batch moves the range by `constant`. Depends on the order of batches."""

    constant = np.float32(0.01)

    def observe(self, array: np.ndarray, name: str = "") -> None:
        array = checked(array, name)
        if not array.size:
            return
        if self.is_empty:
            self.low, self.high = array.min(), array.max()
        else:
            self.low = self.low + self.constant * (array.min() - self.low)
            self.high = self.high + self.constant * (array.max() - self.high)

    def merge(self, other: MinMax) -> None:
        raise QuantizationError(
            "moving averages depend on the order of the data and cannot be merged",
            hint="calibrate in one run, or use histogram or minmax",
        )


class Histogram(MinMax):
    """Integer counts in bins of a power-of-two width anchored at 0.

    Bin i holds [i * w, (i + 1) * w) with w = 2^e. When the data outgrows 2048 bins on either side of 0, w doubles and
    neighbours merge: the state depends only on the multiset of values, never on order or chunking, and merging two
    histograms is exact.
    """

    BINS = 2048  # a side
    fields = ("low", "high", "exponent", "counts")

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.exponent = -126
        self.counts = np.zeros(2 * self.BINS, np.int64)

    def observe(self, array: np.ndarray, name: str = "") -> None:
        array = checked(array, name).reshape(-1)
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
            self.counts[half : half + self.BINS] = pairs
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


class Percentile(Histogram):
    """The range that holds the middle `percent` of all values, half of the rest cut on each side."""

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
    """The shrunken range whose quantized values are nearest to the data: every bin is quantized with the candidate's
    own parameters."""

    def qparams(self) -> QuantParams:
        if self.is_empty:
            return super().qparams()
        used = np.flatnonzero(self.counts)
        values = np.clip((used - self.BINS + 0.5) * 2.0**self.exponent, float(self.low), float(self.high))
        weights = self.counts[used].astype(np.float64)
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
    """The clipped range whose quantized distribution is nearest to the data's by Kullback-Leibler divergence, as
    TensorRT's calibration does it (Migacz, GTC 2017): values beyond the range count in its last bin. The range is cut
    at the same fraction on
    both sides."""

    def qparams(self) -> QuantParams:
        if self.is_empty:
            return super().qparams()
        levels = self.spec.qmax - self.spec.qmin + 1
        used = np.flatnonzero(self.counts)
        first, last = int(used[0]), int(used[-1])
        counts = self.counts[first : last + 1].astype(np.float64)
        best, least = 1.0, np.inf
        for fraction in np.linspace(1.0, 0.1, 46):
            size = max(int(round(counts.size * fraction)), min(levels, counts.size))
            start = min(max(int(round((self.BINS - first) * (1 - fraction))), 0), counts.size - size)
            kept = counts[start : start + size].copy()
            inside = kept.copy()
            kept[0] += counts[:start].sum()
            kept[-1] += counts[start + size :].sum()
            divergence = _divergence(kept, _requantized(inside, levels))
            if divergence < least:
                best, least = fraction, divergence
        return choose_qparams(float(self.low) * best, float(self.high) * best, self.spec)


def _requantized(counts: np.ndarray, levels: int) -> np.ndarray:
    """Counts after merging bins to `levels` equal groups, spread evenly over each group's bins that are not empty."""
    group = np.arange(counts.size) * levels // counts.size
    sums = np.bincount(group, counts, minlength=levels)
    present = counts > 0
    members = np.bincount(group, present, minlength=levels)
    return np.where(present, sums[group] / np.maximum(members[group], 1), 0.0)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) of two unnormalised histograms; infinite where q lacks what p has, but for the clipped end bins."""
    p, q = p / p.sum(), q / max(q.sum(), 1e-300)
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))))


class PerChannelMinMax(MinMax):
    """The smallest and largest value of each channel along `axis`."""

    fixed_shapes = False

    def __init__(self, spec: QuantSpec, axis: int = 0) -> None:
        super().__init__(spec)
        self.axis = axis

    @property
    def is_empty(self) -> bool:
        return bool(np.any(np.asarray(self.low) > np.asarray(self.high)))

    def observe(self, array: np.ndarray, name: str = "") -> None:
        array = checked(array, name)
        if array.size:
            others = tuple(i for i in range(array.ndim) if i != self.axis)
            self.low = np.minimum(self.low, array.min(axis=others))
            self.high = np.maximum(self.high, array.max(axis=others))

    def qparams(self) -> QuantParams:
        if self.is_empty:
            return super().qparams()
        return choose_qparams(self.low, self.high, self.spec, self.axis)


class Fixed(MinMax):
    """Parameters known beforehand; the data is only checked."""

    def __init__(self, spec: QuantSpec, scale: float, zero_point: float) -> None:
        super().__init__(spec)
        self.params = QuantParams.per_tensor(scale, int(zero_point), spec.dtype, spec.qmin, spec.qmax)

    def qparams(self) -> QuantParams:
        return self.params


def _torch_histogram(spec: QuantSpec) -> Observer:
    from qcompiler.quantization.torch_histogram import TorchHistogram

    return TorchHistogram(spec)


_OBSERVERS: dict[str, Callable[..., Observer]] = {
    "histogram": Histogram,
    "minmax": MinMax,
    "moving_average": MovingAverage,
    "torch_histogram": _torch_histogram,
    "percentile": Percentile,
    "mse": MeanSquaredError,
    "kl": Entropy,
    "per_channel_minmax": PerChannelMinMax,
    "fixed": Fixed,
}


def register_observer(name: str, factory: Callable[..., Observer]) -> None:
    """Let a QuantSpec name a user's observer: `factory(spec, *numbers)` has observe, qparams and merge. A spec may give
    numbers: an observer written `name(99.9)` is made by factory(spec, 99.9)."""
    if name in _OBSERVERS:
        raise QuantizationError(f"the observer {name!r} exists already")
    _OBSERVERS[name] = factory


def make_observer(spec: QuantSpec) -> Observer:
    """A fresh observer for a spec.

    Raises:
        QuantizationError: unknown name (nearest given), or numbers that it does not take.
    """
    name, _, rest = spec.observer.partition("(")
    factory = _OBSERVERS.get(name)
    if factory is None:
        raise QuantizationError(f"unknown observer {name!r}", hint=nearest(name, _OBSERVERS))
    try:
        numbers = [float(part) for part in rest.rstrip(")").split(",")] if rest else []
        return factory(spec, *numbers)
    except (TypeError, ValueError) as error:
        raise QuantizationError(
            f"the observer {spec.observer!r} cannot be made: {error}", expected="name or name(number,...)"
        ) from None
