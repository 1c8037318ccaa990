"""The verifier: whether a graph is well formed and legal in its stage. Every pass takes and leaves a verified graph.

It checks, in this order, the structure (names, links, SSA, uses), the types, and node by node the op (operands, attrs,
inferred types), the stage and the quantization (`verify_quantization.py`). A violation is a VerifyError that shows the
line of IR with a caret. Nothing here recurses on the depth of a graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.dims import Dim
from qcompiler.errors import QCompilerError, VerifyError, nearest
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.notes import Note
from qcompiler.opdef import opdef
from qcompiler.stages import STAGES, Stage
from qcompiler.types import DType, TensorType
from qcompiler.verify_quantization import check_conversion, check_quantization, is_conversion
from qcompiler.violation import fail

MAX_NODES = 100_000
MAX_NAME_BYTES = 1024
_INTERNAL = (
    TypeError,
    ValueError,
    IndexError,
    KeyError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
    RecursionError,
)


def verify(graph: Graph) -> None:
    """Raise VerifyError for the first rule that `graph` breaks."""
    stage = STAGES.get(graph.stage)
    if stage is None:
        raise VerifyError(
            f"unknown stage {graph.stage!r}", where=f"graph {graph.name}", hint=nearest(str(graph.stage), STAGES)
        )
    nodes = _linked_nodes(graph)
    _check_values(graph, nodes)
    _check_order_and_uses(graph, nodes)
    bound = _bound_names(graph)
    for value in (*graph.inputs, *graph.consts.values()):
        _check_type(graph, None, value, stage, bound)
    for node in nodes:
        for value in node.results:
            _check_type(graph, node, value, stage, bound)
        _check_op(graph, node, stage)


# -- structure


def _linked_nodes(graph: Graph) -> list[Node]:
    """The nodes in order, with the linked list checked."""
    if len(graph) > MAX_NODES:
        fail(graph, None, "too many nodes", expected=f"at most {MAX_NODES}", got=len(graph))
    nodes: list[Node] = []
    previous, node = None, graph._first
    while node is not None:
        if node._prev is not previous or node.graph is not graph or len(nodes) >= len(graph):
            fail(graph, None, "the list of nodes is broken", got=f"{node.op} as node {len(nodes)}")
        nodes.append(node)
        previous, node = node, node._next
    if graph._last is not previous or len(nodes) != len(graph):
        fail(graph, None, "the list of nodes is broken", expected=f"{len(graph)} nodes", got=len(nodes))
    return nodes


def _check_values(graph: Graph, nodes: Sequence[Node]) -> None:
    names: set[str] = set()

    def check(value: Value, node: Node | None) -> None:
        name = value.name
        if not isinstance(name, str) or not name or not isinstance(value.type, TensorType):
            fail(graph, node, "a value needs a name and a type", got=f"{name!r}: {value.type!r}"[:200])
        if name in names:
            fail(graph, node, f"the name {name!r} is used twice")
        if len(name.encode(errors="replace")) > MAX_NAME_BYTES or not _is_text(name):
            fail(graph, node, "a name is not valid text of at most 1024 bytes", got=repr(name)[:80])
        names.add(name)

    for value in graph.inputs:
        check(value, None)
        if value.producer is not None or value.is_const:
            fail(graph, None, f"the input %{value.name} is not a plain value")
    for key, const in graph.consts.items():
        check(const, None)
        _check_const(graph, key, const)
    for node in nodes:
        if not node.results:
            raise VerifyError("a node without results", where=f"{node.op} in graph {graph.name}")
        for index, value in enumerate(node.results):
            check(value, node)
            if value.producer is not node or value.index != index:
                fail(graph, node, f"%{value.name} does not know that it is result {index} of this node")
    if names != graph._names:
        stray = sorted(map(repr, names ^ graph._names))[:3]
        fail(graph, None, "the graph's table of names is stale", got=", ".join(stray))
    if not isinstance(graph.name, str) or not _is_text(graph.name) or len(graph.name.encode()) > MAX_NAME_BYTES:
        raise VerifyError("a graph's name is text of at most 1024 bytes", got=repr(graph.name)[:80])
    if not all(isinstance(note, Note) and _is_text(note.text) for note in graph.notes):
        fail(graph, None, "notes are text")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_const(graph: Graph, key: str, const: Const) -> None:
    if not isinstance(const, Const) or key != const.name or const.producer is not None:
        fail(graph, None, f"the constant @{key} is not under its own name", got=repr(const))
    data, type = const.data, const.type
    if not isinstance(data, np.ndarray) or data.dtype != type.dtype.numpy or data.shape != type.shape:
        fail(graph, None, f"the data of @{key} does not fit its type", expected=str(type))
    if data.flags.writeable:
        fail(graph, None, f"the data of @{key} is writable")
    if not data.size:
        return
    if type.quant is not None and (type.quant.qmin, type.quant.qmax) != (type.dtype.min, type.dtype.max):
        low, high = type.quant.qmin, type.quant.qmax
    elif type.dtype in (DType.I4, DType.U4):
        low, high = type.dtype.min, type.dtype.max
    else:
        return
    bounds = np.iinfo(data.dtype)
    if (low > bounds.min and const.least() < low) or (high < bounds.max and const.largest() > high):
        fail(
            graph,
            None,
            f"codes of @{key} leave the quantized range",
            expected=f"[{low}, {high}]",
            got=f"[{const.least()}, {const.largest()}]",
        )


def _check_order_and_uses(graph: Graph, nodes: Sequence[Node]) -> None:
    defined = {id(value): value for value in (*graph.inputs, *graph.consts.values())}
    read: dict[int, set[tuple[int, int]]] = {}
    for node in nodes:
        for index, value in enumerate(node.operands):
            if value is None:
                continue
            if id(value) not in defined:
                name = getattr(value, "name", value)
                fail(graph, node, f"operand {index} reads %{name}, which is not defined before this node")
            read.setdefault(id(value), set()).add((id(node), index))
        defined.update((id(value), value) for value in node.results)
    for value in defined.values():
        recorded = {(id(use.node), use.index) for use in value.uses}
        if recorded != read.get(id(value), set()) or recorded != set(value._uses):
            fail(
                graph,
                value.producer,
                f"the uses of {value!r} are stale",
                expected=f"{len(read.get(id(value), ()))} uses",
                got=f"{len(recorded)}",
            )
    if not graph.outputs:
        fail(graph, None, "a graph returns something", got="no outputs")
    for value in graph.outputs:
        if id(value) not in defined:
            fail(graph, None, f"the output %{getattr(value, 'name', value)} is not defined in the graph")
    names = graph.output_names
    if len(names) != len(graph.outputs) or not all(isinstance(n, str) and _is_text(n) for n in names):
        fail(graph, None, "one name for each output", expected=len(graph.outputs), got=len(names))


# -- types


def _bound_names(graph: Graph) -> frozenset[str]:
    """Names that stand alone as a size of some input: only these can be read off the inputs."""
    found = set()
    for value in graph.inputs:
        for size in value.type.shape:
            if isinstance(size, Dim) and str(size) in size.names():
                found.add(str(size))
    return frozenset(found)


def _check_type(graph: Graph, node: Node | None, value: Value, stage: Stage, bound: frozenset[str]) -> None:
    type = value.type
    free = type.dim_names - bound
    if free:
        fail(
            graph,
            node,
            f"{value!r}: no input has the size {', '.join(sorted(free))}",
            got=str(type),
            hint="each symbolic size stands alone as a size of some input",
        )
    if type.quant is not None and not stage.quantized_types:
        fail(graph, node, f"{value!r} is quantized in a graph of stage {stage.name}", got=str(type))
    if type.layout is not None and not stage.layouts:
        fail(graph, node, f"{value!r} has a layout in a graph of stage {stage.name}", got=str(type))


def _check_op(graph: Graph, node: Node, stage: Stage) -> None:
    try:
        definition = opdef(node.op)
        complete = definition.complete_attrs(dict(node.attrs))
        types = [None if value is None else value.type for value in node.operands]
        inferred = definition.infer_types(types, complete)
    except QCompilerError as error:
        fail(graph, node, error.message, expected=error.expected, got=error.got, hint=error.hint)
    except _INTERNAL as error:
        fail(graph, node, f"operands or attrs of {node.op} do not fit: {error}")
    if list(complete) != list(node.attrs) or repr(complete) != repr(dict(node.attrs)):
        fail(graph, node, f"attrs of {node.op} are incomplete or not frozen", expected=complete, got=dict(node.attrs))
    if any(isinstance(v, int) and not -(2**63) <= v < 2**63 for v in complete.values()):
        fail(graph, node, "an attr does not fit 64 bits")
    if len(inferred) != len(node.results):
        fail(graph, node, f"{node.op} has {len(inferred)} results", got=len(node.results))
    if is_conversion(definition):
        check_conversion(graph, node)
    for value, type in zip(node.results, inferred):
        if value.type.expressed() != type.expressed():
            fail(
                graph,
                node,
                f"the type of %{value.name} is not what {node.op} gives",
                expected=str(type),
                got=str(value.type),
            )
    if definition.stages is not None and stage.name not in definition.stages:
        fail(graph, node, f"{node.op} in a graph of stage {stage.name}")
    check_quantization(graph, node, definition, stage)
