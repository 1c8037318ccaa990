"""Chooses the scales and shifts by which scale-channels evens out what products read, by channel (equalization).

Xiao et al., "SmoothQuant", arXiv 2211.10438: with m_x and m_w the largest magnitudes of a channel of x and of the
weights that multiply it, s = m_x^a / m_w^(1 - a), where a moves the spread of the channels from x into the weights.
Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, is a = 1/2 between
convolutions. Weights with a scale for each input channel, as depthwise ones have, take all of it at no cost: a = 1.
Channels whose ranges lie apart are shifted to their middles first, where the bias of what makes x can take that up (Wei
et al., "Outlier Suppression+", arXiv 2304.09145).
Behind a clamp such as relu6 no scale is above 1, and none so small that the clamp would come near calibrated values.

Here a is the one of a small grid that makes the error of the products' own outputs least: on the sampled rows of
calibration and up to MOST_OUTPUTS channels of the output, with x, its range and the weights quantized as they will be.
Scales are used only if the error of no product grows, and that of all together falls by a factor of GAIN at least.

The choice is the same on every machine: rows and weights are rounded to 16 bits, so that f64 sums of their products are
exact in any order; the errors are summed as integers; and the powers are made of square roots.

Does not own the edit (`scale_channels.py`) nor what calibration keeps (`qcompiler.quantization.product_inputs`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.ir import Const, Graph
from qcompiler.notes import Equalized, KeptFloat, RealResult, Unjudged
from qcompiler.ops.elementwise import Mul
from qcompiler.ops.interfaces import Weighted
from qcompiler.ops.quantized import Observe
from qcompiler.passes.scale_channels import Fold, Multiply, match_fold, match_multiply, scaled_inputs
from qcompiler.quantization import qmath
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.cost_profile import ZEN5_AVX512VNNI as PROFILE
from qcompiler.quantization.cost_profile import elements
from qcompiler.quantization.observers import weight_params
from qcompiler.quantization.product_inputs import ProductInput, input_key
from qcompiler.quantization.qconfig import QConfig, get_qconfig
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import QuantParams

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""The grid of a."""

GAIN = 1.25
"""Errors that fall by less (1 dB) are not worth the edit: the sampled rows are few."""

HEADROOM = 2.0
"""A clamp between stays at this multiple of a channel's calibrated range, or where it is: other data goes further."""

LEAST_ROWS = 8
"""With fewer sampled rows nothing is judged."""

SHARE_FOR_MULTIPLIES = 0.03
"""Multiplications before observers may add this share to the estimated time of a graph."""

MOST_OUTPUTS = 64
"""Output channels of a product whose error is judged, where each has a weight scale of its own."""

_MOST = 2.0**10
"""Scales lie within this factor of their median."""

_BITS = 15
"""Rows and weights are rounded to this many bits and a sign: products have 30, and 2^23 of them sum up in an f64."""

_ONE_THREAD = 2**18
"""Up to so many multiplications a BLAS stays on the calling thread. Waking others for products as small as these here
takes longer than the products, several times as long on a busy machine."""


@dataclass(frozen=True)
class Choice:
    """The scales of an observed value.

    Attributes:
        value: the value's name.
        scales: f32 [channels], the divisors.
        shifts: f32 [channels], what is subtracted before; None for nothing.
        group, params: the group of the divided value, and its parameters.
        note: what was chosen, for the report.
    """

    value: str
    scales: np.ndarray
    shifts: np.ndarray | None
    group: str
    params: QuantParams
    note: Equalized


def choose_scales(
    graph: Graph,
    params: Mapping[str, QuantParams],
    inputs: Mapping[str, ProductInput],
    configs: Mapping[str, QConfig | None],
    paid: Container[str] = frozenset(),
) -> tuple[list[Choice], list[Unjudged]]:
    """The scales that lower the error of products, and what could not be judged.

    Args:
        graph: of stage observed, as scale-channels gets it.
        params: observer group -> the parameters that it has without scales.
        inputs: what calibration kept of the inputs of products.
        configs: node name -> its qconfig (int8 for a node that is not in it).
        paid: the names of values that may be multiplied whatever it costs, since their price is counted elsewhere.
    """
    chosen: list[Choice] = []
    multiplied: list[tuple[float, float, Choice]] = []
    unjudged: list[Unjudged] = []
    for observe, place in _places(graph, configs):
        reason = _why_unjudged(observe, place, inputs)
        if reason is not None:
            unjudged.append(Unjudged(observe.x.name, reason))
            continue
        trial = _Trial(observe, place.products, params[observe.group], inputs, configs)
        choice = trial.choice(place)
        if choice is None:
            continue
        if isinstance(place, Fold) or observe.x.name in paid:
            chosen.append(choice)
        else:
            cost = PROFILE.overhead + elements(observe.x) * multiply_cost()
            multiplied.append((choice.note.after / choice.note.before, cost, choice))
    left = SHARE_FOR_MULTIPLIES * estimate(graph, configs)
    for _, cost, choice in sorted(multiplied, key=lambda item: (item[0], item[2].value)):
        if cost <= left:
            left -= cost
            chosen.append(choice)
    return chosen, unjudged


def judged_multiplications(
    graph: Graph,
    params: Mapping[str, QuantParams],
    inputs: Mapping[str, ProductInput],
    configs: Mapping[str, QConfig | None],
    within: Container[str],
) -> Iterator[tuple[Observe, Choice | None]]:
    """Each observed value that one of the nodes `within` makes and that only products read as codes, with the best
    scales for a multiplication before its observer; None where there are none or they can't be judged."""
    for observe, place in _places(graph, configs):
        producer = observe.x.producer
        if isinstance(place, Multiply) and producer is not None and producer.name in within:
            is_judged = _why_unjudged(observe, place, inputs) is None
            trial = _Trial(observe, place.products, params[observe.group], inputs, configs) if is_judged else None
            yield observe, None if trial is None else trial.choice(place)


def _places(graph: Graph, configs: Mapping[str, QConfig | None]) -> Iterator[tuple[Observe, Fold | Multiply]]:
    """Each observed value that products read and that can be divided, with where its scales go."""
    real = {note.node for note in graph.notes if isinstance(note, (KeptFloat, RealResult))}
    folded: set[str] = set()
    for node in graph.node_list:
        observe = Observe.of(node)
        if observe is None or not any(Weighted.of(user) is not None for user in node.result.users):
            continue
        place: Fold | Multiply | str = match_fold(graph, observe)
        if isinstance(place, Fold) and place.source.node.name in folded:
            continue
        if isinstance(place, str):
            producer = observe.x.producer
            if producer is None or producer.name not in real:
                continue  # codes, which a multiplication would only convert; a caller may give an input as codes too
            place = match_multiply(graph, observe)
        if isinstance(place, str):
            continue
        layers = [*place.products, *([place.source] if isinstance(place, Fold) else [])]
        if all(_equalizes(configs, layer.node.name) for layer in layers):
            if isinstance(place, Fold):
                folded.add(place.source.node.name)
            yield observe, place


def _equalizes(configs: Mapping[str, QConfig | None], name: str) -> bool:
    """Whether the qconfig of a node asks for scales, or leaves the node float; and scales of its outputs are free."""
    config = configs.get(name, get_qconfig("int8"))
    return config is None or config.equalize and (config.weight is None or config.weight.per_channel)


def _why_unjudged(observe: Observe, place: Fold | Multiply, inputs: Mapping[str, ProductInput]) -> str | None:
    kept = [inputs.get(input_key(layer)) for layer in place.products]
    fewest = min(0 if each is None else len(each.keys) for each in kept)
    if None in kept:
        return "the calibration kept no rows of it"
    limit = min(each.limit for each in kept if each is not None)
    if limit < LEAST_ROWS:
        return f"its rows are so long that calibration keeps {limit} of them, and {LEAST_ROWS} are needed"
    if fewest < LEAST_ROWS:
        return f"fewer than {LEAST_ROWS} different rows reached its products"
    fits = all(each is not None and each.rows.shape[1:] == layer.row_shape for each, layer in zip(kept, place.products))
    return None if fits else "the calibration kept rows of other sizes"


def multiply_cost() -> float:
    """The nanoseconds that the multiplication of one element takes in float."""
    return PROFILE.element.get(Mul.name, Mul.element_cost)[1]


def estimate(graph: Graph, configs: Mapping[str, QConfig | None]) -> float:
    """The nanoseconds that the nodes of an observed graph take by the cost profile."""
    default = get_qconfig("int8")
    nodes = [node for node in graph.nodes if Observe.of(node) is None]
    return sum(PROFILE.cost(node, quantized=configs.get(node.name, default) is not None) for node in nodes)


class RowProduct:
    """One product's sampled rows and weight, and what it makes of these in real numbers."""

    def __init__(self, layer: Weighted, rows: np.ndarray, spec: QuantSpec) -> None:
        assert isinstance(layer.weight, Const)  # as the place was matched
        self.layer, self.spec = layer, spec
        self.axis = layer.quant.weight_axis if spec.per_channel else None
        self.rows, self.weight = rows, layer.weight.data
        self.magnitudes = self._magnitudes()
        if self.axis is not None:
            groups, outputs = layer.grouped(self.weight).shape[:2]
            judged = np.arange(outputs)[:: -(-groups * outputs // MOST_OUTPUTS)] + np.arange(groups)[:, None] * outputs
            self.weight = np.take(self.weight, judged.reshape(-1), self.axis)
        self.exact = self._outputs(self.rows)
        self.unit = np.abs(self.exact).max(initial=0.0) / 2.0**18
        self.energy = self._energy(self.exact)

    def _outputs(self, rows: np.ndarray) -> np.ndarray:
        """What the product makes of rows, without its bias."""
        rows, weight = _balanced(rows, self.layer.row_weight(self.weight))
        rows, row_unit = fixed_point(rows)
        weight, weight_unit = fixed_point(weight)
        return dot(rows, weight) * (row_unit * weight_unit)

    def _magnitudes(self) -> np.ndarray | None:
        """The largest weight of each input channel, relative to the largest of all; None where each input channel has
        weights with scales of their own."""
        groups, _, inputs, _ = self.layer.grouped(self.weight).shape
        if self.axis is not None and inputs == 1 and groups > 1:
            return None
        weight = self.layer.grouped(self.weight)
        largest = np.maximum(weight.max(axis=1), -weight.min(axis=1))  # first along the outer axis, which is fast
        found = largest.max(axis=2).reshape(-1).astype(np.float64)
        return found / (found.max(initial=0.0) or 1.0)

    def error(self, x: QuantParams, scales: np.ndarray | None, shifts: np.ndarray | None = None) -> float:
        """The energy of the error of the product's output, relative to that of the output."""
        if not self.energy:
            return 0.0
        rows, weight, exact = self.rows, self.weight, self.exact
        if shifts is not None:
            rows = rows - shifts.reshape(1, rows.shape[1], -1, 1)
            exact = self._outputs(rows)
        if scales is not None:
            rows = rows / scales.reshape(1, rows.shape[1], -1, 1)
            weight = scaled_inputs(self.layer, weight, scales)
        params = weight_params(weight, self.spec, self.axis, f"%{self.layer.weight.name}")
        sums = dot(_centered(rows, x), self.layer.row_weight(_centered(weight, params)))
        step = np.broadcast_to(params.along(weight.ndim)[0], weight.shape)
        steps = self.layer.row_weight(step)[:, :, 0, 0].astype(np.float64)
        return self._energy(sums * steps[:, None, :] * float(x.scale[0]) - exact) / self.energy

    def _energy(self, outputs: np.ndarray) -> float:
        """The sum of squares in units of 2^-18 of the largest exact output, as an exact integer."""
        if not self.unit:
            return 0.0
        units = np.clip(np.rint(outputs / self.unit), -(2.0**20), 2.0**20).astype(np.int64)
        return float(np.sum(units * units))


class _Trial:
    """Tries scales for a value on the products that read it."""

    def __init__(
        self,
        observe: Observe,
        layers: Sequence[Weighted],
        params: QuantParams,
        inputs: Mapping[str, ProductInput],
        configs: Mapping[str, QConfig | None],
    ) -> None:
        self.observe, self.params = observe, params
        self.spec = QuantSpec.parse(observe.spec_text)
        kept = [inputs[input_key(layer)] for layer in layers]
        self.low = np.min([each.low for each in kept], axis=0).astype(np.float64)
        self.high = np.max([each.high for each in kept], axis=0).astype(np.float64)
        self.products = [
            RowProduct(layer, each.rows, weight_spec(configs, layer.node.name)) for layer, each in zip(layers, kept)
        ]

    def choice(self, place: Fold | Multiply) -> Choice | None:
        """The best scales of the grid, or None if none is worth it."""
        before = self._errors(self.params, None)
        if not sum(before):
            return None
        best: tuple[float, float, np.ndarray, QuantParams] | None = None
        shifts = self._shifts(place)
        magnitudes = [product.magnitudes for product in self.products if product.magnitudes is not None]
        for strength in STRENGTHS if magnitudes else STRENGTHS[-1:]:
            low, high = (self.low, self.high) if shifts is None else (self.low - shifts, self.high - shifts)
            scales = self._scales(strength, magnitudes, place, np.maximum(np.abs(low), np.abs(high)))
            params = choose_qparams((low / scales).min(), (high / scales).max(), self.spec)
            errors = self._errors(params, scales, shifts)
            is_better = sum(errors) * GAIN <= sum(before) and all(a <= b for a, b in zip(errors, before))
            if is_better and (best is None or sum(errors) < best[0]):
                best = sum(errors), strength, scales, params
        if best is None:
            return None
        after, strength, scales, params = best
        count = len(self.products)
        note = Equalized(
            self.observe.x.name,
            tuple(product.layer.node.name for product in self.products),
            place.source.node.name if isinstance(place, Fold) else "",
            strength,
            rounded(sum(before) / count),
            rounded(after / count),
            shifts is not None,
        )
        return Choice(self.observe.x.name, scales, shifts, place.group, params, note)

    def _errors(self, params: QuantParams, scales: np.ndarray | None, shifts: np.ndarray | None = None) -> list[float]:
        return [product.error(params, scales, shifts) for product in self.products]

    def _shifts(self, place: Fold | Multiply) -> np.ndarray | None:
        """f32 [channels]: the middle of each channel's range, if all ranges are much narrower than the value's."""
        whole = max(self.high.max(), 0) - min(self.low.min(), 0)
        narrow = (self.high - self.low).max() * GAIN <= whole
        if not (narrow and np.isfinite(whole)) or not isinstance(place, Fold) or place.why_no_shift() is not None:
            return None
        return ((self.low + self.high) / 2).astype(np.float32)

    def _scales(
        self, strength: float, magnitudes: Sequence[np.ndarray], place: Fold | Multiply, of_x: np.ndarray
    ) -> np.ndarray:
        """f32 [channels]: m_x^a / m_w^(1 - a), with the median 1. Channels that are always 0 keep a scale of 1.

        Behind a clamp the largest scale is 1, and no scale clamps what calibration saw. of_x: m_x.
        """
        of_weights = np.max(magnitudes, axis=0) if magnitudes else np.ones(of_x.shape)
        usable = (of_x > 0) & (of_weights > 0) & np.isfinite(of_x)
        scales = np.ones(of_x.shape)
        if usable.any():
            raw = _power(of_x[usable], strength) / _power(of_weights[usable], 1 - strength)
            scales[usable] = np.clip(raw / np.median(raw), 1 / _MOST, _MOST)
            if isinstance(place, Fold) and place.is_clamped:
                least = HEADROOM * np.maximum(self.low / place.low, self.high / place.high)
                scales = np.minimum(np.maximum(scales / scales.max(), least), 1)
        return scales.astype(np.float32)


def weight_spec(configs: Mapping[str, QConfig | None], name: str) -> QuantSpec:
    default = get_qconfig("int8")
    config = configs.get(name, default) or default
    spec = config.weight or default.weight
    assert spec is not None
    return spec


def _balanced(rows: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows [N, G, I, T] and weights [G, O, I, T] with each input channel's ranges made alike by a power of two, which
    is exact: so fixed point drops no channel that the outputs depend on."""
    of_rows, of_weight = np.abs(rows).max(axis=(0, 3), initial=0.0), np.abs(weight).max(axis=(1, 3), initial=0.0)
    shift = np.where((of_rows > 0) & (of_weight > 0), (np.frexp(of_rows)[1] - np.frexp(of_weight)[1]) // 2, 0)
    wide_rows, wide_weight = rows.astype(np.float64), weight.astype(np.float64)
    return np.ldexp(wide_rows, -shift[None, :, :, None]), np.ldexp(wide_weight, shift[:, None, :, None])


def fixed_point(array: np.ndarray) -> tuple[np.ndarray, float]:
    """(integers of 15 bits and a sign, in f64; the real number that 1 stands for)."""
    largest = max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))
    unit = largest / 2.0**_BITS or 1.0
    integers = array.astype(np.float64)  # in place from here on: weights are large
    integers /= unit
    return np.rint(integers, out=integers), unit


def _centered(array: np.ndarray, params: QuantParams) -> np.ndarray:
    """Codes less their zero point, as f64, rounded by rule (2) of qmath."""
    scale, zero_point = params.along(array.ndim)
    with np.errstate(all="ignore"):
        scaled = array / scale
    return np.rint(qmath.clamp(scaled, params.qmin - zero_point, params.qmax - zero_point)).astype(np.float64)


def dot(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[groups, n, outputs] of rows [n, groups, inputs, taps] and a weight [groups, outputs, inputs, taps]; integers in
    f64 whose sums are exact, so they are summed block by block of a row."""
    (groups, outputs), n = weight.shape[:2], len(rows)
    left, right = rows.swapaxes(0, 1).reshape(groups, n, -1), weight.reshape(groups, outputs, -1)
    size = left.shape[2]
    block = max(1, _ONE_THREAD // max(1, n * outputs))
    whole = size // block * block
    total = np.matmul(left[:, :, whole:], right[:, :, whole:].swapaxes(1, 2))
    if whole:
        a, b = (x[:, :, :whole].reshape(groups, -1, whole // block, block).swapaxes(1, 2) for x in (left, right))
        total += np.matmul(a, b.swapaxes(2, 3)).sum(axis=1)
    return total


def _power(base: np.ndarray, exponent: float) -> np.ndarray:
    """base ** exponent for multiples of 1/4, from square roots, which every machine rounds alike."""
    root, result = np.sqrt(np.sqrt(base)), np.ones(base.shape)
    for _ in range(round(4 * exponent)):
        result = result * root
    return result


def rounded(number: float) -> float:
    """Three digits, as notes have them."""
    return float(f"{number:.2e}")
