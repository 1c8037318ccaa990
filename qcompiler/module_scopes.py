"""The tree of modules of the user's model with the nodes of a graph in it, read from the nodes' origins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from qcompiler.ir import Node

_DEEPEST = 16


@dataclass
class Scope:
    """A module: the nodes directly in it, and the modules in it, in order."""

    nodes: list[Node] = field(default_factory=list)
    children: dict[str, Scope] = field(default_factory=dict)

    def count(self) -> int:
        return len(self.nodes) + sum(child.count() for child in self.children.values())

    def all_nodes(self) -> Iterator[Node]:
        """The nodes in the module and in all modules in it."""
        yield from self.nodes
        for child in self.children.values():
            yield from child.all_nodes()


def module_tree(nodes: Sequence[Node]) -> Scope:
    """The tree of modules. A node without an origin, which a pass inserted, goes to the module of what it reads."""
    paths = {origin.path for node in nodes for origin in node.origin}
    inner = {path[:end] for path in paths for end in _ends(path)}
    root = Scope()
    chosen: dict[int, tuple[str, ...]] = {}
    for node in nodes:
        scope = root
        producer = next(
            (value.producer for value in node.operands if value is not None and value.producer is not None), None
        )
        chosen[id(node)] = chosen.get(id(producer), ()) if not node.origin else _scope_of(node, inner)
        for part in chosen[id(node)]:
            scope = scope.children.setdefault(part, Scope())
        scope.nodes.append(node)
    return _pruned(root)


def _ends(path: str) -> Iterator[int]:
    """Where the proper prefixes of a module path end."""
    return (index for index, character in enumerate(path) if character == ".")


def _scope_of(node: Node, inner: set[str]) -> tuple[str, ...]:
    """The innermost module that holds all parts of a node. A part is its own module if it holds others."""
    found: list[list[str]] = []
    for origin in node.origin:
        parts = origin.path.split(".") if origin.path else []
        found.append(parts if origin.path in inner else parts[:-1])
    if not found:
        return ()
    common = found[0]
    for parts in found[1:]:
        length = next((i for i, (a, b) in enumerate(zip(common, parts)) if a != b), min(len(common), len(parts)))
        common = common[:length]
    return tuple(common[:_DEEPEST])


def _pruned(scope: Scope) -> Scope:
    """Merge modules with a single node into their parents, and chains of only children into one module."""
    merged = Scope(list(scope.nodes))
    for name, child in scope.children.items():
        child = _pruned(child)
        if child.count() < 2:
            merged.nodes += child.nodes
        elif not child.nodes and len(child.children) == 1:
            ((inner, only),) = child.children.items()
            merged.children[f"{name}.{inner}"] = only
        else:
            merged.children[name] = child
    return merged
