"""What nodes cost on a named CPU, in int8 and in float: figures that ship, so that every machine decides the same.

Measured by `python benchmarks/op_costs.py`, which prints this file's tables for the machine that it runs on. One
thread, operands in the cache. Estimates only: they choose a precision under the qconfig "auto" and never change a
result's bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from qcompiler.ir import Node, Value
from qcompiler.opdef import Trait, opdef

Pair = tuple[float, float]
"""(int8, float)."""


@dataclass(frozen=True)
class CostProfile:
    """A CPU's figures, all in nanoseconds and for one thread.

    Attributes:
        product, depthwise_product: a multiply-add of a weighted op.
        element: of an op's larger side (operand or result), by op; "moves", "unary" and "other" for ops that are not
            named.
        quantize, dequantize: an element converted at the border of both worlds.
        step: what every node costs besides.
    """

    name: str
    cpu: str
    product: Pair
    depthwise_product: Pair
    element: Mapping[str, Pair]
    quantize: float
    dequantize: float
    step: float

    def cost(self, node: Node, *, quantized: bool) -> float:
        """Nanoseconds of a float graph's node in one of both forms."""
        column, definition = (0 if quantized else 1), opdef(node.op)
        count = products(node)
        if count:
            return self.step + count * (self.depthwise_product if is_depthwise(node) else self.product)[column]
        given = [elements(value) for value in node.operands if value is not None and not value.is_const]
        size = max([*given, *(elements(value) for value in node.results)])
        kind = (
            "moves"
            if Trait.MOVES_DATA in definition.traits
            else "unary"
            if Trait.UNARY in definition.traits
            else "other"
        )
        return self.step + size * self.element[node.op if node.op in self.element else kind][column]


SYMBOLIC_SIZE = 8
"""What a symbolic size counts as."""


def elements(value: Value) -> int:
    """Elements of a value."""
    return math.prod(_sizes(value))


def products(node: Node) -> int:
    """Multiply-adds of a conv, conv_transpose, linear or matmul; 0 for other ops."""
    if node.op == "matmul":
        return elements(node.result) * _sizes(node.operands[0])[-1]
    if node.op not in ("conv", "conv_transpose", "linear"):
        return 0
    places = node.operands[0] if node.op == "conv_transpose" else node.result
    return elements(places) * math.prod(_sizes(node.operands[1])[1:])


def is_depthwise(node: Node) -> bool:
    return node.op == "conv" and node.attrs["groups"] > 1 and node.operands[1].type.shape[1] == 1


def _sizes(value: Value | None) -> list[int]:
    assert value is not None
    return [size if isinstance(size, int) else SYMBOLIC_SIZE for size in value.type.shape]


_ELEMENT: Mapping[str, Pair] = {
    "moves": (0.017, 0.071),
    "unary": (0.015, 0.30),
    "other": (0.05, 0.10),
    "add": (0.054, 0.099),
    "sub": (0.052, 0.103),
    "mul": (0.051, 0.112),
    "div": (0.058, 0.091),
    "minimum": (0.073, 0.112),
    "maximum": (0.070, 0.112),
    "prelu": (0.047, 0.066),
    "exp": (0.015, 0.39),
    "log": (0.015, 0.53),
    "sin": (0.015, 5.7),
    "cos": (0.015, 5.5),
    "erf": (0.015, 1.21),
    "sigmoid": (0.014, 0.46),
    "tanh": (0.015, 0.61),
    "gelu": (0.015, 1.06),
    "silu": (0.014, 0.50),
    "softplus": (0.015, 1.59),
    **dict.fromkeys(
        (
            "neg",
            "abs",
            "sqrt",
            "reciprocal",
            "floor",
            "ceil",
            "round",
            "sign",
            "square",
            "hardtanh",
            "leaky_relu",
            "threshold",
        ),
        (0.015, 0.066),
    ),
    **dict.fromkeys(("relu", "relu6"), (0.053, 0.065)),
    **dict.fromkeys(("hardsigmoid", "hardswish", "rsqrt", "softsign", "softshrink"), (0.015, 0.125)),
    "max_pool": (0.05, 0.10),
    "avg_pool": (0.109, 0.143),
    **dict.fromkeys(("adaptive_avg_pool", "adaptive_max_pool"), (0.0075, 0.029)),
    **dict.fromkeys(("mean", "sum", "max", "min"), (0.010, 0.039)),
    "softmax": (0.067, 1.04),
    "batch_norm": (0.085, 0.117),
    "layer_norm": (0.109, 0.250),
    **dict.fromkeys(("group_norm", "instance_norm"), (0.096, 0.226)),
    "resize": (0.014, 0.054),
}

ZEN5_AVX512VNNI = CostProfile(
    name="zen5-avx512vnni",
    cpu="AMD EPYC (Zen 5), level avx512vnni, 2026-11",
    product=(0.0020, 0.0077),
    depthwise_product=(0.0072, 0.0157),
    element=_ELEMENT,
    quantize=0.083,
    dequantize=0.044,
    step=300.0,
)
