"""The verifier: whether a graph is well formed and legal in its stage. Every pass takes and leaves a verified graph.

Order of checks: structure (names, links, SSA, uses), ops (operands, attrs, inferred types), quantization (the op's
rule), stage. A violation is a VerifyError that shows the line of IR with a caret. Nothing here recurses on the depth of
a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from qcompiler.dims import Dim
from qcompiler.errors import QCompilerError, VerifyError, nearest
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.notes import Note
from qcompiler.opdef import OpDef, QuantKind, Role, Trait, opdef
from qcompiler.quantization import qmath
from qcompiler.stages import STAGES, Stage
from qcompiler.types import DType, TensorType

MAX_NODES = 100_000
MAX_NAME_BYTES = 1024
_CONVERTING = ("quantize", "dequantize", "requantize", "lookup", "observe")
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


def _fail(
    graph: Graph,
    node: Node | None,
    message: str,
    *,
    expected: object = None,
    got: object = None,
    hint: str | None = None,
) -> NoReturn:
    from qcompiler.text.printer import annotate

    if node is None:
        raise VerifyError(message, where=f"graph {graph.name}", expected=expected, got=got, hint=hint)
    raise VerifyError(
        message, where=f"{node.describe()}\n{annotate(graph, node, message)}", expected=expected, got=got, hint=hint
    )


def verify(graph: Graph) -> None:
    """Raises VerifyError for the first rule that `graph` breaks."""
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
        _fail(graph, None, "too many nodes", expected=f"at most {MAX_NODES}", got=len(graph))
    nodes: list[Node] = []
    previous, node = None, graph._first
    while node is not None:
        if node._prev is not previous or node.graph is not graph or len(nodes) >= len(graph):
            _fail(graph, None, "the list of nodes is broken", got=f"{node.op} as node {len(nodes)}")
        nodes.append(node)
        previous, node = node, node._next
    if graph._last is not previous or len(nodes) != len(graph):
        _fail(graph, None, "the list of nodes is broken", expected=f"{len(graph)} nodes", got=len(nodes))
    return nodes


def _check_values(graph: Graph, nodes: Sequence[Node]) -> None:
    names: set[str] = set()

    def check(value: Value, node: Node | None) -> None:
        name = value.name
        if not isinstance(name, str) or not name or not isinstance(value.type, TensorType):
            _fail(graph, node, "a value needs a name and a type", got=f"{name!r}: {value.type!r}"[:200])
        if name in names:
            _fail(graph, node, f"the name {name!r} is used twice")
        if len(name.encode(errors="replace")) > MAX_NAME_BYTES or not _is_text(name):
            _fail(graph, node, "a name is not valid text of at most 1024 bytes", got=repr(name)[:80])
        names.add(name)

    for value in graph.inputs:
        check(value, None)
        if value.producer is not None or value.is_const:
            _fail(graph, None, f"the input %{value.name} is not a plain value")
    for key, const in graph.consts.items():
        check(const, None)
        _check_const(graph, key, const)
    for node in nodes:
        if not node.results:
            raise VerifyError("a node without results", where=f"{node.op} in graph {graph.name}")
        for index, value in enumerate(node.results):
            check(value, node)
            if value.producer is not node or value.index != index:
                _fail(graph, node, f"%{value.name} does not know that it is result {index} of this node")
    if names != graph._names:
        stray = sorted(map(repr, names ^ graph._names))[:3]
        _fail(graph, None, "the graph's table of names is stale", got=", ".join(stray))
    if not isinstance(graph.name, str) or not _is_text(graph.name) or len(graph.name.encode()) > MAX_NAME_BYTES:
        raise VerifyError("a graph's name is text of at most 1024 bytes", got=repr(graph.name)[:80])
    if not all(isinstance(note, Note) and _is_text(note.text) for note in graph.notes):
        _fail(graph, None, "notes are text")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_const(graph: Graph, key: str, const: Const) -> None:
    if not isinstance(const, Const) or key != const.name or const.producer is not None:
        _fail(graph, None, f"the constant @{key} is not under its own name", got=repr(const))
    data, type = const.data, const.type
    if not isinstance(data, np.ndarray) or data.dtype != type.dtype.numpy or data.shape != type.shape:
        _fail(graph, None, f"the data of @{key} does not fit its type", expected=str(type))
    if data.flags.writeable:
        _fail(graph, None, f"the data of @{key} is writable")
    low, high = None, None
    if type.quant is not None and (type.quant.qmin, type.quant.qmax) != (type.dtype.min, type.dtype.max):
        low, high = type.quant.qmin, type.quant.qmax
    elif type.dtype in (DType.I4, DType.U4):
        low, high = type.dtype.min, type.dtype.max
    if low is None or not data.size:
        return
    bounds = np.iinfo(data.dtype)
    if (low > bounds.min and const.least() < low) or (high < bounds.max and const.largest() > high):
        _fail(
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
                _fail(graph, node, f"operand {index} reads %{name}, which is not defined before this node")
            read.setdefault(id(value), set()).add((id(node), index))
        defined.update((id(value), value) for value in node.results)
    for value in defined.values():
        recorded = {(id(use.node), use.index) for use in value.uses}
        if recorded != read.get(id(value), set()) or recorded != set(value._uses):
            _fail(
                graph,
                value.producer,
                f"the uses of {value!r} are stale",
                expected=f"{len(read.get(id(value), ()))} uses",
                got=f"{len(recorded)}",
            )
    if not graph.outputs:
        _fail(graph, None, "a graph returns something", got="no outputs")
    for value in graph.outputs:
        if id(value) not in defined:
            _fail(graph, None, f"the output %{getattr(value, 'name', value)} is not defined in the graph")
    names = graph.output_names
    if len(names) != len(graph.outputs) or not all(isinstance(n, str) and _is_text(n) for n in names):
        _fail(graph, None, "one name for each output", expected=len(graph.outputs), got=len(names))


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
        _fail(
            graph,
            node,
            f"{value!r}: no input has the size {', '.join(sorted(free))}",
            got=str(type),
            hint="each symbolic size stands alone as a size of some input",
        )
    if type.quant is not None and not stage.quantized_types:
        _fail(graph, node, f"{value!r} is quantized in a graph of stage {stage.name}", got=str(type))
    if type.layout is not None and not stage.layouts:
        _fail(graph, node, f"{value!r} has a layout in a graph of stage {stage.name}", got=str(type))


def _check_op(graph: Graph, node: Node, stage: Stage) -> None:
    try:
        definition = opdef(node.op)
        complete = definition.complete_attrs(dict(node.attrs))
        types = [None if value is None else value.type for value in node.operands]
        inferred = definition.infer_types(types, complete)
    except QCompilerError as error:
        _fail(graph, node, error.message, expected=error.expected, got=error.got, hint=error.hint)
    except _INTERNAL as error:
        _fail(graph, node, f"operands or attrs of {node.op} do not fit: {error}")
    if list(complete) != list(node.attrs) or repr(complete) != repr(dict(node.attrs)):
        _fail(graph, node, f"attrs of {node.op} are incomplete or not frozen", expected=complete, got=dict(node.attrs))
    if any(isinstance(v, int) and not -(2**63) <= v < 2**63 for v in complete.values()):
        _fail(graph, node, "an attr does not fit 64 bits")
    if len(inferred) != len(node.results):
        _fail(graph, node, f"{node.op} has {len(inferred)} results", got=len(node.results))
    if node.op in _CONVERTING:
        _check_conversion(graph, node)
    for value, type in zip(node.results, inferred):
        if value.type.expressed() != type.expressed():
            _fail(
                graph,
                node,
                f"the type of %{value.name} is not what {node.op} gives",
                expected=str(type),
                got=str(value.type),
            )
    if node.op in stage.forbidden_ops:
        _fail(graph, node, f"{node.op} in a graph of stage {stage.name}")
    _check_quantization(graph, node, definition, stage)


# -- quantization


def _check_quantization(graph: Graph, node: Node, definition: OpDef, stage: Stage) -> None:
    types = [None if value is None else value.type for value in node.operands]
    outs = [value.type for value in node.results]
    reads = any(type is not None and type.quant is not None for type in types)
    writes = any(type.quant is not None for type in outs)
    if node.op in _CONVERTING:
        return
    if not reads and not writes:
        return
    if not stage.integer_ops:
        _fail(
            graph,
            node,
            f"{node.op} works on quantized values in a graph of stage {stage.name}",
            hint="insert dequantize",
        )
    if not all(type.quant is not None for type in outs):
        _fail(graph, node, f"{node.op} reads quantized values but gives real ones", hint="insert dequantize before it")
    if not reads:
        _fail(graph, node, f"{node.op} gives a quantized value from real ones", hint="insert quantize after it")
    for index, type in enumerate(types):
        spec = definition.spec(index)
        wants = spec.role in (Role.ACTIVATION, Role.WEIGHT, Role.BIAS)
        if type is not None and (type.quant is not None) != wants:
            _fail(
                graph,
                node,
                f"operand {spec.name} of an integer {node.op}",
                expected="quantized" if wants else "not quantized",
                got=str(type),
            )
    if definition.integer is None and not definition.traits & {Trait.MOVES_DATA, Trait.UNARY}:
        _fail(graph, node, f"{node.op} has no meaning on quantized values", hint="insert dequantize before it")
    _check_rule(graph, node, definition, types, outs[0])


def _check_conversion(graph: Graph, node: Node) -> None:
    source, out = node.operands[0].type, node.result.type
    if node.op == "observe":
        if source != out:
            _fail(graph, node, "observe is the identity", expected=str(source), got=str(out))
        return
    reads, writes = source.quant is not None, out.quant is not None
    if (reads, writes) != {"quantize": (False, True), "dequantize": (True, False)}.get(node.op, (True, True)):
        _fail(
            graph,
            node,
            f"operand and result of {node.op}",
            got=f"{source}, {out}",
            expected={"quantize": "real, quantized", "dequantize": "quantized, real"}.get(
                node.op, "quantized, quantized"
            ),
        )
    if node.op == "quantize" and source.dtype is not DType.F32:
        _fail(graph, node, "quantize reads f32", got=str(source))
    if writes and out.dtype.bits > 16:
        _fail(graph, node, f"the result of {node.op} has at most 16 bits", got=str(out))
    if node.op in ("requantize", "lookup") and (source.quant.axis is not None or out.quant.axis is not None):
        _fail(graph, node, f"{node.op} is per tensor", got=f"{source}, {out}")
    if node.op == "requantize" and source.dtype.bits > 16:
        _fail(graph, node, "requantize reads at most 16 bits", got=str(source))
    if node.op == "lookup":
        table = node.operands[1].type
        if source.dtype not in (DType.U8, DType.I8) or table.dtype is not out.dtype or table.quant is not None:
            _fail(
                graph,
                node,
                "lookup reads 8 bits, and a table of plain codes of the result's dtype",
                expected=f"{out.dtype}[256]",
                got=f"{source}, {table}",
            )


def _check_rule(
    graph: Graph, node: Node, definition: OpDef, types: Sequence[TensorType | None], out: TensorType
) -> None:
    rule = definition.quant
    activations = [(i, t) for i, t in enumerate(types) if t is not None and definition.spec(i).role is Role.ACTIVATION]
    if definition.integer is None and Trait.MOVES_DATA in definition.traits:
        for index, type in activations:
            if type.dtype is not out.dtype or type.quant.moved(
                None if len(type.quant.scale) == 1 else 0
            ) != out.quant.moved(None if len(out.quant.scale) == 1 else 0):
                _fail(
                    graph,
                    node,
                    f"{node.op} moves codes: operand {index} and result have equal parameters",
                    expected=str(type),
                    got=str(out),
                )
        return
    for index, type in activations:
        if type.quant.axis is not None or type.dtype.bits > 16:
            _fail(
                graph,
                node,
                "activations are per tensor and have at most 16 bits",
                expected=f"operand {index} per tensor",
                got=str(type),
            )
    if out.quant.axis is not None or out.dtype.bits > 16:
        _fail(
            graph,
            node,
            "activations are per tensor and have at most 16 bits",
            expected="a per-tensor result",
            got=str(out),
        )
    if definition.integer is None and activations[0][1].dtype not in (DType.U8, DType.I8):
        _fail(graph, node, f"{node.op} becomes a table of 256 entries", expected="u8 or i8", got=str(activations[0][1]))
    if rule.kind is QuantKind.WEIGHTED:
        _check_weighted(graph, node, definition, types)


def _check_weighted(graph: Graph, node: Node, definition: OpDef, types: Sequence[TensorType | None]) -> None:
    named = {definition.spec(index).name: type for index, type in enumerate(types)}
    x, weight, bias = named["x"], named["weight"], named.get("bias")
    if weight.quant.axis not in (None, definition.quant.weight_axis):
        _fail(graph, node, "channel axis of the weight", expected=definition.quant.weight_axis, got=weight.quant.axis)
    if weight.dtype.bits > 8:
        _fail(graph, node, "a quantized weight has at most 8 bits", got=str(weight))
    if bias is None:
        return
    if bias.dtype is not DType.I32 or any(bias.quant.zero_point):
        _fail(graph, node, "a quantized bias is i32 with zero point 0", got=str(bias))
    scales = qmath.multiplier(x.quant.scales, weight.quant.scales).reshape(-1)
    channels = bias.shape[0]
    if weight.quant.axis is not None and scales.size and channels % scales.size == 0:
        scales = np.tile(scales, channels // scales.size)
    given = bias.quant.scales
    try:
        equal = given.shape == scales.shape == (channels,) and bool((given == scales).all())
        equal = equal or np.array_equal(np.broadcast_to(given, (channels,)), np.broadcast_to(scales, (channels,)))
    except ValueError:
        equal = False
    if not equal:
        _fail(
            graph,
            node,
            "the scale of a bias is scale(x) * scale(weight), rounded once to float32",
            expected=_shown(scales),
            got=_shown(bias.quant.scales),
        )


def _shown(scales: np.ndarray) -> str:
    return ", ".join(map(str, scales[:3])) + (", ..." if scales.size > 3 else "")
