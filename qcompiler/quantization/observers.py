"""The registry of observers: a name in a QuantSpec -> what collects a tensor's range and chooses its parameters.

Built-in observers take memory O(bins). A user's class with the same methods joins by `register_observer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, Self, runtime_checkable

import numpy as np

from qcompiler.arguments import check_text, check_type
from qcompiler.errors import QuantizationError, nearest
from qcompiler.quantization.histogram import Entropy, Histogram, MeanSquaredError, Percentile
from qcompiler.quantization.minmax import Fixed, MinMax, MovingAverage, PerChannelMinMax
from qcompiler.quantization.spec import QuantSpec
from qcompiler.quantization.torch_histogram import TorchHistogram
from qcompiler.types import QuantParams


class Observer(Protocol):
    """What calibration asks of an observer."""

    def observe(self, array: np.ndarray, name: str = "") -> None:
        """Take in one value of a tensor; `name` is for messages."""
        ...

    def qparams(self) -> QuantParams:
        """The parameters for what was seen."""
        ...

    def merge(self, other: Self) -> None:
        """Take over what an observer of the same kind saw."""
        ...


@runtime_checkable
class SavableObserver(Observer, Protocol):
    """An observer whose state can be saved, and taken over by another one."""

    def state(self) -> dict[str, np.ndarray]:
        """What was collected, as arrays by name."""
        ...

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over the `state()` of an observer; QuantizationError if it does not suffice."""
        ...


_OBSERVERS: dict[str, Callable[..., Observer]] = {
    "histogram": Histogram,
    "minmax": MinMax,
    "moving_average": MovingAverage,
    "torch_histogram": TorchHistogram,
    "percentile": Percentile,
    "mse": MeanSquaredError,
    "kl": Entropy,
    "per_channel_minmax": PerChannelMinMax,
    "fixed": Fixed,
}


def register_observer(name: str, factory: Callable[..., Observer]) -> None:
    """Let a QuantSpec name a user's observer.

    Args:
        factory: `factory(spec, *numbers)` makes the observer: `name(99.9)` in a spec calls factory(spec, 99.9).
    """
    check_text("name", name, "a name")
    check_type("factory", factory, Callable, "factory(spec, *numbers)")  # type: ignore[arg-type]
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


__all__ = [
    "Entropy",
    "Fixed",
    "Histogram",
    "MeanSquaredError",
    "MinMax",
    "MovingAverage",
    "Observer",
    "PerChannelMinMax",
    "Percentile",
    "SavableObserver",
    "TorchHistogram",
    "make_observer",
    "register_observer",
]
