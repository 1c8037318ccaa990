"""Ranges and counts of values against numpy's own functions, and which of them are exact."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from qcompiler.quantization.value_counts import BINS, bin_exponent, value_counts, value_range

RNG = np.random.default_rng(0)
ARRAYS = {
    "normal": RNG.normal(size=500),
    "wide": RNG.normal(size=500) * 2.0 ** RNG.integers(-140, 120, 500),
    "tiny": RNG.normal(size=50) * 2.0**-145,
    "powers": 2.0 ** np.arange(-149, 128),
    "negative powers": -(2.0 ** np.arange(-149, 128)),
    "zeros": np.array([0.0, -0.0, 0.0]),
    "huge and tiny": np.array([np.finfo(np.float32).max, -(2.0**-149), 2.0**-149, -0.0]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_each_element_counts_in_the_bin_that_holds_it(name: str) -> None:
    """The bin is computed in exact fractions, one element after the other."""
    array = ARRAYS[name].astype(np.float32)
    bounds = value_range(array)
    assert (bounds[0], bounds[1]) == (min(array), max(array)) and not np.signbit(bounds[bounds == 0]).any()
    width = Fraction(2) ** bin_exponent(bounds)
    expected = Counter(math.floor(Fraction(float(x)) / width) for x in array)
    counts = value_counts(array, bounds)
    assert {int(i) - BINS: int(counts[i]) for i in np.flatnonzero(counts)} == expected


def test_bins_are_twice_as_wide_from_each_power_of_two_on() -> None:
    for k in range(-100, 127):
        below = np.nextafter(np.float32(2.0**k), np.float32(0))
        assert bin_exponent(np.array([-below, 0.0])) == k - 10
        assert bin_exponent(np.array([0.0, 2.0**k])) == k - 9
    assert bin_exponent(np.array([0.0, 0.0])) == -126 == bin_exponent(np.array([0.0, 2.0**-149]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -np.nan])
def test_what_is_not_finite_has_no_range(bad: float) -> None:
    assert np.isnan(value_range(np.array([1.0, bad, -2.0], np.float32))).all()
    assert value_counts(np.array([bad], np.float32), np.array([0, 1], np.float32)).sum() == 1


def test_no_elements() -> None:
    bounds = value_range(np.zeros((0, 3), np.float32))
    assert bounds.tolist() == [np.inf, -np.inf] and not value_counts(np.zeros(0, np.float32), bounds).any()
