"""constant-fold: compute nodes that depend on constants alone at compile time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from qcompiler.binding import is_bound
from qcompiler.interpreter import evaluate_node
from qcompiler.ir import Const, Graph, Node
from qcompiler.opdef import Op
from qcompiler.ops.quantized import Dequantize, Observe
from qcompiler.passes.rewrite import Refusal, Rewrite, RewritePass


@dataclass(frozen=True)
class ConstantFold(RewritePass):
    """Evaluate nodes whose operands are all constants, in the interpreter. The results' bits are the reference's.

    A dequantize is not folded, since its operand is smaller, unless `dequantize` is set: the lower pipeline sets it,
    because kernels of float nodes read f32. Results larger than `max_bytes`, or of symbolic size, are not folded
    either.

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

    def rules(self, graph: Graph) -> Sequence[Rewrite[Any]]:
        return (_Fold(self.max_bytes, self.dequantize),)


class _Fold(Rewrite[Node]):
    rule = "folding"

    def __init__(self, max_bytes: int, dequantize: bool) -> None:
        self.max_bytes = max_bytes
        self.stay: tuple[type[Op], ...] = (Observe,) if dequantize else (Dequantize, Observe)

    def starts_at(self, op: type[Op]) -> bool:
        return not issubclass(op, self.stay)

    def match(self, graph: Graph, node: Node) -> Node | Refusal:
        variable = next((value for value in node.operands if value is not None and not value.is_const), None)
        if variable is not None:
            return self.refuse(node, f"%{variable.name} is not constant")
        if not is_bound(node):
            return self.refuse(node, "its attrs have symbolic sizes")
        for value in node.results:
            if not value.type.is_static:
                return self.refuse(node, f"its size is symbolic: {value.type}")
            if not isinstance(value.type.nbytes, int) or value.type.nbytes > self.max_bytes:
                return self.refuse(node, f"{value.type.nbytes} bytes are more than {self.max_bytes}")
        return node

    def rewrite(self, graph: Graph, match: Node) -> None:
        arrays = evaluate_node(match, [value.data if isinstance(value, Const) else None for value in match.operands])
        for value, array in zip(match.results, arrays):
            graph.replace_uses(value, graph.add_const(f"{value.name}.folded", array, value.type))
        graph.erase(match)
