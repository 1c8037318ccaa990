"""Writes a graph as an ONNX file: `export_onnx`.

In the form "qdq" every node computes on real numbers in ONNX's ops, and codes stand between QuantizeLinear and
DequantizeLinear; weights are i8 constants with a DequantizeLinear per axis, biases i32. Such a file gives the codes of
our integer node, but for a code beside a tie. In the form "qoperator" convolutions and products compute on codes
(`qoperator.py`), and other nodes are as in "qdq".

The real result of a node has the name of the graph's value, and its codes that name and `.codes`; codes of constants,
inputs and outputs have the name itself. A table is written as the function that it holds, if an op with
its default attributes gives the same table, else as a Gather from the table itself.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qcompiler import __version__
from qcompiler.arguments import check_path, check_text
from qcompiler.artifact.replacing import replacing
from qcompiler.compiled import CompiledModel
from qcompiler.dims import Dim
from qcompiler.errors import LoweringError, nearest
from qcompiler.export.onnx import dynamic, elementwise, layers, movement, recurrent
from qcompiler.export.onnx.builder import ELEMENTS, OPSET, Builder, Input
from qcompiler.export.onnx.functions import DOMAIN_VERSION, checked_results, write_in_domain
from qcompiler.export.onnx.node import WRITERS, NodeWriter, Refusal
from qcompiler.export.onnx.tables import write_lookup
from qcompiler.export.own import find_exporter, why_no_exporter
from qcompiler.export.refusals import check_graph, graph_of
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.opdef import opdef
from qcompiler.ops.interfaces import Conversion
from qcompiler.ops.quantized import Lookup
from qcompiler.types import DType

FORMS = ("qdq", "qoperator")
_IR_VERSION = 10
_MOST_BYTES = 2**31 - 1
"""The most that a protobuf message may hold."""
assert dynamic and elementwise and layers and movement and recurrent  # imported for their writers


def export_onnx(model: CompiledModel | Graph, path: str | os.PathLike[str], *, form: str = "qdq") -> None:
    """Write a model as an ONNX file of opset 21: docs/export.md.

    Args:
        model: a compiled model, or a graph of the stage float, qdq or integer; sizes may be symbolic.
        path: the file, which replaces an older one by a rename.
        form: "qdq" puts codes between QuantizeLinear and DequantizeLinear. "qoperator" computes products and
            convolutions on codes: QLinearConv, QLinearMatMul, MatMulInteger.

    Raises:
        LoweringError: another form, a stage that is not exported, nodes that have no form in ONNX (all are named), a
            model of 2 GB or more, or the onnx package is not installed.
        ArtifactError: the file cannot be written.
    """
    check_path("path", path)
    check_text("form", form, '"qdq" or "qoperator"')
    if form not in FORMS:
        raise LoweringError(f"unknown form {form!r} of an ONNX file", hint=nearest(form, FORMS))
    proto = onnx_model(graph_of(model), form)
    if proto.ByteSize() > _MOST_BYTES:
        raise LoweringError(
            "the model is too large for one ONNX file", expected="2 GB", got=f"{proto.ByteSize()} bytes"
        )
    data = proto.SerializeToString(deterministic=True)
    with replacing(path) as file:
        file.write(data)


def onnx_model(graph: Graph, form: str = "qdq") -> onnx.ModelProto:
    """The ONNX model of a graph; errors as for `export_onnx`."""
    check_graph(graph, "ONNX", lambda node: None)
    model = Model(graph, form)
    model.write()
    check_graph(graph, "ONNX", lambda node: model.refused.get(id(node)))
    return model.proto()


class Model:
    """One graph while it is written.

    Attributes:
        refused: id of a node -> why it has no form in ONNX.
        done: ids of the nodes that are written.
        written_ahead: id of a node -> the outputs of an op that computes it too, and was written for another node.
    """

    def __init__(self, graph: Graph, form: str) -> None:
        self.graph, self.form = graph, form
        self.refused: dict[int, str] = {}
        self.done: set[int] = set()
        self.written_ahead: dict[int, list[str]] = {}
        self.names = _names(graph)
        self.outputs = self._output_names()
        self.used = {*self.names.values(), *self.outputs}
        taken = {*self.used, *(value.name for value in graph.values())}
        self.build = Builder([Input(value.name, value.type) for value in graph.inputs], taken)
        self.functions: list[onnx.FunctionProto] = []
        self._reals: dict[int, str] = {}
        self._transposed: dict[int, str] = {}

    def _output_names(self) -> list[str]:
        """The names of the outputs, each once."""
        found: list[str] = []
        for name in self.graph.output_names:
            base, count = name or "output", 0
            while name in found or not name:
                count += 1
                name = f"{base}_{count}"
            found.append(name)
        return found

    # -- tensors

    def real(self, value: Value) -> str:
        """The tensor of a value as real numbers; a value that is not quantized as it is."""
        if not value.type.is_quantized:
            return self.names[id(value)]
        if id(value) not in self._reals:
            self._reals[id(value)] = self._dequantized(value, self.names[id(value)], f"{value.name}.real")
        return self._reals[id(value)]

    def _dequantized(self, value: Value, tensor: str, base: str, axis: int | None = None) -> str:
        given = [tensor, *self.params(value)]
        axis = value.type.params.axis if axis is None else axis
        return self.build.add("DequantizeLinear", given, base, axis=axis)[0]

    def params(self, value: Value) -> list[str]:
        """The scale and the zero point of a quantized value."""
        quant, name = value.type.params, self.names[id(value)]
        shape: tuple[int, ...] = () if quant.axis is None else (len(quant.scale),)
        scale = self.build.constant(quant.scales.reshape(shape), f"{name}.scale")
        points = np.array(quant.zero_point, value.type.dtype.numpy).reshape(shape)
        return [scale, self.build.constant(points, f"{name}.zero_point")]

    def transposed(self, value: Value) -> str:
        """A matrix as real numbers, transposed. A constant is transposed here, so that its product is a MatMul."""
        if id(value) not in self._transposed:
            name = self.names[id(value)]
            if not isinstance(value, Const):
                found = self.build.add("Transpose", [self.real(value)], f"{name}.transposed", perm=[1, 0])[0]
            else:
                turned = self.build.initializer(self.build.fresh(f"{name}.transposed"), value.data.T)
                quant = value.type.quant
                if quant is None:
                    found = turned
                else:
                    axis = None if quant.axis is None else 1 - quant.axis
                    found = self._dequantized(value, turned, f"{name}.transposed.real", axis)
            self._transposed[id(value)] = found
        return self._transposed[id(value)]

    def unsigned(self, value: Const, data: np.ndarray) -> list[str]:
        """Codes of a weight as u8, with scale and zero point. i8 becomes u8, plus 128: products of u8 and i8 saturate
        in ONNX Runtime on CPUs without VNNI, and those of u8 and u8 do not."""
        quant, name = value.type.params, self.names[id(value)]
        shift = 128 if value.type.dtype.min else 0
        codes = (data.astype(np.int16) + shift).astype(np.uint8)
        points = np.array([point + shift for point in quant.zero_point], np.uint8)
        shape: tuple[int, ...] = () if quant.axis is None else (len(quant.scale),)
        return [
            self.build.initializer(self.build.fresh(f"{name}.codes"), codes),
            self.build.constant(quant.scales.reshape(shape), f"{name}.scale"),
            self.build.constant(points.reshape(shape), f"{name}.codes.zero_point"),
        ]

    def quantized(self, real: str, value: Value) -> str:
        """Real numbers as the codes of a value."""
        quant, dtype, name = value.type.params, value.type.dtype, self.names[id(value)]
        if (quant.qmin, quant.qmax) != (_FULL[dtype]):
            if quant.axis is not None:
                raise Refusal("codes per channel in a part of their type's range")
            ends = [
                np.float32((q - quant.zero_point[0]) * np.float64(quant.scale[0])) for q in (quant.qmin, quant.qmax)
            ]
            low, high = (self.build.constant(end, f"{name}.bound") for end in ends)
            real = self.build.add("Clip", [real, low, high], f"{name}.clipped")[0]
        given = [real, *self.params(value)]
        codes = self.build.add("QuantizeLinear", given, f"{name}.codes", axis=quant.axis)[0]
        return self.build.kept_words(codes, name) if dtype is DType.I16 else codes

    # -- nodes

    def write(self) -> None:
        """All nodes, then the outputs. A node that has no form is recorded in `refused`."""
        for node in self.graph.nodes:
            first = len(self.build.nodes)
            self.done.add(id(node))
            try:
                results = self._node(node)
            except Refusal as refusal:
                self.refused[id(node)] = str(refusal)
                continue
            for tensor, value in zip(results, node.results):
                self._finish(tensor, value, first)
        for value, name in zip(self.graph.outputs, self.outputs):
            if self.names[id(value)] != name:
                self.build.nodes.append(helper.make_node("Identity", [self.names[id(value)]], [name], name=name))

    def _node(self, node: Node) -> list[str]:
        """The tensors of a node's results, under whatever names."""
        value = node.results[0]
        if Lookup.of(node) is not None:
            return [write_lookup(NodeWriter(self, node))]
        conversion = Conversion.of(node)
        if conversion is not None:
            operand = conversion.x
            if operand.type.is_quantized and not value.type.is_quantized:
                return [self._dequantized(operand, self.names[id(operand)], f"{self.names[id(value)]}.real")]
            return [self.quantized(self.real(operand), value)]
        if self.form == "qoperator":
            from qcompiler.export.onnx.qoperator import write_on_codes

            found = write_on_codes(NodeWriter(self, node))
            if found is not None:
                return [found]
        if opdef(node.op).is_own:
            results = self._own(node)
        else:
            writer = WRITERS.get(node.op)
            if writer is None:
                raise Refusal("ONNX has no such op")
            made = writer(NodeWriter(self, node))
            results = [made] if isinstance(made, str) else list(made)
        if value.type.is_quantized:
            results = [self.quantized(self.named(results[0], value), value)]
        return results

    def _own(self, node: Node) -> list[str]:
        """The real results of an op of a user."""
        exporter = find_exporter("onnx", node.op)
        if exporter is None:
            raise Refusal(why_no_exporter("onnx", opdef(node.op)))
        if exporter.domain is not None:
            return write_in_domain(self, node, exporter)
        assert exporter.write is not None
        return checked_results(exporter.write(NodeWriter(self, node)), node)

    def function(self, made: onnx.FunctionProto) -> str:
        """Add a function of the model, unless it has an equal one; its overload."""
        alike = [each for each in self.functions if (each.domain, each.name) == (made.domain, made.name)]
        for each in alike:
            made.overload = each.overload
            if made == each:
                return each.overload
        made.overload = str(len(alike)) if alike else ""
        self.functions.append(made)
        return made.overload

    def named(self, real: str, value: Value) -> str:
        """The real result of a node, which gets the name of its value if a node has just made it."""
        if value.name in self.used or self.build.nodes[-1].output[0] != real:
            return real
        self.build.rename(real, value.name, len(self.build.nodes) - 1)
        return value.name

    def _finish(self, tensor: str, value: Value, first: int) -> None:
        """Give a result the name of its value."""
        name = self.names[id(value)]
        if any(tensor in node.output for node in self.build.nodes[first:]):
            self.build.rename(tensor, name, first)
        else:  # the node hands an operand on
            self.build.nodes.append(helper.make_node("Identity", [tensor], [name], name=name))
        if value.producer is not None and value.producer.origin:
            self.build.nodes[-1].doc_string = " + ".join(origin.path for origin in value.producer.origin)

    # -- the file

    def proto(self) -> onnx.ModelProto:
        read = self.build.read()
        for const in self.graph.consts.values():
            name = self.names[id(const)]
            if name in read or name in self.outputs:
                self.build.initializer(name, const.data)
        inputs = [_info(self.names[id(value)], value) for value in self.graph.inputs]
        outputs = [_info(name, value) for name, value in zip(self.outputs, self.graph.outputs)]
        graph = helper.make_graph(self.build.nodes, self.graph.name or "main", inputs, outputs, self.build.initializers)
        domains = sorted({node.domain for node in self.build.nodes} - {""})
        return helper.make_model(
            graph,
            functions=self.functions,
            opset_imports=[helper.make_opsetid("", OPSET), *(helper.make_opsetid(d, DOMAIN_VERSION) for d in domains)],
            ir_version=_IR_VERSION,
            producer_name="qcompiler",
            producer_version=__version__,
        )


_FULL = {dtype: (dtype.min, dtype.max) for dtype in DType if dtype.is_integer}


def _names(graph: Graph) -> dict[int, str]:
    """The name of each value's tensor: its own. A result that is an output has the output's name, where no other tensor
    has it."""
    taken = {value.name for value in (*graph.inputs, *graph.consts.values())}
    found = {id(value): value.name for value in (*graph.inputs, *graph.consts.values())}
    public = dict(zip(graph.output_names, graph.outputs))
    own = {value.name for value in graph.values()}
    for name, value in public.items():
        if id(value) not in found and name and name not in taken:
            found[id(value)] = name
            taken.add(name)
    for value in graph.values():
        if id(value) in found:
            continue
        is_computed = value.producer is not None and not issubclass(opdef(value.producer.op), Conversion)
        base = f"{value.name}.codes" if value.type.is_quantized and is_computed else value.name
        name, count = base, 0
        while name in taken or name in public or not name or (name != value.name and name in own):
            count += 1
            name = f"{base}_{count}"
        found[id(value)] = name
        taken.add(name)
    return found


def _info(name: str, value: Value) -> Any:
    shape = [str(size) if isinstance(size, Dim) else int(size) for size in value.type.shape]
    return helper.make_tensor_value_info(name, ELEMENTS[value.type.dtype], shape)
