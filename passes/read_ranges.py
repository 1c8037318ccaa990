"""Chooses the range of a value that only one function reads by what the function gives, not by the value itself.

Hardswish gives 0 for all that lies below -3, sigmoid nearly 1 for all that lies above 8: codes spent on such numbers
are lost, and those that are left are coarser than they need to be. As in the default observer, the range is the one of
least squared error among shrunken ranges, rounding and clipping both counted, but the error is that of the function's
result:

    sum over x of (f(clamp(x)) - f(x))^2 + scale^2 / 12 * f'(x)^2

It costs no time, since the function is one table whatever the range is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from qcompiler.ir import Graph
from qcompiler.ops.quantized import Observe
from qcompiler.passes.regions import Region, pointwise_region
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.histogram import Histogram
from qcompiler.quantization.observers import Observer
from qcompiler.quantization.qconfig import QConfig, get_qconfig
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import QuantParams

FRACTIONS = np.linspace(1.0, 0.02, 64)
"""The bounds that are tried on each side, as shares of the largest one."""


def ranges_for_functions(
    graph: Graph,
    observers: Mapping[str, Observer],
    configs: Mapping[str, QConfig | None],
) -> dict[str, QuantParams]:
    """Observer group -> parameters, for each value of an observed graph that only one pointwise function reads.

    Args:
        observers: by group. Only the default observer is overruled.
        configs: node name -> its qconfig (int8 for a node that is not in it). Those without `mixed_precision` keep
            the range that the observer chose.
    """
    found: dict[str, QuantParams] = {}
    default = get_qconfig("int8")
    members = Counter(observe.group for node in graph.nodes if (observe := Observe.of(node)) is not None)
    for node in graph.nodes:
        result = Observe.of(node)
        region = None if result is None or result.x.producer is None else pointwise_region(graph, result.x.producer)
        source = None if region is None else Observe.of(region.source.producer)
        if region is None or source is None or members[source.group] > 1:
            continue
        inside = {id(inner) for inner in region.nodes}
        seen = source.node.result
        is_alone = all(id(user) in inside for user in seen.users) and not graph.is_output(seen)
        settings = [configs.get(inner.name, default) for inner in region.nodes]
        observer, spec = observers.get(source.group), QuantSpec.parse(source.spec_text)
        is_default = type(observer) is Histogram and not observer.is_empty and not spec.symmetric
        if is_alone and is_default and all(each is not None and each.mixed_precision for each in settings):
            assert isinstance(observer, Histogram)
            chosen = _range(region, observer, spec)
            if chosen is not None:
                found[source.group] = chosen
    return found


def _range(region: Region, observer: Histogram, spec: QuantSpec) -> QuantParams | None:
    """The range of least error of the region's result; None where that is not finite."""
    low, high = min(float(observer.low), 0.0), max(float(observer.high), 0.0)
    if low == high:
        return None
    middles, weights = observer.filled_bins()
    half = 2.0**observer.exponent / 2
    with np.errstate(all="ignore"):
        centers = np.clip(middles, float(observer.low), float(observer.high))
        lows, highs = low * FRACTIONS, high * FRACTIONS
        points = np.concatenate([centers, middles - half, middles + half, lows, highs])
        results = np.split(region(points), np.cumsum([middles.size] * 3 + [FRACTIONS.size]))
    exact, before, behind, at_low, at_high = results
    if not all(np.isfinite(each).all() for each in results):
        return None
    slopes = float(np.sum(weights * ((behind - before) / (2 * half)) ** 2))
    below = _clip_errors(centers < lows[:, None], at_low, exact, weights)
    above = _clip_errors(centers > highs[:, None], at_high, exact, weights)
    scale = (highs[None, :] - lows[:, None]) / (spec.qmax - spec.qmin)
    error = below[:, None] + above[None, :] + slopes * scale**2 / 12
    i, j = np.unravel_index(int(np.argmin(error)), error.shape)
    return choose_qparams(lows[i], highs[j], spec)


def _clip_errors(is_clipped: np.ndarray, at_bound: np.ndarray, exact: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """f64 [bounds]: the sum of weight * (f(bound) - f(x))^2 over the numbers beyond each bound."""
    return np.sum(np.where(is_clipped, (at_bound[:, None] - exact) ** 2 * weights, 0.0), axis=1)
