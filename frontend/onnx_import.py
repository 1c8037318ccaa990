"""Import ONNX files as float graphs, and models with QuantizeLinear or QLinear ops as graphs of stage qdq.

Owns the file, the inputs and the walk over nodes; what an op means is in `onnx_ops/`. Values have their names in the
file, and messages give a node's number in the file as its line.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from qcompiler.dims import Dim, DimLike, Dynamic, substitute
from qcompiler.errors import QCompilerError, TraceError, VerifyError
from qcompiler.frontend.onnx_bodies import (
    all_nodes,
    branches,
    function_key,
    functions_of,
    is_defined,
    names_read,
    needed_nodes,
    schema_defaults,
    schema_function,
    with_attributes,
)
from qcompiler.frontend.onnx_checks import (
    check_declared,
    check_makers,
    check_schema,
    checked_opsets,
    read_attributes,
)
from qcompiler.frontend.onnx_described import Described, described, emitted, operands_of
from qcompiler.frontend.onnx_equal_sizes import AS_IN_EXAMPLE, Decided, equal_in_example, sizes_in
from qcompiler.frontend.onnx_faults import UNKNOWN, Faults, UnknownOps, unknown_ops
from qcompiler.frontend.onnx_file import load_proto
from qcompiler.frontend.onnx_ops import table
from qcompiler.frontend.onnx_ops.codes import Codes, Sums, as_codes
from qcompiler.frontend.onnx_ops.node import DTYPES, OnnxNode, check_held, folded, of_sizes, type_proto
from qcompiler.frontend.onnx_ops.shapes import moves_codes
from qcompiler.frontend.onnx_tensors import TensorReader
from qcompiler.frontend.recorder import Trace, Traced
from qcompiler.frontend.register import is_own
from qcompiler.frontend.tracer import set_outputs
from qcompiler.ir import Const, Graph, Loc
from qcompiler.notes import Remark
from qcompiler.types import TensorType
from qcompiler.verify import MAX_NODES

_UNFIT = (TypeError, ValueError, IndexError, KeyError, AttributeError, ArithmeticError, MemoryError, RecursionError)
"""What numpy and Python raise for operands and attributes that no op takes."""
_FREE_AXIS = ("QuantizeLinear", "DequantizeLinear", "QLinearConcat", "OneHot")
"""Ops whose `axis` is not one of the first operand, or is ignored where there is one scale."""
_FREE_BYTES = 128 * 2**20
_MOST_TIMES = 4
"""The constants that import computes take at most this much memory, and this many times the file's tensors."""


def import_onnx(model: Any, example_inputs: Any = None, *, dynamic: Dynamic | None = None) -> Graph:
    """The graph of an ONNX model.

    Nodes that no output needs are left out. Functions of the model are inlined, and so is the branch of an If whose
    condition is known.

    Args:
        model: a path, or an onnx.ModelProto.
        example_inputs: arrays by name or position. They decide what the names of sizes leave open: the size that a node
            needs as a number gets the example's everywhere, and two sizes that a node needs equal become one size if
            they are equal in the example. An initial state of a fixed batch gives an open batch this size even
            without an example. Notes say so.
        dynamic: {input: {axis: size name}}: these stay open, or the import is refused. By default the file decides:
            named dimensions have their names, and open ones (a size of 0 or less too) are named after input and axis.

    Raises:
        TraceError: onnx is not installed, the file is no ONNX file, its opset is below 7, inputs don't fit, or nodes
            are not supported (all of them listed, with counts).
    """
    loaded = load_proto(model)
    known: dict[str, DimLike] = {}
    remarks: list[str] = []
    while True:
        source = AS_IN_EXAMPLE
        reader = TensorReader(loaded.name, loaded.folder, loaded.path, loaded.marker)
        importer = _Importer(loaded.proto, reader, example_inputs, dynamic, known)
        try:
            graph = importer.run()
        except Decided as decided:
            found, source = {**decided.sizes, **importer.baked_sizes()}, decided.source
        except QCompilerError:
            found = importer.baked_sizes()
            if not found:
                raise
        else:
            found = importer.baked_sizes()
            if not found:
                graph.notes.extend(map(Remark, remarks))
                return graph
        for size, (value, where) in found.items():
            importer.check_may_decide(size, value, where, source)
            remarks.append(f"the size {size} is {value}{source}: {where} needs it")
            known = {key: substitute(old, {size: value}) for key, old in known.items()} | {size: value}


def has_meaning(node: Any, opset: int) -> bool:
    """Whether the importer knows an op, or ONNX defines it by others."""
    key = op_key(node)
    known = key in table() or key == "If" or described(node) is not None
    return known or (key == node.op_type and is_defined(key, opset))


def op_key(node: Any) -> str:
    """The name of a node's op in the table of recipes: with the domain, where that is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


class _Importer:
    """Records an ONNX graph on a Trace, node by node.

    Args:
        known: sizes that were decided before: a number, or an expression of other sizes.
    """

    def __init__(
        self, proto: Any, reader: TensorReader, examples: Any, dynamic: Dynamic | None, known: Mapping[str, DimLike]
    ) -> None:
        self.proto, self.file, self.reader, self.known = proto, reader.file, reader, known
        self.trace = Trace(_identifier(proto.graph.name) or "main")
        self.examples = self._by_name(examples)
        self.dynamic = None if dynamic is None else {key: axes for key, axes in dynamic.items() if isinstance(key, str)}
        named = functions_of(proto, self.file)
        self.functions = {key: each for key, each in named.items() if not is_own(f"{key[0]}.{key[1]}")}
        self.values: MutableMapping[str, Any] = {"": None}
        self.opsets: Mapping[str, int] = {}
        self.faults = Faults(self.file)
        self._made = self._counted = 0  # bytes of the constants made so far; consts of the graph among them
        self._imported = 0  # nodes

    def run(self) -> Graph:
        graph = self.proto.graph
        self.opsets = checked_opsets(self.proto.opset_import, list(all_nodes(graph.node)), self.file)
        check_makers(graph, self.file)
        needed = needed_nodes(graph.node, [output.name for output in graph.output])
        self._check_supported([(index, graph.node[index]) for index in needed])
        self._initializers(graph, self.file)
        if any(_quantizes(node) for node in graph.node):  # also if no output needs them: the model is a quantized one
            self.trace.graph.stage = "qdq"
        with self.trace.recording():
            for name, type in self._input_types().items():
                self.values[name] = self.trace.wrap(self.trace.graph.add_input(name, type))
            self.trace.missing_example = self._example_hint()
            last = self._last_reads(needed)
            for index in needed:
                self.trace.loc = Loc(self.file, index)
                self._node(index, graph.node, self.file)
                for name in last.get(index, ()):
                    self._release(name)
            self.trace.loc = self.trace.spot = None
            for output in graph.output:
                if output.name not in self.values:
                    raise TraceError("no node makes an output", where=self.file, got=output.name)
            self.faults.check()
            outputs = {}
            for output in graph.output:
                value = self.values[output.name]
                if isinstance(value, list):
                    raise TraceError(f"the output {output.name!r} is a sequence", where=self.file, expected="a tensor")
                if isinstance(value, Codes) and not value.element.is_own:
                    raise TraceError(
                        f"the output {output.name!r} has {value.element.name} codes",
                        where=self.file,
                        expected="codes of int8, uint8 or int16, or real numbers",
                    )
                if isinstance(value, Sums):
                    value = value.integers()
                self._check_output(output, value)
                if not isinstance(value, Traced):
                    array = OnnxNode.sizes_as_ints(value)
                    check_held(array, f"output {output.name}", self.trace)
                    value = self.trace.constant(array, name=output.name)
                outputs[output.name] = value
            set_outputs(self.trace, outputs)
        return self.trace.graph

    def _last_reads(self, needed: Sequence[int]) -> dict[int, list[str]]:
        """Of each node the names that no later one reads, nor a caller."""
        graph, last = self.proto.graph, dict[str, int]()
        for index in needed:
            last.update(dict.fromkeys(names_read(graph.node[index]), index))
        found: dict[int, list[str]] = {}
        for name in last.keys() - {"", *(output.name for output in graph.output)}:
            found.setdefault(last[name], []).append(name)
        return found

    def _release(self, name: str) -> None:
        """Forget an array that nothing reads any more, so that a weight whose layout changes is in memory once."""
        if isinstance(self.values.get(name), np.ndarray):
            self.trace.release(self.values[name])
            self.values[name] = UNKNOWN
            self._counted = len(self.trace.graph.consts)

    def _hold(self, result: Any) -> None:
        """Keep the constants that are a node's result, as of a CastLike to the type that its operand has: later nodes
        may be the first to read them."""
        for each in result if isinstance(result, list) else [result]:
            if isinstance(each, Traced) and isinstance(each.value, Const):
                self.trace.hold(each.value)

    # -- what the example decides

    def baked_sizes(self) -> dict[str, tuple[DimLike, str]]:
        """The sizes that nodes needed as numbers."""
        found: dict[str, tuple[DimLike, str]] = {}
        for dim, where in self.trace.baked:
            for name in sorted(dim.names()):
                found.setdefault(name, (self.trace.sizes[name], where))
        return found

    def check_may_decide(self, size: str, value: DimLike, where: str, source: str) -> None:
        """Raise if a size that `dynamic` names would become a number."""
        named = {str(name) for axes in (self.dynamic or {}).values() for name in axes.values()}
        if size in named and not isinstance(value, Dim):
            raise TraceError(
                f"the size {size} cannot stay open: a node needs it as a number",
                where=where,
                got=f"{size} = {value}{source}",
                hint=f"leave {size} out of dynamic=, and the model is compiled for {size} = {value}",
            )

    def _example_hint(self) -> str:
        """The argument that gives every open size a number."""
        inputs = [value for value in self.trace.graph.inputs if not value.type.is_static]
        shapes = {
            value.name: ", ".join(
                str(size if isinstance(size, int) else 2 + i) for i, size in enumerate(value.type.shape)
            )
            for value in inputs
        }
        arrays = ", ".join(
            f'"{value.name}": np.zeros(({shapes[value.name]},), np.{value.type.dtype.numpy})' for value in inputs
        )
        return f"example_inputs={{{arrays}}}, of sizes that are typical"

    # -- inputs and constants

    def _by_name(self, examples: Any) -> dict[str, np.ndarray]:
        names = self._input_names()
        if examples is None:
            return {}
        if isinstance(examples, Mapping):
            unknown = [key for key in examples if key not in names]
            if unknown:
                raise TraceError(f"the model has no input {unknown[0]!r}", where=self.file, expected=", ".join(names))
            return {key: np.asarray(value) for key, value in examples.items()}
        listed = list(examples) if isinstance(examples, (tuple, list)) else [examples]
        if len(listed) > len(names):
            raise TraceError(
                "more example inputs than inputs", where=self.file, expected=", ".join(names), got=len(listed)
            )
        return {name: np.asarray(value) for name, value in zip(names, listed)}

    def _input_names(self) -> list[str]:
        held = {tensor.name for tensor in self.proto.graph.initializer}
        return [value.name for value in self.proto.graph.input if value.name not in held]

    def _initializers(self, graph: Any, where: str) -> None:
        if graph.sparse_initializer:
            raise TraceError("sparse initializers are not supported", where=where)
        for tensor in graph.initializer:
            array = self.reader.read(tensor, f"initializer {tensor.name!r}")
            if array.dtype in (np.float16, np.float64) or str(array.dtype) == "bfloat16":
                self.trace.note(f"initializer {tensor.name}: {array.dtype} became f32")
                array = array.astype(np.float32)
            self.values[tensor.name] = array
            self.trace.names[id(array)] = tensor.name

    def _input_types(self) -> dict[str, TensorType]:
        held = {tensor.name for tensor in self.proto.graph.initializer}
        found = {}
        for value in self.proto.graph.input:
            if value.name in held:
                continue
            tensor = value.type.tensor_type
            if not value.type.HasField("tensor_type") or tensor.elem_type not in DTYPES:
                raise TraceError(
                    f"input {value.name!r} has an unsupported type", where=self.file, got=str(tensor.elem_type)
                )
            if not tensor.HasField("shape"):
                raise TraceError(
                    f"input {value.name!r} has no shape",
                    where=self.file,
                    hint="set it in the file: onnx.helper.make_tensor_value_info",
                )
            if tensor.elem_type in (10, 11):
                self.trace.note(f"input {value.name}: float{16 if tensor.elem_type == 10 else 64} became f32")
            shape = [self._size(value.name, axis, dim) for axis, dim in enumerate(tensor.shape.dim)]
            found[value.name] = TensorType(DTYPES[tensor.elem_type], tuple(shape))
        return found

    def _size(self, name: str, axis: int, dim: Any) -> Any:
        example = self.examples.get(name)
        number = None if example is None or axis >= example.ndim else int(example.shape[axis])
        if dim.HasField("dim_value") and dim.dim_value > 0:
            return dim.dim_value
        if self.dynamic is None:
            size = Dim.name(_identifier(dim.dim_param) or f"{_identifier(name)}_{axis}")
        else:
            wanted = self.dynamic.get(name, {}).get(axis)
            if wanted is None:
                if number is None:
                    raise TraceError(
                        f"axis {axis} of input {name!r} is open",
                        where=self.file,
                        hint=f'dynamic={{"{name}": {{{axis}: "B"}}}}, or example_inputs',
                    )
                return number
            size = wanted if isinstance(wanted, Dim) else Dim.name(wanted)
        if number is not None:
            self.trace.sizes.setdefault(str(size), number)
        return substitute(size, self.known)

    # -- nodes

    def _node(self, index: int, nodes: Sequence[Any], place: str) -> None:
        """Import one of the nodes of the graph, of a branch or of a function."""
        proto, self._imported = nodes[index], self._imported + 1
        name = f"node {index} {proto.op_type} {proto.name}"
        where = f"{place}, {name}"
        if self._imported > MAX_NODES:
            raise TraceError("too many nodes", where=where, expected=f"at most {MAX_NODES}, with those of functions")
        for read in names_read(proto):
            if read not in self.values:
                raise TraceError(
                    f"{proto.op_type} reads {read!r}, which nothing before it makes",
                    where=where,
                    hint=_maker_after(nodes, index, read),
                )
        if any(self.values[read] is UNKNOWN for read in operands_of(proto)):
            self.values.update((made, UNKNOWN) for made in proto.output if made)
            return
        try:
            results = self._results(proto, where, f"{place}, {name}")
        except QCompilerError as error:
            self.faults.add(error)
            results = (UNKNOWN,) * len(proto.output)
        if op_key(proto) in table():
            self._check_memory(results, where)
        for made, result in zip(proto.output, results):
            if made:
                self.values[made] = result
                self._hold(result)

    def _results(self, proto: Any, where: str, place: str) -> tuple[Any, ...]:
        """The values of a node's outputs."""
        function = self.functions.get(function_key(proto))
        if function is not None:
            return self._call(proto, function, where)
        key, opset, self.trace.spot = op_key(proto), self.opsets.get(proto.domain or "ai.onnx", 1), where
        check_schema(proto, opset, where)
        if key == "If":
            return self._branch(proto, where)
        layer = described(proto)
        if layer is not None:
            return self._layer(layer, proto, where)
        if key not in table():
            return self._defined(proto, opset, where)
        attrs = read_attributes(proto, self.reader, where, place.removeprefix(f"{self.file}, "))
        self._check_axis(proto, attrs.get("axis"), where)
        node = OnnxNode(
            key,
            proto.name or proto.output[0],
            [as_codes(self.values[name]) for name in proto.input],
            attrs,
            list(proto.output),
            opset,
            self.trace,
            moves_codes(key),
        )
        before = len(self.trace.graph)
        with self.trace.scope(_path(proto), f"onnx.{key}"):
            try:
                found = node.as_moved(table()[key](node))
            except VerifyError as error:  # an operand or attribute that the op of the graph does not take
                decided = equal_in_example(node.values, self.trace.sizes, where)
                if decided:
                    raise Decided(decided, AS_IN_EXAMPLE) from None
                raise TraceError(
                    f"{proto.op_type}: {error.message}",
                    where=where,
                    expected=error.expected,
                    got=error.got,
                    hint=error.hint or self._equal_hint(node),
                ) from error
            except QCompilerError as error:
                raise error.located(where) from None
            except _UNFIT as error:
                raise TraceError(
                    f"{proto.op_type} with these operands and attributes is not supported: {error}",
                    where=where,
                ) from error
        results = found if isinstance(found, tuple) else (found,)
        if all(value is None or isinstance(value, np.ndarray) for value in node.values):
            results = tuple(folded(each) for each in results)
        # numpy computes scalars of arrays of rank 0
        results = tuple(np.asarray(each) if isinstance(each, np.generic) else each for each in results)
        for name, result in zip(proto.output, results):
            if name:
                self._name(name, result, len(self.trace.graph) > before)
        return results

    def _equal_hint(self, node: OnnxNode) -> str | None:
        """What to do where sizes of a node may differ, for want of an example."""
        has_open = any(isinstance(size, Dim) for value in node.values for size in sizes_in(value))
        return self.trace.missing_example if has_open and not self.examples else None

    def _layer(self, layer: Described, proto: Any, where: str) -> tuple[Any, ...]:
        """The outputs of a recurrent layer that we exported as a Scan."""
        with self.trace.scope(_path(proto), f"onnx.{layer.op}"):
            results = emitted(layer, self.values, self.trace, where)
        for name, result in zip(proto.output, results):
            self._name(name, result, bool(name))
        return results

    def _branch(self, proto: Any, where: str) -> tuple[Any, ...]:
        """The outputs of the branch of an If that its condition selects."""
        condition = self.values[proto.input[0]]
        if isinstance(condition, Traced) and isinstance(condition.value, Const):
            condition = condition.value.data
        condition = of_sizes(condition)
        if not isinstance(condition, np.ndarray) or condition.size != 1:
            unknown = self._unknown((index, node) for each in branches(proto) for index, node in enumerate(each.node))
            raise TraceError(
                "If: the condition is computed from data",
                where=where,
                expected="a constant, or a comparison of sizes",
                got=f"branches with ops that are not supported either: {unknown.listed()}" if unknown.counts else None,
                hint="both branches with Where, or a model for each",
            )
        chosen = "then_branch" if bool(condition.reshape(())) else "else_branch"
        graph = next(attribute.g for attribute in proto.attribute if attribute.name == chosen)
        place = f"{where}, {chosen}"
        if graph.input or len(graph.output) != len(proto.output):
            raise TraceError("If: the branch has other inputs or outputs than the node", where=place)
        check_makers(graph, place)
        outer = self.values
        self.values = ChainMap({}, outer)
        try:
            self._initializers(graph, place)
            self._body(graph.node, [output.name for output in graph.output], place)
            return tuple(self._output(output.name, place) for output in graph.output)
        finally:
            self.values = outer

    def _defined(self, proto: Any, opset: int, where: str) -> tuple[Any, ...]:
        """The outputs of an op that ONNX defines by other ops."""
        known = op_key(proto) == proto.op_type
        types = [type_proto(self.values[name]) for name in proto.input] if known else []
        function = schema_function(proto, opset, types) if known else None
        if function is None:
            raise TraceError(f"{op_key(proto)} is not supported", where=where)
        if not function.opset_import:
            function.opset_import.add(domain="", version=opset)
        return self._call(proto, function, where, schema_defaults(proto, opset))

    def _call(self, proto: Any, function: Any, where: str, own: Sequence[Any] = ()) -> tuple[Any, ...]:
        """The outputs of a function of the model, or of ONNX itself."""
        place = f"{where}, function {function.name}"
        if len(proto.input) > len(function.input) or len(proto.output) > len(function.output):
            raise TraceError(
                f"{function.name} is called with more operands or outputs than the function has",
                where=where,
                expected=f"at most {len(function.input)} and {len(function.output)}",
                got=f"{len(proto.input)} and {len(proto.output)}",
            )
        defaults = {attribute.name: attribute for attribute in (*own, *function.attribute_proto)}
        given = defaults | {attribute.name: attribute for attribute in proto.attribute}
        nodes = [with_attributes(node, given) for node in function.node]
        outer, opsets = self.values, self.opsets
        self.opsets = checked_opsets(function.opset_import, list(all_nodes(nodes)), place)
        self.values = dict.fromkeys(("", *function.input))
        self.values.update(zip(function.input, (outer[name] for name in proto.input)))
        try:
            wanted = [made for made, used in zip(function.output, proto.output) if used]
            self._body(nodes, wanted, place)
            found = {name: self._output(name, place) for name in wanted}
            return tuple(found.get(name) for name in function.output)
        finally:
            self.values, self.opsets = outer, opsets

    def _body(self, nodes: Sequence[Any], outputs: Sequence[str], place: str) -> None:
        """Import the nodes of a branch or of a function, which belong to the calling node's line."""
        for index in needed_nodes(nodes, outputs):
            self._node(index, nodes, place)

    def _output(self, name: str, place: str) -> Any:
        if name not in self.values:
            raise TraceError("no node makes an output", where=place, got=name)
        return self.values[name]

    def _unknown(self, nodes: Iterable[tuple[int, Any]]) -> UnknownOps:
        opset = self.opsets.get("ai.onnx", 1)
        return unknown_ops(nodes, self.functions, lambda node: has_meaning(node, opset))

    def _check_supported(self, nodes: Sequence[tuple[int, Any]]) -> None:
        """Raise a TraceError that lists every op without a meaning, with its count and first node. If only branches of
        If have some, those that are selected decide."""
        if self._unknown((index, node) for index, node in nodes if op_key(node) != "If").counts:
            unknown = self._unknown(nodes)
            raise TraceError(
                f"{len(unknown.counts)} kinds of ONNX ops are not supported",
                where=self.file,
                got=unknown.listed(),
                hint='qc.register_importer("onnx", "domain::Op", meaning) says what an op means',
            )

    def _check_axis(self, proto: Any, axis: Any, where: str) -> None:
        """Raise if the first operand has no such axis. Quantization of one scale ignores its axis."""
        first = self.values[proto.input[0]] if proto.input else None
        if axis is None or first is None or isinstance(first, list) or proto.op_type in _FREE_AXIS:
            return
        if not isinstance(axis, int):
            raise TraceError(f"{proto.op_type}: axis is not one integer", where=where, got=repr(axis)[:200])
        rank = first.value.type.rank if isinstance(first, Traced) else np.ndim(first)
        most = rank if proto.op_type == "Flatten" else rank - 1  # Flatten cuts between axes
        if not -rank <= axis <= most:
            raise TraceError(f"{proto.op_type}: no axis {axis}", where=where, expected=f"{-rank} to {most}", got=axis)

    def _check_memory(self, results: tuple[Any, ...], where: str) -> None:
        """Raise if the constants that import has made so far take too much memory."""
        for result in results:
            if isinstance(result, np.ndarray) and result.base is None:
                self._made += result.nbytes
        consts = self.trace.graph.consts
        for const in itertools.islice(reversed(consts.values()), len(consts) - self._counted):
            self._made += const.data.nbytes
        self._counted, made = len(consts), self._made
        most = _FREE_BYTES + _MOST_TIMES * self.reader.nbytes
        if made > most:
            raise TraceError(
                "the constants that import computes take too much memory",
                where=where,
                expected=f"at most {most} bytes: {_FREE_BYTES >> 20} MiB and {_MOST_TIMES} times the file's tensors",
                got=f"{made} bytes",
            )

    def _check_output(self, output: Any, value: Any) -> None:
        if isinstance(value, Codes):
            number: int | None = value.element.number
            shape = value.value.type.shape
        elif isinstance(value, Traced):
            dtype, shape = value.value.type.dtype, value.value.type.shape
            number = next((number for number, own in DTYPES.items() if own is dtype), None)
        else:
            number, shape = None, value.shape
        differs = check_declared(output, number, shape, DTYPES, self.file)
        if differs is not None:
            self.trace.note(differs)
            warnings.warn(f"{self.file}, {differs}", stacklevel=2)

    def _name(self, name: str, result: Any, made: bool) -> None:
        """Give a value the name that it has in the file, if this node made it."""
        if isinstance(result, np.ndarray):
            self.trace.names.setdefault(id(result), name)
        elif made and isinstance(result, Traced) and result.value.producer is not None:
            self.trace.graph.rename(
                result.value, self.trace.graph.fresh_name(name) if result.value.name != name else name
            )


def _maker_after(nodes: Sequence[Any], index: int, name: str) -> str | None:
    later = next((i for i, node in enumerate(nodes[index:], index) if name in node.output), None)
    return None if later is None else f"node {later} makes it: sort the nodes; if they form a cycle, none is legal"


def _quantizes(node: Any) -> bool:
    return node.op_type in ("QuantizeLinear", "DequantizeLinear") or node.op_type.startswith("QLinear")


def _path(proto: Any) -> str:
    return re.sub(r"[^\w.]+", ".", proto.name).strip(".") if proto.name else ""


def _identifier(name: str) -> str:
    cleaned = re.sub(r"\W+", "_", name).strip("_")
    return f"n{cleaned}" if cleaned[:1].isdigit() else cleaned
