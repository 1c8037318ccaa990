"""Which nodes int8 would slow down, conversions included: the decision behind the qconfig "auto".

Every node is int8 or float, at the costs of a shipped profile, and a value that passes between the two costs one
conversion, however many nodes read it. The cheapest assignment is a minimum cut (Stone, "Multiprocessor scheduling with
the aid of network flow algorithms", 1977): int8 nodes stay with the source, float ones with the sink.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from qcompiler.ir import Graph, Node, Value
from qcompiler.notes import Estimate
from qcompiler.quantization.cost_profile import CostProfile, elements

_INT8, _FLOAT = "int8", "float"


@dataclass(frozen=True)
class Decision:
    """What the cost model chose.

    Attributes:
        slow: node that int8 would slow down -> the figures behind that.
        chosen, all_float: the estimated nanoseconds of the graph as chosen and all in float, on one thread.
        profile: the name of the cost profile.
    """

    slow: Mapping[str, str]
    chosen: float
    all_float: float
    profile: str

    def note(self) -> Estimate:
        """The graph's note, which reports and `bench` show."""
        return Estimate(self.profile, round(self.chosen / 1e3, 1), round(self.all_float / 1e3, 1))


class _Network(Protocol):
    """What this module uses of networkx.DiGraph. An edge without a capacity cannot be cut."""

    def add_edge(self, source: object, target: object, *, capacity: float = ...) -> None: ...


def decide(graph: Graph, able: Mapping[str, bool], followers: frozenset[str], profile: CostProfile) -> Decision:
    """The cheapest choice for a float graph.

    Args:
        able: node name -> whether it may be quantized.
        followers: the nodes that may be int8 only if the nodes that they read are.
    """
    import networkx

    network: _Network = networkx.DiGraph()
    costs = {
        node.name: (profile.cost(node, quantized=True), profile.cost(node, quantized=False)) for node in graph.nodes
    }
    for node in graph.nodes:
        integer, real = costs[node.name]
        if able[node.name]:
            network.add_edge(_INT8, node.name, capacity=real)
            network.add_edge(node.name, _FLOAT, capacity=integer)
            if node.name in followers:
                _bind_to_producers(network, node)
        else:
            network.add_edge(node.name, _FLOAT)
    for value in _activations(graph):
        _add_conversions(network, graph, value, profile)
    _, (stays, _) = networkx.minimum_cut(network, _INT8, _FLOAT)
    slow, total = {}, 0.0
    for node in graph.nodes:
        integer, real = costs[node.name]
        total += integer if node.name in stays else real
        if able[node.name] and node.name not in stays:
            figures = f"{integer / 1e3:.2f} us in int8, {real / 1e3:.2f} us in float"
            slow[node.name] = f"the cost model {profile.name} keeps it float: {figures}, conversions around it counted"
    total += sum(_conversions(graph, value, stays, profile) for value in _activations(graph))
    return Decision(slow, total, sum(real for _, real in costs.values()), profile.name)


def _activations(graph: Graph) -> list[Value]:
    """The values that may need a conversion."""
    values = (value for value in graph.values() if not value.is_const and value.type.dtype.is_float)
    return [value for value in values if value.uses or graph.is_output(value)]


def _bind_to_producers(network: _Network, node: Node) -> None:
    for value in node.operands:
        if value is not None and value.producer is not None and value.type.dtype.is_float:
            network.add_edge(node.name, value.producer.name)


def _add_conversions(network: _Network, graph: Graph, value: Value, profile: CostProfile) -> None:
    """Add arcs that charge one quantize, or one dequantize, if the sides of a value's producer and users differ."""
    add = network.add_edge
    producer = value.producer.name if value.producer is not None else _FLOAT
    to_int8, to_float = ("quantize", value.name), ("dequantize", value.name)
    add(to_int8, producer, capacity=profile.overhead + elements(value) * profile.quantize)
    if value.producer is not None:
        add(producer, to_float, capacity=profile.overhead + elements(value) * profile.dequantize)
    for user in value.users:
        add(user.name, to_int8)
        add(to_float, user.name)
    if graph.is_output(value):
        add(to_float, _FLOAT)


def _conversions(graph: Graph, value: Value, stays: set[object], profile: CostProfile) -> float:
    here = value.producer is not None and value.producer.name in stays
    users = {user.name in stays for user in value.users} | ({False} if graph.is_output(value) else set())
    cost = profile.dequantize if here else profile.quantize
    return profile.overhead + elements(value) * cost if (not here) in users else 0.0
