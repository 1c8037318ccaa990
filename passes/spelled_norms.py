"""Norms that a region spells out: recognized by what the region makes of chosen inputs.

A norm divides each row by a divisor D that depends on the size s of the row alone:

    f(x) = d / D(s) * weight + bias        layer_norm, group_norm  d = x - mean(x), s = sqrt(mean(d^2))
                                           rms_norm                d = x,           s = sqrt(mean(x^2))
                                           l2_normalize            d = x,           s = sqrt(sum(x^2))

    f(0)                       gives the bias
    f(x), s far above eps      gives the weight: (f(x) - bias) * s / d
    f(x), s from 1 to 2^-80    gives D: weight * d / (f(x) - bias), which has to be of the op's form, and with it eps

so no form of the expression needs to be known. Where a constant of the region is a parameter but for roundings, the
constant is taken. The op with these parameters then has to agree with the region on other inputs, of several sizes and
means. All is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qcompiler.fork_safety import cached_property
from qcompiler.ir import AttrValue
from qcompiler.ops.norm import L2Normalize, LastAxesNorm, Normalised
from qcompiler.passes.spelled import SAME, Function, Miss, Rows, Spelled, is_near

TOLERANCE = 2.0**-16
"""Largest difference from the op, relative to the largest normalized element of the row. A factor 1 / n that was
rounded to f32 shifts a mean by 2^-24 of it, and inputs here have means of up to 4 standard deviations; a variance as
mean(x^2) - mean(x)^2 turns that into 2 * 4^2 * 2^-24 = 2^-19 of the variance."""

LADDER = tuple(2.0**-exponent for exponent in range(0, 84, 4))
"""The sizes of rows at which a divisor is measured."""

LEAST = float(np.finfo(np.float32).smallest_subnormal)
"""The eps of an l2_normalize that only a row of zeros is shorter than."""


class _Form(NamedTuple):
    """How eps keeps a divisor D(s) away from 0."""

    words: str
    eps_of: Callable[[float, float], float]
    """(s, D(s)) of a small row -> eps"""
    divisor: Callable[[np.ndarray, float], np.ndarray]
    """(s, eps) -> D(s)"""


_UNDER_ROOT = _Form(
    "added under the root: sqrt(s^2 + eps)", lambda s, d: max(d * d - s * s, 0.0), lambda s, eps: np.sqrt(s * s + eps)
)
_LEAST_DIVISOR = _Form("the least divisor: max(s, eps)", lambda s, d: d if d > s * (1 + SAME) else 0.0, np.maximum)
_BESIDE_ROOT = _Form("added to the root: s + eps", lambda s, d: max(d - s, 0.0), np.add)
_FORMS = (_UNDER_ROOT, _LEAST_DIVISOR, _BESIDE_ROOT)


@dataclass(frozen=True)
class Norm:
    """A norm of each row: layer_norm, rms_norm, group_norm, instance_norm or l2_normalize.

    Attributes:
        attrs: all except eps.
        axis: the axis that layer_norm or rms_norm normalizes, if it is not the last one and has to be moved there.
    """

    rows: Rows
    op: type[Normalised] | type[L2Normalize]
    attrs: Mapping[str, AttrValue]
    axis: int | None = None

    def spelled_by(self, function: Function) -> Spelled | Miss:
        """The op that a function computes, or why it computes none."""
        zeros = function.at_zero
        if self._is_l2 and zeros.any() and not np.isnan(zeros).all():
            return Miss(0, f"it gives other values than {self.op.name} for rows of zeros")
        bias = self._common(np.zeros_like(zeros) if self._is_l2 else zeros)
        if bias is None:
            return Miss(1, "rows of zeros do not all give the same bias")
        # Signs in turn, so that no element is near to the mean.
        signs = np.where(np.arange(self.rows.length) % 2, 1.0, -1.0)
        x = np.random.default_rng(0).uniform(1, 2, (self.rows.count, self.rows.length)) * signs
        far = x * 2.0**30
        d, s = self._sized(far)
        with np.errstate(all="ignore"):
            weight = self._common(self.rows.joined((self._of(function, far) - self._along(bias)) * s / d))
        if weight is None:
            return Miss(1, "its rows are not normalized and then multiplied by one weight")
        if self._is_l2 and not is_near(1.0, weight):
            return Miss(2, f"it is {self.op.name} times a weight")
        eps = self._eps(function, x, weight, bias)
        if isinstance(eps, Miss):
            return eps
        attrs = self.op.complete_attrs({**self.attrs, self.op.eps.name: eps})
        constants = [] if self._is_l2 else [self._constant(function, weight, 1), self._constant(function, bias, 0)]
        if any(data is not None for data in constants) and not self._parameter_is_static(function):
            return Miss(4, "its weight or bias would lie along an axis of open size")
        found = Spelled(self.op, attrs, constants, self.axis)
        apart = self._difference(function, found, weight, bias, eps)
        return found if apart is None else Miss(4, apart)

    # -- the parts of the formula

    @property
    def _is_l2(self) -> bool:
        return issubclass(self.op, L2Normalize)

    @property
    def _form(self) -> _Form:
        return _LEAST_DIVISOR if self._is_l2 else _UNDER_ROOT

    def _sized(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(d, s) of rows."""
        centers = issubclass(self.op, Normalised) and self.op.centers
        d = x - x.mean(axis=1, keepdims=True) if centers else x
        total = np.square(d).sum(axis=1, keepdims=True)
        return d, np.sqrt(total if self._is_l2 else total / self.rows.length)

    @cached_property
    def _parameter_shape(self) -> tuple[int, ...]:
        """The shape of weight and bias that broadcasts against the operand."""
        shape = self.rows.shape
        if self.axis is None and issubclass(self.op, LastAxesNorm):
            return shape[-len(self.rows.axes) :]
        axis = 1 if self.axis is None else self.axis
        return (shape[axis], *(1,) * (len(shape) - 1 - axis))

    def _parameter_is_static(self, function: Function) -> bool:
        """Whether the axes of weight and bias have sizes that are known: the tried ones say nothing about others."""
        sizes = function.region.source.type.shape
        if self.axis is None and issubclass(self.op, LastAxesNorm):
            return all(isinstance(size, int) for size in sizes[-len(self.rows.axes) :])
        return isinstance(sizes[1 if self.axis is None else self.axis], int)

    def _along(self, parameter: np.ndarray) -> np.ndarray:
        """A parameter as rows of the operand."""
        return self.rows.split(np.broadcast_to(parameter, self.rows.shape))

    def _common(self, x: np.ndarray) -> np.ndarray | None:
        """What all of an array of the operand's shape has in common along the axes of a parameter; None if it
        differs."""
        if self._is_l2:
            common = x.reshape(-1)[:1].reshape((1,) * x.ndim)
        elif self.axis is not None:
            common = np.moveaxis(x, self.axis, -1).reshape(-1, x.shape[self.axis])[0].reshape(self._parameter_shape)
        elif issubclass(self.op, LastAxesNorm):
            common = x.reshape(-1, *self._parameter_shape)[0]
        else:
            common = x[0].reshape(x.shape[1], -1)[:, 0].reshape(self._parameter_shape)
        if not np.isfinite(x).all():
            return None
        bound = 4 * SAME * np.abs(common) + 2.0**-40 * np.abs(common).max(initial=0)
        return common if (np.abs(x - common) <= bound).all() else None

    def _of(self, function: Function, rows: np.ndarray) -> np.ndarray:
        return self.rows.split(function(self.rows.joined(rows)))

    # -- eps

    def _eps(self, function: Function, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float | Miss:
        """eps, if the divisor is of the op's form."""
        measured = self._divisors(function, x, weight, bias)
        if not measured:
            return Miss(2, "its divisor can't be measured")
        s, divisors = (np.array(column) for column in zip(*sorted(measured)))
        fits = {}
        for form in _FORMS:
            eps = form.eps_of(float(s[0]), float(divisors[0]))
            if (np.abs(form.divisor(s, eps) / divisors - 1) <= TOLERANCE).all():
                fits[form] = eps
        if self._form not in fits:
            other = next(iter(fits), None)
            if other is None:
                return Miss(2, f"its divisor is no function of the size of a row that {self.op.name} has")
            return Miss(3, f"its eps {fits[other]:.3g} is {other.words}; that of {self.op.name} is {self._form.words}")
        return self._exact(function, fits[self._form])

    def _divisors(
        self, function: Function, x: np.ndarray, weight: np.ndarray, bias: np.ndarray
    ) -> list[tuple[float, float]]:
        """(s, D(s)) of rows of all sizes in LADDER, except where the bias hides the rest."""
        weights, biases = self._along(weight), self._along(bias)
        at = np.argmax(np.abs(weights), axis=1)[:, None]  # one element of each row tells the divisor
        measured = []
        for factor in self.rows.shared([(factor,) for factor in LADDER]):
            rows = x * factor
            d, s = self._sized(rows)
            given, w, b, d = (np.take_along_axis(a, at, 1) for a in (self._of(function, rows), weights, biases, d))
            visible = np.isfinite(given) & (np.abs(given - b) > 2.0**-30 * np.abs(b)) & (w != 0)
            with np.errstate(all="ignore"):
                divisor = w * d / (given - b)
            measured += list(zip(s[visible].tolist(), divisor[visible].tolist()))
        return measured

    def _exact(self, function: Function, eps: float) -> float:
        """The eps that a constant of the region is, or makes: as the square of it, or of the sum and not the mean."""
        if self._is_l2 and eps == 0:
            return 0.0 if np.isnan(function.at_zero).any() else LEAST
        scalars = [c for c in function.scalars if c >= 0]
        made = [math.sqrt(c) if self._is_l2 else c / self.rows.length for c in scalars]
        meant = next((c for c in (*scalars, *made) if abs(c - eps) <= 16 * SAME * c), eps)
        return float(str(np.float32(meant)))

    # -- the comparison

    def _constant(self, function: Function, values: np.ndarray, neutral: float) -> np.ndarray | None:
        """The operand of a parameter, f32, or None if it is the neutral one."""
        given = function.constant_near(values)
        if given is None and (is_near(neutral, values) if neutral else not values.any()):
            return None
        data = np.asarray(values if given is None else given, np.float32)
        if (data == neutral).all():
            return None
        return data if issubclass(self.op, LastAxesNorm) and self.axis is None else data.reshape(-1)

    def _run(self, x: np.ndarray, found: Spelled, constants: Sequence[np.ndarray | None]) -> np.ndarray:
        """The op's result for an array, with its axis moved."""
        axis = x.ndim - 1 if self.axis is None else self.axis
        [y] = self.op.run_reference([np.moveaxis(x, axis, -1), *constants], found.attrs)
        return np.moveaxis(y, -1, axis)

    def _difference(
        self, function: Function, found: Spelled, weight: np.ndarray, bias: np.ndarray, eps: float
    ) -> str | None:
        """In words where the op differs from a function, or None."""
        edge = eps if self._is_l2 else math.sqrt(eps)
        sizes = [1.0, 2.0**-10, 2.0**10, 2.0**-40] + [edge * factor for factor in (0.125, 1.0, 8.0) if edge]
        rng = np.random.default_rng(0)
        tolerance, least = np.abs(self._along(weight)) * TOLERANCE, np.abs(self._along(bias)) * 2.0**-40
        for kinds in self.rows.shared([(size,) for size in sizes]):
            offsets = rng.uniform(-4, 4, (self.rows.count, 1))
            x = self.rows.joined((rng.normal(size=(self.rows.count, self.rows.length)) + offsets) * kinds)
            got, wanted, plain = (
                self.rows.split(y)
                for y in (
                    function(x),
                    self._run(x, found, found.constants),
                    self._run(x, found, ()),
                )
            )
            largest = np.abs(plain).max(axis=1, keepdims=True)
            beyond = ~(np.abs(got - wanted) <= tolerance * largest + least)
            if beyond.any():
                row = int(np.argmax(beyond.any(axis=1)))
                apart = float(np.abs(got - wanted)[row].max())
                return f"it is near to {self.op.name}, but differs by {apart:.2g} for a row of size {kinds[row, 0]:.2g}"
        return None
