"""propagate-qparams: move quantize and dequantize through ops that only move data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Graph, Node, Value
from qcompiler.opdef import Role, Trait, op_of, opdef
from qcompiler.ops.interfaces import Mover
from qcompiler.ops.quantized import Dequantize, Observe, Quantize
from qcompiler.passes.dequantized import codes_behind
from qcompiler.passes.insert_qdq import insert_pair
from qcompiler.quantization import qmath
from qcompiler.types import TensorType
from qcompiler.verify_quantization import why_no_conversion


@dataclass(frozen=True)
class _Up:
    """A quantize to `type` can move before the operands of `mover` at these positions."""

    mover: Node
    operands: tuple[int, ...]
    type: TensorType


@dataclass(frozen=True)
class PropagateQparams:
    """With q and d for quantize and dequantize, and m for an op that moves elements without computing:

        up     q(m(x))    = q(m(d(q(x))))        q works element by element, and q(d(c)) = c for every code c
        down   m(d(c))    = d(q(m(d(c))))        with the parameters of c
        equal  q(m(d(c))) = q(m(d(q(d(c)))))     where c has other parameters than q: becomes a requantize before m

    All are exact except the last, where requantize multiplies once instead of dividing. integerize then finds d - m - q
    everywhere, and bytes are moved instead of floats. `up` does not apply to slices and gathers of variables, where it
    would convert elements that are not picked. `down` does not apply to a border whose value is not a code of c.

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
        waiting = [quantize for node in graph.nodes if (quantize := Quantize.of(node)) is not None]
        while waiting:
            match = self.match_up(graph, waiting.pop())
            if isinstance(match, _Up):
                waiting += self._up(graph, match)
        for node in graph.nodes:
            if _moves(node):
                self._down(graph, node)
        graph.erase_unused_consts()
        return graph

    def match_up(self, graph: Graph, quantize: Quantize) -> _Up | str:
        """How a quantize can move before the op that makes its operand, or why it cannot."""
        value, type = quantize.x, quantize.node.result.type
        mover = value.producer
        if mover is None or not _moves(mover):
            return "its operand is not made by an op that moves data"
        if type.params.axis is not None:
            return "its parameters are per channel"
        if len(value.uses) != 1 or graph.is_output(value):
            return f"%{value.name} has other readers"
        op = op_of(mover)
        moved = [(index, source) for spec, index, source in op.present_operands() if spec.role is Role.ACTIVATION]
        missing = [(index, source) for index, source in moved if not _has_params(codes_behind(source), type)]
        if not missing:
            return "it is there already"
        if op.picks and any(codes_behind(source) is None and not source.is_const for _, source in moved):
            return f"{mover.op} picks from a float value"
        return _Up(mover, tuple(index for index, _ in missing), type)

    def _up(self, graph: Graph, match: _Up) -> list[Quantize]:
        """Put pairs before the mover. Returns the new quantize nodes."""
        type, pairs = match.type, dict[int, Node]()
        for index in match.operands:
            source = match.mover.operands[index]
            if id(source) in pairs:  # one value at several positions is quantized once
                graph.set_operand(match.mover, index, pairs[id(source)].result.users[0].result)
            else:
                pairs[id(source)] = insert_pair(graph, match.mover, index, type.dtype, type.params)
        return [Quantize(node) for node in pairs.values()]

    def _down(self, graph: Graph, node: Node) -> None:
        """Put a pair after a mover of dequantized values that float nodes read."""
        value = node.result
        sources = [codes_behind(operand) for operand in op_of(node).values(Role.ACTIVATION)]
        if sources[0] is None or sources[0].type.params.axis is not None:
            return
        first = sources[0].type
        if not all(_has_params(source, first) for source in sources):
            return
        type = value.type.quantized(first.dtype, first.params)
        if why_no_conversion(Quantize, value.type, type) is not None or not _is_code(_border(node), first):
            return
        if value.uses and all(use.node.op == Quantize.name for use in value.uses) and not graph.is_output(value):
            return
        quantize = graph.create(
            Quantize.name,
            [value],
            types=type,
            names=f"{value.name}.q",
            loc=node.loc,
            after=node,
        )
        dequantize = graph.create(
            Dequantize.name, [quantize.result], types=value.type, names=f"{value.name}.dq", loc=node.loc, after=quantize
        )
        graph.replace_uses(value, dequantize.result, only=lambda use: use.node is not quantize)
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.set_output(index, dequantize.result)


def _moves(node: Node) -> bool:
    return Trait.MOVES_DATA in opdef(node.op).traits and node.op != Observe.name


def _has_params(codes: Value | None, wanted: TensorType) -> bool:
    return codes is not None and (codes.type.dtype, codes.type.quant) == (wanted.dtype, wanted.quant)


def _border(node: Node) -> float | None:
    mover = Mover.of(node)
    return None if mover is None else mover.border


def _is_code(number: float | None, type: TensorType) -> bool:
    """Whether a real number is exactly the value of a code of a type. True for None."""
    real = np.asarray(0.0 if number is None else number, np.float32)
    return bool(qmath.fake_quantize(real, type.params, type.dtype) == real)
