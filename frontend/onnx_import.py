"""Import ONNX files as float graphs, and models with QuantizeLinear or QLinear ops as graphs of stage qdq.

Owns the file, the inputs and the walk over nodes; what an op means is in `onnx_ops/`. Values have their names in the
file, and messages give a node's number in the file as its line.
"""

from __future__ import annotations

import collections
import itertools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from qcompiler.dims import Dim, Dynamic
from qcompiler.errors import QCompilerError, TraceError, VerifyError
from qcompiler.frontend.onnx_checks import (
    check_declared,
    check_makers,
    check_names,
    check_schema,
    checked_opsets,
    read_attributes,
)
from qcompiler.frontend.onnx_ops import table
from qcompiler.frontend.onnx_ops.codes import Codes
from qcompiler.frontend.onnx_ops.node import OnnxNode, check_held
from qcompiler.frontend.onnx_ops.shapes import moves_codes
from qcompiler.frontend.onnx_tensors import TensorReader
from qcompiler.frontend.recorder import Trace, Traced
from qcompiler.frontend.tracer import set_outputs
from qcompiler.ir import Graph, Loc
from qcompiler.regular_file import open_regular
from qcompiler.types import DType, TensorType

_UNFIT = (TypeError, ValueError, IndexError, KeyError, AttributeError, ArithmeticError, MemoryError, RecursionError)
"""What numpy and Python raise for operands and attributes that no op takes."""
_FREE_AXIS = ("QuantizeLinear", "DequantizeLinear", "QLinearConcat")
"""Ops whose `axis` is not one of the first operand, or is ignored where there is one scale."""
_FREE_BYTES = 128 * 2**20
_MOST_TIMES = 4
"""The constants that import computes take at most this much memory, and this many times the file's tensors."""
_DTYPES = {
    1: DType.F32,
    2: DType.U8,
    3: DType.I8,
    5: DType.I16,
    6: DType.I32,
    7: DType.I64,
    9: DType.BOOL,
    10: DType.F32,
    11: DType.F32,
}


def import_onnx(model: Any, example_inputs: Any = None, *, dynamic: Dynamic | None = None) -> Graph:
    """The graph of an ONNX model.

    Args:
        model: a path, or an onnx.ModelProto.
        example_inputs: arrays by name or position. They give numbers to sizes that the file leaves open and `dynamic`
            does not name.
        dynamic: {input: {axis: size name}}. By default the file decides: named dimensions have their names, and open
            ones are named after input and axis.

    Raises:
        TraceError: onnx is not installed, the file is no ONNX file, its opset is below 11, inputs don't fit, or ops
            are not supported (all of them listed, with counts).
    """
    proto, name, folder = _load(model)
    opsets = checked_opsets(proto, name)
    _check_supported(proto, name)
    check_makers(proto.graph, name)
    return _Importer(proto, TensorReader(name, folder), opsets, example_inputs, dynamic).run()


def _load(model: Any) -> tuple[Any, str, pathlib.Path | None]:
    """The ModelProto, a name for messages, and the folder of its external data (None for a model in memory)."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise TraceError(
            "reading ONNX needs the package onnx", got=str(error), hint="pip install qcompiler-ir[onnx]"
        ) from None
    if not isinstance(model, (str, os.PathLike)):
        if not isinstance(model, onnx.ModelProto):
            raise TraceError("not an ONNX model", expected="a path or an onnx.ModelProto", got=type(model).__name__)
        check_names(model, "model")
        return model, model.graph.name or "model", None
    path = pathlib.Path(model)
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise TraceError("the model cannot be read", where=str(path), got=error.strerror or str(error)) from None
    try:
        proto = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError) as error:
        raise TraceError("not an ONNX file, or a truncated one", where=str(path), got=str(error)[:200]) from None
    if not proto.graph.node and not proto.graph.output:
        raise TraceError("the file holds no ONNX graph", where=str(path))
    check_names(proto, path.name)
    return proto, path.name, path.parent


def op_key(node: Any) -> str:
    """The name of a node's op in the table of recipes: with the domain, where that is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _check_supported(proto: Any, name: str) -> None:
    """Raise a TraceError that lists every op without a meaning, with its count and first node."""
    unknown: collections.Counter[str] = collections.Counter()
    first: dict[str, str] = {}
    for index, node in enumerate(proto.graph.node):
        key = op_key(node)
        if key not in table():
            unknown[key] += 1
            first.setdefault(key, f" (first: node {index} {node.name})")
    if unknown:
        listed = "\n            ".join(f"{count} x {op}{first[op]}" for op, count in unknown.most_common())
        raise TraceError(f"{len(unknown)} kinds of ONNX ops are not supported", where=name, got=listed)


class _Importer:
    """Records an ONNX graph on a Trace, node by node."""

    def __init__(
        self, proto: Any, reader: TensorReader, opsets: Mapping[str, int], examples: Any, dynamic: Dynamic | None
    ) -> None:
        self.proto, self.file, self.opsets, self.reader = proto, reader.file, opsets, reader
        self.trace = Trace(_identifier(proto.graph.name) or "main")
        self.examples = self._by_name(examples)
        self.dynamic = None if dynamic is None else {key: axes for key, axes in dynamic.items() if isinstance(key, str)}
        self.values: dict[str, Any] = {"": None}
        self._made = self._counted = 0  # bytes of the constants made so far; consts of the graph among them

    def run(self) -> Graph:
        graph = self.proto.graph
        self._initializers()
        with self.trace.recording():
            for name, type in self._input_types().items():
                self.values[name] = self.trace.wrap(self.trace.graph.add_input(name, type))
            for index, node in enumerate(graph.node):
                self._node(index, node)
            self.trace.loc = None
            outputs = {}
            for output in graph.output:
                if output.name not in self.values:
                    raise TraceError("no node makes an output", where=self.file, got=output.name)
                value = self.values[output.name]
                if isinstance(value, Codes) and not value.element.is_own:
                    raise TraceError(
                        f"the output {output.name!r} has {value.element.name} codes",
                        where=self.file,
                        expected="codes of int8, uint8 or int16, or real numbers",
                    )
                self._check_output(output, value)
                if not isinstance(value, Traced):
                    array = OnnxNode.sizes_as_ints(value)
                    check_held(array, f"output {output.name}", self.trace)
                    value = self.trace.constant(array, name=output.name)
                outputs[output.name] = value
            set_outputs(self.trace, outputs)
        return self.trace.graph

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

    def _initializers(self) -> None:
        if self.proto.graph.sparse_initializer:
            raise TraceError("sparse initializers are not supported", where=self.file)
        for tensor in self.proto.graph.initializer:
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
            if not value.type.HasField("tensor_type") or tensor.elem_type not in _DTYPES:
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
            found[value.name] = TensorType(_DTYPES[tensor.elem_type], tuple(shape))
        return found

    def _size(self, name: str, axis: int, dim: Any) -> Any:
        example = self.examples.get(name)
        number = None if example is None or axis >= example.ndim else int(example.shape[axis])
        if dim.HasField("dim_value"):
            if dim.dim_value < 0:
                raise TraceError(
                    f"axis {axis} of input {name!r} has a negative size",
                    where=self.file,
                    got=dim.dim_value,
                    hint="an open size has a name in the file: dim_param",
                )
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
        return size

    # -- nodes

    def _node(self, index: int, proto: Any) -> None:
        where = f"{self.file}, node {index} {proto.op_type} {proto.name}"
        opset = self.opsets.get(proto.domain or "ai.onnx", 1)
        check_schema(proto, opset, where)
        attrs = read_attributes(proto, self.reader, where, f"node {index} {proto.op_type} {proto.name}")
        for name in proto.input:
            if name not in self.values:
                raise TraceError(
                    f"{proto.op_type} reads {name!r}, which nothing before it makes",
                    where=where,
                    hint=self._maker_after(index, name),
                )
        self._check_axis(proto, attrs.get("axis"), where)
        key = op_key(proto)
        self.trace.loc = Loc(self.file, index)
        node = OnnxNode(
            key,
            proto.name or proto.output[0],
            [self.values[name] for name in proto.input],
            attrs,
            list(proto.output),
            opset,
            self.trace,
            moves_codes(key),
        )
        before = len(self.trace.graph)
        with self.trace.scope(_path(proto), f"onnx.{key}"):
            try:
                results = node.as_moved(table()[key](node))
            except VerifyError as error:  # an operand or attribute that the op of the graph does not take
                raise TraceError(
                    f"{proto.op_type}: {error.message}",
                    where=where,
                    expected=error.expected,
                    got=error.got,
                    hint=error.hint,
                ) from error
            except QCompilerError as error:
                raise error.located(where) from None
            except _UNFIT as error:
                raise TraceError(
                    f"{proto.op_type} with these operands and attributes is not supported: {error}",
                    where=where,
                ) from error
        results = results if isinstance(results, tuple) else (results,)
        # numpy computes scalars of arrays of rank 0
        results = tuple(np.asarray(each) if isinstance(each, np.generic) else each for each in results)
        self._check_memory(results, where)
        for name, result in zip(proto.output, results):
            if not name:
                continue
            self.values[name] = result
            self._name(name, result, len(self.trace.graph) > before)

    def _check_axis(self, proto: Any, axis: Any, where: str) -> None:
        """Raise if the first operand has no such axis. Quantization of one scale ignores its axis."""
        first = self.values[proto.input[0]] if proto.input else None
        if axis is None or first is None or proto.op_type in _FREE_AXIS:
            return
        if not isinstance(axis, int):
            raise TraceError(f"{proto.op_type}: axis is not one integer", where=where, got=repr(axis)[:200])
        rank = first.value.type.rank if isinstance(first, Traced) else np.ndim(first)
        most = rank if proto.op_type == "Flatten" else rank - 1  # Flatten cuts between axes
        if not -rank <= axis <= most:
            raise TraceError(f"{proto.op_type}: no axis {axis}", where=where, expected=f"{-rank} to {most}", got=axis)

    def _maker_after(self, index: int, name: str) -> str | None:
        later = next((i for i, node in enumerate(self.proto.graph.node[index:], index) if name in node.output), None)
        return None if later is None else f"node {later} makes it: sort the nodes; if they form a cycle, none is legal"

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
            number = next((number for number, own in _DTYPES.items() if own is dtype), None)
        else:
            number, shape = None, value.shape
        check_declared(output, number, shape, _DTYPES, self.file)

    def _name(self, name: str, result: Any, made: bool) -> None:
        """Give a value the name that it has in the file, if this node made it."""
        if isinstance(result, np.ndarray):
            self.trace.names.setdefault(id(result), name)
        elif made and isinstance(result, Traced) and result.value.producer is not None:
            self.trace.graph.rename(
                result.value, self.trace.graph.fresh_name(name) if result.value.name != name else name
            )


def _path(proto: Any) -> str:
    return re.sub(r"[^\w.]+", ".", proto.name).strip(".") if proto.name else ""


def _identifier(name: str) -> str:
    cleaned = re.sub(r"\W+", "_", name).strip("_")
    return f"n{cleaned}" if cleaned[:1].isdigit() else cleaned
