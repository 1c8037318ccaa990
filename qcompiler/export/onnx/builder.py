"""Nodes, constants and names of an ONNX graph that is being made, and sizes as expressions of its inputs."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qcompiler.dims import Dim, DimLike
from qcompiler.export.sizes import parsed_size, size_name
from qcompiler.types import DType, TensorType

OPSET = 21
"""The oldest opset with DequantizeLinear of 16 bits."""
ELEMENTS = {
    DType.F32: onnx.TensorProto.FLOAT,
    DType.F16: onnx.TensorProto.FLOAT16,
    DType.F64: onnx.TensorProto.DOUBLE,
    DType.I64: onnx.TensorProto.INT64,
    DType.I32: onnx.TensorProto.INT32,
    DType.I16: onnx.TensorProto.INT16,
    DType.I8: onnx.TensorProto.INT8,
    DType.U8: onnx.TensorProto.UINT8,
    DType.I4: onnx.TensorProto.INT8,
    DType.U4: onnx.TensorProto.UINT8,
    DType.BOOL: onnx.TensorProto.BOOL,
}
"""4-bit codes are written a byte each."""
_ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.FloorDiv: "Div"}


class Input(NamedTuple):
    """A tensor that is given to a graph or a function, and its type."""

    name: str
    type: TensorType


class Builder:
    """Grows the nodes and initializers of one ONNX graph. A tensor is known by its name.

    Args:
        inputs: what the graph is given, which binds the names of sizes.
        taken: names that generated tensors must not get.
    """

    def __init__(self, inputs: Sequence[Input], taken: set[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._taken = {"", *taken}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._sizes: dict[str, str] = {}
        self._places = {
            str(size): (value.name, axis)
            for value in reversed(inputs)
            for axis, size in reversed(list(enumerate(value.type.shape)))
            if isinstance(size, Dim)
        }

    def fresh(self, base: str) -> str:
        """A name that no tensor has, `base` if it is free."""
        name, count = base, 0
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name

    def initializer(self, name: str, array: np.ndarray) -> str:
        """A constant under a name that was reserved for it."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def constant(self, array: Any, base: str) -> str:
        """A constant; equal ones are one initializer, with the name that the first one asked for."""
        array = np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.initializer(self.fresh(base), array)
        return self._constants[key]

    def add(self, kind: str, inputs: Sequence[str], base: str, results: int = 1, **attrs: Any) -> list[str]:
        """A node; its new outputs."""
        outputs = [self.fresh(base if results == 1 else f"{base}.{index}") for index in range(results)]
        given = {key: value for key, value in attrs.items() if value is not None}
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=outputs[0], **given))
        return outputs

    def kept_words(self, codes: str, base: str) -> str:
        """16-bit codes that QuantizeLinear has just made, behind a BitwiseOr with 0, which changes none.

        OpenVINO removes a QuantizeLinear of 16 bits with the DequantizeLinear that reads it, as if that only rounded:
        then nothing saturates. It keeps them where another op lies between.
        """
        return self.add("BitwiseOr", [codes, self.constant(np.int16(0), "no_bits")], f"{base}.words")[0]

    @contextmanager
    def body(self) -> Iterator[list[onnx.NodeProto]]:
        """The nodes that are added meanwhile: those of a body. They may read what was made before; sizes and other
        tensors that later nodes share must be made before, too."""
        outer, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outer

    def read(self) -> set[str]:
        """The tensors that nodes read, those of bodies too."""
        found, left = set(), list(self.nodes)
        while left:
            node = left.pop()
            found.update(node.input)
            left += [inner for attr in node.attribute for inner in attr.g.node]
        return found

    def rename(self, tensor: str, name: str, first: int) -> None:
        """Give the output of a node another name. `first`: the nodes from this one on may read it."""
        for node in self.nodes[first:]:
            for names in (node.input, node.output):
                for index, each in enumerate(names):
                    if each == tensor:
                        names[index] = name
            if node.name == tensor:
                node.name = name

    # -- sizes

    def shape(self, sizes: Sequence[DimLike], base: str) -> str:
        """An i64 tensor of sizes, of which some may be symbolic."""
        known = [size for size in sizes if not isinstance(size, Dim)]
        if len(known) == len(sizes):
            return self.constant(np.array(known, np.int64), f"{base}.shape")
        parts = [self.size(size, base) for size in sizes]
        return self.add("Concat", parts, f"{base}.shape", axis=0)[0]

    def size(self, size: DimLike, base: str) -> str:
        """An i64 tensor of one size."""
        if not isinstance(size, Dim):
            return self.constant(np.array([int(size)], np.int64), f"{base}.size")
        text = str(size)
        if text not in self._sizes:
            self._sizes[text] = self._expression(parsed_size(size), text)
        return self._sizes[text]

    def _expression(self, part: ast.expr, text: str) -> str:
        if isinstance(part, ast.Constant):
            return self.constant(np.array([part.value], np.int64), "number")
        if isinstance(part, ast.Name):
            name = size_name(part)
            if name not in self._sizes:
                value, axis = self._places[name]
                self._sizes[name] = self.add("Shape", [value], f"size.{name}", start=axis, end=axis + 1)[0]
            return self._sizes[name]
        if isinstance(part, ast.UnaryOp):
            return self.add("Neg", [self._expression(part.operand, text)], f"size.{text}")[0]
        assert isinstance(part, ast.BinOp)
        sides = [self._expression(side, text) for side in (part.left, part.right)]
        return self.add(_ARITHMETIC[type(part.op)], sides, f"size.{text}")[0]
