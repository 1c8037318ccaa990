"""Rounds the weights of a product one input after the other, each with feedback of the errors so far (GPTQ).

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv 2210.17323.
With H the second moments of the product's inputs, and u its weights in codes, the error of the outputs is

    (1) (c - u) H (c - u)^T             for each output channel
    (2) H = U D U^T                     U upper triangular with a diagonal of ones, D diagonal and positive
    (3) (1) = sum over k of D_k * (c_k - u_k + sum over j < k of (c_j - u_j) U_jk)^2

so each code in turn is the one nearest to u_k - sum over j < k of (c_j - u_j) U_jk. That is GPTQ without the inverse of
H (Chee et al., "QuIP: 2-Bit Quantization of Large Language Models With Guarantees", arXiv 2307.13304, theorem 6).
Inputs come in the order of their energy, the largest first, and 1 % of the mean energy is added to the diagonal of H,
as in GPTQ's own code.

All is computed in f64 in a fixed order (`exact_products.py`), so the codes do not depend on the machine.
"""

from __future__ import annotations

import numpy as np

from qcompiler.quantization.exact_products import product

BLOCK = 64
"""Inputs that are rounded before their errors reach those behind the block."""


def round_with_feedback(target: np.ndarray, moments: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The codes, f64 [groups, outputs, k].

    Args:
        target: u, f64 [groups, outputs, k]: weights divided by their scale.
        moments: H with a positive diagonal, f64 [groups, k, k].
        low, high: the range of the codes, [groups, outputs].
    """
    groups, outputs, size = target.shape
    order = np.argsort(-moments[:, range(size), range(size)], axis=1, kind="stable")
    sorted_moments = np.take_along_axis(np.take_along_axis(moments, order[:, :, None], 1), order[:, None, :], 2)
    wanted = np.take_along_axis(target, order[:, None, :], 2)
    upper = _upper_factor(sorted_moments)
    codes, fed = np.zeros_like(wanted), np.zeros_like(wanted)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        for k in range(start, stop):
            codes[:, :, k] = np.clip(np.rint(wanted[:, :, k] - fed[:, :, k]), low, high)
            error = codes[:, :, k] - wanted[:, :, k]
            fed[:, :, k + 1 : stop] += error[:, :, None] * upper[:, None, k, k + 1 : stop]
        if stop < size:
            errors = codes[:, :, start:stop] - wanted[:, :, start:stop]
            fed[:, :, stop:] += product(errors, upper[:, start:stop, stop:])
    found = np.empty_like(codes)
    np.put_along_axis(found, np.broadcast_to(order[:, None, :], codes.shape), codes, 2)
    return found


def _upper_factor(moments: np.ndarray) -> np.ndarray:
    """U of equation (2), f64 [groups, k, k]: the factor of L D L^T of the reversed matrix, reversed."""
    left = moments[:, ::-1, ::-1].copy()
    size = left.shape[1]
    lower = np.zeros_like(left)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        pivots = np.empty((len(left), stop - start))
        for k in range(start, stop):
            pivot = pivots[:, k - start] = left[:, k, k]
            column = lower[:, k:, k] = left[:, k:, k] / pivot[:, None]
            left[:, k + 1 :, k + 1 : stop] -= (
                column[:, 1:, None] * (pivot[:, None] * column[:, 1 : stop - k])[:, None, :]
            )
        if stop < size:
            panel = lower[:, stop:, start:stop]
            left[:, stop:, stop:] -= product(panel * pivots[:, None, :], panel.swapaxes(1, 2))
    return lower[:, ::-1, ::-1]
