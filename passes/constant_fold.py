"""constant-fold: what depends on constants alone is computed now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.interpreter import evaluate_node
from qcompiler.ir import Graph, Node
from qcompiler.opdef import all_ops
from qcompiler.passes.rewrite import Rewrite, RewritePass


@dataclass(frozen=True)
class ConstantFold(RewritePass):
    """Evaluate nodes whose operands are all constants, in the interpreter. The results' bits are the reference's.

    A dequantize stays, since its operand is smaller, unless `dequantize` is set (where memory is laid out, float
    consumers read f32). So does a result larger than `max_bytes`, and one of symbolic size.

    Before:
        const @a : f32[4]
        %b = exp(@a) : f32[4]
        %y = add(%x, %b) : f32[4]
    After:
        const @b.folded : f32[4]
        %y = add(%x, @b.folded) : f32[4]
    """

    max_bytes: int = 64 * 2**20
    dequantize: bool = False
    name: ClassVar[str] = "constant-fold"

    def rules(self, graph: Graph) -> Sequence[Rewrite]:
        return (_Fold(self.max_bytes, self.dequantize),)


class _Fold:
    rule = "folding"

    def __init__(self, max_bytes: int, dequantize: bool) -> None:
        self.max_bytes = max_bytes
        kept = ("observe",) if dequantize else ("dequantize", "observe")
        self.ops = frozenset(op.name for op in all_ops() if op.name not in kept)

    def check(self, graph: Graph, node: Node) -> str | None:
        variable = next((value for value in node.operands if value is not None and not value.is_const), None)
        if variable is not None:
            return f"%{variable.name} is not constant"
        for value in node.results:
            if not value.type.is_static:
                return f"its size is symbolic: {value.type}"
            if value.type.nbytes > self.max_bytes:
                return f"{value.type.nbytes} bytes are more than {self.max_bytes}"
        return None

    def rewrite(self, graph: Graph, node: Node) -> None:
        arrays = evaluate_node(node, [None if value is None else value.data for value in node.operands])
        for value, array in zip(node.results, arrays):
            graph.replace_uses(value, graph.add_const(f"{value.name}.folded", array, value.type))
        graph.erase(node)
