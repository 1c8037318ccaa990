"""insert-qdq: replace observers by quantize/dequantize pairs, and quantize the constants of weights and biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from qcompiler.errors import QuantizationError
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.notes import KeptFloat
from qcompiler.opdef import QuantKind, opdef
from qcompiler.ops.interfaces import Weighted
from qcompiler.ops.quantized import Dequantize, Observe, Quantize
from qcompiler.passes.dequantized import codes_behind
from qcompiler.quantization import qmath
from qcompiler.quantization.observers import weight_params
from qcompiler.quantization.qconfig import QConfig, get_qconfig
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import MAX_SCALE, MIN_SCALE, DType, QuantParams, TensorType

MAX_BIAS = 2**30


@dataclass(frozen=True)
class InsertQdq:
    """observed -> qdq. params: observer group -> QuantParams; configs: node name -> QConfig (int8 for a node that is
    not in it); per_channel=false gives each weight one scale, whatever its qconfig says.

        weight: scale by the spec's observer.     bias: i32, scale sx * sw (one float32 rounding), zero point 0.
        Where |bias / (sx * sw)| > 2^30 the channel's weight scale is raised until it fits.

    Where the op's result has a known range (sigmoid: [0, 1)), that range wins over the observed one. A value whose
    range needs a scale of 2^60 or more, such as a mask of finfo.min among the inputs, stays float, with a note.

    Before:
        %x.obs = observe(%x) {spec="...", group="x"} : f32[2,8]
        %y = linear(%x.obs, @w, @b) : f32[2,4]
        %y.obs = observe(%y) {spec="...", group="y"} : f32[2,4]
    After:
        %x.q = quantize(%x) : u8[2,8]{scale=0.1, zero_point=128}
        %x.dq = dequantize(%x.q) : f32[2,8]
        %w.q.dq = dequantize(@w.q) : f32[4,8]
        %b.q.dq = dequantize(@b.q) : f32[4]
        %y = linear(%x.dq, %w.q.dq, %b.q.dq) : f32[2,4]
        %y.q = quantize(%y) : u8[2,4]{scale=0.2, zero_point=3}
        %y.dq = dequantize(%y.q) : f32[2,4]
    """

    params: Mapping[str, QuantParams] = field(default_factory=dict)
    configs: Mapping[str, QConfig | None] = field(default_factory=dict)
    per_channel: bool = True
    weight_params: Mapping[str, QuantParams] = field(default_factory=dict)
    name: ClassVar[str] = "insert-qdq"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            observe = Observe.of(node)
            if observe is not None:
                self._replace_observer(graph, observe)
        made: dict[object, Const] = {}
        for node in graph.nodes:
            layer = Weighted.of(node)
            x = None if layer is None else codes_behind(layer.x)
            if layer is not None and x is not None:
                self._quantize_weight(graph, layer, x.type.params, made)
        graph.erase_unused_consts()
        graph.stage = "qdq"
        return graph

    def _replace_observer(self, graph: Graph, observe: Observe) -> None:
        node, value, spec = observe.node, observe.x, QuantSpec.parse(observe.spec_text)
        quant = fixed_params(value, spec) or self.params.get(observe.group)
        if quant is None:
            raise QuantizationError(
                "no range was calibrated", where=f"%{value.name}", expected="calibration data that reaches it"
            )
        if max(quant.scale) < MAX_SCALE:
            insert_pair(graph, node, Observe.x.index, spec.dtype, quant)
        else:
            _note_too_wide(graph, observe)
        graph.replace_uses(node.result, observe.x)
        graph.erase(node)

    def _quantize_weight(self, graph: Graph, layer: Weighted, x: QuantParams, made: dict[object, Const]) -> None:
        weight, bias = layer.weight, layer.bias
        if not isinstance(weight, Const):
            raise QuantizationError("a quantized layer has a constant weight", where=layer.node.describe())
        default = get_qconfig("int8")
        config = self.configs.get(layer.node.name) or default
        spec = config.weight or default.weight
        if spec is None:
            raise QuantizationError("a quantized layer has a weight spec", where=layer.node.describe())
        axis = layer.quant.weight_axis if spec.per_channel and self.per_channel else None
        known = self.weight_params.get(layer.node.name)
        quant = weight_params(weight.data, spec, axis, f"%{weight.name}") if known is None else known
        if isinstance(bias, Const):
            quant = _raised_for_bias(quant, x, bias.data)
        key = (id(weight), quant, spec.dtype)
        if key not in made:
            codes = qmath.quantize(weight.data, quant, spec.dtype)
            made[key] = graph.add_const(f"{weight.name}.q", codes, weight.type.quantized(spec.dtype, quant))
        feed_const(graph, layer, "weight", made[key], weight.type)
        if isinstance(bias, Const):
            quantize_bias(graph, layer, bias, x, quant)


def _note_too_wide(graph: Graph, observe: Observe) -> None:
    """Note that the nodes around an observed value stay float, since no legal scale spans its range."""
    noted = {note.node for note in graph.notes if isinstance(note, KeptFloat)}
    reason = f"no scale below 2^60 spans the range of %{observe.x.name}"
    for node in (observe.x.producer, *observe.node.result.users):
        if node is not None and node.name not in noted:
            graph.notes.append(KeptFloat(node.name, node.op, reason))


def feed_const(graph: Graph, layer: Weighted, operand: str, const: Const, real: TensorType) -> None:
    """Let an operand read the dequantized constant."""
    made = graph.create(Dequantize.name, [const], types=real, names=f"{const.name}.dq", before=layer.node)
    graph.set_operand(layer.node, layer.operand_index(operand), made.result)


def quantize_bias(graph: Graph, layer: Weighted, bias: Const, x: QuantParams, weight: QuantParams) -> str | None:
    """Turn the float bias of a layer into i32 codes of scale sx * sw, for the parameters of its x and weight.

    If a code would pass 2^30, nothing is changed, and the reason is returned.
    """
    scale = qmath.multiplier(x.scales, weight.scales).reshape(-1)
    codes = np.rint(bias.data.astype(np.float64) / scale.astype(np.float64))
    if not np.abs(codes).max(initial=0) <= MAX_BIAS:
        return f"a bias of {np.abs(bias.data).max()} does not fit i32"
    axis = None if weight.axis is None else 0
    params = QuantParams(tuple(map(float, scale)), (0,) * scale.size, axis, DType.I32.min, DType.I32.max)
    const = graph.add_const(f"{bias.name}.q", codes.astype(np.int32), bias.type.quantized(DType.I32, params))
    feed_const(graph, layer, "bias", const, bias.type)
    return None


def insert_pair(graph: Graph, node: Node, index: int, dtype: DType, quant: QuantParams) -> Node:
    """Put quantize and dequantize before operand `index` of `node`. Returns the quantize."""
    value = node.operands[index]
    assert value is not None  # callers name operands that are present
    loc = value.producer.loc if value.producer is not None else node.loc
    quantize = graph.create(
        Quantize.name, [value], types=value.type.quantized(dtype, quant), names=f"{value.name}.q", loc=loc, before=node
    )
    dequantize = graph.create(
        Dequantize.name, [quantize.result], types=value.type, names=f"{value.name}.dq", loc=loc, before=node
    )
    graph.set_operand(node, index, dequantize.result)
    return quantize


def fixed_params(value: Value, spec: QuantSpec) -> QuantParams | None:
    """The parameters of a value whose range the op knows, in the qmin and qmax of the spec; None otherwise."""
    rule = opdef(value.producer.op).quant if value.producer is not None else None
    if rule is None or rule.kind is not QuantKind.FIXED or (spec.dtype, spec.qmin, spec.qmax) != (DType.U8, 0, 255):
        return None
    return rule.fixed_params()


def _raised_for_bias(quant: QuantParams, x: QuantParams, bias: np.ndarray) -> QuantParams:
    """`quant` with scales large enough to keep every bias code within 2^30."""
    least = np.abs(bias.astype(np.float64)) / (np.float64(x.scale[0]) * MAX_BIAS)
    least = least if quant.axis is not None else least.max(initial=0.0).reshape(1)
    scales = np.maximum(np.maximum(quant.scales.astype(np.float64), least * (1 + 2.0**-20)), MIN_SCALE).astype(
        np.float32
    )
    return replace(quant, scale=tuple(map(float, scales)))
