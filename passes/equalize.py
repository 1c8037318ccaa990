"""equalize: cross-layer equalization.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node
from qcompiler.passes.fold_batchnorm import scaled_weight
from qcompiler.passes.rewrite import Refusal, why_not_alone

_LAYERS = ("conv", "conv_transpose", "linear")
_BETWEEN = ("relu", "max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
_MAX_EXPONENT = 10


@dataclass(frozen=True)
class Equalize:
    """Move scale between the channels of neighbouring layers, so that the weights of each have like ranges:

        y = W2 relu(W1 x + b1) = (W2 S) relu(S^-1 W1 x + S^-1 b1)      S diagonal, positive: relu(s x) = s relu(x)
        s_i = sqrt(max|row i of W1| / max|column i of W2|), rounded to a power of two

    Powers of two scale exactly: the float graph keeps its bits (short of overflow). Between the layers may stand relu
    and pooling, read by nobody else. Optional: per-channel weights gain little.

    Before:
        %a = conv(%x, @w1, @b1) {activation="relu"} : f32[1,8,9,9]
        %y = conv(%a, @w2) : f32[1,4,9,9]
    After:
        %a = conv(%x, @w1.equal, @b1.equal) {activation="relu"} : f32[1,8,9,9]
        %y = conv(%a, @w2.equal) : f32[1,4,9,9]
    """

    iterations: int = 4
    name: ClassVar[str] = "equalize"

    def run(self, graph: Graph) -> Graph:
        pairs = [
            (first, node)
            for node in graph.nodes
            if node.op in _LAYERS and (first := self._first(graph, node)) is not None
        ]
        for _ in range(self.iterations):
            if not [pair for pair in pairs if _equalize(graph, *pair)]:
                break
        graph.erase_unused_consts()
        return graph

    def check(self, graph: Graph, node: Node) -> str | None:
        """Why a layer cannot be equalized with the one before it; None if it can."""
        reason = _not_constant(node)
        value, user = node.operands[0], node
        while reason is None:
            producer = value.producer
            if producer is None:
                return f"%{value.name} is an input of the graph"
            reason = why_not_alone(graph, value, user)
            if reason is None and producer.op in _LAYERS:
                if producer.operand("weight") is node.operand("weight"):
                    return "both layers share a weight"
                return _not_homogeneous(producer) or _not_constant(producer)
            if reason is None and producer.op not in _BETWEEN:
                return f"{producer.op} of %{value.name} stands between"
            value, user = producer.operands[0], producer
        return reason

    def explain(self, graph: Graph) -> list[Refusal]:
        layers = [node for node in graph.nodes if node.op in _LAYERS]
        reasons = [(node, self.check(graph, node)) for node in layers]
        return [Refusal(node.name, node.op, "equalization", reason) for node, reason in reasons if reason is not None]

    def _first(self, graph: Graph, node: Node) -> Node | None:
        if self.check(graph, node) is not None:
            return None
        producer = node.operands[0].producer
        while producer.op not in _LAYERS:
            producer = producer.operands[0].producer
        return producer


def _not_constant(node: Node) -> str | None:
    values = (node.operand("weight"), node.operand("bias"))
    variable = next((value for value in values if value is not None and not value.is_const), None)
    if variable is not None:
        return f"%{variable.name} is not constant"
    axis_differs = node.op == "linear" and node.result.type.rank != 2
    return "channels of linear are not on axis 1" if axis_differs else None


def _not_homogeneous(node: Node) -> str | None:
    if node.attrs["activation"] not in ("none", "relu"):
        return f"the activation {node.attrs['activation']} of %{node.name} does not scale"
    residual = node.op != "conv_transpose" and node.operand("residual") is not None
    return f"%{node.name} adds a residual" if residual else None


def _equalize(graph: Graph, first: Node, second: Node) -> bool:
    """Rescale one pair; whether anything changed."""
    rows, columns = _row_ranges(first), _column_ranges(second)
    usable = (rows > 0) & (columns > 0)
    ratio = np.where(usable, rows, 1.0) / np.where(usable, columns, 1.0)
    exponents = np.clip(np.rint(np.log2(ratio) / 2), -_MAX_EXPONENT, _MAX_EXPONENT)
    if not exponents.any():
        return False
    scale = 2.0**exponents
    _set_const(graph, first, "weight", scaled_weight(first.operand("weight").data.astype(np.float64), 1 / scale, first))
    if first.operand("bias") is not None:
        _set_const(graph, first, "bias", first.operand("bias").data / scale)
    _set_const(graph, second, "weight", _by_columns(second, second.operand("weight").data.astype(np.float64), scale))
    return True


def _row_ranges(node: Node) -> np.ndarray:
    """max |weight| of each output channel."""
    weight = np.abs(node.operand("weight").data.astype(np.float64))
    if node.op != "conv_transpose":
        return weight.max(axis=tuple(range(1, weight.ndim)))
    groups = node.attrs["groups"]
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return grouped.max(axis=(1, 3)).reshape(-1)


def _grouped(node: Node, weight: np.ndarray) -> np.ndarray:
    """[groups, output channels, input channels, taps]."""
    groups = node.attrs.get("groups", 1)
    if node.op == "conv_transpose":  # [I, O/g, *K]
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).swapaxes(1, 2)
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _column_ranges(node: Node) -> np.ndarray:
    """max |weight| of each input channel."""
    return _grouped(node, np.abs(node.operand("weight").data.astype(np.float64))).max(axis=(1, 3)).reshape(-1)


def _by_columns(node: Node, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """`weight` times scale [input channels] along its input channels."""
    groups = node.attrs.get("groups", 1)
    scaled = _grouped(node, weight) * scale.reshape(groups, 1, -1, 1)
    return (scaled.swapaxes(1, 2) if node.op == "conv_transpose" else scaled).reshape(weight.shape)


def _set_const(graph: Graph, node: Node, operand: str, data: np.ndarray) -> None:
    from qcompiler.opdef import opdef

    old = node.operand(operand)
    base = old.name.removesuffix(".equal")
    const: Const = graph.add_const(f"{base}.equal", data.astype(old.data.dtype))
    graph.set_operand(node, opdef(node.op).operand_index(operand), const)
    if not old.uses and not graph.is_output(old):
        graph.erase_const(old)
