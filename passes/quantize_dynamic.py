"""quantize-dynamic: let products with constant weights read codes that are made at run time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.notes import NO_PRODUCT, NO_TABLE, KeptFloat
from qcompiler.opdef import Op, op_of
from qcompiler.ops.dynamic import DynamicLinear, DynamicQuantize
from qcompiler.ops.elementwise import Add, Cast
from qcompiler.ops.indexing import Gather
from qcompiler.ops.linear import Linear
from qcompiler.ops.recurrent import Recurrent
from qcompiler.passes.dynamic_weights import codes_of, why_no_codes
from qcompiler.passes.quantize_recurrent import quantize_recurrent, why_recurrent_float
from qcompiler.passes.quantize_tables import Tables, why_no_rows
from qcompiler.quantization.qconfig import FLOAT16, ROWS4, ROWS8, QConfig
from qcompiler.types import DType, TensorType

QUANTIZED: tuple[type[Op], ...] = (Linear, Recurrent, Gather)
"""The ops that the pass quantizes. A matmul by a constant matrix is a linear layer when it runs."""


_OF_ROWS = (ROWS8, ROWS4)


@dataclass(frozen=True)
class QuantizeDynamic:
    """float -> integer. configs: node name -> QConfig or None, from the resolution table.

    A linear layer with a constant weight becomes a dynamic_linear, whose weight is quantized as its qconfig says and
    whose operand a dynamic_quantize makes. All products that read one value by one qconfig share that. A fused residual
    becomes an addition behind the product. lstm, gru and rnn with constant weights get codes of them
    (`quantize_recurrent.py`). With the qconfig "dynamic:float16" the weight is stored in f16 and the layer
    stays as it is. With "torch:embedding" and "torch:embedding_4bit" a gather of rows of a constant table reads codes
    (`quantize_tables.py`). Every other node stays float, and a note gives the reason.

    Before:
        const @w : f32[3,8]
        %y = linear(%x, @w, @b) {activation="relu"} : f32[B,3]
    After:
        const @w.q : i8[3,8]{axis=0, ...}
        %x.q, %x.scale, %x.zero_point = dynamic_quantize(%x) {axis="row", ...} : u8[B,8], f32[B,1], u8[B,1]
        %y = dynamic_linear(%x.q, %x.scale, %x.zero_point, @w.q, @b) {activation="relu"} : f32[B,3]
    """

    configs: Mapping[str, QConfig | None] = field(default_factory=dict)
    name: ClassVar[str] = "quantize-dynamic"

    def run(self, graph: Graph) -> Graph:
        graph.stage = "integer"
        made, tables = _Made(graph), Tables(graph)
        for node in graph.nodes:
            config = self.configs.get(node.name)
            reason = why_float(node, config)
            if reason is not None:
                graph.notes.append(KeptFloat(node.name, node.op, reason))
            elif config is not None and config.dynamic in _OF_ROWS:
                tables.quantize(Gather(node), config)
            elif config is not None and (recurrent := Recurrent.of(node)) is not None:
                quantize_recurrent(graph, recurrent, config)
            elif config is not None and config.dynamic == FLOAT16:
                made.halve(Linear(node))
            elif config is not None:
                made.quantize(Linear(node), config)
        graph.erase_unused_consts()
        return graph


def why_float(node: Node, config: QConfig | None) -> str | None:
    """Why a node is not quantized dynamically, or None."""
    if config is None:
        return "its qconfig is None"
    if config.dynamic in _OF_ROWS:
        table = Gather.of(node)
        return NO_TABLE if table is None else why_no_rows(table, config)
    recurrent = Recurrent.of(node)
    if recurrent is not None:
        return why_recurrent_float(recurrent, config)
    layer = Linear.of(node)
    if layer is None:
        products = op_of(node).products() is not None
        return f"{node.op} has no dynamic form" if products else NO_PRODUCT
    weight, bias = layer.weight, layer.bias
    if not isinstance(weight, Const):
        return "its weight is not constant"
    if not isinstance(bias, Const | None):
        return "its bias is not constant"
    if layer.x.type.dtype is not DType.F32 or weight.type.dtype is not DType.F32:
        return "its values are not f32"
    if layer.x.is_const:
        return "it reads constants only"
    if config.dynamic == FLOAT16:
        fits = np.abs(weight.data).max(initial=0) <= np.finfo(np.float16).max
        return None if fits else "its weight does not fit f16"
    return why_no_codes(weight)


class _Made:
    """What was made for the layers of a graph, so that they share it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.weights: dict[object, Const] = {}
        self.codes: dict[object, Node] = {}
        self.halves: dict[int, Value] = {}

    def quantize(self, layer: Linear, config: QConfig) -> None:
        """Replace a layer by one that reads codes."""
        assert isinstance(layer.weight, Const)
        graph, node, residual = self.graph, layer.node, layer.residual
        operands = [*self._codes(layer, config).results, self._weight(layer.weight, config), layer.bias]
        activation = {"activation": layer.activation}
        if residual is None:
            graph.replace(node, DynamicLinear.name, operands, activation)
            return
        product = graph.create(
            DynamicLinear.name, operands, names=f"{node.name}.product", loc=node.loc, origin=node.origin, before=node
        )
        graph.replace(node, Add.name, [product.result, residual], activation)

    def _codes(self, layer: Linear, config: QConfig) -> Node:
        """The node that makes codes of what a layer reads. It stands before the first layer that reads it."""
        value, spec = layer.x, config.activation
        assert spec is not None
        attrs = {"axis": config.dynamic, "qmin": spec.qmin, "qmax": spec.qmax}
        key = (id(value), *attrs.values())
        if key not in self.codes:
            loc = value.producer.loc if value.producer is not None else layer.node.loc
            names = [f"{value.name}.{part}" for part in DynamicQuantize.results]
            self.codes[key] = self.graph.create(
                DynamicQuantize.name, [value], attrs, names=names, loc=loc, before=layer.node
            )
        return self.codes[key]

    def _weight(self, weight: Const, config: QConfig) -> Const:
        spec = config.weight
        assert spec is not None
        key = (id(weight), spec)
        if key not in self.weights:
            codes, quant = codes_of(weight, spec)
            type = TensorType(spec.dtype, weight.data.shape, quant)
            self.weights[key] = self.graph.add_const(f"{weight.name}.q", codes, type)
        return self.weights[key]

    def halve(self, layer: Linear) -> None:
        """Store the weight of a layer in f16. A cast makes f32 of it."""
        weight, graph = layer.weight, self.graph
        assert isinstance(weight, Const)
        if id(weight) not in self.halves:
            half = graph.add_const(f"{weight.name}.f16", weight.data.astype(np.float16))
            name, loc = f"{half.name}.f32", layer.node.loc
            cast = graph.create(Cast.name, [half], {"dtype": DType.F32}, names=name, loc=loc, before=layer.node)
            self.halves[id(weight)] = cast.result
        graph.set_operand(layer.node, Linear.weight.index, self.halves[id(weight)])
