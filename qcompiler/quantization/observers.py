"""The registry of observers: a name in a QuantSpec -> what collects a tensor's range and chooses its parameters.

Built-in observers take memory O(bins). A user's class with the same methods joins by `register_observer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np

from qcompiler.arguments import check_text, check_type, described
from qcompiler.errors import QuantizationError, nearest
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.histogram import Entropy, Histogram, MeanSquaredError, Percentile
from qcompiler.quantization.minmax import Fixed, MinMax, MovingAverage
from qcompiler.quantization.spec import QuantSpec
from qcompiler.quantization.torch_histogram import TorchHistogram
from qcompiler.types import QuantParams


class Observer(Protocol):
    """What calibration asks of an observer."""

    def observe(self, array: np.ndarray, name: str = "") -> None:
        """Take in one value of a tensor; `name` is for messages."""
        ...

    def qparams(self) -> QuantParams:
        """The parameters for what was seen: one scale, and the qmin and qmax of the spec."""
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
    "fixed": Fixed,
}


_own: set[str] = set()
"""The names that users registered."""
_SYNONYMS = {"per_channel_minmax": "minmax", "entropy": "kl", "min_max": "minmax", "max": "minmax"}
"""What else the field calls an observer. A spec says by itself whether there is one scale per channel."""


def register_observer(name: str, factory: Callable[..., Observer]) -> None:
    """Let a QuantSpec name a user's observer.

    Args:
        factory: `factory(spec, *numbers)` makes the observer: `name(99.9)` in a spec calls factory(spec, 99.9).

    Raises:
        QuantizationError: the name is taken, or no spec could spell it.
    """
    check_text("name", name, "a name")
    check_type("factory", factory, Callable, "factory(spec, *numbers)")  # type: ignore[arg-type]
    if not name.isidentifier():
        raise QuantizationError("the name of an observer", expected="an identifier", got=repr(name)[:80])
    if name in _OBSERVERS:
        hint = f"qc.unregister_observer({name!r})" if name in _own else None
        raise QuantizationError(f"the observer {name!r} exists already", hint=hint)
    _OBSERVERS[name] = factory
    _own.add(name)


def unregister_observer(name: str) -> None:
    """Forget an observer that `register_observer` was given. QuantizationError if there is none of this name."""
    check_text("name", name, "a name")
    if name not in _own:
        raise QuantizationError(f"no observer {name!r} was registered", hint=nearest(name, _own) if _own else None)
    _own.remove(name)
    _OBSERVERS.pop(name, None)


def make_observer(spec: QuantSpec) -> Observer:
    """A fresh observer for a spec.

    Raises:
        QuantizationError: unknown name (nearest given), numbers that it does not take, or a factory of a user that
            makes no observer.
    """
    name, _, rest = spec.observer.partition("(")
    factory = _OBSERVERS.get(name)
    if factory is None:
        raise QuantizationError(f"unknown observer {name!r}", hint=nearest(name, _OBSERVERS, _SYNONYMS))
    try:
        if bool(rest) != rest.endswith(")"):
            raise ValueError("its parentheses do not match")
        numbers = [float(part) for part in rest.removesuffix(")").split(",")] if rest else []
        made = factory(spec, *numbers)
    except (TypeError, ValueError) as error:
        raise QuantizationError(
            f"the observer {spec.observer!r} cannot be made: {error}", expected="name or name(number,...)"
        ) from None
    missing = [method for method in ("observe", "qparams", "merge") if not callable(getattr(made, method, None))]
    if missing:
        raise QuantizationError(
            f"the observer {spec.observer!r} lacks a method", expected=", ".join(missing), got=described(made)
        )
    return made


Statistic = Literal["values", "range", "counts"]
"""What an observer takes of an array: all of it; its range (`MinMax.observe_range`); or its range and its counts
(`Histogram.observe_counts`)."""


def statistic(observer: Observer) -> Statistic:
    """What an observer takes of an array. A class that overrides `observe` takes all of it."""
    if isinstance(observer, Histogram) and type(observer).observe is Histogram.observe:
        return "counts"
    if isinstance(observer, MinMax) and type(observer).observe is MinMax.observe:
        return "range"
    return "values"


def chosen_params(observer: Observer, spec: QuantSpec, where: str) -> QuantParams:
    """The parameters that an observer chooses, which a user's class may get wrong.

    Raises:
        QuantizationError: no data was seen, or the parameters are not those of a tensor with this spec.
    """
    try:
        params = observer.qparams()
    except QuantizationError as error:
        raise error.located(where) from None
    if not isinstance(params, QuantParams) or params.axis is not None:
        raise QuantizationError(
            f"the observer {spec.observer} chose no parameters of a tensor",
            where=where,
            expected="QuantParams with one scale",
            got=str(params)[:200],
        )
    if (params.qmin, params.qmax) != (spec.qmin, spec.qmax):
        raise QuantizationError(
            f"the observer {spec.observer} chose parameters of another range",
            where=where,
            expected=f"[{spec.qmin}, {spec.qmax}]",
            got=f"[{params.qmin}, {params.qmax}]",
        )
    return params


def weight_params(weight: np.ndarray, spec: QuantSpec, axis: int | None, where: str) -> QuantParams:
    """The parameters that the spec's observer chooses for a constant, per tensor or per channel of `axis`.

    Raises:
        QuantizationError: the observer refuses the data, or its parameters do not fit the spec.
    """
    if axis is not None and spec.observer == "minmax":  # all channels at once, with the same result
        others = tuple(i for i in range(weight.ndim) if i != axis)
        return choose_qparams(weight.min(axis=others), weight.max(axis=others), spec, axis)
    single = replace(spec, per_channel=False)
    channels = [weight] if axis is None else list(np.moveaxis(weight, axis, 0))
    chosen = []
    for channel in channels:
        observer = make_observer(single)
        observer.observe(channel, where.removeprefix("%"))
        chosen.append(chosen_params(observer, single, where))
    scales = tuple(params.scale[0] for params in chosen)
    return QuantParams(scales, tuple(params.zero_point[0] for params in chosen), axis, spec.qmin, spec.qmax)


__all__ = [
    "Entropy",
    "Fixed",
    "Histogram",
    "MeanSquaredError",
    "MinMax",
    "MovingAverage",
    "Observer",
    "Percentile",
    "SavableObserver",
    "Statistic",
    "TorchHistogram",
    "chosen_params",
    "make_observer",
    "register_observer",
    "statistic",
    "unregister_observer",
    "weight_params",
]
