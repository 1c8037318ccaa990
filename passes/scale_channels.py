"""scale-channels: shift and divide the channels of values that products read, and make up for it in the products.

Does not own the choice of the scales and shifts (`equalization.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from qcompiler.errors import PassError
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.opdef import op_of
from qcompiler.ops.activations import Clamp
from qcompiler.ops.elementwise import Mul
from qcompiler.ops.interfaces import AffineNorm, Weighted
from qcompiler.ops.quantized import Observe
from qcompiler.passes.fold_batchnorm import scaled_weight

Scales = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class ScaleChannels:
    """observed -> observed. scales: the name of an observed value that products read -> a positive number for each of
    its channels; shifts: for some of these values, a number z for each channel.

        y = W x + b = (W S) (S^-1 (x - z)) + (b + W z)          S diagonal, positive

    S^-1 moves into the weight and bias of the norm or of the product that makes x, also through ops that are
    homogeneous channel by channel (relu s x = s relu x, max pooling), where all that reads x are products. Otherwise
    a multiplication is put before the observer, whose readers then must all be products. The real numbers
    that the products give stay what they were, but for the rounding of the scaled constants. Ranges of x change.

    S^-1 also moves through a clamp to other bounds than 0, as relu6, where no scale is above 1:

        s clamp(x / s, low, high) = clamp(x, s low, s high)

    That clamps a channel to narrower bounds than before. Who chooses the scales keeps what was calibrated within them:
    beyond the calibrated range, codes clamp a value in any case. Shifts need a norm or product whose results only
    products without a border read, with nothing between.

    Before:
        %n = layer_norm(%x, @g) {normalized_rank=1} : f32[4,8]
        %n.obs = observe(%n) {spec="...", group="n"} : f32[4,8]
        %y = linear(%n.obs, @w) : f32[4,4]
    After:
        %n = layer_norm(%x, @g.scaled) {normalized_rank=1} : f32[4,8]
        %n.obs = observe(%n) {spec="...", group="n"} : f32[4,8]
        %y = linear(%n.obs, @w.scaled) : f32[4,4]
    """

    scales: Scales = field(default_factory=dict)
    shifts: Scales = field(default_factory=dict)
    name: ClassVar[str] = "scale-channels"

    def run(self, graph: Graph) -> Graph:
        observers = {observe.x.name: observe for node in graph.node_list if (observe := Observe.of(node)) is not None}
        for value, scales in self.scales.items():
            if value not in observers:
                raise PassError(f"{self.name} scales a value without an observer", where=f"%{value}")
            place: Fold | Multiply | str = match_fold(graph, observers[value])
            if isinstance(place, str):
                place = match_multiply(graph, observers[value])
            if isinstance(place, str):
                raise PassError(f"{self.name} cannot scale %{value}: {place}")
            numbers = np.asarray(scales, np.float64)
            if numbers.shape != (place.channels,) or not (np.isfinite(numbers) & (numbers > 0)).all():
                raise PassError(
                    "scales of channels", where=f"%{value}", expected=f"{place.channels} positive numbers", got=scales
                )
            if isinstance(place, Fold) and place.is_clamped and (numbers > 1).any():
                raise PassError(
                    f"scales of channels that are clamped to [{place.low}, {place.high}]",
                    where=f"%{value}",
                    expected="none above 1",
                    got=numbers.max(),
                )
            shifts = np.asarray(self.shifts.get(value, np.zeros(place.channels)), np.float64)
            if value in self.shifts:
                reason = place.why_no_shift() if isinstance(place, Fold) else "a multiplication shifts nothing"
                if reason is not None:
                    raise PassError(f"{self.name} cannot shift %{value}: {reason}")
                if shifts.shape != (place.channels,) or not np.isfinite(shifts).all():
                    raise PassError(
                        "shifts of channels", where=f"%{value}", expected=f"{place.channels} numbers", got=self.shifts
                    )
            place.scale(graph, numbers, shifts)
        unscaled = next((value for value in self.shifts if value not in self.scales), None)
        if unscaled is not None:
            raise PassError(f"{self.name} shifts a value that it does not scale", where=f"%{unscaled}")
        graph.erase_unused_consts()
        return graph


@dataclass(frozen=True)
class Fold:
    """Scales that move into what makes the values.

    Attributes:
        source: the norm or product whose weight and bias are divided.
        products: whose weights are multiplied.
        observers: of the values between.
        low, high: the nearest bounds other than 0 to which something between clamps.
    """

    source: AffineNorm | Weighted
    products: tuple[Weighted, ...]
    observers: tuple[Observe, ...]
    low: float = -math.inf
    high: float = math.inf

    @property
    def is_clamped(self) -> bool:
        """Whether scales must not be above 1."""
        return math.isfinite(self.low) or math.isfinite(self.high)

    @property
    def channels(self) -> int:
        return _channels(self.products[0])

    @property
    def group(self) -> str:
        """The group of the scaled values."""
        return self.observers[0].group

    def why_no_shift(self) -> str | None:
        """Why the channels cannot be shifted, or None."""
        source = self.source
        if any(observe.x is not source.node.result for observe in self.observers) or (
            isinstance(source, Weighted) and source.activation != "none"
        ):
            return f"an activation stands between %{source.node.name} and a product"
        border = next((layer for layer in self.products if layer.has_border), None)
        if border is not None:
            return f"%{border.node.name} = {border.node.op} has a border"
        variable = next((layer for layer in self.products if layer.bias is not None and not layer.bias.is_const), None)
        return None if variable is None else f"the bias of %{variable.node.name} is not constant"

    def scale(self, graph: Graph, scales: np.ndarray, shifts: np.ndarray) -> None:
        source = self.source
        if isinstance(source, Weighted):
            set_operand(graph, source, "weight", scaled_weight(_data(source.weight), 1 / scales, source))
        else:
            set_operand(graph, source, "weight", (1.0 if source.weight is None else _data(source.weight)) / scales)
        if source.bias is not None or shifts.any():
            set_operand(graph, source, "bias", ((0.0 if source.bias is None else _data(source.bias)) - shifts) / scales)
        if shifts.any():
            for layer in self.products:
                bias = shift_in_bias(layer, _data(layer.weight), shifts)
                set_operand(graph, layer, "bias", bias + (0.0 if layer.bias is None else _data(layer.bias)))
        _multiply_weights(graph, self.products, scales)


@dataclass(frozen=True)
class Multiply:
    """Scales that a multiplication before an observer applies."""

    observe: Observe
    products: tuple[Weighted, ...]

    @property
    def channels(self) -> int:
        return _channels(self.products[0])

    @property
    def group(self) -> str:
        """The group of the scaled value, which shares its range with no other."""
        return f"{self.observe.x.name}.scaled"

    def scale(self, graph: Graph, scales: np.ndarray, shifts: np.ndarray) -> None:
        assert not shifts.any()  # as `ScaleChannels.run` has checked
        value, node, group = self.observe.x, self.observe.node, self.group
        shape = [1] * value.type.rank
        shape[self.products[0].input_axis] = -1
        factor = graph.add_const(f"{value.name}.factor", (1 / scales).astype(np.float32).reshape(shape))
        loc = None if value.producer is None else value.producer.loc
        made = graph.create(Mul.name, [value, factor], names=f"{value.name}.scaled", loc=loc, before=node)
        graph.set_operand(node, Observe.x.index, made.result)
        graph.set_attr(node, Observe.group.name, group)
        _multiply_weights(graph, self.products, scales)


def match_fold(graph: Graph, observe: Observe) -> Fold | str:
    """Where the scales of an observed value can move to without a multiplication, or why they cannot."""
    source = _source(observe.x)
    if isinstance(source, str):
        return source
    reached = _reached(graph, source.node.result)
    if isinstance(reached, str):
        return reached
    products, observers, clamps = reached
    if not products:
        return "no product reads it"
    if isinstance(source, Weighted):
        axis: int | None = source.channel_axis
    else:
        axis = source.affine_axis
    if any(layer.input_axis != axis for layer in products):
        return f"channels of %{source.node.name} are not those that the products sum"
    group = observe.group
    inside = {each.node.name for each in observers}
    for node in graph.node_list:
        other = Observe.of(node)
        if other is not None and (other.group == group) != (node.name in inside):
            return f"%{other.x.name} shares the range of %{observe.x.name}"
    bounds = [clamp.bounds for clamp in clamps]
    if isinstance(source, Weighted):
        bounds.append(source.bounds)
    low = max((low for low, _ in bounds if low), default=-math.inf)
    high = min((high for _, high in bounds if high), default=math.inf)
    return Fold(source, products, observers, low, high)


def match_multiply(graph: Graph, observe: Observe) -> Multiply | str:
    """The products that alone read an observer whose value is divided before it, or why something else does."""
    if graph.is_output(observe.node.result):
        return f"%{observe.node.name} is an output of the graph"
    products = []
    for use in observe.node.result.uses:
        layer = _reading(use.node, use.index)
        if layer is None:
            return f"%{use.node.name} = {use.node.op} reads %{observe.x.name} too"
        products.append(layer)
    if not products:
        return "no product reads it"
    if any(layer.input_axis != products[0].input_axis for layer in products):
        return f"the products that read %{observe.x.name} sum different axes"
    place = Multiply(observe, tuple(products))
    if any(each is not None and each.group == place.group for each in map(Observe.of, graph.node_list)):
        return f"another value has the range {place.group}"
    return place


def _source(value: Value) -> AffineNorm | Weighted | str:
    """What makes a value, before ops that scales pass through, if its constants can be divided; else why not."""
    node = value.producer
    while node is not None and (Observe.of(node) is not None or _passes_scales(node)):
        (value,) = (operand for operand in node.operands if operand is not None)
        node = value.producer
    if node is None:
        return f"%{value.name} is an input of the graph"
    norm = AffineNorm.of(node)
    if norm is not None:
        variable = next((v for v in (norm.weight, norm.bias) if v is not None and not v.is_const), None)
        return norm if variable is None else f"%{variable.name} is not constant"
    layer = Weighted.of(node)
    if layer is None:
        return f"{node.op} of %{value.name} stands between"
    if layer.added is not None:
        return f"%{node.name} adds a residual"
    variable = next((v for v in (layer.weight, layer.bias) if v is not None and not v.is_const), None)
    return layer if variable is None else f"%{variable.name} is not constant"


def _reached(graph: Graph, value: Value) -> tuple[tuple[Weighted, ...], tuple[Observe, ...], tuple[Clamp, ...]] | str:
    """The products, observers and clamps that a value reaches through ops that scales pass through; or what else reads
    it."""
    products: list[Weighted] = []
    observers: list[Observe] = []
    clamps: list[Clamp] = []
    left = [value]
    while left:
        current = left.pop()
        if graph.is_output(current):
            return f"%{current.name} is an output of the graph"
        for use in current.uses:
            layer, observe = _reading(use.node, use.index), Observe.of(use.node)
            if layer is not None:
                products.append(layer)
                continue
            if observe is not None:
                observers.append(observe)
            elif not _passes_scales(use.node):
                return f"%{use.node.name} = {use.node.op} reads %{value.name} too"
            clamp = Clamp.of(use.node)
            clamps += [] if clamp is None else [clamp]
            left.append(use.node.result)
    return tuple(products), tuple(observers), tuple(clamps)


def _passes_scales(node: Node) -> bool:
    """Whether an op of one operand lets scales through, and the operand may be clipped to the range of the result."""
    op, clamp = op_of(node), Clamp.of(node)
    if clamp is not None:
        low, high = clamp.bounds
        return low <= 0 <= high
    return op.is_homogeneous and op.commutes_with_clip


def _reading(node: Node, index: int) -> Weighted | None:
    """The product with a constant weight that reads a value as its x; None for other readers."""
    layer = Weighted.of(node)
    return layer if layer is not None and layer.weight.is_const and index == layer.operand_index("x") else None


def _channels(layer: Weighted) -> int:
    groups, inputs, _ = layer.row_shape
    return groups * inputs


def _multiply_weights(graph: Graph, products: tuple[Weighted, ...], scales: np.ndarray) -> None:
    for layer in products:
        assert isinstance(layer.weight, Const)  # as `match_fold` and `match_multiply` have checked
        set_operand(graph, layer, "weight", scaled_inputs(layer, layer.weight.data, scales.astype(np.float32)))


def scaled_inputs(layer: Weighted, weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Multiply a weight with scales [input channels] along its input channels."""
    grouped = layer.grouped(weight)
    return layer.ungrouped(grouped * scales.reshape(grouped.shape[0], 1, -1, 1), weight.shape)


def shift_in_bias(layer: Weighted, weight: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """f64 [outputs]: W z, what a product without a border makes of the shifts z [input channels]."""
    grouped = layer.grouped(weight)
    return (grouped * shifts.reshape(grouped.shape[0], 1, -1, 1)).sum(axis=(2, 3)).reshape(-1)


def _data(value: Value) -> np.ndarray:
    assert isinstance(value, Const)  # as `match_fold` and `match_multiply` have checked
    return value.data.astype(np.float64)


def set_operand(
    graph: Graph, op: AffineNorm | Weighted, operand: str, data: np.ndarray, suffix: str = "scaled"
) -> None:
    """Let an operand of an op read a new constant; others may read the old one still."""
    index = op.operand_index(operand)
    old = op.node.operand(operand)
    name = f"{op.node.name}.{operand}" if old is None else old.name.removesuffix(f".{suffix}")
    graph.set_operand(op.node, index, graph.add_const(f"{name}.{suffix}", data.astype(np.float32, copy=False)))
