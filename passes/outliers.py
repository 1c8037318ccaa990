"""Chooses the channels that split-outliers reads in 16 bits: a few whose range makes the codes of all others coarse.

Dettmers et al., "LLM.int8()", arXiv 2208.07339, keep such channels in 16 bits too. Here at most one of 64 input
channels of a product is, the widest ones, and only where the product's own outputs on the sampled rows of calibration
are off by more than LEAST_ERROR, and by GAIN times less with the split. So products of plain networks stay as they are.

The choice is the same on every machine, as that of scales is (`equalization.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qcompiler.ir import Const, Graph
from qcompiler.notes import Outliers
from qcompiler.ops.quantized import Observe
from qcompiler.passes.equalization import LEAST_ROWS, RowProduct, rounded, weight_spec
from qcompiler.passes.integerize import LARGEST_ERROR
from qcompiler.passes.split_outliers import Split, gives_codes, match_split, reads_by_function
from qcompiler.quantization.choose_qparams import choose_qparams, spanning
from qcompiler.quantization.cost_profile import ZEN5_AVX512VNNI as PROFILE
from qcompiler.quantization.cost_profile import products
from qcompiler.quantization.product_inputs import ProductInput
from qcompiler.quantization.qconfig import QConfig, get_qconfig
from qcompiler.quantization.spec import QuantSpec
from qcompiler.quantization.tables import build_knots
from qcompiler.types import DType, QuantParams

SHARE = 64
"""At most one input channel of so many is split off."""

LEAST_ERROR = 1e-4
"""Products whose error has less than this share of the energy of their outputs (40 dB) are good enough."""

SHARE_FOR_OUTLIERS = 0.05
"""What is split off may add this share to the estimated time of a graph."""

GAIN = 2.0
"""Errors must fall by this factor (3 dB)."""


@dataclass(frozen=True)
class OutlierChoice:
    """The channels of an observed value to split off.

    Attributes:
        value: the value's name.
        channels: their indices, ascending.
        params: group -> the parameters of what the split makes, and of the rest.
        wide: the value that gets 16 bits, since x is a table of it; "" for none.
        note: what was chosen, for the report.
    """

    value: str
    channels: tuple[int, ...]
    wide: str
    params: Mapping[str, QuantParams]
    note: Outliers


def choose_outliers(
    graph: Graph,
    params: Mapping[str, QuantParams],
    inputs: Mapping[str, ProductInput],
    configs: Mapping[str, QConfig | None],
) -> list[OutlierChoice]:
    """The channels that are worth a product of their own; the cheapest in proportion to their gain come first, and
    together they may add SHARE_FOR_OUTLIERS to the estimated time of the graph.

    Args:
        graph: of stage observed, with scaled channels.
        params: observer group -> its parameters.
        inputs: what calibration kept of the inputs of products, scaled as in the graph, by the product's name.
        configs: node name -> its qconfig (int8 for a node that is not in it).
    """
    default = get_qconfig("int8")
    found = []
    for node in graph.nodes:
        observe = Observe.of(node)
        place = "no observer" if observe is None else match_split(graph, observe)
        if observe is None or isinstance(place, str):
            continue
        kept = inputs.get(place.products[0].node.name)
        if kept is None or len(kept.keys) < LEAST_ROWS or kept.rows.shape[1:] != place.products[0].row_shape:
            continue
        settings = [configs.get(layer.node.name, default) for layer in place.products]
        if all(each is not None and each.equalize for each in settings):
            choice = _choice(graph, place, params, kept, configs)
            if choice is not None:
                cost = sum(2 * PROFILE.product[0] * products(layer.node) for layer in place.products) / SHARE
                cost += (len(place.products) + 2) * PROFILE.overhead
                found.append((cost / (choice.note.before - choice.note.after), choice.value, cost, choice))
    nodes = [node for node in graph.nodes if Observe.of(node) is None]
    left = SHARE_FOR_OUTLIERS * sum(
        PROFILE.cost(node, quantized=configs.get(node.name, default) is not None) for node in nodes
    )
    chosen = []
    for _, _, cost, choice in sorted(found, key=lambda item: item[:2]):
        if cost <= left:
            left -= cost
            chosen.append(choice)
    return chosen


def _choice(
    graph: Graph,
    place: Split,
    params_of: Mapping[str, QuantParams],
    kept: ProductInput,
    configs: Mapping[str, QConfig | None],
) -> OutlierChoice | None:
    params = params_of[place.observe.group]
    count = place.size // SHARE
    widths = np.maximum(np.abs(kept.low), np.abs(kept.high))
    if not count or not np.isfinite(widths).all():
        return None
    channels = np.sort(np.argsort(-widths, kind="stable")[:count])
    rest = np.delete(np.arange(place.size), channels)
    spec = QuantSpec.parse(place.observe.spec_text)
    narrow = choose_qparams(kept.low[rest].min(), kept.high[rest].max(), spec)
    before = after = 0.0
    for layer in place.products:
        weights = weight_spec(configs, layer.node.name)
        full = RowProduct(layer, kept.rows, weights)
        part = RowProduct(layer, _without(kept.rows, channels), weights)
        before += full.error(params, None)
        if full.energy:
            after += part.error(narrow, None) * (part.energy * part.unit**2) / (full.energy * full.unit**2)
    count = len(place.products)
    if not before > LEAST_ERROR * count or not after * GAIN <= before:
        return None
    made = {
        place.observe.group: narrow,
        place.group: _wide_params(kept.low[channels].min(), kept.high[channels].max(), spec),
    }
    for layer in place.products:
        if gives_codes(graph, layer.node):
            assert isinstance(layer.weight, Const)  # as the place was matched
            low, high = _bounds(layer.weight.data[:, channels], kept.low[channels], kept.high[channels])
            made[f"{layer.node.name}.outliers"] = _wide_params(low, high, spec)
    names = tuple(layer.node.name for layer in place.products)
    numbers = tuple(map(int, channels))
    note = Outliers(
        len(numbers), place.size, place.observe.x.name, names, rounded(before / count), rounded(after / count)
    )
    source = _wide_source(graph, place, params_of, made)
    if source is None:
        return None
    return OutlierChoice(place.observe.x.name, numbers, source, made, note)


def _wide_source(
    graph: Graph, place: Split, params: Mapping[str, QuantParams], made: Mapping[str, QuantParams]
) -> str | None:
    """The value that the split value is a table of, "" if it is no table; None if 16 bits of that value do not serve,
    so that its codes would still be as coarse as the outliers are wide."""
    source, x = place.source, place.observe.x
    if source is None or place.region is None:
        return ""
    if not reads_by_function(graph, source):
        return None
    spec = QuantSpec.parse(source.spec_text)
    codes = source.x.type.quantized(DType.I16, spanning(params[source.group], spec.widened()))
    out = x.type.quantized(QuantSpec.parse(place.observe.spec_text).dtype, made[place.observe.group])
    return source.x.name if build_knots(place.region, codes, out)[1] <= LARGEST_ERROR else None


def _without(rows: np.ndarray, channels: np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows[:, :, channels] = 0
    return rows


def _wide_params(low: float, high: float, spec: QuantSpec) -> QuantParams:
    return choose_qparams(low, high, spec.widened())


def _bounds(weight: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """What a product of inputs between low and high can reach, over all outputs."""
    ends = np.stack([weight * low, weight * high]).astype(np.float64)
    return float(ends.min(axis=0).sum(axis=1).min()), float(ends.max(axis=0).sum(axis=1).max())
