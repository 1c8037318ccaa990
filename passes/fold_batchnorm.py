"""fold-batchnorm: fold a batch norm, or a factor for each channel, into the weight and bias of the layer before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.ops.elementwise import Add, Div, Mul
from qcompiler.ops.interfaces import Weighted
from qcompiler.ops.norm import BatchNorm, batch_norm_terms
from qcompiler.passes.agreement import agree
from qcompiler.passes.channel_constants import after_layer, per_channel, variable_and_const
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
    """op(layer(x)) or op(add(layer(x), addend)), which multiplies each output channel by a constant."""

    op: Mul | Div
    layer: Weighted
    weight: Const
    factor: np.ndarray
    """float64 [output channels]"""
    add: Add | None = None
    addend: np.ndarray | None = None
    """[output channels]"""


class _FoldFactor(Rewrite[_Scaled]):
    """mul(conv(x, w, b), c) = conv(x, c w, c b) for a constant c with one number for each channel; div likewise. A
    constant d that is added between, as of a batch norm that subtracts the mean first, is folded too:
    mul(add(conv(x, w, b), d), c) = conv(x, c w, c (b + d))."""

    rule = "folding of a factor"
    ops = (Mul, Div)

    def __init__(self, configs: Mapping[str, QConfig | None] | None) -> None:
        self.configs = configs

    def match(self, graph: Graph, node: Node) -> _Scaled | Refusal:
        op = Mul.of(node) or Div(node)
        value, const = variable_and_const(op)
        add = None if value is None else Add.of(value.producer)
        found = after_layer(op if add is None or add.activation != "none" else add)
        if isinstance(found, str):
            return self.refuse(node, found)
        layer, weight = found.layer, found.layer.weight
        if value is None or const is None:
            return self.refuse(node, "no operand is constant")
        if isinstance(op, Div) and value is not op.x:
            return self.refuse(node, f"it divides by %{value.name}")
        if not isinstance(weight, Const):
            return self.refuse(node, f"the weight %{weight.name} is not constant")
        number = per_channel(const.data, value, layer.channel_axis)
        if number is None:
            return self.refuse(node, f"{const.type} is not one number a channel of {value.type}")
        with np.errstate(all="ignore"):
            factor = number.astype(np.float64) if isinstance(op, Mul) else 1 / number.astype(np.float64)
        if not np.isfinite(factor).all():
            return self.refuse(node, f"%{const.name} is not finite")
        chain = [layer.node, node] if add is None else [layer.node, add.node, node]
        for before, after in zip(chain, chain[1:]):
            if not agree(self.configs, before, node):
                return self.refuse(node, f"%{before.name} has another qconfig")
            apart = why_not_alone(graph, before.result, after)
            if apart is not None:
                return self.refuse(node, apart)
        return _Scaled(op, layer, weight, factor, add, None if add is None else found.numbers)

    def rewrite(self, graph: Graph, match: _Scaled) -> None:
        terms = [term.astype(np.float64) for term in (_data(match.layer.bias), match.addend) if term is not None]
        shift = sum(terms) * match.factor if terms else None
        _fold(graph, match.op.node, match.layer, match.weight, match.factor, shift, match.add)


def _fold(
    graph: Graph,
    node: Node,
    layer: Weighted,
    weight: Const,
    factor: np.ndarray,
    shift: np.ndarray | None,
    between: Add | None = None,
) -> None:
    """Replace `node`, the layer and what is between by the layer with weight `factor * weight` and bias `shift`."""
    folded = scaled_weight(weight.data.astype(np.float64), factor, layer).astype(weight.data.dtype)
    operands: list[Value] = [layer.x, graph.add_const(f"{weight.name}.folded", folded)]
    if shift is not None:
        operands.append(graph.add_const(f"{layer.node.name}.bias", shift.astype(np.float32)))
    inner = [layer.node] if between is None else [layer.node, between.node]
    origin = tuple(part for each in (*inner, node) for part in each.origin)
    graph.replace(node, layer.name, operands, layer.node.attrs, origin=origin)
    for each in reversed(inner):
        graph.erase(each)


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

    A constant factor for each channel is folded in the same way, with an addend before it, since exporters write a
    batch norm as factors and addends (for one that comes last see `fuse`). The folded weight is computed
    in float64 and rounded once. It is a new constant, so a weight that several nodes share is copied for each, never
    folded twice.

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
