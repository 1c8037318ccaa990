"""fold-batchnorm: a batch norm after conv, conv_transpose or linear moves into its weight and bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node
from qcompiler.ops.norm import batch_norm_terms
from qcompiler.passes.agreement import agree
from qcompiler.passes.rewrite import Rewrite, RewritePass, why_not_alone
from qcompiler.quantization.qconfig import QConfig

_WEIGHTED = ("conv", "conv_transpose", "linear")


class _FoldBatchnorm:
    rule = "folding of batch norm"
    ops = ("batch_norm",)

    def __init__(self, configs: Mapping[str, QConfig | None] | None) -> None:
        self.configs = configs

    def check(self, graph: Graph, node: Node) -> str | None:
        value = node.operands[0]
        producer = value.producer
        if producer is None or producer.op not in _WEIGHTED:
            return "its operand is not made by conv, conv_transpose or linear"
        if producer.attrs["activation"] != "none":
            return f"the activation {producer.attrs['activation']} stands between"
        if producer.op != "conv_transpose" and producer.operand("residual") is not None:
            return "a residual is added between"
        constant = (*node.operands[1:], producer.operand("weight"), producer.operand("bias"))
        variable = next((v for v in constant if v is not None and not v.is_const), None)
        if variable is not None:
            return f"%{variable.name} is not constant"
        if producer.op == "linear" and value.type.rank != 2:
            return "channels of linear are not on axis 1"
        if not agree(self.configs, producer, node):
            return f"%{producer.name} has another qconfig"
        return why_not_alone(graph, value, node)

    def rewrite(self, graph: Graph, node: Node) -> None:
        producer = node.operands[0].producer
        mean, var, gamma, beta = (_data(node, name) for name in ("mean", "var", "weight", "bias"))
        factor, shift = batch_norm_terms(mean, var, gamma, beta, node.attrs["eps"])
        weight, bias = producer.operand("weight"), _data(producer, "bias")
        if bias is not None:
            shift = shift + bias.astype(np.float64) * factor
        folded = scaled_weight(weight.data.astype(np.float64), factor, producer).astype(weight.data.dtype)
        operands = [
            producer.operands[0],
            graph.add_const(f"{weight.name}.folded", folded),
            graph.add_const(f"{producer.name}.bias", shift.astype(np.float32)),
        ]
        graph.replace(node, producer.op, operands, producer.attrs, origin=(*producer.origin, *node.origin))
        graph.erase(producer)


def _data(node: Node, name: str) -> np.ndarray | None:
    const = node.operand(name)
    return const.data if isinstance(const, Const) else None


def scaled_weight(weight: np.ndarray, factor: np.ndarray, node: Node) -> np.ndarray:
    """`weight` times `factor` [output channels] along its output channels; conv_transpose has [I, O/groups, *K]."""
    if node.op != "conv_transpose":
        return weight * factor.reshape(-1, *([1] * (weight.ndim - 1)))
    groups = node.attrs["groups"]
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    scaled = grouped * factor.reshape(groups, 1, -1, *([1] * (weight.ndim - 2)))
    return scaled.reshape(weight.shape)


@dataclass(frozen=True)
class FoldBatchnorm(RewritePass):
    """Batch norm at inference is one multiply-add a channel, and so is a change of weight and bias:

        y = (W x + b - mean) * gamma / sqrt(var + eps) + beta
          = (f W) x + (b - mean) f + beta          with f = gamma / sqrt(var + eps), one factor an output channel

    Computed in float64 and rounded once. The folded weight is a new constant, so a weight that several nodes share is
    copied for each, never folded twice.

    Before:
        %c = conv(%x, @w) {...} : f32[1,4,8,8]
        %y = batch_norm(%c, @mean, @var, @gamma, @beta) : f32[1,4,8,8]
    After:
        %y = conv(%x, @w.folded, @c.bias) {...} : f32[1,4,8,8]
    """

    configs: Mapping[str, QConfig | None] | None = None
    name: ClassVar[str] = "fold-batchnorm"

    def rules(self, graph: Graph) -> Sequence[Rewrite]:
        return (_FoldBatchnorm(self.configs),)
