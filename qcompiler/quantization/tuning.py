"""What a calibration lets conversion change so that the answer stays: scales, shifts, split channels, biases.

Each choice is made on the graph that the ones before it leave. Does not own the choices (`passes/equalization.py`,
`passes/outliers.py`, `passes/correct_bias.py`) nor the edits, which are passes.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcompiler.ir import Graph
from qcompiler.notes import BiasCorrected, Note
from qcompiler.ops.interfaces import Weighted
from qcompiler.ops.quantized import Observe
from qcompiler.passes.choose_precision import ChoosePrecision
from qcompiler.passes.correct_bias import choose_corrections
from qcompiler.passes.equalization import choose_scales
from qcompiler.passes.outliers import choose_outliers
from qcompiler.passes.scale_channels import ScaleChannels, Scales
from qcompiler.passes.split_outliers import SUFFIX, SplitOutliers
from qcompiler.quantization.choose_qparams import spanning
from qcompiler.quantization.product_inputs import ProductInput, input_key
from qcompiler.quantization.qconfig import QConfig, get_qconfig
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import QuantParams

CHOSEN_FIRST = (ChoosePrecision.name, ScaleChannels.name, SplitOutliers.name)
"""The passes that `Tuning.graph` has behind it."""


@dataclass(frozen=True)
class Tuning:
    """The options of the passes between choose-precision and insert-qdq.

    Attributes:
        scales, shifts: of scale-channels. outliers, wide: of split-outliers. corrections: of correct-bias.
        params: group of observed values -> its parameters, as these passes leave them.
        configs: the name of a node that these passes add -> its qconfig.
        notes: what was chosen, for the report.
        graph: as scale-channels and split-outliers leave it; None if there was no choice to make.
    """

    scales: Scales = field(default_factory=dict)
    shifts: Scales = field(default_factory=dict)
    outliers: Scales = field(default_factory=dict)
    wide: Mapping[str, str] = field(default_factory=dict)
    corrections: Scales = field(default_factory=dict)
    params: Mapping[str, QuantParams] = field(default_factory=dict)
    configs: Mapping[str, QConfig | None] = field(default_factory=dict)
    notes: Sequence[Note] = ()
    graph: Graph | None = None


def choose_tuning(
    graph: Graph,
    params: Mapping[str, QuantParams],
    inputs: Mapping[str, ProductInput],
    configs: Mapping[str, QConfig | None],
    paid: Container[str] = frozenset(),
) -> Tuning:
    """Choose all of it for a graph of stage observed, as choose-precision leaves it.

    Args:
        params: observer group -> the parameters that it has by calibration alone.
        inputs: what calibration kept of the inputs of products, by key.
        configs: node name -> its qconfig (int8 for a node that is not in it).
        paid: the values whose multiplication `choose_real_parts` has counted.
    """
    choices, unjudged = choose_scales(graph, params, inputs, configs, paid)
    params = {**params, **{choice.group: choice.params for choice in choices}}
    scales = {choice.value: tuple(map(float, choice.scales)) for choice in choices}
    shifts = {each.value: tuple(map(float, each.shifts)) for each in choices if each.shifts is not None}
    keys = {node.name: input_key(layer) for node in graph.nodes if (layer := Weighted.of(node)) is not None}
    scaled = ScaleChannels(scales, shifts).run(graph.clone())
    kept = {
        name: _scaled(inputs[key], scales.get(_value(key)), shifts.get(_value(key)))
        for name, key in keys.items()
        if key in inputs
    }
    split = choose_outliers(scaled, params, kept, configs)
    for each in split:
        params |= each.params
    outliers = {each.value: tuple(map(float, each.channels)) for each in split}
    wide = {each.wide: f"%{each.value} is a table of it" for each in split if each.wide}
    before, names = specs_of(scaled), {node.name for node in scaled.nodes}
    graph = SplitOutliers(outliers, wide).run(scaled)
    params = respanned(params, before, specs_of(graph))
    default = get_qconfig("int8")
    added = [node.name for node in graph.nodes if node.name not in names and Observe.of(node) is None]
    own = {name: configs.get(name.removesuffix(SUFFIX), default) for name in added}
    found = choose_corrections(graph, kept, configs)
    corrections = {name: tuple(map(float, numbers)) for name, numbers in found.items()}
    corrected = [
        BiasCorrected(name, sum(each != 0 for each in numbers), len(numbers)) for name, numbers in corrections.items()
    ]
    notes = [*(choice.note for choice in choices), *unjudged, *(each.note for each in split), *corrected]
    return Tuning(scales, shifts, outliers, wide, corrections, params, own, notes, graph)


def specs_of(graph: Graph) -> dict[str, QuantSpec]:
    """The spec of each group of observed values."""
    observers = (observe for node in graph.nodes if (observe := Observe.of(node)) is not None)
    return {observe.group: QuantSpec.parse(observe.spec_text) for observe in observers}


def respanned(
    params: Mapping[str, QuantParams], before: Mapping[str, QuantSpec], after: Mapping[str, QuantSpec]
) -> dict[str, QuantParams]:
    """The parameters by group, with those of groups whose spec has changed made anew for the range that they span."""
    changed = {group for group, spec in after.items() if before.get(group, spec) != spec}
    return {group: spanning(old, after[group]) if group in changed else old for group, old in params.items()}


def _value(key: str) -> str:
    """The name of the value in a key of `input_key`."""
    return key.partition(": ")[0]


def _scaled(kept: ProductInput, scales: tuple[float, ...] | None, shifts: tuple[float, ...] | None) -> ProductInput:
    """What would have been kept of the shifted and divided value."""
    if scales is None:
        return kept
    divisors = np.asarray(scales, np.float32)
    moves = np.zeros_like(divisors) if shifts is None else np.asarray(shifts, np.float32)
    made = ProductInput(kept.limit, kept.rows.shape[1:])
    made.keys = kept.keys
    made.low, made.high = ((edge - moves) / divisors for edge in (kept.low, kept.high))
    shape = (1, kept.rows.shape[1], -1, 1)
    made.rows = (kept.rows - moves.reshape(shape)) / divisors.reshape(shape)
    return made
