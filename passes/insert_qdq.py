"""insert-qdq: observers become quantize/dequantize pairs, weights and biases become integer constants.

    weight: i8, scale from its own range.     bias: i32, scale sx * sw (one float32 rounding), zero point 0.
    Where |bias / (sx * sw)| > 2^30 the channel's weight scale is raised until it fits.
    Accumulator bound, checked against int32 per output channel:  sum |w| * max(qmax - zx, zx - qmin) + |bias|

Before: `%x.obs = observe(%x)`, `%y = conv(%x.obs, @w)`
After:  `%x.q = quantize(%x)`, `%x.dq = dequantize(%x.q)`, `%w.dq = dequantize(@w.q)`, `%y = conv(%x.dq, %w.dq)`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from qcompiler.errors import QuantizationError
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.opdef import QuantKind, opdef
from qcompiler.passes.insert_observers import activations
from qcompiler.quantization import qmath
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.qconfig import QConfig
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import MIN_SCALE, DType, QuantParams, TensorType

MAX_BIAS = 2**30
MAX_ACCUMULATOR = 2**31 - 1


@dataclass(frozen=True)
class InsertQdq:
    """params: observer group -> QuantParams; configs: node name -> QConfig."""

    params: Mapping[str, QuantParams] = field(default_factory=dict)
    configs: Mapping[str, QConfig | None] = field(default_factory=dict)
    name: ClassVar[str] = "insert-qdq"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            if node.op == "observe":
                self._replace_observer(graph, node)
        for node in graph.nodes:
            if opdef(node.op).quant.kind is QuantKind.WEIGHTED and _is_dequantized(node.operands[0]):
                self._quantize_weight(graph, node)
        graph.erase_unused_consts()
        graph.stage = "qdq"
        return graph

    def _replace_observer(self, graph: Graph, node: Node) -> None:
        value, spec = node.operands[0], QuantSpec.parse(node.attrs["spec"])
        producer = value.producer
        rule = opdef(producer.op).quant if producer is not None else None
        if rule is not None and rule.kind is QuantKind.FIXED and spec.dtype is DType.U8:
            quant = rule.fixed_params()
        else:
            quant = self.params.get(node.attrs["group"])
            if quant is None:
                raise QuantizationError("no range was calibrated", where=f"%{value.name}", expected="calibration data that reaches it")
        type = value.type.quantized(spec.dtype, quant)
        quantize = graph.create("quantize", [value], types=type, names=f"{value.name}.q", loc=node.loc, before=node)
        dequantize = graph.create("dequantize", [quantize.result], types=value.type, names=f"{value.name}.dq", loc=node.loc, before=node)
        graph.replace_uses(node.result, dequantize.result)
        graph.erase(node)

    def _quantize_weight(self, graph: Graph, node: Node) -> None:
        x, weight = node.operands[0].producer.operands[0].type, node.operand("weight")
        spec = self.configs[node.name].weight
        axis = opdef(node.op).quant.weight_axis if spec.per_channel else None
        quant = weight_params(weight, spec, axis)
        bias = node.operand("bias")
        if bias is not None:
            quant = _raised_for_bias(quant, x.quant, bias.data, _tiles(node))
        codes = qmath.quantize(weight.data, quant, spec.dtype)
        scale = qmath.multiplier(x.quant.scales, np.tile(quant.scales, _tiles(node)) if axis is not None else quant.scales)
        bias_codes = None
        if bias is not None:
            bias_codes = np.rint(bias.data.astype(np.float64) / scale.astype(np.float64)).astype(np.int64)
        if accumulator_bound(codes, bias_codes, x.quant, quant, opdef(node.op).quant.weight_axis) > MAX_ACCUMULATOR:
            self._keep_float(graph, node)
            return
        const = graph.add_const(f"{weight.name}.q", codes, weight.type.quantized(spec.dtype, quant))
        self._feed(graph, node, "weight", const, weight.type)
        if bias_codes is not None:
            bias_axis = None if axis is None else 0
            params = QuantParams(tuple(float(s) for s in scale.reshape(-1)), (0,) * scale.size, bias_axis, DType.I32.min, DType.I32.max)
            const = graph.add_const(f"{bias.name}.q", bias_codes.astype(np.int32), bias.type.quantized(DType.I32, params))
            self._feed(graph, node, "bias", const, bias.type)

    def _feed(self, graph: Graph, node: Node, operand: str, const: Const, real: TensorType) -> None:
        made = graph.create("dequantize", [const], types=real, names=f"{const.name}.dq", before=node)
        graph.set_operand(node, opdef(node.op).operand_index(operand), made.result)

    def _keep_float(self, graph: Graph, node: Node) -> None:
        graph.notes.append(f"float: %{node.name} = {node.op}: its int32 accumulator could overflow")
        for index, value in activations(node):
            if _is_dequantized(value):
                graph.set_operand(node, index, value.producer.operands[0].producer.operands[0])


def _is_dequantized(value: Value) -> bool:
    return value.producer is not None and value.producer.op == "dequantize"


def _tiles(node: Node) -> int:
    """How often the per-channel scales of a weight repeat along the output channels."""
    return node.attrs["groups"] if node.op == "conv_transpose" else 1


def weight_params(weight: Const, spec: QuantSpec, axis: int | None) -> QuantParams:
    """Parameters from the weight's own minimum and maximum, a channel or the whole tensor."""
    others = tuple(i for i in range(weight.type.rank) if i != axis) if axis is not None else None
    return choose_qparams(weight.data.min(axis=others), weight.data.max(axis=others), spec, axis)


def _raised_for_bias(quant: QuantParams, x: QuantParams, bias: np.ndarray, tiles: int) -> QuantParams:
    """Scales no smaller than what keeps every bias within 2^30."""
    least = np.abs(bias.astype(np.float64)) / (np.float64(x.scale[0]) * MAX_BIAS)
    least = least.reshape(tiles, -1).max(axis=0) if quant.axis is not None else least.max(initial=0.0).reshape(1)
    scales = np.maximum(np.maximum(quant.scales.astype(np.float64), least * (1 + 2.0**-20)), MIN_SCALE).astype(np.float32)
    return QuantParams(tuple(float(s) for s in scales), quant.zero_point, quant.axis, quant.qmin, quant.qmax)


def accumulator_bound(codes: np.ndarray, bias: np.ndarray | None, x: QuantParams, weight: QuantParams, axis: int) -> int:
    """The largest |accumulator| that any input can produce, from the real weights."""
    reach = max(x.qmax - x.zero_point[0], x.zero_point[0] - x.qmin)
    centered = np.abs(codes.astype(np.int64) - weight.along(codes.ndim)[1])
    products = centered.sum(axis=tuple(i for i in range(codes.ndim) if i != axis)) * max(reach, x.qmax, -x.qmin)
    return int(products.max(initial=0) + (np.abs(bias).max(initial=0) if bias is not None else 0))
