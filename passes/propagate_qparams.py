"""propagate-qparams: quantization moves through ops that only move data; a bias takes the scale of its products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.opdef import QuantKind, Role, Trait, opdef
from qcompiler.passes.insert_qdq import insert_pair, quantize_bias
from qcompiler.types import TensorType

_PICKS = ("slice", "gather", "gather_elements")  # codes may be fewer after than before: conversion stays behind


@dataclass(frozen=True)
class PropagateQparams:
    """With q and d for quantize and dequantize, and m for an op that moves elements without computing:

        up     q(m(x))    = q(m(d(q(x))))        q works element by element, and q(d(c)) = c for every code c
        down   m(d(c))    = d(q(m(d(c))))        with the parameters of c
        equal  q(m(d(c))) = q(m(d(q(d(c)))))     where c has other parameters than q: becomes a requantize before m

    Exact but for the last, where requantize multiplies once instead of dividing. A constant float bias of a layer with
    dequantized x and weight, as imported graphs have them, becomes i32 codes of scale sx * sw. integerize then finds
    d - m - q everywhere, and bytes are moved instead of floats. `up` leaves slices and gathers of variables alone:
    they would convert what is not picked.

    Before:
        %t = transpose(%x) {perm=(1, 0)} : f32[8,2]
        %q = quantize(%t) : u8[8,2]{scale=0.1, zero_point=128}
    After:
        %x.q = quantize(%x) : u8[2,8]{scale=0.1, zero_point=128}
        %x.dq = dequantize(%x.q) : f32[2,8]
        %t = transpose(%x.dq) {perm=(1, 0)} : f32[8,2]
        %q = quantize(%t) : u8[8,2]{scale=0.1, zero_point=128}
    """

    name: ClassVar[str] = "propagate-qparams"

    def run(self, graph: Graph) -> Graph:
        waiting = [node for node in graph.nodes if node.op == "quantize"]
        while waiting:
            waiting += self._up(graph, waiting.pop())
        for node in graph.nodes:
            if _moves(node):
                self._down(graph, node)
            elif opdef(node.op).quant.kind is QuantKind.WEIGHTED and self.check_bias(node) is None:
                quantize_bias(graph, node)
        graph.erase_unused_consts()
        return graph

    def _up(self, graph: Graph, quantize: Node) -> list[Node]:
        """Put pairs before the mover that makes what `quantize` reads; gives the new quantize nodes."""
        type, mover = quantize.result.type, quantize.operands[0].producer
        if self.check_up(graph, quantize) is not None:
            return []
        return [
            insert_pair(graph, mover, index, type.dtype, type.quant)
            for index, value in _moved(mover)
            if not _has_params(_source(value), type)
        ]

    def check_up(self, graph: Graph, quantize: Node) -> str | None:
        """Why a quantize stays where it is; None if it moves up."""
        value = quantize.operands[0]
        mover = value.producer
        if mover is None or not _moves(mover):
            return "its operand is not made by an op that moves data"
        if quantize.result.type.quant.axis is not None:
            return "its parameters are per channel"
        if len(value.uses) != 1 or graph.is_output(value):
            return f"%{value.name} has other readers"
        sources = [(value, _source(value)) for _, value in _moved(mover)]
        if all(_has_params(source, quantize.result.type) for _, source in sources):
            return "it is there already"
        if mover.op in _PICKS and any(source is None and not value.is_const for value, source in sources):
            return f"{mover.op} picks from a float value"
        return None

    def check_bias(self, node: Node) -> str | None:
        """Why the bias of a layer stays as it is; None if it is to be quantized."""
        bias, sources = node.operand("bias"), [_source(node.operand(name)) for name in ("x", "weight")]
        if not isinstance(bias, Const) or bias.type.is_quantized:
            return "it has no constant float bias"
        if None in sources or sources[0].quant.axis is not None:
            return "its x or its weight is float"
        if sources[1].quant.axis not in (None, opdef(node.op).quant.weight_axis):
            return "the scales of its weight lie along another axis"
        return None

    def _down(self, graph: Graph, node: Node) -> None:
        """Put a pair after a mover of dequantized values that float nodes read."""
        value = node.result
        sources = [_source(value) for _, value in _moved(node)]
        first = sources[0]
        if first is None or first.quant.axis is not None or not all(_has_params(source, first) for source in sources):
            return
        if value.uses and all(use.node.op == "quantize" for use in value.uses) and not graph.is_output(value):
            return
        quantize = graph.create(
            "quantize",
            [value],
            types=value.type.quantized(first.dtype, first.quant),
            names=f"{value.name}.q",
            loc=node.loc,
            after=node,
        )
        dequantize = graph.create(
            "dequantize", [quantize.result], types=value.type, names=f"{value.name}.dq", loc=node.loc, after=quantize
        )
        graph.replace_uses(value, dequantize.result, only=lambda use: use.node is not quantize)
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.set_output(index, dequantize.result)


def _moves(node: Node) -> bool:
    return Trait.MOVES_DATA in opdef(node.op).traits and node.op != "observe"


def _moved(node: Node) -> list[tuple[int, Value]]:
    definition = opdef(node.op)
    return [(i, v) for i, v in enumerate(node.operands) if v is not None and definition.spec(i).role is Role.ACTIVATION]


def _source(value: Value) -> TensorType | None:
    """The quantized type behind a dequantize."""
    return value.producer.operands[0].type if value.producer is not None and value.producer.op == "dequantize" else None


def _has_params(source: TensorType | None, wanted: TensorType) -> bool:
    return source is not None and (source.dtype, source.quant) == (wanted.dtype, wanted.quant)
