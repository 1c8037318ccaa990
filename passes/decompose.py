"""decompose: ops that mean the same as simpler ones become those, so that later rules see one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.passes.rewrite import Rewrite, RewritePass
from qcompiler.types import TensorType


class _MatmulByConstant:
    rule = "matmul as linear"
    ops = ("matmul",)

    def check(self, graph: Graph, node: Node) -> str | None:
        x, weight = node.operands
        const = _constant(weight)
        if const is None:
            return f"%{weight.name} is not constant"
        if _constant(x) is not None or const.type.rank != 2:
            return f"its operands are {x.type} and {weight.type}, not an activation and a matrix"
        return None

    def rewrite(self, graph: Graph, node: Node) -> None:
        x, weight = node.operands
        const = _constant(weight)
        type, quant = const.type, const.type.quant
        if quant is not None:
            quant = quant.moved(None if quant.axis is None else 1 - quant.axis)
        transposed: Value = graph.add_const(
            f"{const.name}.t", const.data.T, TensorType(type.dtype, type.shape[::-1], quant)
        )
        if weight is not const:  # a quantized matrix, dequantized
            transposed = graph.create(
                "dequantize",
                [transposed],
                types=TensorType(weight.type.dtype, type.shape[::-1]),
                names=f"{weight.name}.t",
                loc=weight.producer.loc,
                before=node,
            ).result
        graph.replace(node, "linear", [x, transposed])
        if weight is not const and not weight.uses and not graph.is_output(weight):
            graph.erase(weight.producer)


def _constant(value: Value) -> Const | None:
    """The constant that a value is, or dequantizes."""
    if value.producer is not None and value.producer.op == "dequantize":
        value = value.producer.operands[0]
    return value if isinstance(value, Const) else None


class _SubtractedConstant:
    rule = "sub as add"
    ops = ("sub",)

    def check(self, graph: Graph, node: Node) -> str | None:
        x, y = node.operands
        if x.is_const or not isinstance(y, Const):
            return f"%{y.name} is not constant"
        return None if y.type.dtype.is_float else f"{y.type} is not float"

    def rewrite(self, graph: Graph, node: Node) -> None:
        x, y = node.operands
        graph.replace(node, "add", [x, graph.add_const(f"{y.name}.neg", -y.data)])


class _OneSlope:
    rule = "prelu as leaky_relu"
    ops = ("prelu",)

    def check(self, graph: Graph, node: Node) -> str | None:
        weight = node.operands[1]
        if not isinstance(weight, Const):
            return f"%{weight.name} is not constant"
        return None if weight.type.elements == 1 else f"{weight.type} is a slope a channel"

    def rewrite(self, graph: Graph, node: Node) -> None:
        x, weight = node.operands
        graph.replace(node, "leaky_relu", [x], {"negative_slope": float(weight.data.reshape(()))})


@dataclass(frozen=True)
class Decompose(RewritePass):
    """matmul(x, W) = linear(x, W^T) for a constant matrix, quantized or not;  x - c = x + (-c), exactly;  prelu with
    one slope = leaky_relu.

    linear carries weights, which are quantized by channel; an added constant may become a bias; leaky_relu becomes a
    table.

    Before:
        %m = matmul(%x, @w) : f32[2,4]
        %y = sub(%m, @c) : f32[2,4]
    After:
        %m = linear(%x, @w.t) : f32[2,4]
        %y = add(%m, @c.neg) : f32[2,4]
    """

    name: ClassVar[str] = "decompose"

    def rules(self, graph: Graph) -> Sequence[Rewrite]:
        return _MatmulByConstant(), _SubtractedConstant(), _OneSlope()
