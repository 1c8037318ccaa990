"""round-weights: give the weights of products other codes than the nearest, chosen on calibration data.

The choice is one of `adaround.py` or `error_feedback.py`, product by product: of codes c for the weights u (divided by
their scales) that make the error of the outputs small on the inputs that calibration kept. With q the codes of such an
input, the error of an output channel is

    (c - u) H (c - u)^T                 H = sum of (q - m)(q - m)^T, with m the mean of q

and what that leaves of the mean, (u r - c m) with r the mean of the real input, is added to the bias (Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2). Where biases may not take
it up (`QConfig.equalize`), m is 0 in H.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from qcompiler.errors import PassError
from qcompiler.ir import Const, Graph
from qcompiler.notes import Note, NotRounded, Rounded
from qcompiler.ops.interfaces import Weighted
from qcompiler.ops.quantized import Dequantize
from qcompiler.passes.correct_bias import CorrectBias
from qcompiler.passes.dequantized import codes_behind
from qcompiler.passes.equalization import rounded
from qcompiler.passes.insert_qdq import InsertQdq, feed_const
from qcompiler.passes.scale_channels import Scales
from qcompiler.quantization.adaround import choose_rounding
from qcompiler.quantization.error_feedback import round_with_feedback
from qcompiler.quantization.exact_products import product
from qcompiler.quantization.input_moments import MAX_BYTES_OF_ONE, InputMoments, collect_moments, moments_bytes
from qcompiler.quantization.kept_items import Item
from qcompiler.quantization.product_inputs import input_key
from qcompiler.quantization.qconfig import ADAROUND, GPTQ, NEAREST, QConfig
from qcompiler.types import QuantParams, TensorType

DAMPING = 0.01
"""This share of the mean of the diagonal is added to the diagonal of H."""

_Choose = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
_METHODS: Mapping[str, _Choose] = {ADAROUND: choose_rounding, GPTQ: round_with_feedback}


@dataclass(frozen=True)
class RoundWeights:
    """qdq -> qdq. codes: the name of a product -> the codes of its weight, row major, as base64 of their bytes.

    Scales and zero points stay.

    Before:
        %w.q.dq = dequantize(@w.q) : f32[4,8]
        %y = linear(%x.dq, %w.q.dq) : f32[2,4]
    After:
        %w.rounded.dq = dequantize(@w.rounded) : f32[4,8]
        %y = linear(%x.dq, %w.rounded.dq) : f32[2,4]
    """

    codes: Mapping[str, str] = field(default_factory=dict)
    name: ClassVar[str] = "round-weights"

    def run(self, graph: Graph) -> Graph:
        nodes = {node.name: node for node in graph.nodes}
        for name, text in self.codes.items():
            layer = Weighted.of(nodes.get(name))
            old = None if layer is None else codes_behind(layer.weight)
            if layer is None or not isinstance(old, Const):
                raise PassError(f"{self.name} rounds what is no product with a quantized weight", where=f"%{name}")
            data = _decoded(text, old, name)
            const = graph.add_const(f"{old.name.removesuffix('.q')}.rounded", data, old.type)
            feed_const(graph, layer, "weight", const, layer.weight.type)
        for node in graph.node_list:
            if node.op == Dequantize.name and not node.result.uses and not graph.is_output(node.result):
                graph.erase(node)
        graph.erase_unused_consts()
        return graph


def _decoded(text: str, old: Const, name: str) -> np.ndarray:
    size = old.data.nbytes
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != size:
        raise PassError("codes of a weight", where=f"%{name}", expected=f"base64 of {size} bytes", got=text[:40])
    data = np.frombuffer(raw, old.data.dtype).reshape(old.data.shape)
    quant = old.type.params
    if data.size and not quant.qmin <= data.min() <= data.max() <= quant.qmax:
        raise PassError("codes of a weight", where=f"%{name}", expected=f"within [{quant.qmin}, {quant.qmax}]")
    return data


@dataclass(frozen=True)
class Roundings:
    """What was chosen: options of round-weights and correct-bias, and the notes for the report."""

    codes: Mapping[str, str] = field(default_factory=dict)
    corrections: Scales = field(default_factory=dict)
    notes: Sequence[Note] = ()


@dataclass(frozen=True)
class _Candidate:
    """A product whose weight is to be rounded by data.

    Attributes:
        layer: of the observed graph. weight: its real weight. quant: of the weight's codes. x: of the input's codes.
        method: `QConfig.rounding`. corrects: whether the bias takes up the mean error.
    """

    layer: Weighted
    weight: np.ndarray
    quant: QuantParams
    x: TensorType
    method: str
    corrects: bool


def rounds_by_data(configs: Mapping[str, QConfig | None]) -> bool:
    """Whether a qconfig has a rounding that needs whole calibration items."""
    return any(config is not None and config.rounding != NEAREST for config in configs.values())


def choose_roundings(
    observed: Graph,
    params: Mapping[str, QuantParams],
    configs: Mapping[str, QConfig | None],
    items: Sequence[Item],
    threads: int,
) -> Roundings:
    """The codes of the weights of all products whose qconfig asks for it.

    Args:
        observed: of stage observed, as insert-qdq gets it.
        params: observer group -> its parameters.
        configs: node name -> its qconfig.
        items: the inputs of some calls, which fit the graph.
    """
    trial = InsertQdq(params, configs).run(observed.clone())
    candidates: dict[str, list[_Candidate]] = {}
    notes: list[Note] = []
    for each in _candidates(observed, trial, configs):
        if moments_bytes(each.layer) > MAX_BYTES_OF_ONE:
            size = f"{moments_bytes(each.layer) / 2**30:.1f} GiB"
            notes.append(NotRounded(each.layer.node.name, f"the second moments of its input have {size}"))
        else:
            candidates.setdefault(input_key(each.layer), []).append(each)
    codes: dict[str, str] = {}
    corrections: dict[str, tuple[float, ...]] = {}
    products = {key: each[0].layer for key, each in candidates.items()}
    types = {key: each[0].x for key, each in candidates.items()}
    for batch in collect_moments(observed, products, types, items, threads):
        for key, moments in batch.items():
            for each in candidates[key]:
                name = each.layer.node.name
                if not moments.is_finite or not moments.count:
                    notes.append(NotRounded(name, "calibration saw no rows of its input, or some with NaN or Inf"))
                    continue
                data, correction, note = _round(each, moments)
                codes[name] = base64.b64encode(np.ascontiguousarray(data).tobytes()).decode()
                notes.append(note)
                if correction is not None:
                    corrections[name] = tuple(map(float, correction))
    return _without_changed_scales(observed, params, configs, trial, Roundings(codes, corrections, notes))


def _candidates(observed: Graph, trial: Graph, configs: Mapping[str, QConfig | None]) -> Iterator[_Candidate]:
    """The products to round. trial: the graph that insert-qdq makes of the observed one."""
    quantized = {node.name: layer for node in trial.nodes if (layer := Weighted.of(node)) is not None}
    for node in observed.nodes:
        layer, config = Weighted.of(node), configs.get(node.name)
        if layer is None or config is None or config.rounding == NEAREST or not isinstance(layer.weight, Const):
            continue
        x, weight = (codes_behind(value) for value in (quantized[node.name].x, quantized[node.name].weight))
        if x is None or not isinstance(weight, Const) or x.type.params.axis is not None or not weight.data.size:
            continue
        corrects = config.equalize and _has_one_row_per_channel(layer) and (layer.bias is None or layer.bias.is_const)
        yield _Candidate(layer, layer.weight.data, weight.type.params, x.type, config.rounding, corrects)


def _has_one_row_per_channel(layer: Weighted) -> bool:
    data = layer.weight.data if isinstance(layer.weight, Const) else np.zeros(0)
    return layer.row_weight(data).shape[:2] == layer.grouped(data).shape[:2]


def _round(each: _Candidate, moments: InputMoments) -> tuple[np.ndarray, np.ndarray | None, Rounded]:
    """(codes, what the bias takes up, a note)."""
    layer, weight, quant = each.layer, each.weight, each.quant
    index = layer.row_weight(np.arange(weight.size).reshape(weight.shape))
    groups, outputs = index.shape[:2]
    scale, zero_point = (np.broadcast_to(part, weight.shape) for part in quant.along(weight.ndim))
    scales, points = (layer.row_weight(part)[:, :, 0, 0].astype(np.float64) for part in (scale, zero_point))
    target = layer.row_weight(weight).astype(np.float64).reshape(groups, outputs, -1) / scales[:, :, None]
    low, high = quant.qmin - points, quant.qmax - points
    mean = moments.codes / moments.count
    second = moments.seconds / moments.count
    if each.corrects:
        second = second - mean[:, :, None] * mean[:, None, :]
    second = _damped(second)
    chosen = _METHODS[each.method](target, second, low, high)
    nearest = np.clip(np.rint(target), low[:, :, None], high[:, :, None])
    correction = None
    if each.corrects:
        real = moments.reals / moments.count
        lost = _dot(target, real) - _dot(chosen, mean)
        correction = (lost * scales * moments.params.scale[0]).reshape(-1)
    total, before, after = (_energy(part, second, scales) for part in (target, nearest - target, chosen - target))
    data = np.empty(weight.size, np.int64)
    data[index.reshape(groups, outputs, -1)] = chosen + points[:, :, None]
    note = Rounded(layer.node.name, each.method, rounded(before / (total or 1)), rounded(after / (total or 1)))
    dtype = np.int8 if quant.qmin < 0 else np.uint8
    return data.reshape(weight.shape).astype(dtype), correction, note


def _damped(second: np.ndarray) -> np.ndarray:
    """H with a diagonal that is positive: inputs that are constant have no say."""
    size = second.shape[1]
    diagonal = second[:, range(size), range(size)]
    mean = np.add.accumulate(diagonal, axis=1)[:, -1:] / size
    added = DAMPING * np.where(mean > 0, mean, 1.0)
    made = second.copy()
    made[:, range(size), range(size)] = np.maximum(diagonal, 0) + added
    return made


def _dot(codes: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """sum over k, in order: [groups, outputs]."""
    return np.add.accumulate(codes * mean[:, None, :], axis=2)[:, :, -1]


def _energy(codes: np.ndarray, second: np.ndarray, scales: np.ndarray) -> float:
    """The error of all outputs together, summed in order."""
    each = np.add.accumulate(product(codes, second) * codes, axis=2)[:, :, -1] * scales * scales
    return float(np.add.accumulate(each.reshape(-1))[-1])


def _without_changed_scales(
    observed: Graph,
    params: Mapping[str, QuantParams],
    configs: Mapping[str, QConfig | None],
    trial: Graph,
    found: Roundings,
) -> Roundings:
    """What was found, less the products whose weight scale a corrected bias would change."""
    if not found.corrections:
        return found
    corrected = CorrectBias(found.corrections).run(observed.clone())
    after = InsertQdq(params, configs).run(corrected)
    scales = [
        {node.name: codes_behind(layer.weight) for node in graph.nodes if (layer := Weighted.of(node)) is not None}
        for graph in (trial, after)
    ]
    changed = [
        name
        for name in found.codes
        if (old := scales[0][name]) is None or (new := scales[1][name]) is None or old.type.quant != new.type.quant
    ]
    if not changed:
        return found
    notes = [note for note in found.notes if not (isinstance(note, Rounded) and note.product in changed)]
    notes += [NotRounded(name, "its corrected bias needs a larger scale") for name in changed]
    return replace(
        found,
        codes={name: text for name, text in found.codes.items() if name not in changed},
        corrections={name: numbers for name, numbers in found.corrections.items() if name not in changed},
        notes=notes,
    )
