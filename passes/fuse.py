"""fuse: move biases, residual adds and activations into the op before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

import numpy as np

from qcompiler.ir import AttrValue, Const, Graph, Node, Value
from qcompiler.opdef import op_of
from qcompiler.ops.activations import Relu, Relu6
from qcompiler.ops.elementwise import Add
from qcompiler.ops.interfaces import TakesActivation, TakesResidual, Weighted
from qcompiler.passes.agreement import agree
from qcompiler.passes.channel_constants import after_layer
from qcompiler.passes.rewrite import M, Refusal, Rewrite, RewritePass, names_of, why_not_alone
from qcompiler.quantization.qconfig import QConfig

Configs = Mapping[str, QConfig | None] | None


class _Into(Rewrite[M], Generic[M]):
    """Base of the rewrites that move a node into the producer of its operand. The operand must have no other reader,
    and both nodes the same qconfig."""

    def __init__(self, configs: Configs) -> None:
        self.configs = configs

    def _why_apart(self, graph: Graph, value: Value, producer: Node, node: Node) -> str | None:
        """Why `producer`, which makes `value`, and `node`, which reads it, cannot be fused, or None."""
        if not agree(self.configs, producer, node):
            return f"%{value.name} has another qconfig"
        return why_not_alone(graph, value, node)

    @staticmethod
    def _become(
        graph: Graph, node: Node, producer: Node, operands: Sequence[Value | None], attrs: Mapping[str, AttrValue]
    ) -> None:
        """Replace both nodes by one of the producer's op."""
        graph.replace(node, producer.op, operands, {**producer.attrs, **attrs}, origin=(*producer.origin, *node.origin))
        graph.erase(producer)


@dataclass(frozen=True)
class _AddedBias:
    add: Add
    layer: Weighted
    addend: np.ndarray
    """f32 [channels]"""


class _Bias(_Into[_AddedBias]):
    """add(conv(x, w, b), c) = conv(x, w, b + c) for a constant c with one number for each channel."""

    rule = "fusion of a bias"
    ops = (Add,)

    def match(self, graph: Graph, node: Node) -> _AddedBias | Refusal:
        add = Add(node)
        found = after_layer(add)
        if isinstance(found, str):
            return self.refuse(node, found)
        apart = self._why_apart(graph, found.value, found.layer.node, node)
        return _AddedBias(add, found.layer, found.numbers) if apart is None else self.refuse(node, apart)

    def rewrite(self, graph: Graph, match: _AddedBias) -> None:
        add, layer = match.add, match.layer
        total = match.addend.astype(np.float64)
        if isinstance(layer.bias, Const):
            total = total + layer.bias.data
        bias = graph.add_const(f"{layer.node.name}.bias", total.astype(np.float32))
        self._become(graph, add.node, layer.node, [layer.x, layer.weight, bias], {"activation": add.activation})


@dataclass(frozen=True)
class _AddedResidual:
    add: Add
    layer: TakesResidual
    other: Value


class _Residual(_Into[_AddedResidual]):
    """add(conv(x, w, b), r) = conv(x, w, b, r). If both operands come from convolutions, the later one takes the
    other's result."""

    rule = "fusion of a residual add"
    ops = (Add,)

    def __init__(self, configs: Configs, graph: Graph) -> None:
        super().__init__(configs)
        self._nodes = graph.node_list  # keeps the nodes alive, so that their ids stay unique
        self._order = {id(node): index for index, node in enumerate(self._nodes)}

    def match(self, graph: Graph, node: Node) -> _AddedResidual | Refusal:
        add = Add(node)
        x, y = add.x, add.y
        if x is y:
            return self.refuse(node, f"both operands are %{x.name}")
        if x.type.shape != y.type.shape:
            return self.refuse(node, f"it broadcasts {x.type} and {y.type}")
        if x.is_const or y.is_const:
            return self.refuse(node, "an operand is constant")
        sides = [(self._layer(graph, x, node), y), (self._layer(graph, y, node), x)]
        fitting = [(layer, other) for layer, other in sides if not isinstance(layer, str)]
        if fitting:
            layer, other = max(fitting, key=lambda side: self._order.get(id(side[0].node), -1))
            return _AddedResidual(add, layer, other)
        reasons = [str(layer) for layer, _ in sides]
        return self.refuse(node, "; ".join(dict.fromkeys(reasons)))

    def _layer(self, graph: Graph, value: Value, node: Node) -> TakesResidual | str:
        """The layer that makes `value` and can take the other operand, or why there is none."""
        layer = TakesResidual.of(value.producer)
        if layer is None:
            return f"%{value.name} is not made by {names_of(TakesResidual, ' or ')}"
        if layer.activation != "none":
            return f"the activation of %{value.name} stands between"
        if layer.residual is not None:
            return f"%{value.name} has a residual already"
        return self._why_apart(graph, value, layer.node, node) or layer

    def rewrite(self, graph: Graph, match: _AddedResidual) -> None:
        add, layer = match.add, match.layer
        operands = [layer.x, layer.weight, layer.bias, match.other]
        self._become(graph, add.node, layer.node, operands, {"activation": add.activation})


@dataclass(frozen=True)
class _Activated:
    node: Node
    producer: Node


class _Activation(_Into[_Activated]):
    """relu(conv(x)) = conv(x) {activation="relu"}."""

    rule = "fusion of an activation"
    ops = (Relu, Relu6)

    def match(self, graph: Graph, node: Node) -> _Activated | Refusal:
        value = op_of(node).first
        maker = TakesActivation.of(value.producer)
        if maker is None:
            return self.refuse(node, f"%{value.name} is not made by {names_of(TakesActivation)}")
        if not value.type.dtype.is_float:
            return self.refuse(node, f"%{value.name} is not float")
        if maker.activation != "none":
            return self.refuse(node, f"%{value.name} has an activation already")
        apart = self._why_apart(graph, value, maker.node, node)
        return _Activated(node, maker.node) if apart is None else self.refuse(node, apart)

    def rewrite(self, graph: Graph, match: _Activated) -> None:
        self._become(graph, match.node, match.producer, match.producer.operands, {"activation": match.node.op})


@dataclass(frozen=True)
class Fuse(RewritePass):
    """relu(conv(x, w, b) + c + r) = conv(x, w, b + c, r) {activation="relu"}.

    The value between must have no other reader, and both nodes must have resolved to the same qconfig. A fused node has
    the name of the last node and the origins of all. The sum of two constant biases is rounded once; all other results
    keep their bits.

    Before:
        %c = conv(%x, @w, @b) {...} : f32[1,4,8,8]
        %a = add(%c, %r) : f32[1,4,8,8]
        %y = relu(%a) : f32[1,4,8,8]
    After:
        %y = conv(%x, @w, @b, %r) {..., activation="relu"} : f32[1,4,8,8]
    """

    configs: Mapping[str, QConfig | None] | None = None
    residual: bool = True
    name: ClassVar[str] = "fuse"

    def rules(self, graph: Graph) -> Sequence[Rewrite[Any]]:
        residual = (_Residual(self.configs, graph),) if self.residual else ()
        return _Bias(self.configs), *residual, _Activation(self.configs)
