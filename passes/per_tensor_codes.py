"""per-tensor-codes: give activations that are quantized per channel one scale, and the channels' scales to products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node, Use, Value
from qcompiler.opdef import Role, op_of
from qcompiler.ops.elementwise import Div, Maximum, Minimum, Mul
from qcompiler.ops.interfaces import Weighted
from qcompiler.ops.quantized import Dequantize, Quantize
from qcompiler.passes.dequantized import codes_behind
from qcompiler.types import MAX_SCALE, MIN_SCALE, DType, QuantParams, TensorType


@dataclass(frozen=True)
class PerTensorCodes:
    """qdq -> qdq. Gives an activation with a scale s for each channel the scale 1. With q1, d1 for these parameters:

        q(y) = q1(y / s)        d(c) = d1(c) * s

    Both are exact to the bit: (y / s) / 1 and (c - zero_point) * 1 round nothing. The codes stay what they are.

    Where a product makes y from codes, its weight and bias are divided by s in place of y. A relu6 allows this if every
    channel's largest code is 6 or less: it is a relu then, as the codes saturate where it would. Where a product whose
    channels do not mix, as a depthwise convolution, reads the result, its weight is multiplied by s. Both keep the
    codes of the weight and round its scales to f32. Elsewhere a division and a multiplication stay in the graph.

    Where channels have several zero points z, the codes are i16, less z, and the bounds of a channel follow them. This
    is exact to the bit too; the products that read the result stay float.

        d(q(y)) = min(max(d1(q1(y / s)), qmin - z), qmax - z) * s

    It does not apply to values that something else than a dequantize reads.

    Before:
        %y.q = quantize(%y) : u8[1,2,4,4]{axis=1, scale=(0.1, 0.2)}
        %y.dq = dequantize(%y.q) : f32[1,2,4,4]
        %z = exp(%y.dq) : f32[1,2,4,4]
    After:
        %y.scaled = div(%y, @y.scales) : f32[1,2,4,4]
        %y.q = quantize(%y.scaled) : u8[1,2,4,4]{scale=1.0}
        %y.dq = dequantize(%y.q) : f32[1,2,4,4]
        %y.dq.scaled = mul(%y.dq, @y.scales) : f32[1,2,4,4]
        %z = exp(%y.dq.scaled) : f32[1,2,4,4]
    """

    name: ClassVar[str] = "per-tensor-codes"

    def run(self, graph: Graph) -> Graph:
        for node in graph.node_list:
            quantize = Quantize.of(node)
            if quantize is not None and self.why_not(graph, quantize) is None:
                self._rewrite(graph, quantize)
        graph.erase_unused_consts()
        return graph

    def why_not(self, graph: Graph, quantize: Quantize) -> str | None:
        """Why a quantize keeps its parameters, or None."""
        codes = quantize.node.result
        params = codes.type.params
        if params.axis is None:
            return "its parameters are per tensor"
        if len(set(params.zero_point)) > 1 and codes.type.dtype.bits > 8:
            return "its channels have several zero points, and more than 8 bits"
        if quantize.x.is_const:
            return "its operand is constant"
        if graph.is_output(codes) or not all(user.op == Dequantize.name for user in codes.users):
            return "something else than a dequantize reads it"
        real = [use for user in codes.users for use in user.result.uses]
        if any(op_of(use.node).spec(use.index).role in (Role.WEIGHT, Role.BIAS) for use in real):
            return "a product reads it as its weight or bias"
        return None

    def _rewrite(self, graph: Graph, quantize: Quantize) -> None:
        node, value = quantize.node, quantize.x
        type, params = node.result.type, node.result.type.params
        assert params.axis is not None  # as `why_not` has checked
        shape = [1] * type.rank
        shape[params.axis] = -1
        factor = graph.add_const(f"{value.name}.scales", params.scales.reshape(shape))
        shared = len(set(params.zero_point)) == 1
        for user in node.result.users:
            if shared:
                self._multiply(graph, user, params, factor)
            else:
                self._clamp(graph, user, params, factor)
        if not (shared and _divide_product(graph, quantize)):
            made = graph.create(
                Div.name, [value, factor], types=value.type, names=f"{value.name}.scaled", loc=node.loc, before=node
            )
            graph.set_operand(node, Quantize.x.index, made.result)
        low, high = params.qmin - max(params.zero_point), params.qmax - min(params.zero_point)
        dtype, point = DType.I16, 0
        if shared:
            dtype, point, low, high = type.dtype, params.zero_point[0], params.qmin, params.qmax
        graph.set_type(node.result, type.quantized(dtype, QuantParams.per_tensor(1.0, point, dtype, low, high)))

    def _clamp(self, graph: Graph, dequantize: Node, params: QuantParams, factor: Const) -> None:
        """Clamp what a dequantize gives to the bounds of each channel, and multiply it."""
        real, last = dequantize.result, dequantize
        points = np.asarray(params.zero_point, np.float32).reshape(factor.data.shape)
        low = graph.add_const(f"{real.name}.low", np.float32(params.qmin) - points)
        high = graph.add_const(f"{real.name}.high", np.float32(params.qmax) - points)
        uses = list(real.uses)
        for op, const in ((Maximum, low), (Minimum, high), (Mul, factor)):
            last = graph.create(
                op.name, [last.result, const], types=real.type, names=f"{real.name}.{op.name}", loc=last.loc, after=last
            )
        for use in uses:
            graph.set_operand(use.node, use.index, last.result)
        _set_outputs(graph, real, last.result)

    def _multiply(self, graph: Graph, dequantize: Node, params: QuantParams, factor: Const) -> None:
        """Multiply what a dequantize gives, in the weights of its readers where they allow it."""
        real = dequantize.result
        left = [use for use in list(real.uses) if not _multiply_weight(graph, use, params)]
        if not left and not graph.is_output(real):
            return
        made = graph.create(
            Mul.name, [real, factor], types=real.type, names=f"{real.name}.scaled", loc=dequantize.loc, after=dequantize
        )
        for use in left:
            graph.set_operand(use.node, use.index, made.result)
        _set_outputs(graph, real, made.result)


def _set_outputs(graph: Graph, old: Value, new: Value) -> None:
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.set_output(index, new)


def _multiply_weight(graph: Graph, use: Use, params: QuantParams) -> bool:
    """Multiply the weight of a product that reads a value with these parameters. False if it cannot be done."""
    layer = Weighted.of(use.node)
    if layer is None or use.index != layer.operand_index("x") or layer.input_axis != params.axis:
        return False
    codes, axis = codes_behind(layer.weight), layer.quant.weight_axis
    if not isinstance(codes, Const) or axis is None:
        return False
    groups, inputs, _ = layer.row_shape
    grouped = params.scales.reshape(groups, inputs)
    if (grouped != grouped[:, :1]).any():
        return False
    factors = np.repeat(grouped[:, 0], codes.data.shape[axis] // groups)
    if _scaled_type(codes.type, factors, axis) is None:
        return False
    _scale_weight(graph, layer, factors)
    return True


def _divide_product(graph: Graph, quantize: Quantize) -> bool:
    """Divide the result of the product that `quantize` reads, in its weight and bias. False if it cannot be done."""
    value, params = quantize.x, quantize.node.result.type.params
    layer = Weighted.of(value.producer)
    if layer is None or len(value.uses) != 1 or graph.is_output(value):
        return False
    if layer.channel_axis != params.axis or layer.added is not None:
        return False
    codes, axis = codes_behind(layer.weight), layer.quant.weight_axis
    if not isinstance(codes, Const) or axis is None or codes_behind(layer.x) is None:
        return False
    if layer.activation not in ("none", "relu", "relu6") or (
        layer.activation == "relu6" and not _saturates(params, 6.0)
    ):
        return False
    factors = 1.0 / params.scales.astype(np.float64)
    if codes.data.shape[axis] != factors.size or _scaled_type(codes.type, factors, axis) is None:
        return False
    bias = layer.bias
    if bias is not None:
        made = _scaled_bias(graph, bias, factors)
        if made is None:
            return False
        graph.set_operand(layer.node, layer.operand_index("bias"), made)
    _scale_weight(graph, layer, factors)
    if layer.activation == "relu6":
        graph.set_attr(layer.node, "activation", "relu")
    return True


def _saturates(params: QuantParams, high: float) -> bool:
    """Whether a real number of `high` has the largest code in every channel."""
    codes = np.rint(np.float32(high) / params.scales) + np.asarray(params.zero_point)
    return bool((codes >= params.qmax).all())


def _scaled_bias(graph: Graph, bias: Value, factors: np.ndarray) -> Value | None:
    """A bias times `factors`, None if it is not constant."""
    if isinstance(bias, Const) and not bias.type.is_quantized:
        return graph.add_const(f"{bias.name}.scaled", (bias.data * factors).astype(np.float32))
    codes = codes_behind(bias)
    if not isinstance(codes, Const):
        return None
    type = _scaled_type(codes.type, factors, 0)
    return None if type is None else _dequantized(graph, bias, codes, type)


def _scale_weight(graph: Graph, layer: Weighted, factors: np.ndarray) -> None:
    codes, axis = codes_behind(layer.weight), layer.quant.weight_axis
    assert isinstance(codes, Const) and axis is not None  # as the callers have checked
    type = _scaled_type(codes.type, factors, axis)
    assert type is not None
    graph.set_operand(layer.node, layer.operand_index("weight"), _dequantized(graph, layer.weight, codes, type))


def _scaled_type(type: TensorType, factors: np.ndarray, axis: int) -> TensorType | None:
    """A type whose scales along `axis` are multiplied by `factors`; None if they lie along another axis, or a scale
    would not be one."""
    params = type.params
    if params.axis not in (None, axis):
        return None
    scales = (params.scales.astype(np.float64) * factors).astype(np.float32)
    if not ((scales >= MIN_SCALE) & (scales <= MAX_SCALE)).all():
        return None
    points = params.zero_point * (scales.size if params.axis is None else 1)
    return type.quantized(type.dtype, QuantParams(tuple(map(float, scales)), points, axis, params.qmin, params.qmax))


def _dequantized(graph: Graph, old: Value, codes: Const, type: TensorType) -> Value:
    """The codes of a constant with another type, dequantized as `old` is."""
    first = old.producer
    assert first is not None  # a dequantize
    made = graph.add_const(f"{codes.name}.scaled", codes.data, type)
    node = graph.create(Dequantize.name, [made], types=old.type, names=f"{old.name}.scaled", loc=first.loc, after=first)
    return node.result
