"""Nodes below an ONNX model's top level, branches of If and functions of the model, and which nodes the outputs need.

Owns the structure alone; `onnx_import.py` imports the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from qcompiler.errors import TraceError
from qcompiler.frontend.onnx_described import described
from qcompiler.verify import MAX_NODES

FunctionKey = tuple[str, str, str]
"""Domain ("" for ONNX's own), name and overload of a function of the model."""
_GRAPH, _GRAPHS = 5, 10
"""AttributeProto.AttributeType."""


def branches(node: Any) -> Iterator[Any]:
    """The graphs in a node's attributes, from which it is imported."""
    if described(node) is not None:
        return
    for attribute in node.attribute:
        if attribute.type == _GRAPH:
            yield attribute.g
        elif attribute.type == _GRAPHS:
            yield from attribute.graphs


def names_read(node: Any) -> Iterator[str]:
    """The names that a node reads, those of the enclosing graph that its branches read included. A node that says
    what it computes reads the operands of that op alone."""
    known = described(node)
    if known is not None:
        yield from known.names()
        return
    yield from node.input
    for graph in branches(node):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        for inner in graph.node:
            own.update(inner.output)
        read = (name for inner in graph.node for name in names_read(inner))
        yield from (name for name in (*read, *(output.name for output in graph.output)) if name not in own)


def needed_nodes(nodes: Sequence[Any], outputs: Iterable[str]) -> list[int]:
    """The indices of the nodes from which outputs are made, in order."""
    wanted, kept = set(outputs), []
    for index in range(len(nodes) - 1, -1, -1):
        node = nodes[index]
        if any(name and name in wanted for name in node.output):
            kept.append(index)
            wanted.update(names_read(node))
    return kept[::-1]


def function_key(node: Any) -> FunctionKey:
    """The function that a node calls, if the model has it."""
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type, node.overload)


def functions_of(proto: Any, file: str) -> dict[FunctionKey, Any]:
    """The functions of a model.

    Raises:
        TraceError: two have one name, one calls itself, directly or not, or with the nodes of all calls the model has
            too many.
    """
    found: dict[FunctionKey, Any] = {}
    for function in proto.functions:
        key = ("" if function.domain == "ai.onnx" else function.domain, function.name, function.overload)
        if key in found:
            raise TraceError(f"two functions of the model have the name {function.name!r}", where=file)
        found[key] = function
    done: dict[FunctionKey, int] = {}
    for key in found:
        _check_calls(key, found, done, file)
    if found and _count(proto.graph.node, done) > MAX_NODES:
        raise TraceError("too many nodes", where=file, expected=f"at most {MAX_NODES}, with those of functions")
    return found


def _count(nodes: Iterable[Any], functions: Mapping[FunctionKey, int]) -> int:
    """How many nodes an import visits, where these are the counts of functions; MAX_NODES + 1 stands for more."""
    return min(sum(1 + functions.get(function_key(node), 0) for node in all_nodes(nodes)), MAX_NODES + 1)


def _check_calls(
    first: FunctionKey, functions: Mapping[FunctionKey, Any], done: dict[FunctionKey, int], file: str
) -> None:
    """Raise if a function reaches itself, and count the nodes of those that it reaches. The walk keeps its own stack: a
    chain of calls may be as long as a file."""
    path, stack = [first], [_calls(functions[first], functions)]
    while stack:
        called = next((key for key in stack[-1] if key not in done), None)
        if called is None:
            stack.pop()
            last = path.pop()
            done[last] = _count(functions[last].node, done)
            continue
        if called in path:
            raise TraceError(f"the function {called[1]!r} of the model calls itself", where=file)
        path.append(called)
        stack.append(_calls(functions[called], functions))


def _calls(function: Any, functions: Mapping[FunctionKey, Any]) -> Iterator[FunctionKey]:
    return (key for node in all_nodes(function.node) if (key := function_key(node)) in functions)


def all_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Nodes and those of their branches."""
    for node in nodes:
        yield node
        for graph in branches(node):
            yield from all_nodes(graph.node)


def with_attributes(node: Any, given: Mapping[str, Any]) -> Any:
    """A node of a function's body, in which attributes of the call take the place of references to them."""
    if not any(attribute.ref_attr_name for each in all_nodes([node]) for attribute in each.attribute):
        return node
    made = type(node)()
    made.CopyFrom(node)
    for inner in all_nodes([made]):
        kept = []
        for attribute in inner.attribute:
            if not attribute.ref_attr_name:
                kept.append(attribute)
            elif attribute.ref_attr_name in given:
                value = type(attribute)()
                value.CopyFrom(given[attribute.ref_attr_name])
                value.name = attribute.name
                kept.append(value)
        del inner.attribute[:]
        inner.attribute.extend(kept)
    return made


def is_defined(op: str, opset: int) -> bool:
    """Whether ONNX defines one of its own ops by others."""
    import onnx

    try:
        schema: Any = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def schema_function(node: Any, opset: int, types: Sequence[Any]) -> Any:
    """The function by which ONNX defines an op, as a FunctionProto; None if it defines the op by itself.

    types: TypeProto of each operand, an empty one where it is absent.
    """
    import onnx

    schema: Any = onnx.defs.get_schema(node.op_type, opset, "")
    plain, by_types = schema.function_opset_versions, schema.context_dependent_function_opset_versions
    fitting = [version for version in plain or by_types if version <= opset]
    if not fitting:
        return None
    if plain:
        data = schema.get_function_with_opset_version(max(fitting))
    else:
        given = [type.SerializeToString() for type in types]
        data = schema.get_context_dependent_function_with_opset_version(max(fitting), node.SerializeToString(), given)
    return onnx.FunctionProto.FromString(data) if data else None


def schema_defaults(node: Any, opset: int) -> list[Any]:
    """The attributes of an op that have a default, as AttributeProto."""
    import onnx

    schema = onnx.defs.get_schema(node.op_type, opset, "")
    return [each.default_value for each in schema.attributes.values() if each.default_value.name]
