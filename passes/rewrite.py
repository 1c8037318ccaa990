"""Rewrites, of which most passes are made. A rewrite has three parts:

    ops       the pattern: the ops that the rewrite starts from
    match     what the rewrite found at a node of these ops, or a refusal, which tells the user why it does not apply
    rewrite   the edit, which takes what `match` found and does not search itself

`explain` matches again on the graph that a pass gave: nodes that still match a pattern were refused, and it says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from qcompiler.errors import PassError
from qcompiler.ir import Graph, Node, Value
from qcompiler.opdef import Op, Trait, all_ops

M = TypeVar("M")


class Refusal(NamedTuple):
    """Why a rewrite does not apply to a node that matches its pattern."""

    node: str
    op: str
    rule: str
    reason: str

    def __str__(self) -> str:
        return f"%{self.node} = {self.op}: no {self.rule}: {self.reason}"


class Rewrite(Generic[M]):
    """One rewrite; `M` is the type of what `match` finds.

    Attributes:
        rule: its name in refusals.
        ops: the classes of ops that it starts from, which include all that derive from them.
    """

    rule: ClassVar[str]
    ops: ClassVar[tuple[type[Op], ...]]

    def starts_at(self, op: type[Op]) -> bool:
        """Whether an op belongs to the pattern."""
        return issubclass(op, self.ops)

    def match(self, graph: Graph, node: Node) -> M | Refusal:
        raise NotImplementedError

    def rewrite(self, graph: Graph, match: M) -> None:
        raise NotImplementedError

    def refuse(self, node: Node, reason: str) -> Refusal:
        return Refusal(node.name, node.op, self.rule, reason)


class RewritePass:
    """Base of passes made of rewrites. Each one walks the graph once, in execution order."""

    def rules(self, graph: Graph) -> Sequence[Rewrite[Any]]:
        raise NotImplementedError

    def run(self, graph: Graph) -> Graph:
        for rule in self.rules(graph):
            pattern = _pattern(rule)
            for node in graph.nodes:
                if node.op in pattern:
                    match = rule.match(graph, node)
                    if match is None:
                        raise PassError(
                            f"match of {type(rule).__name__} gave None",
                            where=node.describe(),
                            expected="what it found, or self.refuse(node, reason)",
                        )
                    if not isinstance(match, Refusal):
                        rule.rewrite(graph, match)
        graph.erase_unused_consts()
        return graph

    def explain(self, graph: Graph) -> list[Refusal]:
        """Why each node that still matches a pattern was left alone."""
        found = []
        for rule in self.rules(graph):
            pattern = _pattern(rule)
            matches = [rule.match(graph, node) for node in graph.nodes if node.op in pattern]
            found += [match for match in matches if isinstance(match, Refusal)]
        return found


def _pattern(rule: Rewrite[Any]) -> frozenset[str]:
    return frozenset(op.name for op in all_ops() if rule.starts_at(op))


@cache
def names_of(interface: type[Op], last: str = ", ") -> str:
    """The names of qcompiler's ops that derive from `interface` and may stand in a float graph, for a refusal: "conv,
    conv_transpose, linear"."""
    ops = [
        op
        for op in all_ops()
        if not op.is_own and issubclass(op, interface) and (op.stages is None or "float" in op.stages)
    ]
    ops.sort(key=lambda op: (Trait.ELEMENTWISE in op.traits, op.name))
    *others, final = (op.name for op in ops)
    return f"{', '.join(others)}{last}{final}" if others else final


def why_not_alone(graph: Graph, value: Value, user: Node) -> str | None:
    """Why the producer of `value` cannot be merged with `user`, or None: the value has other readers."""
    if graph.is_output(value):
        return f"%{value.name} is an output of the graph"
    others = [other for other in value.users if other is not user]
    if others:
        return f"%{value.name} is read by %{others[0].name} too"
    return f"%{value.name} is read twice" if len(value.uses) != 1 else None


def erase_if_unread(graph: Graph, node: Node) -> None:
    """Erase a node whose results nobody reads any more."""
    if not any(value.uses or graph.is_output(value) for value in node.results):
        graph.erase(node)


def erase_dead(graph: Graph) -> None:
    """Erase nodes and constants that no output depends on."""
    for node in reversed(graph.node_list):
        erase_if_unread(graph, node)
    graph.erase_unused_consts()
