"""Rewrites as pattern, check and rewrite: how a pass says what it looks for, and why it left a place alone.

    pattern   the ops that a rewrite starts from
    check     why a node of these ops cannot be rewritten, in words for the user; None if it can
    rewrite   the edit

`explain` runs the checks again on the graph that a pass left: what still matches a pattern was refused, and says why.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from qcompiler.ir import Graph, Node, Value


class Rewrite(Protocol):
    """One rule."""

    @property
    def rule(self) -> str: ...

    @property
    def ops(self) -> Collection[str]: ...

    def check(self, graph: Graph, node: Node) -> str | None: ...

    def rewrite(self, graph: Graph, node: Node) -> None: ...


@dataclass(frozen=True)
class Refusal:
    """A node that matches the pattern of a rule but was not rewritten."""

    node: str
    op: str
    rule: str
    reason: str

    def __str__(self) -> str:
        return f"%{self.node} = {self.op}: no {self.rule}: {self.reason}"


class RewritePass:
    """Base of passes made of rules. Each rule walks the graph once, in execution order."""

    def rules(self, graph: Graph) -> Sequence[Rewrite]:
        raise NotImplementedError

    def run(self, graph: Graph) -> Graph:
        for rule in self.rules(graph):
            for node in graph.nodes:
                if node.op in rule.ops and rule.check(graph, node) is None:
                    rule.rewrite(graph, node)
        graph.erase_unused_consts()
        return graph

    def explain(self, graph: Graph) -> list[Refusal]:
        """Why each node that still matches a pattern was left alone."""
        found = []
        for rule in self.rules(graph):
            for node in graph.nodes:
                reason = rule.check(graph, node) if node.op in rule.ops else None
                if reason is not None:
                    found.append(Refusal(node.name, node.op, rule.rule, reason))
        return found


def why_not_alone(graph: Graph, value: Value, user: Node) -> str | None:
    """Why the node that makes `value` cannot be merged into `user`: other readers. None if it can."""
    if graph.is_output(value):
        return f"%{value.name} is an output of the graph"
    others = [other for other in value.users if other is not user]
    if others:
        return f"%{value.name} is read by %{others[0].name} too"
    return f"%{value.name} is read twice" if len(value.uses) != 1 else None


def erase_dead(graph: Graph) -> None:
    """Erase nodes and constants that no output depends on."""
    for node in reversed(graph.node_list):
        if not any(value.uses or graph.is_output(value) for value in node.results):
            graph.erase(node)
    graph.erase_unused_consts()
