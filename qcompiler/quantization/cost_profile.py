"""What nodes cost on a named CPU, in int8 and in float: figures that ship, so that every machine decides the same.

`python benchmarks/op_costs.py` measures these figures, and each op's `element_cost`, on the machine that it runs on.
They hold for one thread, with operands in the cache. They are estimates that choose a precision under the qconfig
"auto"; they never change a result's bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from qcompiler.dims import DimLike
from qcompiler.ir import Node, Value
from qcompiler.opdef import op_of
from qcompiler.ops.conv import Conv

Pair = tuple[float, float]
"""(int8, float)."""


@dataclass(frozen=True)
class CostProfile:
    """A CPU's figures, all in nanoseconds and for one thread.

    Attributes:
        product, depthwise_product: the cost of one multiply-add of a weighted op.
        quantize, dequantize: the cost of converting one element between the integer and the float part of a graph.
        overhead: what every node costs in addition.
        element: op -> the cost per element of its larger side (operand or result), where that differs from the op's
            own `element_cost`.
    """

    name: str
    cpu: str
    product: Pair
    depthwise_product: Pair
    quantize: float
    dequantize: float
    overhead: float
    element: Mapping[str, Pair] = field(default_factory=dict)

    def cost(self, node: Node, *, quantized: bool) -> float:
        """The nanoseconds that a node of a float graph takes, quantized or in float."""
        column, op = (0 if quantized else 1), op_of(node)
        count = products(node)
        if count:
            is_depthwise = isinstance(op, Conv) and op.is_depthwise
            return self.overhead + count * (self.depthwise_product if is_depthwise else self.product)[column]
        given = [elements(value) for value in node.operands if value is not None and not value.is_const]
        size = max([*given, *(elements(value) for value in node.results)])
        return self.overhead + size * self.element.get(node.op, op.element_cost)[column]


SYMBOLIC_SIZE = 8
"""The size that a symbolic size counts as."""


def elements(value: Value) -> int:
    """Elements of a value."""
    return _count(value.type.shape)


def products(node: Node) -> int:
    """Multiply-adds of a node that is made of them; 0 for other ops."""
    sizes = op_of(node).products()
    return 0 if sizes is None else _count(sizes)


def _count(sizes: Iterable[DimLike]) -> int:
    return math.prod(size if isinstance(size, int) else SYMBOLIC_SIZE for size in sizes)


ZEN5_AVX512VNNI = CostProfile(
    name="zen5-avx512vnni",
    cpu="AMD EPYC (Zen 5), level avx512vnni, 2026-11",
    product=(0.0020, 0.0077),
    depthwise_product=(0.0072, 0.0157),
    quantize=0.083,
    dequantize=0.044,
    overhead=300.0,
)
