"""recognize: functions that exporters write in small ops become the op that they spell out.

Exporters write one function in many ways: GELU with erf(x / 1.41421) or erf(x * 0.70711), its factor 0.5 before or
behind; the variance of a layer norm as mean((x - mean)^2) or mean(x^2) - mean^2. So a region with one input
(`regions`) is compared with an op by its values, computed in float64, and not by its nodes. Functions that agree to
within the rounding of their f32 constants, over the whole range of f32, are taken for the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from qcompiler.ir import AttrValue, Graph, Node, Value
from qcompiler.opdef import REQUIRED, Op, Trait, all_ops, opdef
from qcompiler.ops.activations import Unary
from qcompiler.ops.norm import Normalised
from qcompiler.ops.reduce import Reduction
from qcompiler.ops.shape import Expand, Reshape, Transpose
from qcompiler.passes.agreement import agree
from qcompiler.passes.regions import Region, is_pointwise, regions_to
from qcompiler.passes.rewrite import Refusal, Rewrite, RewritePass, erase_if_unread
from qcompiler.passes.spelled import Spelled
from qcompiler.passes.spelled_reductions import spelled_reduction
from qcompiler.passes.unary_form import is_unary
from qcompiler.quantization.qconfig import QConfig
from qcompiler.types import DType

TOLERANCE = 2.0**-20
"""Largest difference of two functions that are the same, relative to the largest of 1, |x| and |f(x)|. Up to eight
constants that were rounded to f32 change a function by less: 8 * 2^-24 of a term, and twice that in an exponent."""

NEAR = 2.0**-5
"""Functions that are this close to an op's, but not equal, are named in refusals."""

ALWAYS_FINITE = 80.0
"""A region has to be finite for |x| up to here; beyond, exp may overflow where the op that it spells out does not."""

Configs = Mapping[str, QConfig | None] | None


@dataclass(frozen=True)
class _Found:
    region: Region
    spelled: Spelled


class _Recognized(Rewrite[_Found]):
    """Base of the rewrites that put an op in the place of a region."""

    def __init__(self, configs: Configs) -> None:
        self.configs = configs

    def starts_at(self, op: type[Op]) -> bool:
        return Trait.ELEMENTWISE in op.traits

    def rewrite(self, graph: Graph, match: _Found) -> None:
        region, spelled = match.region, match.spelled
        end = region.nodes[-1]
        constants = [
            None if data is None else graph.add_const(f"{end.name}.{spelled.op.operands[index].name}", data)
            for index, data in enumerate(spelled.constants, 1)
        ]
        origin = tuple(part for node in region.nodes for part in node.origin)
        source, taken = region.source, {end}
        if spelled.axis is None:
            graph.replace(end, spelled.op.name, [source, *constants], spelled.attrs, origin=origin)
        else:
            # transpose, op, transpose take the places, and so the names and qconfigs, of nodes of the region.
            places = {node: place for place, node in enumerate(graph.node_list)}
            first, second, *_ = sorted(region.nodes, key=places.__getitem__)
            taken |= {first, second}
            perm = (*(axis for axis in range(source.type.rank) if axis != spelled.axis), spelled.axis)
            back = tuple(perm.index(axis) for axis in range(source.type.rank))
            moved = graph.replace(first, Transpose.name, [source], {Transpose.perm.name: perm}, origin=origin)
            norm = graph.replace(second, spelled.op.name, [moved.result, *constants], spelled.attrs, origin=origin)
            graph.replace(end, Transpose.name, [norm.result], {Transpose.perm.name: back}, origin=origin)
        for node in reversed(region.nodes):
            if node not in taken:
                erase_if_unread(graph, node)

    def _agrees(self, region: Region) -> bool:
        return all(agree(self.configs, node, region.nodes[-1]) for node in region.nodes)


class _AsActivation(_Recognized):
    """x * sigmoid(x) is silu(x)."""

    rule = "recognition of an activation"

    def __init__(self, configs: Configs) -> None:
        super().__init__(configs)
        self._probed: dict[Value, dict[Value, np.ndarray]] = {}
        """A source -> values -> these at `_PROBES`, as functions of the source. Long chains have as many regions as
        pairs of near values; what is known of a smaller region is not computed again."""

    def match(self, graph: Graph, node: Node) -> _Found | Refusal:
        nearest = None
        for region in regions_to(graph, node, lambda other: is_pointwise(other, node)):
            if not self._agrees(region):
                return self.refuse(node, "its parts have other qconfigs")
            if len(region.nodes) == 1 and is_unary(node):
                continue
            if region.source.type.dtype is not DType.F32:  # a cast from bool: activations take floats
                continue
            probes = self._probed.setdefault(region.source, {region.source: _points()[_PROBES]})
            if not _may_be_activation(region.evaluate(probes)):
                continue
            found = _spelled_activation(region)
            if isinstance(found, Spelled):
                return _Found(region, found)
            nearest = found or nearest
        return self.refuse(node, nearest or "no op computes this function of one value")


@cache
def _points() -> np.ndarray:
    """Values of f32 at which functions are compared: dense where they bend, and up to the ends of the range."""
    positive = np.sort(np.concatenate([np.linspace(0, 12, 961), np.geomspace(1e-30, 3e38, 300)]))
    points = np.concatenate([-positive[::-1], positive, [-np.inf, np.inf, np.nan]])
    return points.astype(np.float32).astype(np.float64)


def _candidates() -> Iterator[tuple[type[Op], dict[str, AttrValue]]]:
    """Unary ops of qcompiler with default attributes; with an attribute that has choices, once for each. Ops of a user
    are left out: declaring one must not change what models become that do not call it."""
    for op in all_ops():
        if not op.is_own and issubclass(op, Unary) and all(spec.default is not REQUIRED for spec in op.attrs):
            choices = {spec.name: spec.choices for spec in op.attrs if spec.choices}
            for values in itertools.product(*choices.values()):
                yield op, op.complete_attrs(dict(zip(choices, values)))


@cache
def _known() -> list[tuple[Spelled, np.ndarray]]:
    """Each activation, with its values at `_points`."""
    return [(Spelled(op, attrs), op.run_reference([_points()], attrs)[0]) for op, attrs in _candidates()]


def _zero_runs(values: np.ndarray) -> np.ndarray:
    """Where a function is 0, as at both neighbours: there it has to be 0 exactly, however small the other value is."""
    zero = np.concatenate([[False], values[:-3] == 0, [False] * 4])
    return zero[:-2] & zero[1:-1] & zero[2:]


_PROBES = np.r_[0:2500:45, -7:0]
"""The indices of those of `_points` at which a function is tried first, the last seven among them."""


@cache
def _known_at_probes() -> tuple[np.ndarray, np.ndarray]:
    """(the activations at `_PROBES`, f64 [activations, probes]; where each one is 0, as `_zero_runs` says)."""
    known = [values for _, values in _known()]
    return np.stack([values[_PROBES] for values in known]), np.stack([_zero_runs(values)[_PROBES] for values in known])


def _may_be_activation(y: np.ndarray) -> bool:
    """Whether `_spelled_activation` may find more than None for a function with these values at `_PROBES`."""
    x, (known, zeros) = _points()[_PROBES], _known_at_probes()
    if y.size != x.size:
        return True
    y = y.reshape(x.shape)
    finite, small = np.isfinite(y), np.abs(x) <= ALWAYS_FINITE
    if not (finite[small].all() and np.isnan(y[-1])):
        return False
    with np.errstate(all="ignore"):
        scale = np.maximum(1, np.maximum(np.abs(x), np.abs(known)))
        near = np.abs(y - known) <= NEAR * scale
    near |= ~(finite & np.isfinite(known))
    return bool((near & ~(zeros & (y != 0))).all(axis=1).any())


def _spelled_activation(region: Region) -> Spelled | str | None:
    """The op whose function a region computes; else in words what it is near to, or None."""
    x = _points()
    y = region(x).reshape(x.shape)  # constants of one element may have axes
    small = np.abs(x) <= ALWAYS_FINITE
    if y.shape != x.shape or not (np.isfinite(y[small]).all() and np.isnan(y[-1])):  # constants may add axes
        return None
    finite = np.isfinite(y)
    best: tuple[float, float, Spelled] | None = None
    for spelled, values in _known():
        both = finite & np.isfinite(values)
        if not (both[small].all() and np.array_equal(y[-3:], values[-3:], equal_nan=True)):
            continue
        if y[_zero_runs(values)].any():
            continue
        with np.errstate(all="ignore"):
            scale = np.maximum(1, np.maximum(np.abs(x), np.abs(values)))
            apart = np.where(both, np.abs(y - values) / scale, 0)
        worst = int(np.argmax(apart))
        if best is None or apart[worst] < best[0]:
            best = (float(apart[worst]), float(x[worst]), spelled)
    if best is None or best[0] > NEAR:
        return None
    difference, at, spelled = best
    if difference <= TOLERANCE:
        return spelled
    return f"it is near to {spelled.op.name}, but differs by {difference:.2g} (relative) at x = {at:.4g}"


class _AsReduction(_Recognized):
    """(x - mean(x)) / sqrt(var(x) + eps) * w + b is layer_norm(x, w, b);  exp(x) / sum(exp(x)) is softmax(x)."""

    rule = "recognition of a norm or a softmax"

    def starts_at(self, op: type[Op]) -> bool:
        return super().starts_at(op) or issubclass(op, Reshape)  # a group norm without weights ends in a reshape

    def match(self, graph: Graph, node: Node) -> _Found | Refusal:
        reason = ""
        found, most = None, 0
        for region in regions_to(graph, node, _takes_reductions):
            reductions = sum(map(_reduces, region.nodes))
            if reductions <= most:
                continue
            if not self._agrees(region):
                reason = "its parts have other qconfigs"
                break
            if region.source.type.shape != node.result.type.shape:
                reason = reason or f"its result {node.result.type} has another shape than {region.source.type}"
                continue
            spelled = spelled_reduction(region, graph.dim_names)
            if isinstance(spelled, Spelled):
                # A larger region may compute the op too: layer_norm(x) = rms_norm(x - mean(x)), and
                # softmax(x) = softmax(x - max(x)). It is preferred if it takes in a reduction more.
                found, most = _Found(region, spelled), reductions
            else:
                reason = spelled
        return found or self.refuse(node, reason or "no reduction is in the region that it ends")


def _reduces(node: Node) -> bool:
    return issubclass(opdef(node.op), (Reduction, Normalised))


def _takes_reductions(node: Node) -> bool:
    """Whether a node may be a part of a norm: float arithmetic, reductions, and moves between them."""
    definition = opdef(node.op)
    is_part = Trait.ELEMENTWISE in definition.traits or issubclass(
        definition, (Reduction, Normalised, Reshape, Expand, Transpose)
    )
    values = [value for value in (*node.operands, *node.results) if value is not None]
    return is_part and all(value.type.dtype is DType.F32 for value in values)


@dataclass(frozen=True)
class Recognize(RewritePass):
    """x * sigmoid(x) = silu(x);  (x - mean(x)) / sqrt(var(x) + eps) * w + b = layer_norm(x, w, b);  and other functions
    that an op computes, in whatever small ops they are written.

    configs: node name -> QConfig or None; only nodes that resolved to the same one become one op.

    Before:
        %s = sigmoid(%x) : f32[2,8]
        %y = mul(%x, %s) : f32[2,8]
    After:
        %y = silu(%x) : f32[2,8]

    A layer norm or RMS norm of another axis than the last becomes a transpose, the op and a transpose back.
    """

    configs: Configs = None
    name: ClassVar[str] = "recognize"

    def rules(self, graph: Graph) -> Sequence[Rewrite[Any]]:
        return _AsActivation(self.configs), _AsReduction(self.configs)
