"""Extreme numbers of every element type, at which the meanings of ops differ."""

from __future__ import annotations

import math

import numpy as np


def extremes(dtype: np.dtype) -> np.ndarray:
    """Ends of the range, zeros of both signs, ties of rounding, numbers that f32 can't represent, infinities and NaN.
    Those of f16 and f64 are exact in f32."""
    if dtype == np.bool_:
        return np.array([False, True, True, False, True])
    if dtype.kind == "f":
        numbers = [
            0.0,
            -0.0,
            1,
            -1,
            0.5,
            -0.5,
            1.5,
            2.5,
            -2.5,
            3,
            7,
            -7.25,
            2.0**-8,
            2.0**-14,
            -(2.0**-20),
            100,
            -60000,
        ]
        wide = [] if dtype == np.float16 else [2.0**24, 2.0**31, -(2.0**63), 1e-8, 1e-20, 1e30, -3e38, 1e-45, 88.7]
        return np.array([*numbers, *wide, math.inf, -math.inf, math.nan], np.float32).astype(dtype)
    info = np.iinfo(dtype)
    numbers = [0, 1, 2, 3, 7, -1, -2, -7, info.min, info.min + 1, info.max - 1, info.max, 2**24 + 1, 2**31, -(2**31)]
    return np.array([n for n in numbers if info.min <= n <= info.max], dtype)


def moderate(dtype: np.dtype, *shape: int, seed: int = 0) -> np.ndarray:
    """Numbers between -3 and 3, or 0 and 3, with ties."""
    rng = np.random.default_rng(seed + math.prod(shape))
    if dtype.kind == "f":
        return (rng.integers(-24, 25, shape) / 8).astype(dtype)
    return rng.integers(0 if dtype.kind in "ub" else -3, 2 if dtype.kind == "b" else 4, shape).astype(dtype)


def pairs(dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of extremes."""
    x, y = np.meshgrid(extremes(dtype), extremes(dtype))
    return x.ravel(), y.ravel()


def close(got: np.ndarray, want: np.ndarray, tolerance: float, magnitude: float = 0.0) -> np.ndarray:
    """Whether floats are equal (NaN and infinities as well), or nearer than `tolerance` times the wanted number, or
    times `magnitude` if that is larger."""
    with np.errstate(all="ignore"):
        size = np.maximum(np.abs(want.astype(np.float64)), magnitude)
        near = np.abs(got.astype(np.float64) - want) <= tolerance * size + float(np.finfo(got.dtype).smallest_subnormal)
    return (got == want) | (np.isnan(got) & np.isnan(want)) | (near & np.isfinite(want))
