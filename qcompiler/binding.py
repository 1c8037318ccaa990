"""The sizes of a call, for the ops of a graph with symbolic sizes.

Inference on symbolic sizes assumes what it cannot know: that a window fits, that a slice ends inside, that a size can
be divided. Once the sizes are known the same inference decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from qcompiler.dims import Dim, evaluate, parse_dim
from qcompiler.errors import InputError, QCompilerError, ShapeError
from qcompiler.ir import AttrValue, Graph, Node
from qcompiler.opdef import OpDef, opdef
from qcompiler.signature import guards

_LARGEST_TRIED = 4096
"""Up to this size one that fits is looked for."""
_MOST_CHECKS = 20_000
"""How many nodes are checked at most to find a size that fits."""


def bound_attrs(definition: OpDef, attrs: Mapping[str, AttrValue], sizes: Mapping[str, int]) -> dict[str, AttrValue]:
    """The attrs with symbolic sizes (kind "shape") evaluated to ints."""
    bound = dict(attrs)
    for spec in definition.attrs:
        value = bound[spec.name]
        if spec.kind == "shape" and isinstance(value, tuple):
            bound[spec.name] = tuple(evaluate(parse_dim(v), sizes) if isinstance(v, str) else v for v in value)
    return bound


def is_bound(node: Node) -> bool:
    """Whether no attr of a node has a symbolic size."""
    return not _size_texts(node)


def _size_texts(node: Node) -> list[str]:
    """The symbolic sizes in the attrs of a node."""
    return [
        entry
        for spec in opdef(node.op).attrs
        if spec.kind == "shape"
        for entry in cast("tuple[int | str, ...]", node.attrs[spec.name] or ())
        if isinstance(entry, str)
    ]


def check_sizes(graph: Graph, sizes: Mapping[str, int]) -> None:
    """Raise InputError if an op does not take these sizes, or gives others than the graph's types say. The error names
    the input and the axis, and the smallest size that fits."""
    if not sizes:
        return
    for node in graph.node_list:
        problem = _problem(node, sizes)
        if problem is None:
            continue
        names = sorted(_names(node) & sizes.keys())
        reason = problem.message + (f": expected {problem.expected}, got {problem.got}" if problem.expected else "")
        raise InputError(
            f"the sizes of this call do not fit the model: {reason}",
            where=node.describe(),
            expected=", ".join(_expected(graph, sizes, names)) or None,
            got=", ".join(f"{name} = {sizes[name]} ({_axes_of(graph, name)})" for name in names),
        )


def _problem(node: Node, sizes: Mapping[str, int]) -> QCompilerError | None:
    """Why a node does not take these sizes."""
    if is_bound(node) and all(value is None or value.type.is_static for value in (*node.operands, *node.results)):
        return None
    definition = opdef(node.op)
    try:
        types = [None if value is None else value.type.bind(sizes) for value in node.operands]
        inferred = definition.infer_types(types, bound_attrs(definition, node.attrs, sizes))
        for value, type in zip(node.results, inferred):
            declared = value.type.bind(sizes)
            if declared.shape != type.shape:
                return ShapeError(f"another shape of %{value.name}", expected=declared.shape, got=type.shape)
    except QCompilerError as error:
        return error
    return None


def _names(node: Node) -> frozenset[str]:
    """The names of all sizes that a node works on."""
    values = [value for value in (*node.operands, *node.results) if value is not None]
    sizes = [parse_dim(text) for text in _size_texts(node)]
    in_attrs = (size.names() for size in sizes if isinstance(size, Dim))
    return frozenset().union(*(value.type.dim_names for value in values), *in_attrs)


def _axes_of(graph: Graph, name: str) -> str:
    """The axes of inputs that have a size of this name."""
    return ", ".join(
        f"input {value.name!r}, axis {axis}"
        for value in graph.inputs
        for axis, size in enumerate(value.type.shape)
        if str(size) == name
    )


def _expected(graph: Graph, sizes: Mapping[str, int], names: list[str]) -> list[str]:
    """For each name the smallest size that fits, the others being as they are; for all together if none fits alone."""
    search = _Search(graph)
    found = [(name, search.smallest(sizes, [name])) for name in names]
    if len(names) > 1 and not any(size for _, size in found):
        together = search.smallest(sizes, names)
        fitting = {**sizes, **dict.fromkeys(names, together or 0)}
        found = [(name, together and search.smallest(fitting, [name])) for name in names]
    return [f"{name} = {size} is the smallest size that fits" for name, size in found if size]


class _Search:
    """Looks for sizes that fit a graph. `left`: how many nodes may still be checked."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = [node for node in graph.node_list if _names(node)]
        self.guards = guards(graph)
        self.left = _MOST_CHECKS

    def smallest(self, sizes: Mapping[str, int], names: list[str]) -> int | None:
        """The smallest size that fits when all the names have it; None if none was found."""
        for size in range(1, _LARGEST_TRIED + 1):
            if self._fits({**sizes, **dict.fromkeys(names, size)}):
                return size
            if self.left < 0:
                break
        return None

    def _fits(self, sizes: Mapping[str, int]) -> bool:
        if not all(guard.holds(sizes) for guard in self.guards):
            return False
        for node in self.nodes:
            self.left -= 1
            if _problem(node, sizes) is not None:
                return False
        return True
