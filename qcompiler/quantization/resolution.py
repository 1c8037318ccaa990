"""Which qconfig each node gets, and by which qconfig rule. Decided on the traced graph, before anything is fused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from qcompiler.errors import QuantizationError, nearest
from qcompiler.ir import Graph, Node
from qcompiler.quantization.qconfig import QConfig, QConfigMapping, as_mapping


@dataclass(frozen=True)
class Resolution:
    """One row of the table: a node, its qconfig and the qconfig rule that won."""

    node: str
    op: str
    qconfig: QConfig | None
    rule: str


class ResolutionTable:
    """Node name -> QConfig or None. It prints as a table."""

    def __init__(self, rows: list[Resolution]) -> None:
        self.rows = rows
        self._by_name = {row.node: row for row in rows}

    def __getitem__(self, name: str) -> QConfig | None:
        return self._by_name[name].qconfig

    def kept_float(self, reasons: Mapping[str, str]) -> ResolutionTable:
        """The table with more nodes left float. reasons: node name -> why."""
        return ResolutionTable(
            [replace(row, qconfig=None, rule=reasons[row.node]) if row.node in reasons else row for row in self.rows]
        )

    def __str__(self) -> str:
        width = max((len(row.node) for row in self.rows), default=4)
        ops = max((len(row.op) for row in self.rows), default=2)
        return "\n".join(
            f"{row.node:<{width}}  {row.op:<{ops}}  {kind:<5}  {row.rule}"
            for row in self.rows
            for kind in ["float" if row.qconfig is None else row.qconfig.kind]
        )


def _paths(node: Node) -> list[str]:
    """The node's own name, and the paths of its modules and of all that they lie in."""
    found = [node.name]
    for origin in node.origin:
        parts = origin.path.split(".")
        found += [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
    return found


def _kinds(node: Node) -> list[str]:
    kinds = [node.op]
    for origin in node.origin:
        kinds += [origin.kind, origin.kind.rsplit(".", 1)[-1]]
    return kinds


def resolve(graph: Graph, qconfig: str | QConfig | QConfigMapping) -> ResolutionTable:
    """Resolve a qconfig on a traced graph.

    Raises:
        QuantizationError: an unknown name, or a rule that matches no node.
    """
    mapping, label = as_mapping(qconfig)
    matched: set[str] = set()
    rows = [_row(node, mapping, label, matched) for node in graph.nodes]
    _apply_orders(graph, mapping, rows, matched)
    _check_matched(graph, mapping, matched)
    return ResolutionTable(rows)


def _row(node: Node, mapping: QConfigMapping, label: str, matched: set[str]) -> Resolution:
    row = Resolution(node.name, node.op, mapping.default, label)
    paths, kinds = _paths(node), _kinds(node)
    for kind, config in mapping.builtin.items():
        if kind in kinds:
            row = Resolution(node.name, node.op, config, f"default for {kind}")
    for kind, config in mapping.object_types.items():
        if kind in kinds:
            matched.add(f"object type {kind}")
            row = Resolution(node.name, node.op, config, f"object type {kind}")
    hits = [pattern for pattern in mapping.regexes if any(re.match(pattern, path) for path in paths)]
    matched.update(f"regex {pattern}" for pattern in hits)
    if hits:
        row = Resolution(node.name, node.op, mapping.regexes[hits[0]], f"regex {hits[0]}")
    for path in paths[::-1]:
        if path in mapping.names:
            matched.add(f"name {path}")
            row = Resolution(node.name, node.op, mapping.names[path], f"name {path}")
    return row


def _apply_orders(graph: Graph, mapping: QConfigMapping, rows: list[Resolution], matched: set[str]) -> None:
    """Apply the qconfig rules for the i-th node of a kind inside a module."""
    for (name, kind, index), config in mapping.orders.items():
        inside = [i for i, node in enumerate(graph.nodes) if name in _paths(node) and kind in _kinds(node)]
        if 0 <= index < len(inside):
            matched.add(f"order {(name, kind, index)}")
            place = inside[index]
            rows[place] = Resolution(rows[place].node, rows[place].op, config, f"{kind} number {index} in {name}")


def _check_matched(graph: Graph, mapping: QConfigMapping, matched: set[str]) -> None:
    wanted = [("object type", kind) for kind in mapping.object_types]
    for name, kind, index in mapping.orders:
        if f"order {(name, kind, index)}" not in matched:
            raise QuantizationError(
                f"the rule for {kind} number {index} in module {name!r} matches no node",
                hint=nearest(name, {path for node in graph.nodes for path in _paths(node)}),
            )
    wanted += [("regex", pattern) for pattern in mapping.regexes] + [("name", name) for name in mapping.names]
    for kind, key in wanted:
        if f"{kind} {key}" not in matched:
            known = {path for node in graph.nodes for path in (_paths(node) if kind != "object type" else _kinds(node))}
            raise QuantizationError(f"the rule for {kind} {key!r} matches no node", hint=nearest(key, known))
