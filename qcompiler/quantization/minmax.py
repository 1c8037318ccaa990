"""Observers that collect the smallest and the largest value, and the base class of all built-in observers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qcompiler.errors import QuantizationError
from qcompiler.quantization.choose_qparams import choose_qparams, symmetric_zero_point
from qcompiler.quantization.spec import QuantSpec
from qcompiler.quantization.value_counts import value_range
from qcompiler.types import QuantParams

Bound = np.ndarray | np.floating[Any]
"""f32: one bound, or an array of rank 0."""


class NotFinite(QuantizationError):
    """A value holds NaN or Inf, so an observer takes nothing of it."""


def checked(array: np.ndarray, name: str) -> np.ndarray:
    """The array as f32; QuantizationError for NaN and Inf."""
    array = np.asarray(array, np.float32)
    if array.size and not np.isfinite(array).all():
        raise not_finite(name)
    return array


def not_finite(name: str) -> NotFinite:
    """The error for a value that holds NaN or Inf."""
    return NotFinite(
        "calibration data is not finite",
        where=f"%{name}",
        got="NaN or Inf",
        hint="check the calibration samples and the model's weights",
    )


class MinMax:
    """The smallest and the largest value seen. Merging is exact in any order.

    All that it takes of an array is its range (`value_range`), which a kernel may have computed: `observe_range`.

    Attributes:
        fields: the attributes that hold what the observer collected; a calibration saves and restores them.
    """

    fields: tuple[str, ...] = ("low", "high")

    def __init__(self, spec: QuantSpec) -> None:
        self.spec = spec
        self.low: Bound = np.float32(np.inf)
        self.high: Bound = np.float32(-np.inf)

    @property
    def is_empty(self) -> bool:
        return bool(self.low > self.high)

    def observe(self, array: np.ndarray, name: str = "") -> None:
        self.observe_range(value_range(array), name)

    def observe_range(self, bounds: np.ndarray, name: str = "") -> None:
        """Take in a value of which only the range is known.

        Raises:
            QuantizationError: the value is not finite.
        """
        low, high = bounds
        if np.isnan(low):
            raise not_finite(name)
        if low <= high:
            self._extend(low, high)

    def _extend(self, low: Bound, high: Bound) -> None:
        """Take in the range of a value that is not empty."""
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)

    def merge(self, other: MinMax) -> None:
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)

    def state(self) -> dict[str, np.ndarray]:
        """The fields, by name."""
        return {name: np.asarray(getattr(self, name)) for name in self.fields}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over the fields of another observer's `state()`.

        Raises:
            QuantizationError: a field is missing, since the other observer collects less, or the fields hold what no
                data gives.
        """
        missing = [name for name in self.fields if name not in state]
        if missing:
            raise QuantizationError(
                f"the calibration did not collect what {self.spec.observer} needs",
                expected=", ".join(self.fields),
                got=", ".join(state),
                hint="calibrate with this qconfig, or with the observer histogram",
            )
        for name in self.fields:
            mine, given = np.asarray(getattr(self, name)), np.asarray(state[name])
            if (given.dtype, given.shape) != (mine.dtype, mine.shape):
                raise QuantizationError(
                    f"the field {name} of an observer has another type",
                    expected=f"{mine.dtype}{list(mine.shape)}",
                    got=f"{given.dtype}{list(given.shape)}",
                )
            setattr(self, name, given.copy() if given.ndim else given[()])
        wrong = self._why_impossible()
        if wrong is not None:
            raise QuantizationError(f"the state of an observer {self.spec.observer} is impossible: {wrong}")

    def _why_impossible(self) -> str | None:
        """Why no data gives the fields, or None."""
        empty = self.low == np.inf and self.high == -np.inf
        if empty or (np.isfinite(self.low) and np.isfinite(self.high) and self.low <= self.high):
            return None
        return f"the bounds are [{self.low}, {self.high}]"

    def qparams(self) -> QuantParams:
        if self.is_empty:
            raise QuantizationError(
                "no calibration data reached a tensor", hint="check that every branch runs on the samples"
            )
        return choose_qparams(self.low, self.high, self.spec)


class MovingAverage(MinMax):
    """torch's MovingAverageMinMaxObserver: each batch moves the range by `constant`. The order of batches matters."""

    def __init__(self, spec: QuantSpec, constant: float = 0.01) -> None:
        super().__init__(spec)
        if not 0 < constant <= 1:
            raise ValueError("a constant above 0 and at most 1")
        self.constant = np.float32(constant)

    def _extend(self, low: Bound, high: Bound) -> None:
        if self.is_empty:
            self.low, self.high = low, high
        else:
            self.low, self.high = self._moved(self.low, low), self._moved(self.high, high)

    def _moved(self, bound: Bound, seen: Bound) -> Bound:
        """bound + constant * (seen - bound), in f32 like torch's, also where the difference is beyond f32."""
        with np.errstate(over="ignore"):
            difference = seen - bound
        if np.isfinite(difference):
            return bound + self.constant * difference
        half = np.float32(0.5)
        return bound + self.constant * (seen * half - bound * half) / half

    def merge(self, other: MinMax) -> None:
        raise QuantizationError(
            "moving averages depend on the order of the data and cannot be merged",
            hint="calibrate in one run, or use histogram or minmax",
        )


class Fixed(MinMax):
    """Parameters that are known beforehand; the data is only checked."""

    def __init__(self, spec: QuantSpec, scale: float, zero_point: float) -> None:
        super().__init__(spec)
        if zero_point != np.rint(zero_point) or not np.isfinite(zero_point):
            raise QuantizationError("the zero point of fixed", expected="a whole number", got=zero_point)
        self.params = QuantParams.per_tensor(scale, int(zero_point), spec.dtype, spec.qmin, spec.qmax)
        if self.params.scale[0] < spec.eps:
            raise QuantizationError("the scale of fixed", expected=f"at least eps = {spec.eps}", got=scale)
        if spec.symmetric and zero_point != symmetric_zero_point(spec):
            raise QuantizationError(
                "the zero point of a symmetric fixed", expected=symmetric_zero_point(spec), got=int(zero_point)
            )

    def qparams(self) -> QuantParams:
        return self.params
