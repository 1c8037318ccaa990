"""decompose: replace ops by equal simpler ones, so that later rewrites see one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.ops.activations import LeakyRelu, Prelu
from qcompiler.ops.elementwise import Add, Sub
from qcompiler.ops.linear import Linear, Matmul
from qcompiler.ops.quantized import Dequantize
from qcompiler.passes.dequantized import codes_behind
from qcompiler.passes.rewrite import Refusal, Rewrite, RewritePass, erase_if_unread
from qcompiler.types import TensorType


@dataclass(frozen=True)
class _ByMatrix:
    """A matmul by a matrix that is a constant, or is dequantized from one."""

    matmul: Matmul
    matrix: Const


class _MatmulByConstant(Rewrite[_ByMatrix]):
    rule = "matmul as linear"
    ops = (Matmul,)

    def match(self, graph: Graph, node: Node) -> _ByMatrix | Refusal:
        matmul = Matmul(node)
        x, weight = matmul.x, matmul.y
        matrix = _constant(weight)
        if matrix is None:
            return self.refuse(node, f"%{weight.name} is not constant")
        if _constant(x) is not None or matrix.type.rank != 2:
            return self.refuse(node, f"its operands are {x.type} and {weight.type}, not an activation and a matrix")
        return _ByMatrix(matmul, matrix)

    def rewrite(self, graph: Graph, match: _ByMatrix) -> None:
        matmul, const, weight = match.matmul, match.matrix, match.matmul.y
        type, quant = const.type, const.type.quant
        if quant is not None:
            quant = quant.moved(None if quant.axis is None else 1 - quant.axis)
        transposed: Value = graph.add_const(
            f"{const.name}.t", const.data.T, TensorType(type.dtype, type.shape[::-1], quant)
        )
        dequantize = weight.producer  # if the matrix is quantized
        if dequantize is not None:
            transposed = graph.create(
                Dequantize.name,
                [transposed],
                types=TensorType(weight.type.dtype, type.shape[::-1]),
                names=f"{weight.name}.t",
                loc=dequantize.loc,
                before=matmul.node,
            ).result
        graph.replace(matmul.node, Linear.name, [matmul.x, transposed])
        if dequantize is not None:
            erase_if_unread(graph, dequantize)


def _constant(value: Value) -> Const | None:
    """The constant that a value is, or is dequantized from."""
    source = codes_behind(value) or value
    return source if isinstance(source, Const) else None


@dataclass(frozen=True)
class _Subtracted:
    sub: Sub
    constant: Const


class _SubtractedConstant(Rewrite[_Subtracted]):
    rule = "sub as add"
    ops = (Sub,)

    def match(self, graph: Graph, node: Node) -> _Subtracted | Refusal:
        sub = Sub(node)
        y = sub.y
        if sub.x.is_const or not isinstance(y, Const):
            return self.refuse(node, f"%{y.name} is not constant")
        return _Subtracted(sub, y) if y.type.dtype.is_float else self.refuse(node, f"{y.type} is not float")

    def rewrite(self, graph: Graph, match: _Subtracted) -> None:
        y = match.constant
        graph.replace(match.sub.node, Add.name, [match.sub.x, graph.add_const(f"{y.name}.neg", -y.data)])


@dataclass(frozen=True)
class _Slope:
    prelu: Prelu
    slope: float


class _OneSlope(Rewrite[_Slope]):
    rule = "prelu as leaky_relu"
    ops = (Prelu,)

    def match(self, graph: Graph, node: Node) -> _Slope | Refusal:
        prelu = Prelu(node)
        weight = prelu.weight
        if not isinstance(weight, Const):
            return self.refuse(node, f"%{weight.name} is not constant")
        if weight.type.elements != 1:
            return self.refuse(node, f"{weight.type} is a slope a channel")
        return _Slope(prelu, float(weight.data.reshape(())))

    def rewrite(self, graph: Graph, match: _Slope) -> None:
        attrs = {LeakyRelu.negative_slope.name: match.slope}
        graph.replace(match.prelu.node, LeakyRelu.name, [match.prelu.x], attrs)


@dataclass(frozen=True)
class Decompose(RewritePass):
    """matmul(x, W) = linear(x, W^T) for a constant matrix, quantized or not;  x - c = x + (-c), exactly;  prelu with
    one slope = leaky_relu.

    The weight of a linear can be quantized per channel, an added constant may become a bias, and leaky_relu becomes a
    lookup table.

    Before:
        %m = matmul(%x, @w) : f32[2,4]
        %y = sub(%m, @c) : f32[2,4]
    After:
        %m = linear(%x, @w.t) : f32[2,4]
        %y = add(%m, @c.neg) : f32[2,4]
    """

    name: ClassVar[str] = "decompose"

    def rules(self, graph: Graph) -> Sequence[Rewrite[Any]]:
        return _MatmulByConstant(), _SubtractedConstant(), _OneSlope()
