"""Initial parameters: torch's distributions, drawn from one seeded generator."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.fork_safety import fork_awaited_lock
from qcompiler.frontend.nn.module import Parameter

_generator = np.random.default_rng(0)
_lock = fork_awaited_lock()
"""Held while the generator draws: numpy's own lock would stay taken in a fork's child."""


def manual_seed(seed: int) -> None:
    """Seed the generator that all following layers draw from."""
    global _generator
    _generator = np.random.default_rng(seed)


def uniform(shape: tuple[int, ...], bound: float) -> Parameter:
    with _lock:
        drawn = _generator.uniform(-bound, bound, shape)
    return Parameter(drawn.astype(np.float32))


def normal(shape: tuple[int, ...]) -> Parameter:
    with _lock:
        return Parameter(_generator.standard_normal(shape, np.float32))


def kaiming_uniform(shape: tuple[int, ...]) -> Parameter:
    """torch's default for weights, kaiming_uniform(a=sqrt(5)): the bound is 1/sqrt(product of sizes[1:])."""
    return uniform(shape, _bound(shape))


def bias_for(weight_shape: tuple[int, ...], size: int) -> Parameter:
    """torch's default for biases: the same bound as the weight's."""
    return uniform((size,), _bound(weight_shape))


def _bound(weight_shape: tuple[int, ...]) -> float:
    fan_in = math.prod(weight_shape[1:])
    return 1.0 / math.sqrt(fan_in) if fan_in else 0.0
