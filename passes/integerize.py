"""integerize: dequantize - op - quantize becomes the integer op, a chain of unary ops becomes a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.notes import KeptFloat
from qcompiler.opdef import Role, Trait, opdef
from qcompiler.passes.insert_observers import is_unary, scalar_operand
from qcompiler.passes.rewrite import Refusal, erase_dead
from qcompiler.passes.verify_integer_safety import why_unsafe
from qcompiler.quantization import qmath
from qcompiler.quantization.qconfig import QConfig
from qcompiler.quantization.tables import build_table

_QUANTIZED_ROLES = (Role.ACTIVATION, Role.WEIGHT, Role.BIAS)


@dataclass(frozen=True)
class Integerize:
    """qdq -> integer. With d and q for dequantize and quantize:

        q(op(d(a), d(w), d(b))) = the integer meaning of op on a, w, b      each op's own; see qcompiler/ops
        q(f(d(a)))              = table[a]          256 entries, made in float64; f unary, or a chain of unary ops
        q(d(a))                 = requantize(a), or a itself

    What is not proven free of overflow stays float, as does what reads float, and what resolved to the qconfig None
    (`configs`; None: no decisions, as in imported graphs; ops that only move data do so on codes all the same). A
    note says why.

    Before:
        %x.dq = dequantize(%x.q) : f32[2,8]
        %w.dq = dequantize(@w.q) : f32[4,8]
        %y = linear(%x.dq, %w.dq) : f32[2,4]
        %y.q = quantize(%y) : u8[2,4]{scale=0.2, zero_point=3}
    After:
        %y = linear(%x.q, @w.q) : u8[2,4]{scale=0.2, zero_point=3}
    """

    configs: Mapping[str, QConfig | None] | None = None
    name: ClassVar[str] = "integerize"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            if node.op == "quantize":
                self._fuse_quantize(graph, node)
        erase_dead(graph)
        self._note_float(graph)
        for node in graph.nodes:
            _restore_weights(graph, node)
        erase_dead(graph)
        graph.stage = "integer"
        return graph

    def explain(self, graph: Graph) -> list[Refusal]:
        """Why each float node between conversions stayed."""
        found = []
        for node in graph.nodes:
            if node.op == "quantize" and node.operands[0].producer is not None:
                maker = node.operands[0].producer
                reason = self.check(graph, maker)
                if reason is not None:
                    found.append(Refusal(maker.name, maker.op, "integer form", reason))
        return found

    def _fuse_quantize(self, graph: Graph, quantize: Node) -> None:
        node = quantize.operands[0].producer
        if node is None:
            return
        if node.op == "dequantize":
            self._requantize(graph, quantize, node.operands[0])
        elif not (is_unary(node) and self._tabulate(graph, quantize)) and self.check(graph, node, quantize) is None:
            operands = [_quantized_source(node, i) for i in range(len(node.operands))]
            self._become(graph, quantize, node, node.op, operands, dict(node.attrs))

    def check(self, graph: Graph, node: Node, quantize: Node | None = None) -> str | None:
        """Why a node cannot become an integer op; None if it can."""
        definition = opdef(node.op)
        moves = Trait.MOVES_DATA in definition.traits
        if not moves and self._is_kept_float(node):
            return "its qconfig is None"
        if len(node.results) != 1 or (definition.integer is None and not moves):
            return f"{node.op} has no integer meaning"
        if len(node.result.uses) != 1 or graph.is_output(node.result):
            return "its float result has other readers"
        for index, value in enumerate(node.operands):
            spec = definition.spec(index)
            if value is None or spec.role not in _QUANTIZED_ROLES:
                continue
            source = _quantized_source(node, index)
            if source is value:
                return f"its operand {spec.name} is float"
            if spec.role is Role.ACTIVATION and source.type.quant.axis is not None:
                return f"its operand {spec.name} is quantized per channel"
            if (
                moves
                and quantize is not None
                and (source.type.dtype, source.type.quant) != (quantize.result.type.dtype, quantize.result.type.quant)
            ):
                return f"its operand {spec.name} has other parameters"
        if quantize is not None and quantize.result.type.quant.axis is not None:
            return "its result is quantized per channel"
        return why_unsafe(node)

    def _is_kept_float(self, node: Node) -> bool:
        return self.configs is not None and self.configs.get(node.name) is None

    def _requantize(self, graph: Graph, quantize: Node, source: Value) -> None:
        if source.type == quantize.result.type:
            graph.replace_uses(quantize.result, source)
            graph.erase(quantize)
        elif (
            source.type.quant.axis is None and quantize.result.type.quant.axis is None and source.type.dtype.bits <= 16
        ):
            graph.replace(quantize, "requantize", [source], types=quantize.result.type)

    def _tabulate(self, graph: Graph, quantize: Node) -> bool:
        """Turn the chain of unary nodes before `quantize` into one table; whether there was one."""
        chain: list[Node] = []
        value = quantize.operands[0]
        while (
            value.producer is not None
            and is_unary(value.producer)
            and len(value.uses) == 1
            and not graph.is_output(value)
        ):
            chain.append(value.producer)
            value = value.producer.operands[1 if scalar_operand(value.producer) == 0 else 0]
        if (
            not chain
            or value.producer is None
            or value.producer.op != "dequantize"
            or any(map(self._is_kept_float, chain))
        ):
            return False
        source, out = value.producer.operands[0], quantize.result.type
        if source.type.quant.axis is not None or out.quant.axis is not None or source.type.dtype.bits != 8:
            return False
        table = graph.add_const(f"{chain[0].name}.table", build_table(_composed(chain[::-1]), source.type, out))
        origin = tuple(part for node in reversed(chain) for part in node.origin)
        self._become(graph, quantize, chain[0], "lookup", [source, table], {}, origin)
        return True

    def _become(
        self,
        graph: Graph,
        quantize: Node,
        node: Node,
        op: str,
        operands: list,
        attrs: dict,
        origin: tuple | None = None,
    ) -> None:
        """Put the integer op in the place of `quantize`; the value keeps the name that it had in the float graph."""
        name = node.name
        new = graph.replace(
            quantize, op, operands, attrs, types=quantize.result.type, origin=node.origin if origin is None else origin
        )
        new.loc = node.loc
        graph.erase(node)
        graph.rename(new.result, name)

    def _note_float(self, graph: Graph) -> None:
        """Notes of nodes that became integer after all go; float nodes without one get theirs."""
        is_float = {
            node.name: node
            for node in graph.nodes
            if node.op not in ("quantize", "dequantize", "requantize")
            and not any(value.type.is_quantized for value in node.results)
        }
        graph.notes[:] = [note for note in graph.notes if not isinstance(note, KeptFloat) or note.node in is_float]
        noted = {note.node for note in graph.notes if isinstance(note, KeptFloat)}
        for name, node in is_float.items():
            if name not in noted and any(value.type.dtype.is_float for value in node.results):
                reason = self.check(graph, node) or "its result is read as float"
                graph.notes.append(KeptFloat(name, node.op, reason))


def _restore_weights(graph: Graph, node: Node) -> None:
    """Float nodes read float weights: those that were quantized for nothing are dequantized now."""
    if any(value.type.is_quantized for value in node.results):
        return
    for index, value in enumerate(node.operands):
        source = _quantized_source(node, index) if node.op != "dequantize" else None
        if (
            isinstance(source, Const)
            and source is not value
            and opdef(node.op).spec(index).role in (Role.WEIGHT, Role.BIAS)
        ):
            graph.set_operand(
                node, index, graph.add_const(value.name, qmath.dequantize(source.data, source.type.quant))
            )


def _quantized_source(node: Node, index: int) -> Value | None:
    """The codes behind an operand that is dequantized; else the operand."""
    value = node.operands[index]
    if value is None or opdef(node.op).spec(index).role not in _QUANTIZED_ROLES:
        return value
    producer = value.producer
    return producer.operands[0] if producer is not None and producer.op == "dequantize" else value


def _composed(chain: list[Node]) -> Callable[[np.ndarray], np.ndarray]:
    """The chain as one function of a float64 array."""

    def function(x: np.ndarray) -> np.ndarray:
        for node in chain:
            scalar = scalar_operand(node)
            if scalar is None:
                x = opdef(node.op).run_reference([x], node.attrs)[0]
            else:
                constant = node.operands[scalar].data.astype(np.float64).reshape(())
                pair = [constant, x] if scalar == 0 else [x, constant]
                x = opdef(node.op).run_reference(pair, node.attrs)[0]
        return x

    return function
