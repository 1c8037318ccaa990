"""Chooses for each weight whether it is rounded up or down, by gradient descent (AdaRound).

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568. With u the weights of a
product in codes, and H the second moments of its inputs, codes are floor(u) + h(V), and V minimizes, by Adam,

    (1) sum over outputs of E / E_nearest + LAMBDA * sum over weights of 1 - |2 h(V) - 1|^beta
    (2) E = (floor(u) + h(V) - u) H (floor(u) + h(V) - u)^T         the error of an output channel (equation 21)
    (3) h(V) = clip(1.2 s(V) - 0.1, 0, 1)                           with s from 0 to 1 (equation 23)

E_nearest is E of codes that are rounded to nearest. After a warm-up without the second term, beta falls from 20 to 2,
which drives h to 0 or 1. V starts where floor(u) + h(V) = u.

Differences from the paper: E is that of all rows at once, by H, where the paper draws batches of rows; fused
activations are not part of E; and s(V) = 1/2 + V / (2 sqrt(1 + V^2)) in place of the logistic function: the paper asks
for any h that is differentiable, and this one has the same bits on every machine, as exp has not. Products with H are
sums of integers, which are exact in any order (`exact_products.py`), so that the codes do not depend on the machine.
"""

from __future__ import annotations

import numpy as np

from qcompiler.quantization.exact_products import fixed_point, slice_bits

STEPS, WARM_UP = 1000, 200
RATE, LAMBDA, BETAS = 0.03, 0.2, (20, 2)
_MOMENTUM, _SQUARES, _EPSILON = 0.9, 0.999, 1e-8


def choose_rounding(target: np.ndarray, moments: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The codes, f64 [groups, outputs, k]. Outputs for which they are worse than the nearest codes have the nearest.

    Args:
        target: u, f64 [groups, outputs, k]: weights divided by their scale.
        moments: H with a positive diagonal, f64 [groups, k, k].
        low, high: the range of the codes, [groups, outputs].
    """
    low, high = low[:, :, None], high[:, :, None]
    floor = np.clip(np.floor(target), low, high - 1)
    nearest = np.clip(np.rint(target), low, high)
    error = _OutputError(moments)
    least = error.of(nearest - target)
    weight = 2.0 / np.where(least > 0, least, np.inf)[:, :, None]
    v = _start(target - floor)
    adam = _Adam(v.shape)
    for step in range(STEPS):
        h, slope = _rectified(v)
        gradient = weight * error.gradient(floor + h - target)
        if step >= WARM_UP:
            gradient -= LAMBDA * _regularizer_slope(h, (step - WARM_UP) / (STEPS - WARM_UP))
        v -= adam.step(gradient * slope)
    codes = floor + (v >= 0)
    return np.where((error.of(codes - target) <= least)[:, :, None], codes, nearest)


class _OutputError:
    """E of equation (2), with H = R A R: R diagonal, A with a diagonal of ones and in fixed point."""

    def __init__(self, moments: np.ndarray) -> None:
        size = moments.shape[1]
        self._bits = slice_bits(size)
        root = np.sqrt(moments[:, range(size), range(size)])
        self._alike = fixed_point(moments / (root[:, :, None] * root[:, None, :]), self._bits)
        self._root = root[:, None, :]

    def gradient(self, errors: np.ndarray) -> np.ndarray:
        """Half of the gradient of E: errors H."""
        return np.matmul(fixed_point(errors * self._root, self._bits), self._alike) * self._root

    def of(self, errors: np.ndarray) -> np.ndarray:
        """E, [groups, outputs], summed in order."""
        return np.add.accumulate(self.gradient(errors) * errors, axis=2)[:, :, -1]


class _Adam:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization", arXiv 1412.6980."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._mean, self._square = np.zeros(shape), np.zeros(shape)
        self._mean_left = self._square_left = 1.0

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """What to subtract."""
        self._mean += (1 - _MOMENTUM) * (gradient - self._mean)
        self._square += (1 - _SQUARES) * (gradient * gradient - self._square)
        self._mean_left *= _MOMENTUM
        self._square_left *= _SQUARES
        root = np.sqrt(self._square / (1 - self._square_left))
        return (RATE / (1 - self._mean_left)) * self._mean / (root + _EPSILON)


def _start(share: np.ndarray) -> np.ndarray:
    """V with h(V) = share, which is moved into [0.01, 0.99]."""
    doubled = 2 * (np.clip(share, 0.01, 0.99) + 0.1) / 1.2 - 1
    return doubled / np.sqrt(1 - doubled * doubled)


def _rectified(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """h(V) of equation (3), and its slope."""
    curve = 1 + v * v
    root = np.sqrt(curve)
    h = 0.5 + 0.6 * (v / root)
    return np.clip(h, 0, 1), np.where((h > 0) & (h < 1), 0.6 / (curve * root), 0.0)


def _regularizer_slope(h: np.ndarray, progress: float) -> np.ndarray:
    """Minus the slope of 1 - |2 h - 1|^beta along h."""
    beta = round(BETAS[0] + (BETAS[1] - BETAS[0]) * progress)
    away = 2 * h - 1
    return 2 * beta * np.sign(away) * _power(np.abs(away), beta - 1)


def _power(base: np.ndarray, exponent: int) -> np.ndarray:
    """base ** exponent by multiplications, which every machine rounds alike."""
    result = np.ones_like(base)
    while exponent:
        if exponent & 1:
            result = result * base
        base, exponent = base * base, exponent >> 1
    return result
