"""The meaning of every graph: the interpreter runs it in numpy, node by node.

Integer graphs give the same bits here and on every backend. Does not own the meaning of single ops (qcompiler/ops).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qcompiler.dims import Dim, evaluate, parse_dim
from qcompiler.errors import InputError, QCompilerError, VerifyError
from qcompiler.ir import AttrValue, Graph, Node, Value
from qcompiler.opdef import OpDef, Trait, opdef
from qcompiler.ops.interfaces import Conversion
from qcompiler.quantization.tables import build_table
from qcompiler.signature import Input, Signature, check_guards
from qcompiler.types import TensorType, type_of

Hook = Callable[[Node, Sequence[np.ndarray]], None]


def bind_inputs(
    called: Graph | Signature, inputs: Sequence[np.ndarray] | Mapping[str, np.ndarray]
) -> tuple[list[np.ndarray], dict[str, int]]:
    """The inputs in signature order, and the symbolic sizes that they bind.

    Raises:
        InputError: wrong count, name, dtype or shape; a size that is not what `dynamic=` declared, or that breaks a
            guard of the trace.
    """
    arrays = _by_position(called, inputs)
    wanted: Sequence[Value | Input] = called.inputs
    sizes: dict[str, int] = {}
    for value, array in zip(wanted, arrays):
        _bind_one(value, array, sizes)
    for value, array in zip(wanted, arrays):
        expected = value.type.bind(sizes)
        if array.shape != expected.shape:
            raise InputError(
                f"input {value.name!r} has another shape",
                expected=str(value.type),
                got=str(type_of(array)),
                hint=f"sizes bound by the inputs: {sizes}",
            )
    check_guards(called, sizes)
    return arrays, sizes


def _by_position(
    called: Graph | Signature, inputs: Sequence[np.ndarray] | Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    names = [value.name for value in called.inputs]
    if isinstance(inputs, Mapping):
        missing = [name for name in names if name not in inputs]
        unknown = [name for name in inputs if name not in names]
        if missing or unknown:
            raise InputError("input names do not fit the model", expected=", ".join(names), got=", ".join(inputs))
        inputs = [inputs[name] for name in names]
    if len(inputs) != len(names):
        raise InputError("wrong number of inputs", expected=f"{len(names)} ({', '.join(names)})", got=len(inputs))
    return [np.asarray(array) for array in inputs]


def _bind_one(value: Value | Input, array: np.ndarray, sizes: dict[str, int]) -> None:
    type = value.type
    if array.dtype != type.dtype.numpy:
        raise InputError(
            f"input {value.name!r} has another dtype",
            expected=str(type),
            got=f"{array.dtype}{list(array.shape)}",
            hint=f"pass {value.name}.astype(np.{type.dtype.numpy})",
        )
    if array.ndim != type.rank:
        raise InputError(f"input {value.name!r} has another rank", expected=str(type), got=str(type_of(array)))
    for axis, size in enumerate(type.shape):
        got = array.shape[axis]
        if isinstance(size, Dim):
            name = str(size)
            if name in size.names() and sizes.setdefault(name, got) != got:
                raise InputError(
                    f"the size {name} is given twice",
                    where=f"input {value.name!r}, axis {axis}",
                    expected=f"{name} = {sizes[name]}",
                    got=got,
                )
        elif size != got:
            raise InputError(
                f"input {value.name!r} has another shape",
                expected=str(type),
                got=str(type_of(array)),
                hint=f'compile with dynamic={{"{value.name}": {{{axis}: "B"}}}} to let axis {axis} vary',
            )


def bound_attrs(definition: OpDef, attrs: Mapping[str, AttrValue], sizes: Mapping[str, int]) -> dict[str, AttrValue]:
    """The attrs with symbolic sizes (kind "shape") evaluated to ints."""
    bound = dict(attrs)
    for spec in definition.attrs:
        value = bound[spec.name]
        if spec.kind == "shape" and isinstance(value, tuple):
            bound[spec.name] = tuple(evaluate(parse_dim(v), sizes) if isinstance(v, str) else v for v in value)
    return bound


def evaluate_node(
    node: Node, arrays: Sequence[np.ndarray | None], sizes: Mapping[str, int] | None = None
) -> tuple[np.ndarray, ...]:
    """The results of one node for given operand arrays."""
    definition = opdef(node.op)
    attrs = bound_attrs(definition, node.attrs, sizes or {})
    types = [None if value is None else value.type for value in node.operands]
    if issubclass(definition, Conversion):
        return (definition.run_integer(arrays, types, node.result.type, attrs),)
    if any(value.type.is_quantized for value in node.results):
        return (_run_quantized(definition, node, arrays, types, attrs),)
    if any(type is not None and type.is_quantized for type in types):
        raise VerifyError("a float op reads a quantized value", where=node.describe(), hint="insert dequantize")
    return tuple(
        _as_declared(array, value.type) for array, value in zip(definition.run_reference(arrays, attrs), node.results)
    )


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
    arrays, sizes = bind_inputs(graph, inputs)
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
