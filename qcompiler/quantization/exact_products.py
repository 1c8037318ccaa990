"""Matrix products of f64 with the same bits on every machine, whatever order a BLAS sums in.

Each factor is split into two slices of fixed point (Ozaki et al., "Error-free transformations of matrix multiplication
by using fast routines of matrix multiplication and its applications", 2012). The products of slices are integers whose
sums stay below 2^53, so each partial sum is exact in any order, and the slices' products are added up in a fixed order.
"""

from __future__ import annotations

import numpy as np

_MANTISSA = 53


def slice_bits(terms: int) -> int:
    """The bits that factors of products may have, for sums of `terms` products to be exact in f64."""
    return (_MANTISSA - 1 - max(1, terms).bit_length()) // 2


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b of finite f64 [..., m, k] and [..., k, n].

    The error of an element is about k * 2^(3 - 2 * slice_bits(k)) of the largest |a| times the largest |b|: for
    k = 4,096 that is 2^-23 of one such product.
    """
    bits = slice_bits(a.shape[-1])
    (a_high, a_low), (b_high, b_low) = _slices(a, bits), _slices(b, bits)
    return np.matmul(a_high, b_high) + (np.matmul(a_high, b_low) + np.matmul(a_low, b_high))


def fixed_point(array: np.ndarray, bits: int) -> np.ndarray:
    """The array rounded to multiples of a power of two such that its largest element has `bits` bits."""
    unit = _unit(array, bits)
    return np.rint(array / unit) * unit


def _unit(array: np.ndarray, bits: int) -> float:
    largest = max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))
    return float(np.ldexp(1.0, int(np.frexp(largest)[1]) - bits)) if largest else 1.0


def _slices(array: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    high = fixed_point(array, bits)
    return high, fixed_point(array - high, bits)
