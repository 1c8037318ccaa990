"""One node while it is written: its op, its operands as real tensors, and the table of writers by op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.ir import Const, Node, Value
from qcompiler.opdef import Op, op_of
from qcompiler.types import TensorType

if TYPE_CHECKING:
    from qcompiler.export.onnx.model import Model

Writer = Callable[["NodeWriter"], "str | list[str]"]
WRITERS: dict[str, Writer] = {}
"""Op -> the function that writes its float meaning and gives its results."""
Given = TypeVar("Given", bound=Writer)


class Refusal(Exception):
    """Why a node has no form in ONNX."""


def writes(*ops: type[Op]) -> Callable[[Given], Given]:
    """Register a writer."""

    def register(writer: Given) -> Given:
        for op in ops:
            assert op.name not in WRITERS, op.name
            WRITERS[op.name] = writer
        return writer

    return register


class NodeWriter:
    """What a writer knows of its node, and how it makes tensors.

    Attributes:
        op: the typed view of the node; `operand` gives the real tensors of its operands.
        base: the name that its tensors' names begin with.
    """

    def __init__(self, model: Model, node: Node) -> None:
        self.model, self.node, self.build = model, node, model.build
        self.base = node.name
        self.op: Any = op_of(node)
        self.operands = list(node.operands)

    def type(self, index: int = 0) -> TensorType:
        """The real type of an operand."""
        return self.value(index).type.expressed()

    @property
    def out(self) -> TensorType:
        return self.node.results[0].type.expressed()

    def value(self, index: int) -> Value:
        found = self.operands[index]
        assert found is not None
        return found

    def has(self, index: int) -> bool:
        return index < len(self.operands) and self.operands[index] is not None

    def x(self, index: int = 0) -> str:
        """An operand as real numbers, or as plain integers; "" where it is absent."""
        return self.model.real(self.value(index)) if self.has(index) else ""

    def xs(self) -> list[str]:
        return [self.x(index) for index in range(len(self.operands))]

    def data(self, index: int, why: str) -> np.ndarray:
        """The array of a constant operand that is not quantized; Refusal for any other."""
        value = self.value(index)
        if not isinstance(value, Const) or value.type.is_quantized:
            raise Refusal(f"{why} is no constant")
        return value.data

    def emit(self, kind: str, *inputs: str, **attrs: Any) -> str:
        """A node of one result."""
        return self.build.add(kind, inputs, f"{self.base}.{kind.lower()}", **attrs)[0]

    def emits(self, results: int, kind: str, *inputs: str, **attrs: Any) -> list[str]:
        return self.build.add(kind, inputs, f"{self.base}.{kind.lower()}", results, **attrs)

    def number(self, value: float | int, type: TensorType | None = None) -> str:
        """A scalar of a type, by default that of the first operand."""
        dtype = (type or self.type()).dtype
        return self.build.constant(np.asarray(value, dtype.numpy), f"{self.base}.number")

    def constant(self, array: Any, what: str = "constant") -> str:
        return self.build.constant(array, f"{self.base}.{what}")

    def ints(self, values: Sequence[int], what: str = "axes") -> str:
        return self.constant(np.array(values, np.int64), what)

    def shape(self, sizes: Sequence[DimLike]) -> str:
        return self.build.shape(sizes, self.base)

    def reshape(self, x: str, sizes: Sequence[DimLike]) -> str:
        """x under another shape. One symbolic size is written as -1."""
        symbolic = [index for index, size in enumerate(sizes) if isinstance(size, Dim)]
        if len(symbolic) == 1 and 0 not in sizes and -1 not in sizes:
            sizes = [-1 if index in symbolic else size for index, size in enumerate(sizes)]
        return self.emit("Reshape", x, self.shape(sizes), allowzero=1 if 0 in sizes else None)

    def activated(self, x: str, activation: str | None = None) -> str:
        """x behind the fused activation."""
        name = self.op.activation if activation is None else activation
        if name == "relu":
            return self.emit("Relu", x)
        if name == "relu6":
            return self.emit("Clip", x, self.number(0.0, self.out), self.number(6.0, self.out))
        return x


def pads(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """(before, after) of each axis in ONNX's order: all before, then all after."""
    return [before for before, _ in pairs] + [after for _, after in pairs]
