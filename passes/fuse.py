"""fuse: biases, residual adds and activations move into the op before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.passes.agreement import agree
from qcompiler.passes.rewrite import Rewrite, RewritePass, why_not_alone
from qcompiler.quantization.qconfig import QConfig

_TAKES_ACTIVATION = ("conv", "conv_transpose", "linear", "add", "mul")
_TAKES_RESIDUAL = ("conv", "linear")
_TAKES_BIAS = ("conv", "conv_transpose", "linear")
Configs = Mapping[str, QConfig | None] | None


class _Into:
    """What the three rules share: the value between has one reader, and both nodes one qconfig."""

    def __init__(self, configs: Configs) -> None:
        self.configs = configs

    def _apart(self, graph: Graph, value: Value, node: Node) -> str | None:
        """Why the node that makes `value` and `node`, which reads it, stay apart."""
        if not agree(self.configs, value.producer, node):
            return f"%{value.name} has another qconfig"
        return why_not_alone(graph, value, node)


class _Bias(_Into):
    """add(conv(x, w, b), c) = conv(x, w, b + c) for a constant c, one number a channel."""

    rule = "fusion of a bias"
    ops = ("add",)

    def check(self, graph: Graph, node: Node) -> str | None:
        value, const = _variable_and_const(node)
        if value is None:
            return "no operand is constant"
        producer = value.producer
        if producer is None or producer.op not in _TAKES_BIAS:
            return f"%{value.name} is not made by {', '.join(_TAKES_BIAS)}"
        if producer.attrs["activation"] != "none" or _residual(producer) is not None:
            return f"an activation or a residual of %{value.name} stands between"
        bias = producer.operand("bias")
        if bias is not None and not bias.is_const:
            return f"the bias %{bias.name} is not constant"
        if _per_channel(const.data, value, producer) is None:
            return f"{const.type} is not one number a channel of {value.type}"
        return self._apart(graph, value, node)

    def rewrite(self, graph: Graph, node: Node) -> None:
        value, const = _variable_and_const(node)
        producer = value.producer
        bias = producer.operand("bias")
        total = _per_channel(const.data, value, producer).astype(np.float64)
        if bias is not None:
            total = total + bias.data
        operands = [*producer.operands[:2], graph.add_const(f"{producer.name}.bias", total.astype(np.float32))]
        attrs = {**producer.attrs, "activation": node.attrs["activation"]}
        graph.replace(node, producer.op, operands, attrs, origin=(*producer.origin, *node.origin))
        graph.erase(producer)


def _variable_and_const(node: Node) -> tuple[Value | None, Const | None]:
    for value, const in (node.operands, node.operands[::-1]):
        if isinstance(const, Const) and not value.is_const:
            return value, const
    return None, None


def _per_channel(data: np.ndarray, value: Value, producer: Node) -> np.ndarray | None:
    """[channels] of a constant that varies along the channels of `value` alone; else None."""
    axis = value.type.rank - 1 if producer.op == "linear" else 1
    channels = value.type.shape[axis]
    if data.ndim > value.type.rank:
        return None
    shape = (1,) * (value.type.rank - data.ndim) + data.shape
    if any(size != 1 for i, size in enumerate(shape) if i != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(data.reshape(-1), (channels,))


def _residual(node: Node) -> Value | None:
    return node.operand("residual") if node.op in _TAKES_RESIDUAL else None


class _Residual(_Into):
    """add(conv(x, w, b), r) = conv(x, w, b, r); of two convolutions the later one takes the other's result."""

    rule = "fusion of a residual add"
    ops = ("add",)

    def __init__(self, configs: Configs, graph: Graph) -> None:
        super().__init__(configs)
        self._nodes = graph.node_list  # kept alive, so that no id is used again
        self._order = {id(node): index for index, node in enumerate(self._nodes)}

    def check(self, graph: Graph, node: Node) -> str | None:
        x, y = node.operands
        if x is y:
            return f"both operands are %{x.name}"
        if x.type.shape != y.type.shape:
            return f"it broadcasts {x.type} and {y.type}"
        if x.is_const or y.is_const:
            return "an operand is constant"
        reasons = [self._why_not(graph, value, node) for value in (x, y)]
        return None if None in reasons else reasons[0] if reasons[0] == reasons[1] else f"{reasons[0]}; {reasons[1]}"

    def _why_not(self, graph: Graph, value: Value, node: Node) -> str | None:
        producer = value.producer
        if producer is None or producer.op not in _TAKES_RESIDUAL:
            return f"%{value.name} is not made by {' or '.join(_TAKES_RESIDUAL)}"
        if producer.attrs["activation"] != "none":
            return f"the activation of %{value.name} stands between"
        if _residual(producer) is not None:
            return f"%{value.name} has a residual already"
        return self._apart(graph, value, node)

    def rewrite(self, graph: Graph, node: Node) -> None:
        fitting = [i for i, value in enumerate(node.operands) if self._why_not(graph, value, node) is None]
        index = max(fitting, key=lambda i: self._order.get(id(node.operands[i].producer), -1))
        producer, other = node.operands[index].producer, node.operands[1 - index]
        operands = [*producer.operands[:2], producer.operand("bias"), other]
        attrs = {**producer.attrs, "activation": node.attrs["activation"]}
        graph.replace(node, producer.op, operands, attrs, origin=(*producer.origin, *node.origin))
        graph.erase(producer)


class _Activation(_Into):
    """relu(conv(x)) = conv(x) {activation="relu"}."""

    rule = "fusion of an activation"
    ops = ("relu", "relu6")

    def check(self, graph: Graph, node: Node) -> str | None:
        value = node.operands[0]
        producer = value.producer
        if producer is None or producer.op not in _TAKES_ACTIVATION:
            return f"%{value.name} is not made by {', '.join(_TAKES_ACTIVATION)}"
        if not value.type.dtype.is_float:
            return f"%{value.name} is not float"
        if producer.attrs["activation"] != "none":
            return f"%{value.name} has an activation already"
        return self._apart(graph, value, node)

    def rewrite(self, graph: Graph, node: Node) -> None:
        producer = node.operands[0].producer
        attrs = {**producer.attrs, "activation": node.op}
        graph.replace(node, producer.op, producer.operands, attrs, origin=(*producer.origin, *node.origin))
        graph.erase(producer)


@dataclass(frozen=True)
class Fuse(RewritePass):
    """relu(conv(x, w, b) + c + r) = conv(x, w, b + c, r) {activation="relu"}.

    Only where nobody else reads the value between, and where both parts resolved to the same qconfig. A fused node
    keeps the name of its last part and the origins of all. The sum of two constant biases is rounded once; all else
    keeps its bits.

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

    def rules(self, graph: Graph) -> Sequence[Rewrite]:
        residual = (_Residual(self.configs, graph),) if self.residual else ()
        return _Bias(self.configs), *residual, _Activation(self.configs)
