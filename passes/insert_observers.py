"""insert-observers: mark every value whose range calibration has to find.

A node is quantizable if its qconfig is set, its op has an integer meaning and its weight is constant; ops that only move or
share values follow their operand. Values tied by sharing ops form one group with one observer. A value with a known range
(sigmoid: [0, 1)) needs none.

Before: `%y = conv(%x, @w)`
After:  `%x.obs = observe(%x) {group="x", ...}`, `%y = conv(%x.obs, @w)`, `%y.obs = observe(%y) {group="y", ...}`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.opdef import OpDef, QuantKind, Role, Trait, opdef
from qcompiler.quantization.qconfig import QConfig
from qcompiler.types import DType

_SCALAR_OPS = ("add", "sub", "mul", "div", "minimum", "maximum", "pow")


def scalar_operand(node: Node) -> int | None:
    """The position of the scalar constant of a binary node, or None."""
    if node.op in _SCALAR_OPS:
        for index, value in enumerate(node.operands):
            if isinstance(value, Const) and value.type.elements == 1 and not value.type.is_quantized:
                return index
    return None


def is_unary(node: Node) -> bool:
    """Whether the node is a function of one activation, element by element: it can become a table."""
    return Trait.UNARY in opdef(node.op).traits or (scalar_operand(node) is not None and node.attrs.get("activation", "none") == "none")


def activations(node: Node) -> list[tuple[int, Value]]:
    """(position, value) of the operands that carry activations."""
    definition = opdef(node.op)
    skip = scalar_operand(node)
    return [(i, v) for i, v in enumerate(node.operands)
            if v is not None and i != skip and definition.spec(i).role is Role.ACTIVATION]


def why_float(node: Node, config: QConfig | None) -> str | None:
    """Why a node stays float, whatever its neighbours do; None if it may be quantized."""
    definition = opdef(node.op)
    if config is None or config.activation is None:
        return "its qconfig is None"
    if definition.quant.kind is QuantKind.FLOAT_ONLY and not is_unary(node):
        return f"{node.op} has no integer form"
    if node.result.type.dtype is not DType.F32 or any(v.type.dtype is not DType.F32 for _, v in activations(node)):
        return "its values are not f32"
    if definition.quant.kind is QuantKind.WEIGHTED:
        if config.weight is None:
            return "its qconfig has no weight spec"
        others = [v for i, v in enumerate(node.operands) if v is not None and definition.spec(i).role in (Role.WEIGHT, Role.BIAS)]
        if not all(isinstance(v, Const) for v in others):
            return "its weight is not constant"
    if any(isinstance(v, Const) for _, v in activations(node)) and not _has_meaning(definition):
        return "it reads a constant"
    if not (_has_meaning(definition) or is_unary(node)):
        return f"{node.op} has no integer meaning"
    return None


def _has_meaning(definition: OpDef) -> bool:
    return definition.integer is not None or Trait.MOVES_DATA in definition.traits or Trait.UNARY in definition.traits


def _shares(node: Node) -> bool:
    return opdef(node.op).quant.kind is QuantKind.SHARES_INPUT


@dataclass(frozen=True)
class InsertObservers:
    """configs: node name -> QConfig or None, from the resolution table."""

    configs: Mapping[str, QConfig | None] = field(default_factory=dict)
    name: ClassVar[str] = "insert-observers"

    def run(self, graph: Graph) -> Graph:
        quantized: set[int] = set()  # ids of values that will be quantized
        chosen: list[Node] = []
        for node in graph.node_list:
            reason = why_float(node, self.configs.get(node.name))
            follows = _shares(node) or (is_unary(node) and opdef(node.op).quant.kind is not QuantKind.WEIGHTED)
            if reason is None and follows and not all(id(v) in quantized for _, v in activations(node)):
                reason = "its operand is float"
            if reason is not None:
                graph.notes.append(f"float: %{node.name} = {node.op}: {reason}")
                continue
            chosen.append(node)
            quantized.update(id(value) for _, value in activations(node))
            quantized.add(id(node.result))
        groups = _Groups()
        for node in chosen:
            if _shares(node):
                for _, value in activations(node):
                    groups.join(value, node.result)
        self._insert(graph, chosen, groups)
        graph.stage = "observed"
        return graph

    def _insert(self, graph: Graph, chosen: list[Node], groups: _Groups) -> None:
        names = {id(node) for node in chosen}
        specs: dict[int, str] = {}
        values: dict[int, Value] = {}
        for node in chosen:
            spec = str(self.configs[node.name].activation)
            for value in (*(v for _, v in activations(node)), node.result):
                values.setdefault(id(value), value)
                specs.setdefault(id(value), spec)
        for key, value in values.items():
            if _inside_table(graph, value, names):
                continue
            uses = [use for use in value.uses if id(use.node) in names]
            first = graph.node_list[0]
            place = {"after": value.producer} if value.producer is not None else {"before": first}
            node = graph.create("observe", [value], {"spec": specs[key], "group": groups.name(value)}, types=value.type,
                                names=f"{value.name}.obs", loc=value.producer.loc if value.producer else None, **place)
            for use in uses:
                graph.set_operand(use.node, use.index, node.result)
            made_here = value.producer is not None and id(value.producer) in names
            if made_here:
                graph.replace_uses(value, node.result, only=lambda use, node=node: use.node is not node)
                for index, output in enumerate(graph.outputs):
                    if output is value:
                        graph.set_output(index, node.result)


def _inside_table(graph: Graph, value: Value, chosen: set[int]) -> bool:
    """Whether a value lies between two unary nodes that become one table."""
    producer, users = value.producer, value.users
    return (producer is not None and id(producer) in chosen and is_unary(producer) and len(users) == 1 and not graph.is_output(value)
            and id(users[0]) in chosen and is_unary(users[0]))


class _Groups:
    """Connected components of values that share parameters, named after their first member."""

    def __init__(self) -> None:
        self._parent: dict[int, Value] = {}

    def find(self, value: Value) -> Value:
        while id(value) in self._parent:
            value = self._parent[id(value)]
        return value

    def join(self, first: Value, second: Value) -> None:
        a, b = self.find(first), self.find(second)
        if a is not b:
            self._parent[id(b)] = a

    def name(self, value: Value) -> str:
        return self.find(value).name
