"""One node while its torch ops are recorded, and the tables of writers by op."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from qcompiler.dims import Dim, DimLike
from qcompiler.export.sizes import parsed_size, size_name
from qcompiler.ir import Const, Node, Value
from qcompiler.opdef import Op, op_of
from qcompiler.types import DType, TensorType

if TYPE_CHECKING:
    from qcompiler.export.torch.module import Recorder

Tensor = Any
"""A torch tensor of the module: a proxy that records what is done with it."""
Writer = Callable[["NodeWriter"], Any]
REALS: dict[str, Writer] = {}
CODES: dict[str, Writer] = {}
MOVES: dict[str, Writer] = {}
"""Op -> the function that records its float meaning, its integer meaning, or how it moves elements of any type."""
Given = TypeVar("Given", bound=Writer)
DTYPES = {
    DType.F32: torch.float32,
    DType.F16: torch.float16,
    DType.F64: torch.float64,
    DType.I64: torch.int64,
    DType.I32: torch.int32,
    DType.I16: torch.int16,
    DType.I8: torch.int8,
    DType.U8: torch.uint8,
    DType.I4: torch.int8,
    DType.U4: torch.uint8,
    DType.BOOL: torch.bool,
}
LAST = 2**63 - 1
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


class Refusal(Exception):
    """Why a node has no form in torch."""


def writes(table: dict[str, Writer], *ops: type[Op]) -> Callable[[Given], Given]:
    """Register a writer."""

    def register(writer: Given) -> Given:
        for op in ops:
            assert op.name not in table, op.name
            table[op.name] = writer
        return writer

    return register


class NodeWriter:
    """What a writer knows of its node."""

    def __init__(self, recorder: Recorder, node: Node) -> None:
        self.recorder, self.node = recorder, node
        self.op: Any = op_of(node)

    @property
    def out(self) -> TensorType:
        return self.node.results[0].type

    def value(self, index: int = 0) -> Value:
        found = self.node.operands[index]
        assert found is not None
        return found

    def type(self, index: int = 0) -> TensorType:
        return self.value(index).type

    def has(self, index: int) -> bool:
        return index < len(self.node.operands) and self.node.operands[index] is not None

    def x(self, index: int = 0) -> Tensor:
        """An operand as it is: codes, real numbers or integers."""
        return self.recorder.tensor(self.value(index))

    def xs(self) -> list[Tensor]:
        return [self.x(index) for index in range(len(self.node.operands))]

    def data(self, index: int, why: str) -> np.ndarray:
        value = self.value(index)
        if not isinstance(value, Const):
            raise Refusal(f"{why} is no constant")
        return value.data

    def buffer(self, array: Any) -> Tensor:
        """A constant of the module."""
        return self.recorder.buffer(np.asarray(array))

    def size(self, size: DimLike) -> Any:
        """A size: an int, or what the module computes of its inputs' sizes."""
        if not isinstance(size, Dim):
            return int(size)
        return self._expression(parsed_size(size))

    def _expression(self, part: ast.expr) -> Any:
        if isinstance(part, ast.Constant):
            return part.value
        if isinstance(part, ast.Name):
            return self.recorder.size(size_name(part))
        if isinstance(part, ast.UnaryOp):
            return self._expression(part.operand) * -1
        assert isinstance(part, ast.BinOp)
        return _ARITHMETIC[type(part.op)](self._expression(part.left), self._expression(part.right))

    def sizes(self, shape: Sequence[DimLike]) -> list[Any]:
        return [self.size(size) for size in shape]

    def known(self, shape: Sequence[DimLike], what: str) -> list[int]:
        """Sizes that must be numbers."""
        found = [size for size in shape if not isinstance(size, Dim)]
        if len(found) != len(shape):
            raise Refusal(f"{what} of a size that is not known")
        return found


def cut(x: Tensor, axis: int, start: Any, stop: Any, step: int = 1) -> Tensor:
    """x[start:stop:step] along an axis."""
    return torch.ops.aten.slice(x, axis, start, stop, step)


def spatial_pads(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """(before, after) of the last axes in the order of torch.nn.functional.pad."""
    return [size for pair in reversed(pairs) for size in pair]


def padded(x: Tensor, pairs: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    if not any(size for pair in pairs for size in pair):
        return x
    return torch.nn.functional.pad(x, spatial_pads(pairs), "constant", float(value))


def windows(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """x [N, C, *S], padded, as windows [N, C, *outputs, *kernel], and the axes of the kernel."""
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation), 2):
        x = x.unfold(axis, d * (k - 1) + 1, s)
    axes = [2 + len(kernel) + axis for axis in range(len(kernel))]
    for axis, d in zip(axes, dilation):
        x = cut(x, axis, 0, LAST, d) if d > 1 else x
    return x, axes


def convolved(x: Tensor, weight: Tensor, op: Any, transposed: bool = False) -> Tensor:
    """A convolution of padded values without its bias, in the element type of its operands."""
    rank = len(op.stride)
    kind = f"conv_transpose{rank}d" if transposed else f"conv{rank}d"
    function = getattr(torch.nn.functional, kind)
    if not transposed:
        return function(padded(x, op.padding), weight, None, list(op.stride), [0] * rank, list(op.dilation), op.groups)
    y = function(x, weight, None, list(op.stride), [0] * rank, [0] * rank, op.groups, list(op.dilation))
    return padded(y, [(-p[0], extra - p[1]) for p, extra in zip(op.padding, op.output_padding)])


def torch_weight(w: NodeWriter, weight: Tensor) -> Tensor:
    """The weight [C/g, O, *K] of a conv_transpose as torch's [C, O/g, *K]."""
    depth, outputs, *kernel = w.type(1).sizes
    groups = w.op.groups
    if groups == 1:
        return weight
    split = weight.reshape([depth, groups, outputs // groups, *kernel])
    return torch.transpose(split, 0, 1).reshape([depth * groups, outputs // groups, *kernel])


def window_pads(w: NodeWriter) -> list[tuple[int, int]]:
    """The padding of a pool, with what ceil_mode adds at the end."""
    from qcompiler.ops.windows import output_sizes

    op = w.op
    pairs = [tuple(pair) for pair in op.padding]
    if not op.ceil_mode:
        return pairs
    shape = w.known(w.type().shape[2:], "ceil_mode")
    outputs = output_sizes((1, 1, *shape), op.kernel, op.stride, op.padding, op.dilations, True)
    found = []
    for size, out, k, s, d, pair in zip(shape, outputs, op.kernel, op.stride, op.dilations, pairs):
        found.append((pair[0], max(pair[1], (out - 1) * s + d * (k - 1) + 1 - pair[0] - size)))
    return found


def along(array: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """One number for each element of an axis, shaped to broadcast; one number for all stays one."""
    return array.reshape([-1 if index == axis else 1 for index in range(rank)]) if array.size > 1 else array.reshape(())
