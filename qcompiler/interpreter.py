"""The meaning of every graph: the interpreter runs it in numpy, node by node.

Integer graphs give the same bits here and on every backend. Does not own the meaning of single ops (qcompiler/ops).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qcompiler.arguments import check_type
from qcompiler.binding import bound_attrs, check_sizes
from qcompiler.errors import QCompilerError, VerifyError, no_memory
from qcompiler.ir import AttrValue, Graph, Node
from qcompiler.opdef import OpDef, Trait, opdef
from qcompiler.ops.interfaces import Conversion
from qcompiler.own_ops import check_results
from qcompiler.quantization.tables import build_table
from qcompiler.signature import bind_inputs
from qcompiler.types import TensorType

Hook = Callable[[Node, Sequence[np.ndarray]], None]


def evaluate_node(
    node: Node, arrays: Sequence[np.ndarray | None], sizes: Mapping[str, int] | None = None
) -> tuple[np.ndarray, ...]:
    """The results of one node for given operand arrays.

    Raises:
        LoweringError: no memory for them.
    """
    try:
        results = _evaluate(node, arrays, sizes)
    except MemoryError as error:
        raise no_memory(node.describe(), error) from None
    except Exception as error:
        if opdef(node.op).is_own and not isinstance(error, QCompilerError):
            error.add_note(f"in the op of {node.describe()}")
        raise
    return results


def _evaluate(
    node: Node, arrays: Sequence[np.ndarray | None], sizes: Mapping[str, int] | None
) -> tuple[np.ndarray, ...]:
    definition = opdef(node.op)
    attrs = bound_attrs(definition, node.attrs, sizes or {})
    types = [None if value is None else value.type for value in node.operands]
    if issubclass(definition, Conversion):
        return (definition.run_integer(arrays, types, node.result.type, attrs),)
    codes = any(type is not None and type.is_quantized for type in types)
    if any(value.type.is_quantized for value in node.results) or (codes and definition.gives_real):
        found = _run_quantized(definition, node, arrays, types, attrs)
        if definition.is_own:
            method = "reference" if definition.integer is None else "integer"
            check_results(definition, method, found, [value.type.bind(sizes or {}) for value in node.results])
        return (found,)
    if codes:
        raise VerifyError("a float op reads a quantized value", where=node.describe(), hint="insert dequantize")
    results = definition.run_reference(arrays, attrs)
    if definition.is_own:
        check_results(definition, "reference", results, [value.type.bind(sizes or {}) for value in node.results])
    return tuple(_as_declared(array, value.type) for array, value in zip(results, node.results))


def _as_declared(array: np.ndarray, type: TensorType) -> np.ndarray:
    return np.asarray(array, type.dtype.numpy)


def _run_quantized(
    definition: OpDef,
    node: Node,
    arrays: Sequence[np.ndarray | None],
    types: Sequence[TensorType | None],
    attrs: dict[str, AttrValue],
) -> np.ndarray:
    out = node.result.type
    if definition.integer is not None:
        return definition.run_integer(arrays, types, out, attrs)
    if Trait.MOVES_DATA in definition.traits:
        return definition.run_reference(arrays, attrs)[0]
    x, source = arrays[0], types[0]
    if Trait.UNARY in definition.traits and x is not None and source is not None:
        table = build_table(unary_function(definition, attrs), source, out)
        return table[x.astype(np.int32) - source.dtype.min]
    raise VerifyError(f"{definition.name} has no meaning on quantized values", where=node.describe())


def unary_function(definition: OpDef, attrs: Mapping[str, AttrValue]) -> Callable[[np.ndarray], np.ndarray]:
    """The op as a function of one float64 array."""
    return lambda x: definition.run_reference([x], attrs)[0]


def run(
    graph: Graph,
    inputs: Sequence[np.ndarray] | Mapping[str, np.ndarray],
    *,
    hook: Hook | None = None,
    keep: dict[str, np.ndarray] | None = None,
) -> list[np.ndarray]:
    """The outputs of the graph, in order. Values are dropped after their last use.

    Args:
        hook: called with each node and its results.
        keep: filled with the result of every node, by name.

    Raises:
        InputError: inputs that do not fit.
        QCompilerError: a node cannot compute its result; names the node.
    """
    check_type("graph", graph, Graph, "a Graph")
    check_type("inputs", inputs, (list, tuple, Mapping), "a list of arrays by position, or a dict by name")
    arrays, sizes = bind_inputs(graph, inputs)
    check_sizes(graph, sizes)
    found: dict[int, np.ndarray] = {id(value): array for value, array in zip(graph.inputs, arrays)}
    found.update((id(const), const.data) for const in graph.consts.values())
    left = {id(value): len(value.uses) + (1 if graph.is_output(value) else 0) for value in graph.values()}
    for node in graph.node_list:
        try:
            results = evaluate_node(node, [None if v is None else found[id(v)] for v in node.operands], sizes)
        except QCompilerError as error:
            raise error.located(node.describe()) from None
        if hook is not None:
            hook(node, results)
        for value, array in zip(node.results, results):
            found[id(value)] = array
            if keep is not None:
                keep[value.name] = array
        for operand in node.operands:
            if operand is not None:
                left[id(operand)] -= 1
                if left[id(operand)] == 0:
                    found.pop(id(operand), None)
    return [np.array(found[id(value)], copy=True) for value in graph.outputs]
