"""fold-batchnorm: fold a batch norm, or a factor for each channel, into the weight and bias of the layer before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.ops.elementwise import Div, Mul
from qcompiler.ops.interfaces import Weighted
from qcompiler.ops.norm import BatchNorm, batch_norm_terms
from qcompiler.passes.agreement import agree
from qcompiler.passes.channel_constants import after_layer
from qcompiler.passes.rewrite import Refusal, Rewrite, RewritePass, names_of, why_not_alone
from qcompiler.quantization.qconfig import QConfig


@dataclass(frozen=True)
class _Normalised:
    """norm(layer(x)), where every parameter of both is constant."""

    norm: BatchNorm
    layer: Weighted
    weight: Const


class _FoldBatchnorm(Rewrite[_Normalised]):
    rule = "folding of batch norm"
    ops = (BatchNorm,)

    def __init__(self, configs: Mapping[str, QConfig | None] | None) -> None:
        self.configs = configs

    def match(self, graph: Graph, node: Node) -> _Normalised | Refusal:
        norm = BatchNorm(node)
        layer = Weighted.of(norm.x.producer)
        if layer is None:
            return self.refuse(node, f"its operand is not made by {names_of(Weighted, ' or ')}")
        if layer.activation != "none":
            return self.refuse(node, f"the activation {layer.activation} stands between")
        if layer.added is not None:
            return self.refuse(node, "a residual is added between")
        weight = layer.weight
        parameters = (norm.mean, norm.var, norm.weight, norm.bias, weight, layer.bias)
        variable = next((value for value in parameters if value is not None and not value.is_const), None)
        if variable is not None or not isinstance(weight, Const):
            return self.refuse(node, f"%{(variable or weight).name} is not constant")
        if layer.channel_axis != 1:
            return self.refuse(node, f"channels of {layer.name} are not on axis 1")
        if not agree(self.configs, layer.node, node):
            return self.refuse(node, f"%{layer.node.name} has another qconfig")
        apart = why_not_alone(graph, norm.x, node)
        return _Normalised(norm, layer, weight) if apart is None else self.refuse(node, apart)

    def rewrite(self, graph: Graph, match: _Normalised) -> None:
        norm, layer, weight = match.norm, match.layer, match.weight
        mean, var = _array(norm.mean), _array(norm.var)
        factor, shift = batch_norm_terms(mean, var, _data(norm.weight), _data(norm.bias), norm.eps)
        bias = _data(layer.bias)
        if bias is not None:
            shift = shift + bias.astype(np.float64) * factor
        _fold(graph, norm.node, layer, weight, factor, shift)


@dataclass(frozen=True)
class _Scaled:
    """op(layer(x)), which multiplies each output channel by a constant."""

    op: Mul | Div
    layer: Weighted
    weight: Const
    factor: np.ndarray
    """float64 [output channels]"""


class _FoldFactor(Rewrite[_Scaled]):
    """mul(conv(x, w, b), c) = conv(x, c w, c b) for a constant c with one number for each channel; div likewise."""

    rule = "folding of a factor"
    ops = (Mul, Div)

    def __init__(self, configs: Mapping[str, QConfig | None] | None) -> None:
        self.configs = configs

    def match(self, graph: Graph, node: Node) -> _Scaled | Refusal:
        op = Mul.of(node) or Div(node)
        found = after_layer(op)
        if isinstance(found, str):
            return self.refuse(node, found)
        layer, weight, number = found.layer, found.layer.weight, found.numbers.astype(np.float64)
        if isinstance(op, Div) and found.value is not op.x:
            return self.refuse(node, f"it divides by %{found.value.name}")
        if not isinstance(weight, Const):
            return self.refuse(node, f"the weight %{weight.name} is not constant")
        with np.errstate(all="ignore"):
            factor = number if isinstance(op, Mul) else 1 / number
        if not np.isfinite(factor).all():
            return self.refuse(node, f"%{found.const.name} is not finite")
        if not agree(self.configs, layer.node, node):
            return self.refuse(node, f"%{layer.node.name} has another qconfig")
        apart = why_not_alone(graph, found.value, node)
        return _Scaled(op, layer, weight, factor) if apart is None else self.refuse(node, apart)

    def rewrite(self, graph: Graph, match: _Scaled) -> None:
        bias = _data(match.layer.bias)
        shift = None if bias is None else bias.astype(np.float64) * match.factor
        _fold(graph, match.op.node, match.layer, match.weight, match.factor, shift)


def _fold(
    graph: Graph, node: Node, layer: Weighted, weight: Const, factor: np.ndarray, shift: np.ndarray | None
) -> None:
    """Replace `node` and the layer by the layer with weight `factor * weight` and bias `shift`."""
    folded = scaled_weight(weight.data.astype(np.float64), factor, layer).astype(weight.data.dtype)
    operands: list[Value] = [layer.x, graph.add_const(f"{weight.name}.folded", folded)]
    if shift is not None:
        operands.append(graph.add_const(f"{layer.node.name}.bias", shift.astype(np.float32)))
    origin = (*layer.node.origin, *node.origin)
    graph.replace(node, layer.name, operands, layer.node.attrs, origin=origin)
    graph.erase(layer.node)


def _data(value: Value | None) -> np.ndarray | None:
    return value.data if isinstance(value, Const) else None


def _array(value: Value) -> np.ndarray:
    assert isinstance(value, Const)  # as `match` has checked
    return value.data


def scaled_weight(weight: np.ndarray, factor: np.ndarray, layer: Weighted) -> np.ndarray:
    """Multiply `weight` with `factor` [output channels] along its output channels."""
    grouped = layer.grouped(weight)
    return layer.ungrouped(grouped * factor.reshape(grouped.shape[0], -1, 1, 1), weight.shape)


@dataclass(frozen=True)
class FoldBatchnorm(RewritePass):
    """Batch norm at inference is one multiply-add for each channel, which a change of weight and bias can do:

        y = (W x + b - mean) * gamma / sqrt(var + eps) + beta
          = (f W) x + (b - mean) f + beta          with f = gamma / sqrt(var + eps), one factor for each output channel

    A constant factor for each channel is folded in the same way, since exporters write a batch norm as a factor and an
    addend (for which see `fuse`). The folded weight is computed in float64 and rounded once. It is a new constant, so a
    weight that several nodes share is copied for each, never folded twice.

    Before:
        %c = conv(%x, @w) {...} : f32[1,4,8,8]
        %y = batch_norm(%c, @mean, @var, @gamma, @beta) : f32[1,4,8,8]
    After:
        %y = conv(%x, @w.folded, @c.bias) {...} : f32[1,4,8,8]
    """

    configs: Mapping[str, QConfig | None] | None = None
    name: ClassVar[str] = "fold-batchnorm"

    def rules(self, graph: Graph) -> Sequence[Rewrite[Any]]:
        return _FoldBatchnorm(self.configs), _FoldFactor(self.configs)
