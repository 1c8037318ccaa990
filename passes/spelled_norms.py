"""Norms and softmaxes that a region spells out: recognized by what the region makes of chosen inputs.

Of a layer norm f with d = x - mean(x) and v = var(x), or of an RMS norm with d = x and v = mean(x^2),

    f(x) = d / sqrt(v + eps) * weight + bias

    f(0)                        gives the bias
    f(x), v far above eps       gives the weight: (f(x) - bias) * sqrt(v) / d
    f(x), v about 2^-20         gives eps: (weight * d / (f(x) - bias))^2 - v

so no form of the expression needs to be known. The op with these parameters then has to agree with the region on other
inputs, of several magnitudes. All is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcompiler.errors import QCompilerError
from qcompiler.ir import AttrValue
from qcompiler.opdef import Op
from qcompiler.ops.norm import LastAxesNorm, LayerNorm, RmsNorm
from qcompiler.ops.reduce import LogSoftmax, Reduction, Softmax
from qcompiler.passes.regions import Region

TOLERANCE = 2.0**-16
"""Largest difference from the op, relative to the largest result. A factor 1 / n that was rounded to f32 shifts a mean
by 2^-24 of it, and inputs here have means of up to 4 standard deviations; a variance as mean(x^2) - mean(x)^2 turns
that into 2 * 4^2 * 2^-24 = 2^-19 of the variance."""

SIZE = 2
"""What symbolic sizes are while a region is tried."""

MOST_ELEMENTS = 2**24
"""Regions of larger operands are not tried."""


@dataclass(frozen=True)
class Spelled:
    """An op with constant parameters that a region spells out."""

    op: type[Op]
    attrs: Mapping[str, AttrValue] = field(default_factory=dict)
    constants: Sequence[np.ndarray | None] = ()
    """f32, the operands after the first"""


def spelled_reduction(region: Region, dim_names: Sequence[str]) -> Spelled | str:
    """The layer_norm, rms_norm, softmax or log_softmax that a region computes, or why it is none."""
    sizes = dict.fromkeys(dim_names, SIZE)
    end = region.nodes[-1].result.type
    if end.shape != region.source.type.shape:
        return f"its result {end} has another shape than {region.source.type}"
    try:
        shape = tuple(size for size in region.source.type.bind(sizes).shape if isinstance(size, int))
        axes = _axes(region)
        if isinstance(axes, str):
            return axes
        count, elements = math.prod(shape[axis] for axis in axes), math.prod(shape)
        if count < 2 or not 0 < elements <= MOST_ELEMENTS:
            return f"it reduces {count} of {elements} elements"
        function = _Function(region, sizes, shape)
        softmax = _softmax(function, axes) if len(axes) == 1 else None
        if softmax is not None:
            return softmax
        if axes != tuple(range(len(shape) - len(axes), len(shape))):
            return "the axes that it reduces are not the last ones"
        found = [_norm(function, len(axes), op) for op in (LayerNorm, RmsNorm)]
        return next((each for each in found if isinstance(each, Spelled)), found[0])
    except QCompilerError as error:
        return f"it cannot be evaluated: {error.message}"


def _axes(region: Region) -> tuple[int, ...] | str:
    """The axes, from 0, that all its reductions reduce."""
    found = set()
    rank = region.source.type.rank
    for node in region.nodes:
        reduction, norm = Reduction.of(node), LastAxesNorm.of(node)
        if reduction is not None:
            if reduction.x.type.rank != rank:
                return "a reduction reads a value of another rank"
            found.add(tuple(sorted(reduction.axes)))
        elif norm is not None:
            found.add(tuple(range(rank - norm.normalized_rank, rank)))
    return found.pop() if len(found) == 1 else "its reductions are over different axes"


@dataclass(frozen=True)
class _Function:
    """A region as a function of arrays of one shape."""

    region: Region
    sizes: Mapping[str, int]
    shape: tuple[int, ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.region(x, self.sizes)

    def probes(self) -> Iterator[np.ndarray]:
        """Inputs of several magnitudes, with means of up to 4 standard deviations."""
        rng = np.random.default_rng(0)
        for magnitude in (1.0, 1e-3, 1e3):
            yield (rng.normal(size=self.shape) + rng.uniform(-4, 4)) * magnitude

    def is_close(self, op: type[Op], attrs: Mapping[str, AttrValue], constants: Sequence[np.ndarray | None]) -> bool:
        """Whether an op gives the same, wherever the region is finite."""
        for x in self.probes():
            got, wanted = self(x), op.run_reference([x, *constants], attrs)[0]
            finite = np.isfinite(got)
            if abs(x).max() <= 60 and not finite.all():
                return False
            if got.shape != wanted.shape or (np.abs(got - wanted)[finite] > TOLERANCE * np.abs(wanted).max()).any():
                return False
        return True


def _softmax(function: _Function, axes: tuple[int, ...]) -> Spelled | None:
    for op in (Softmax, LogSoftmax):
        attrs = op.complete_attrs({op.axis.name: axes[0]})
        if function.is_close(op, attrs, ()):
            return Spelled(op, attrs)
    return None


def _norm(function: _Function, rank: int, op: type[LastAxesNorm]) -> Spelled | str:
    """The norm over the last `rank` axes, or why it is none."""
    last = function.shape[-rank:]
    bias = _common(function(np.zeros(function.shape)), last)
    if bias is None:
        return "it gives no constant for a constant row"
    # Signs in turn, so that no element is near to the mean.
    signs = np.where(np.arange(math.prod(last)) % 2, 1.0, -1.0).reshape(last)
    x = np.random.default_rng(0).uniform(1, 2, function.shape) * signs
    normalized, deviation = _normalized(x * 2.0**30, rank, op.centers)
    weight = _common((function(x * 2.0**30) - bias) / normalized, last)
    if weight is None:
        return "it is not the same function of each normalized row"
    small = x * 2.0**-10
    normalized, deviation = _normalized(small, rank, op.centers)
    ratio = (weight * normalized)[..., weight != 0] / (function(small) - bias)[..., weight != 0]
    deviations = np.broadcast_to(deviation, function.shape)[..., weight != 0]
    eps = float(np.median((ratio * deviations) ** 2 - deviations**2)) if ratio.size else 0.0
    if not -1e-15 < eps < 1:
        return f"its epsilon would be {eps:.3g}"
    attrs = op.complete_attrs({op.normalized_rank.name: rank, op.eps.name: float(str(np.float32(max(eps, 0.0))))})
    constants = [
        None if (rounded == neutral).all() else rounded
        for rounded, neutral in ((weight.astype(np.float32), 1), (bias.astype(np.float32), 0))
    ]
    if not function.is_close(op, attrs, constants):
        return f"it is not a {op.name} on other inputs"
    return Spelled(op, attrs, constants)


def _normalized(x: np.ndarray, rank: int, centers: bool) -> tuple[np.ndarray, np.ndarray]:
    """d / sqrt(v), and sqrt(v), over the last `rank` axes."""
    axes = tuple(range(x.ndim - rank, x.ndim))
    centered = x - x.mean(axis=axes, keepdims=True) if centers else x
    deviation = np.sqrt(np.square(centered).mean(axis=axes, keepdims=True))
    return centered / deviation, deviation


def _common(x: np.ndarray, last: tuple[int, ...]) -> np.ndarray | None:
    """What all rows have in common, of shape `last`; None if they differ."""
    rows = x.reshape(-1, *last)
    common = np.median(rows, axis=0)
    same = np.isfinite(rows).all() and (np.abs(rows - common) <= 1e-6 * np.abs(common).max(initial=0)).all()
    return common if same else None
