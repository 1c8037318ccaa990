"""fold-batchnorm: a batch norm after conv, conv_transpose or linear moves into its weight and bias.

    y = (W x + b - mean) * gamma / sqrt(var + eps) + beta
      = (f W) x + (b - mean) f + beta          with f = gamma / sqrt(var + eps), one factor an output channel

Computed in float64 and rounded once. The folded weight is a new constant, so a weight shared by several nodes is never folded twice.

Before: `%c = conv(%x, @w)`, `%y = batch_norm(%c, @mean, @var, @gamma, @beta)`
After:  `%y = conv(%x, @w.folded, @y.bias)`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node

_WEIGHTED = ("conv", "conv_transpose", "linear")


@dataclass(frozen=True)
class FoldBatchnorm:
    name: ClassVar[str] = "fold-batchnorm"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            if node.op == "batch_norm" and self.check(graph, node) is None:
                self._rewrite(graph, node)
        graph.erase_unused_consts()
        return graph

    def check(self, graph: Graph, node: Node) -> str | None:
        """Why this batch_norm cannot be folded, or None."""
        producer = node.operands[0].producer
        if producer is None or producer.op not in _WEIGHTED:
            return "its operand is not made by conv, conv_transpose or linear"
        if len(node.operands[0].uses) != 1 or graph.is_output(node.operands[0]):
            return "the value before it has other users"
        if producer.attrs["activation"] != "none" or producer.operand("bias") is not None and not producer.operand("bias").is_const:
            return "an activation stands between, or the bias is no constant"
        if not all(v is None or isinstance(v, Const) for v in (*node.operands[1:], producer.operand("weight"))):
            return "weight or statistics are no constants"
        if producer.op == "linear" and node.operands[0].type.rank != 2:
            return "channels of linear are not on axis 1"
        if producer.op != "linear" or len(producer.operands) < 4:
            residual = producer.op == "conv" and producer.operand("residual") is not None
            return "a residual is added between" if residual else None
        return "a residual is added between"

    def _rewrite(self, graph: Graph, node: Node) -> None:
        producer = node.operands[0].producer
        mean, var, gamma, beta = (_data(node, name) for name in ("mean", "var", "weight", "bias"))
        factor = 1.0 / np.sqrt(var + node.attrs["eps"])
        if gamma is not None:
            factor = factor * gamma
        weight, bias = producer.operand("weight"), _data(producer, "bias")
        shift = (0.0 if bias is None else bias) - mean
        folded_bias = shift * factor + (0.0 if beta is None else beta)
        folded = _scaled(weight.data.astype(np.float64), factor, producer)
        operands = [producer.operands[0], graph.add_const(f"{weight.name}.folded", folded.astype(np.float32)),
                    graph.add_const(f"{producer.name}.bias", folded_bias.astype(np.float32))]
        graph.replace(node, producer.op, operands, producer.attrs, origin=(*producer.origin, *node.origin))
        graph.erase(producer)


def _data(node: Node, name: str) -> np.ndarray | None:
    const = node.operand(name)
    return None if const is None else const.data.astype(np.float64)


def _scaled(weight: np.ndarray, factor: np.ndarray, producer: Node) -> np.ndarray:
    """weight times factor along its output channels; [C, O/groups, *K] for conv_transpose."""
    if producer.op != "conv_transpose":
        return weight * factor.reshape(-1, *([1] * (weight.ndim - 1)))
    groups = producer.attrs["groups"]
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    scaled = grouped * factor.reshape(groups, 1, -1, *([1] * (weight.ndim - 2)))
    return scaled.reshape(weight.shape)
