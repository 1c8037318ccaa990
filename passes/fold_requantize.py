"""fold-requantize: fuse a requantize into its producer, or into the table that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.opdef import op_of
from qcompiler.ops.quantized import Lookup, Requantize
from qcompiler.passes.rewrite import Refusal, Rewrite, RewritePass, erase_if_unread, why_not_alone
from qcompiler.quantization.tables import codes


def _evaluate(requantize: Requantize, codes_in: np.ndarray) -> np.ndarray:
    """The result of a requantize for each of the given codes."""
    return requantize.run_integer([codes_in], [requantize.x.type], requantize.node.result.type, {})


@dataclass(frozen=True)
class _Produced:
    """A requantize, and the node that can give its codes directly; `table`: the table, if that node is a lookup."""

    requantize: Requantize
    producer: Node
    table: Const | None


class _IntoProducer(Rewrite[_Produced]):
    rule = "folding into the producer"
    ops = (Requantize,)

    def __init__(self, exact: bool) -> None:
        self.exact = exact

    def match(self, graph: Graph, node: Node) -> _Produced | Refusal:
        requantize = Requantize(node)
        value, producer = requantize.x, requantize.x.producer
        if producer is None:
            return self.refuse(node, f"%{value.name} is an input of the graph")
        op, table = op_of(producer), None
        if isinstance(op, Lookup) and op.x.type.dtype.bits != 8:
            return self.refuse(node, f"the table of {producer.op} has knots, not an entry for each code")
        if isinstance(op, Lookup) and isinstance(op.table, Const):
            table = op.table
        elif self.exact:
            return self.refuse(node, f"{producer.op} of %{value.name} would round once instead of twice")
        elif not op.chooses_params:
            return self.refuse(node, f"{producer.op} of %{value.name} does not choose its parameters")
        elif op.keeps_dtype and value.type.dtype is not node.result.type.dtype:
            return self.refuse(node, f"{producer.op} keeps the dtype of its operand")
        reason = why_not_alone(graph, value, node)
        return _Produced(requantize, producer, table) if reason is None else self.refuse(node, reason)

    def rewrite(self, graph: Graph, match: _Produced) -> None:
        node, producer, table = match.requantize.node, match.producer, match.table
        name, operands = producer.name, list(producer.operands)
        if table is not None:
            operands[Lookup.table.index] = graph.add_const(table.name, _evaluate(match.requantize, table.data))
        origin = (*producer.origin, *node.origin)
        new = graph.replace(node, producer.op, operands, producer.attrs, types=node.result.type, origin=origin)
        new.loc = producer.loc
        graph.erase(producer)
        graph.rename(new.result, name)


@dataclass(frozen=True)
class _Tabulated:
    """table[requantize(source)]."""

    lookup: Lookup
    table: Const
    requantize: Requantize
    source: Value


class _IntoTable(Rewrite[_Tabulated]):
    rule = "folding into the table"
    ops = (Lookup,)

    def match(self, graph: Graph, node: Node) -> _Tabulated | Refusal:
        lookup = Lookup(node)
        requantize, table = Requantize.of(lookup.x.producer), lookup.table
        if requantize is None:
            return self.refuse(node, "its operand is not requantized")
        if not isinstance(table, Const):
            return self.refuse(node, "its table is not constant")
        if lookup.x.type.dtype.bits != 8:
            return self.refuse(node, "its table has knots, not an entry for each code")
        if requantize.x.type.dtype.bits != 8:
            return self.refuse(node, f"{requantize.x.type} has more than 256 codes")
        return _Tabulated(lookup, table, requantize, requantize.x)

    def rewrite(self, graph: Graph, match: _Tabulated) -> None:
        node, table, source, requantize = match.lookup.node, match.table, match.source, match.requantize
        between = _evaluate(requantize, codes(source.type).astype(source.type.dtype.numpy))
        data = table.data[between.astype(np.int64) - match.lookup.x.type.dtype.min]
        graph.replace(node, Lookup.name, [source, graph.add_const(table.name, data)], types=node.result.type)
        erase_if_unread(graph, requantize.node)


@dataclass(frozen=True)
class FoldRequantize(RewritePass):
    """Fold r, a requantize from parameters p to p':

        r(op_p(a)) = op_p'(a)               the op rounds to p' directly, so p no longer rounds or clamps. The bits
                                            differ, so this is not done if `exact`, as for imported graphs
        r(table[a]) = (r table)[a]          exact
        table[r(a)] = (table r)[a]          exact

    The value between must have no other reader. The decision does not depend on the target, as in integerize.

    Before:
        %y = linear(%x, @w) : u8[2,4]{scale=0.2, zero_point=3}
        %z = requantize(%y) : u8[2,4]{scale=0.1}
    After:
        %y = linear(%x, @w) : u8[2,4]{scale=0.1}
    """

    exact: bool = False
    name: ClassVar[str] = "fold-requantize"

    def rules(self, graph: Graph) -> Sequence[Rewrite[Any]]:
        return _IntoTable(), _IntoProducer(self.exact)
