"""fold-requantize: a requantize melts into what makes its operand, or into the table that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node
from qcompiler.opdef import Trait, opdef
from qcompiler.passes.rewrite import Rewrite, RewritePass, why_not_alone
from qcompiler.quantization.tables import codes


def _evaluate(node: Node, codes_in: np.ndarray) -> np.ndarray:
    """The result of a requantize for each of the given codes."""
    return opdef("requantize").run_integer([codes_in], [node.operands[0].type], node.result.type, {})


class _IntoProducer:
    rule = "folding into the producer"
    ops = ("requantize",)

    def check(self, graph: Graph, node: Node) -> str | None:
        value = node.operands[0]
        producer = value.producer
        if producer is None:
            return f"%{value.name} is an input of the graph"
        table = producer.op == "lookup" and producer.operands[1].is_const
        if not table and producer.op not in ("quantize", "requantize"):
            definition = opdef(producer.op)
            if (
                definition.integer is None
                or Trait.MOVES_DATA in definition.traits
                or producer.op in ("lookup", "dequantize")
            ):
                return f"{producer.op} of %{value.name} does not choose its parameters"
            if (
                producer.op in ("max_pool", "adaptive_max_pool", "max", "min")
                and value.type.dtype is not node.result.type.dtype
            ):
                return f"{producer.op} keeps the dtype of its operand"
        return why_not_alone(graph, value, node)

    def rewrite(self, graph: Graph, node: Node) -> None:
        producer, out = node.operands[0].producer, node.result.type
        name, operands = producer.name, list(producer.operands)
        if producer.op == "lookup":
            table = operands[1]
            operands[1] = graph.add_const(table.name, _evaluate(node, table.data))
        new = graph.replace(
            node, producer.op, operands, producer.attrs, types=out, origin=(*producer.origin, *node.origin)
        )
        new.loc = producer.loc
        graph.erase(producer)
        graph.rename(new.result, name)


class _IntoTable:
    rule = "folding into the table"
    ops = ("lookup",)

    def check(self, graph: Graph, node: Node) -> str | None:
        producer = node.operands[0].producer
        if producer is None or producer.op != "requantize":
            return "its operand is not requantized"
        if not isinstance(node.operands[1], Const):
            return "its table is not constant"
        source = producer.operands[0].type
        return None if source.dtype.bits == 8 else f"{source} has more than 256 codes"

    def rewrite(self, graph: Graph, node: Node) -> None:
        producer, table = node.operands[0].producer, node.operands[1]
        source = producer.operands[0]
        between = _evaluate(producer, codes(source.type).astype(source.type.dtype.numpy))
        data = table.data[between.astype(np.int64) - producer.result.type.dtype.min]
        graph.replace(node, "lookup", [source, graph.add_const(table.name, data)], types=node.result.type)
        if not producer.result.uses and not graph.is_output(producer.result):
            graph.erase(producer)


@dataclass(frozen=True)
class FoldRequantize(RewritePass):
    """With r for requantize, from parameters p to p':

        r(op_p(a)) = op_p'(a)               the op rounds to p' at once: one rounding instead of two, not the same bits
        r(table[a]) = (r table)[a]          exact
        table[r(a)] = (table r)[a]          exact

    Only where nobody else reads the value between. What integerize decides is decided here too: before lowering, for
    all machines.

    Before:
        %y = linear(%x, @w) : u8[2,4]{scale=0.2, zero_point=3}
        %z = requantize(%y) : u8[2,4]{scale=0.1}
    After:
        %y = linear(%x, @w) : u8[2,4]{scale=0.1}
    """

    name: ClassVar[str] = "fold-requantize"

    def rules(self, graph: Graph) -> Sequence[Rewrite]:
        return _IntoTable(), _IntoProducer()
