"""dynamic-products: make integer products of codes whose parameters are computed while the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompiler.dims import Dim
from qcompiler.errors import QuantizationError
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.ops.dynamic import DynamicLinear
from qcompiler.ops.elementwise import Add, Cast, Mul, Sub
from qcompiler.ops.linear import Linear
from qcompiler.ops.shape import Expand
from qcompiler.passes.dequantized import codes_behind
from qcompiler.passes.rewrite import Refusal, Rewrite, RewritePass, erase_if_unread, why_not_alone
from qcompiler.quantization.qmath import MOST_DYNAMIC_TERMS
from qcompiler.types import DType, QuantParams, TensorType


@dataclass(frozen=True)
class _Product:
    """(q - zero_point) @ weight: `zero_point` is a value, or a number."""

    linear: Linear
    q: Value
    zero_point: Value | int
    weight: Const


class _AsIntegers(Rewrite[_Product]):
    """linear(q - z, w) = dynamic_linear(q, 1, z, w)."""

    rule = "integer product"
    ops = (Linear,)

    def match(self, graph: Graph, node: Node) -> _Product | Refusal:
        linear = Linear(node)
        weight = codes_behind(linear.weight)
        found = _centered(linear.x)
        if found is None:
            return self.refuse(node, "its operand is no difference of u8 codes and their zero point")
        if not isinstance(weight, Const) or weight.type.dtype not in (DType.I8, DType.U8):
            return self.refuse(node, "its weight is no constant of 8 bits")
        if linear.bias is not None or linear.residual is not None:
            return self.refuse(node, "it has a bias or a residual")
        depth = weight.type.shape[1]
        if not isinstance(depth, int) or depth > MOST_DYNAMIC_TERMS:
            return self.refuse(node, f"sums of {depth} products could leave i32")
        return _Product(linear, *found, weight)

    def rewrite(self, graph: Graph, match: _Product) -> None:
        linear, zero_point = match.linear, match.zero_point
        node, x, dequantize = linear.node, linear.x.producer, linear.weight.producer
        point: Value
        if isinstance(zero_point, int):
            point = graph.add_const(f"{node.name}.zero_point", np.array(zero_point, np.uint8))
        else:
            point = zero_point
        ones = np.ones([1] * point.type.rank, np.float32)
        scale: Value = graph.add_const(f"{node.name}.scale", ones)
        if point.type.rank:
            shape = tuple(str(size) if isinstance(size, Dim) else size for size in point.type.shape)
            scale = graph.create(Expand.name, [scale], {Expand.shape.name: shape}, before=node).result
        graph.replace(
            node,
            DynamicLinear.name,
            [match.q, scale, point, match.weight, None],
            {DynamicLinear.activation.name: linear.activation},
        )
        for read in (x, dequantize):
            if read is not None:
                _erase_unread(graph, read)


def _centered(x: Value) -> tuple[Value, Value | int] | None:
    """(codes, zero point) of u8 codes, cast to f32, less their zero point."""
    codes = _cast_from_u8(x)
    if codes is not None:
        return codes, 0
    difference = Sub.of(x.producer) or Add.of(x.producer)
    if difference is None or (isinstance(difference, Add) and difference.activation != "none"):
        return None
    codes, point = _cast_from_u8(difference.x), _cast_from_u8(difference.y)
    if codes is None:
        return None
    if point is not None:
        fits = isinstance(difference, Sub) and point.type.shape in ((), (*codes.type.shape[:-1], 1))
        return (codes, point) if fits else None
    const = difference.y
    if isinstance(const, Const) and not const.type.rank and const.type.dtype is DType.F32:
        number = float(const.data) * (1 if isinstance(difference, Sub) else -1)  # canonicalize subtracts no constants
        return (codes, int(number)) if number in range(256) else None
    return None


def _cast_from_u8(value: Value) -> Value | None:
    cast = Cast.of(value.producer)
    if cast is None or cast.dtype is not DType.F32:
        return None
    type = cast.x.type
    return cast.x if type.dtype is DType.U8 and not type.is_quantized else None


def _erase_unread(graph: Graph, node: Node) -> None:
    """Erase a node, and what only it read, if nobody reads it."""
    operands = [value.producer for value in node.operands if value is not None]
    if any(value.uses or graph.is_output(value) for value in node.results):
        return
    graph.erase(node)
    for producer in dict.fromkeys(operands):
        if producer is not None:
            _erase_unread(graph, producer)


@dataclass(frozen=True)
class _Scaled:
    product: DynamicLinear
    mul: Node
    scale: Value
    weight_scale: np.ndarray
    unread: Node | None


class _TakeScales(Rewrite[_Scaled]):
    """dynamic_linear(q, 1, z, w of scale 1) * (s * c) = dynamic_linear(q, s, z, w of scale c)."""

    rule = "scale of an integer product"
    ops = (Mul,)

    def match(self, graph: Graph, node: Node) -> _Scaled | Refusal:
        for value, factor in _either(Mul(node)):
            product = DynamicLinear.of(value.producer)
            if product is None:
                continue
            if Mul(node).activation != "none" or product.activation != "none" or product.bias is not None:
                return self.refuse(node, "the product has a bias or an activation")
            why = why_not_alone(graph, value, node)
            if why is not None:
                return self.refuse(node, why)
            if not _is_unit(product):
                return self.refuse(node, "the product has a scale already")
            found = self._parts(product, factor)
            if found is None:
                return self.refuse(node, "the factor is no product of a scale of rows and a constant one of outputs")
            scale, weight_scale, unread = found
            return _Scaled(product, node, scale, weight_scale, unread)
        return self.refuse(node, "no factor is an integer product")

    def _parts(self, product: DynamicLinear, factor: Value) -> tuple[Value, np.ndarray, Node | None] | None:
        """(scale of rows, scales of outputs, the node that multiplied them)."""
        outputs = product.weight.type.shape[0]
        if isinstance(factor, Const):
            numbers = _scales(factor, outputs)
            return None if numbers is None else (product.scale, numbers, None)
        inner = Mul.of(factor.producer)
        if inner is None or inner.activation != "none":
            return None
        for scale, const in _either(inner):
            numbers = _scales(const, outputs) if isinstance(const, Const) else None
            if numbers is not None and scale.type == TensorType(DType.F32, product.zero_point.type.shape):
                return scale, numbers, inner.node
        return None

    def rewrite(self, graph: Graph, match: _Scaled) -> None:
        product, node = match.product, match.mul
        assert isinstance(product.weight, Const)
        numbers, given = match.weight_scale, product.weight.type.params
        points = given.zero_point
        axis = 0 if numbers.size > 1 or len(points) > 1 else None
        count = max(numbers.size, len(points))
        scales = tuple(float(each) for each in np.broadcast_to(numbers, (count,)))
        points = points if len(points) == count else points * count
        params = QuantParams(scales, points, axis, given.qmin, given.qmax)
        weight = graph.add_const(
            product.weight.name,
            product.weight.data,
            TensorType(product.weight.type.dtype, product.weight.type.shape, params),
        )
        operands = [product.x, match.scale, product.zero_point, weight, None]
        graph.replace(node, DynamicLinear.name, operands, origin=(*product.node.origin, *node.origin))
        _erase_unread(graph, product.node)
        if match.unread is not None:
            erase_if_unread(graph, match.unread)


def _either(op: Add | Mul) -> tuple[tuple[Value, Value], ...]:
    return (op.x, op.y), (op.y, op.x)


def _is_unit(product: DynamicLinear) -> bool:
    """Whether all scales of a product are 1."""
    scale = product.scale
    expand = Expand.of(scale.producer)
    scale = scale if expand is None else expand.x
    is_one = isinstance(scale, Const) and bool((scale.data == 1).all())
    return is_one and isinstance(product.weight, Const) and set(product.weight.type.params.scale) == {1.0}


def _scales(const: Const, outputs: Any) -> np.ndarray | None:
    """The numbers of a constant that multiplies outputs, if they can be scales of a weight."""
    data = np.asarray(const.data)
    if const.type.dtype is not DType.F32 or const.type.is_quantized or data.size not in (1, outputs):
        return None
    if data.size != 1 and data.shape[-1] != outputs:
        return None
    try:
        QuantParams(tuple(float(each) for each in data.ravel()), (0,) * data.size, 0, -128, 127)
    except QuantizationError:
        return None
    return data.ravel()


@dataclass(frozen=True)
class _Biased:
    product: DynamicLinear
    add: Add
    bias: Const


class _TakeBias(Rewrite[_Biased]):
    """dynamic_linear(...) + b = dynamic_linear(..., b) of a constant b, one for each output."""

    rule = "bias of an integer product"
    ops = (Add,)

    def match(self, graph: Graph, node: Node) -> _Biased | Refusal:
        add = Add(node)
        for value, bias in _either(add):
            product = DynamicLinear.of(value.producer)
            if product is None:
                continue
            if product.bias is not None or product.activation != "none":
                return self.refuse(node, "the product has a bias or an activation")
            why = why_not_alone(graph, value, node)
            if why is not None:
                return self.refuse(node, why)
            if not isinstance(bias, Const) or bias.type != TensorType(DType.F32, product.weight.type.shape[:1]):
                return self.refuse(node, "the other addend is no constant with a number for each output")
            return _Biased(product, add, bias)
        return self.refuse(node, "no addend is an integer product")

    def rewrite(self, graph: Graph, match: _Biased) -> None:
        product = match.product
        operands = [product.x, product.scale, product.zero_point, product.weight, match.bias]
        attrs = {DynamicLinear.activation.name: match.add.activation}
        origin = (*product.node.origin, *match.add.node.origin)
        graph.replace(match.add.node, DynamicLinear.name, operands, attrs, origin=origin)
        erase_if_unread(graph, product.node)


@dataclass(frozen=True)
class DynamicProducts(RewritePass):
    """(f32(q - z) @ w) * (s * c) + b = dynamic_linear(q, s, z, w of scale c, b), for codes q of u8, their scale s and
    zero point z, and constant codes w of 8 bits. Sums on the left are exact, or are rounded on the way; those on the
    right are exact. A product without scales becomes a dynamic_linear of scale 1.

    Before:
        %q, %s, %z = dynamic_quantize(%x) {axis="tensor"}
        %y = linear(sub(cast(%q), cast(%z)), dequantize(@w)) : f32[B,8]
        %r = add(mul(%y, mul(%s, @c)), @b) : f32[B,8]
    After:
        %q, %s, %z = dynamic_quantize(%x) {axis="tensor"}
        %r = dynamic_linear(%q, %s, %z, @w, @b) : f32[B,8]
    """

    name: ClassVar[str] = "dynamic-products"

    def rules(self, graph: Graph) -> Sequence[Rewrite[Any]]:
        return (_AsIntegers(), _TakeScales(), _TakeBias())

    def run(self, graph: Graph) -> Graph:
        graph = super().run(graph)
        if any(DynamicLinear.of(node) is not None for node in graph.nodes):
            graph.stage = "integer"
        return graph
