"""What calibration computes of a value: its bounds, those of its channels, and counts in bins of a power-of-two width.

The interpreter's observers compute these in numpy, and calibration programs by kernels, with the same bits
(`qcompiler.ops.statistics`). Both are exact, so they depend neither on the order of the elements nor on how these are
cut into parts.
"""

from __future__ import annotations

import numpy as np

BINS = 2048
"""Bins on each side of 0."""

LEAST_EXPONENT = -126
"""Of the narrowest bins, 2^-126 wide."""

MOST_EXPONENT = 118
"""Of the widest bins: these hold the largest finite f32."""

_SPARE_BITS = BINS.bit_length() - 2
"""Bins are so wide that the largest magnitude lies below 2^_SPARE_BITS of them."""


def value_range(array: np.ndarray) -> np.ndarray:
    """f32[2]: the smallest and the largest element.

    (inf, -inf) of no elements, and (NaN, NaN) if an element is not finite. A zero is 0, never -0.
    """
    array = np.asarray(array, np.float32)
    if not array.size:
        return np.array([np.inf, -np.inf], np.float32)
    bounds = np.array([array.min(), array.max()], np.float32)  # NaN if an element is NaN
    return bounds + np.float32(0) if np.isfinite(bounds).all() else np.full(2, np.nan, np.float32)


def channel_range(array: np.ndarray, axis: int) -> np.ndarray:
    """f32[2, channels]: the smallest and the largest element of each channel, as `value_range` gives them. axis: along
    which the channels lie."""
    array = np.asarray(array, np.float32)
    if not array.size:
        return np.array([[np.inf], [-np.inf]], np.float32).repeat(array.shape[axis], axis=1)
    others = tuple(other for other in range(array.ndim) if other != axis % array.ndim)
    bounds = np.stack([array.min(axis=others), array.max(axis=others)])
    return np.where(np.isfinite(bounds).all(axis=0), bounds + np.float32(0), np.float32(np.nan))


def bin_exponent(bounds: np.ndarray, least: int = LEAST_EXPONENT) -> int:
    """The exponent e of the width 2^e of the bins for elements within bounds; at least `least`.

    With 2^k the least power of two above both magnitudes, e = k - 10.
    """
    biased = int((np.asarray(bounds, np.float32).view(np.int32) & 0x7FFFFFFF).max()) >> 23
    return max(least, biased - 126 - _SPARE_BITS)


def value_counts(array: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """i32[2 * BINS]: how many elements lie in each bin.

    Bin BINS + i holds [i * w, (i + 1) * w), with w = 2^e as `bin_exponent` says. What lies beyond counts in the
    outermost bins, and NaN in the first one.
    """
    with np.errstate(invalid="ignore"):
        place = np.floor(np.asarray(array, np.float64) * 2.0 ** -bin_exponent(bounds))
    index = np.fmin(np.fmax(place, -BINS), BINS - 1).astype(np.int64)
    return np.bincount(index.reshape(-1) + BINS, minlength=2 * BINS).astype(np.int32)
