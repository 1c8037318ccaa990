"""equalize: balance the weight ranges of neighbouring layers (cross-layer equalization).

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node
from qcompiler.opdef import op_of
from qcompiler.ops.interfaces import Weighted
from qcompiler.passes.fold_batchnorm import scaled_weight
from qcompiler.passes.rewrite import Refusal, why_not_alone

_MAX_EXPONENT = 10


@dataclass(frozen=True)
class _Pair:
    """Two layers with constant parameters, and only homogeneous ops (`Op.is_homogeneous`) between them."""

    first: Weighted
    second: Weighted


@dataclass(frozen=True)
class Equalize:
    """Move scale between the channels of neighbouring layers, so that the weights of both have similar ranges:

        y = W2 relu(W1 x + b1) = (W2 S) relu(S^-1 W1 x + S^-1 b1)      S diagonal, positive: relu(s x) = s relu(x)
        s_i = sqrt(max|row i of W1| / max|column i of W2|), rounded to a power of two

    Scaling by powers of two is exact, so the float graph keeps its bits, unless it overflows. Between the layers there
    may be relu and pooling that nobody else reads. The pass is optional, since per-channel weights gain little from it.

    Before:
        %a = conv(%x, @w1, @b1) {activation="relu"} : f32[1,8,9,9]
        %y = conv(%a, @w2) : f32[1,4,9,9]
    After:
        %a = conv(%x, @w1.equal, @b1.equal) {activation="relu"} : f32[1,8,9,9]
        %y = conv(%a, @w2.equal) : f32[1,4,9,9]
    """

    iterations: int = 4
    name: ClassVar[str] = "equalize"
    rule: ClassVar[str] = "equalization"

    def run(self, graph: Graph) -> Graph:
        matches = [self.match(graph, layer) for layer in _layers(graph)]
        pairs = [match for match in matches if isinstance(match, _Pair)]
        for _ in range(self.iterations):
            if not [pair for pair in pairs if _equalize(graph, pair)]:
                break
        graph.erase_unused_consts()
        return graph

    def match(self, graph: Graph, layer: Weighted) -> _Pair | Refusal:
        """A layer and the one before it, or why they cannot be equalized."""
        first = self._first(graph, layer)
        return _Pair(first, layer) if isinstance(first, Weighted) else self._refuse(layer.node, first)

    def explain(self, graph: Graph) -> list[Refusal]:
        matches = [self.match(graph, layer) for layer in _layers(graph)]
        return [match for match in matches if isinstance(match, Refusal)]

    def _refuse(self, node: Node, reason: str) -> Refusal:
        return Refusal(node.name, node.op, self.rule, reason)

    @staticmethod
    def _first(graph: Graph, layer: Weighted) -> Weighted | str:
        """The layer before this one, or why there is none that can be equalized with it."""
        reason, value, user = _why_not_constant(layer), layer.x, layer.node
        while reason is None:
            producer = value.producer
            if producer is None:
                return f"%{value.name} is an input of the graph"
            reason = why_not_alone(graph, value, user)
            if reason is not None:
                break
            first = Weighted.of(producer)
            if first is not None:
                if first.weight is layer.weight:
                    return "both layers share a weight"
                return _why_not_homogeneous(first) or _why_not_constant(first) or first
            between = op_of(producer)
            if not between.is_homogeneous:
                return f"{producer.op} of %{value.name} stands between"
            value, user = between.first, producer
        return reason


def _layers(graph: Graph) -> list[Weighted]:
    return [layer for node in graph.nodes if (layer := Weighted.of(node)) is not None]


def _why_not_constant(layer: Weighted) -> str | None:
    """Why the parameters of a layer cannot be rescaled along its channels, or None."""
    values = (layer.weight, layer.bias)
    variable = next((value for value in values if value is not None and not value.is_const), None)
    if variable is not None:
        return f"%{variable.name} is not constant"
    return f"channels of {layer.name} are not on axis 1" if layer.channel_axis != 1 else None


def _why_not_homogeneous(layer: Weighted) -> str | None:
    """Why a scale does not pass through a layer's activation and residual, or None."""
    if layer.activation not in ("none", "relu"):
        return f"the activation {layer.activation} of %{layer.node.name} does not scale"
    return f"%{layer.node.name} adds a residual" if layer.added is not None else None


def _equalize(graph: Graph, pair: _Pair) -> bool:
    """Rescale one pair. Returns whether anything changed."""
    first, second = pair.first, pair.second
    rows, columns = _row_ranges(first), _column_ranges(second)
    usable = (rows > 0) & (columns > 0)
    ratio = np.where(usable, rows, 1.0) / np.where(usable, columns, 1.0)
    exponents = np.clip(np.rint(np.log2(ratio) / 2), -_MAX_EXPONENT, _MAX_EXPONENT)
    if not exponents.any():
        return False
    scale = 2.0**exponents
    _set_const(graph, first, "weight", scaled_weight(_real_weight(first), 1 / scale, first))
    if isinstance(first.bias, Const):
        _set_const(graph, first, "bias", first.bias.data / scale)
    _set_const(graph, second, "weight", _by_columns(second, _real_weight(second), scale))
    return True


def _real_weight(layer: Weighted) -> np.ndarray:
    """The constant weight in float64."""
    assert isinstance(layer.weight, Const)  # as `match` has checked
    return layer.weight.data.astype(np.float64)


def _row_ranges(layer: Weighted) -> np.ndarray:
    """max |weight| of each output channel."""
    return layer.grouped(np.abs(_real_weight(layer))).max(axis=(2, 3)).reshape(-1)


def _column_ranges(layer: Weighted) -> np.ndarray:
    """max |weight| of each input channel."""
    return layer.grouped(np.abs(_real_weight(layer))).max(axis=(1, 3)).reshape(-1)


def _by_columns(layer: Weighted, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Multiply `weight` with scale [input channels] along its input channels."""
    grouped = layer.grouped(weight)
    return layer.ungrouped(grouped * scale.reshape(grouped.shape[0], 1, -1, 1), weight.shape)


def _set_const(graph: Graph, layer: Weighted, operand: str, data: np.ndarray) -> None:
    index = layer.operand_index(operand)
    old = layer.node.operands[index]
    assert isinstance(old, Const)  # as `match` has checked
    const = graph.add_const(f"{old.name.removesuffix('.equal')}.equal", data.astype(old.data.dtype))
    graph.set_operand(layer.node, index, const)
    if not old.uses and not graph.is_output(old):
        graph.erase_const(old)
