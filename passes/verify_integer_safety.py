"""verify-integer-safety: no i32 accumulator can overflow, whatever the input.

    dot products   |acc| <= max over channels of (sum |w - zw| * R + |bias|)
    matmul         |acc| <= K * R(x) * R(y)
    sums of n      |acc| <= n * R                          (mean, sum, pools, norms)
    with           R = max(qmax - zx, zx - qmin, |qmax|, |qmin|)

All must stay below 2^31. R covers the codes themselves as well as codes less the zero point, so kernels that add up
raw codes and correct for the zero point at the end are safe too. Symbolic sizes count with the largest value that a
tensor of fewer than 2^31 elements allows them.

`why_unsafe` decides, before integerize edits: a node that cannot be proven stays float, and a note says so. The pass
checks what stands in an integer graph, imported ones included, where nothing can be kept float any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.errors import PassError
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.opdef import QuantKind, Role, opdef
from qcompiler.types import MAX_ELEMENTS, QuantParams, TensorType

LIMIT = 2**31 - 1


def reach(quant: QuantParams) -> int:
    """R: the largest magnitude of a code, raw or less its zero point."""
    low, high = min(quant.zero_point), max(quant.zero_point)
    return max(quant.qmax - low, high - quant.qmin, abs(quant.qmax), abs(quant.qmin))


def dot_bound(node: Node, x: QuantParams, weight: Const, bias: np.ndarray | None) -> int:
    """The largest |accumulator| of conv, conv_transpose or linear, from the real codes of weight and bias."""
    centered = np.abs(weight.data.astype(np.int64) - weight.type.quant.along(weight.type.rank)[1])
    if node.op == "conv_transpose":  # [I, O/g, *K]: each group has its own inputs
        groups = node.attrs["groups"]
        sums = centered.reshape(groups, centered.shape[0] // groups, centered.shape[1], -1).sum(axis=(1, 3)).reshape(-1)
    else:
        sums = centered.reshape(centered.shape[0], -1).sum(axis=1)
    total = sums * reach(x)
    if bias is not None:
        total = total + np.abs(bias.astype(np.int64))
    return int(total.max(initial=0))


def largest(size: DimLike, types: Sequence[TensorType]) -> int | None:
    """The most that a size can be, a factor of tensors of at most MAX_ELEMENTS elements; None if unknown."""
    if not isinstance(size, Dim):
        return int(size)
    bounds = []
    for type in types:
        count = sum(1 for other in type.shape if other == size)
        rest = math.prod(other for other in type.shape if not isinstance(other, Dim))
        if count and rest:
            bounds.append(_root(MAX_ELEMENTS // rest, count))
    return min(bounds, default=None)


def _root(value: int, degree: int) -> int:
    """floor(value ** (1 / degree)), exactly."""
    root = round(value ** (1 / degree))
    return root - 1 if root**degree > value else root


def _product(sizes: Sequence[DimLike], x: TensorType) -> int | None:
    """The most that the product of distinct axes of x can be; the symbolic ones share what the static ones leave."""
    static = math.prod(size for size in sizes if not isinstance(size, Dim))
    symbolic = [size for size in sizes if isinstance(size, Dim)]
    if not symbolic:
        return static
    if any(symbolic.count(size) > x.shape.count(size) for size in symbolic):
        return None
    rest = math.prod(size for size in x.shape if not isinstance(size, Dim))
    return static * (MAX_ELEMENTS // rest) if rest else 0


def _window(node: Node, x: TensorType) -> Sequence[DimLike]:
    return node.attrs["kernel"]


_COUNTED: Mapping[str, Callable[[Node, TensorType], Sequence[DimLike]]] = {
    "sum": lambda node, x: [x.shape[axis] for axis in node.attrs["axes"]],
    "mean": lambda node, x: [x.shape[axis] for axis in node.attrs["axes"]],
    "avg_pool": _window,
    "adaptive_avg_pool": lambda node, x: x.shape[2:],
    "layer_norm": lambda node, x: x.shape[x.rank - node.attrs["normalized_rank"] :],
    "group_norm": lambda node, x: (x.shape[1] // node.attrs["groups"], *x.shape[2:]),
    "instance_norm": lambda node, x: x.shape[2:],
}


def _quantized(value: Value | None) -> Value | None:
    """The codes behind an operand: itself, or what its dequantize reads."""
    if value is None or value.type.is_quantized:
        return value
    producer = value.producer
    return producer.operands[0] if producer is not None and producer.op == "dequantize" else None


def why_unsafe(node: Node) -> str | None:
    """Why an op on quantized operands (its own, or behind dequantize) could overflow; None: it cannot."""
    definition = opdef(node.op)
    sources = [_quantized(value) for value in node.operands]
    x = sources[0].type if sources and sources[0] is not None else None
    if x is None or x.quant is None:
        return None
    bound: int | None = 0
    if definition.quant.kind is QuantKind.WEIGHTED:
        weight, bias = sources[1], _bias(node, sources)
        if not isinstance(weight, Const) or weight.type.quant is None:
            return "its weight is not a constant, so its accumulator is not bounded"
        if bias is not None and not isinstance(bias, Const):
            return "its bias is not a constant, so its accumulator is not bounded"
        bound = dot_bound(node, x.quant, weight, None if bias is None else bias.data)
    elif node.op == "matmul":
        y = sources[1].type
        depth = largest(x.shape[-1], [x, y])
        bound = None if depth is None else depth * reach(x.quant) * reach(y.quant)
    elif node.op in _COUNTED:
        count = _product(_COUNTED[node.op](node, x), x)
        bound = None if count is None else count * reach(x.quant)
    if bound is None:
        return "a symbolic size does not bound its accumulator"
    return None if bound <= LIMIT else f"its i32 accumulator could reach {bound}"


def _bias(node: Node, sources: Sequence[Value | None]) -> Value | None:
    positions = [i for i, _ in enumerate(sources) if opdef(node.op).spec(i).role is Role.BIAS]
    return sources[positions[0]] if positions else None


@dataclass(frozen=True)
class VerifyIntegerSafety:
    """Changes nothing; PassError names every node whose accumulator could overflow.

    Before:
        %y = linear(%x, @w) : u8[1,1]{scale=1}      // 70,000 weights of 127: up to 70,000 * 127 * 255 = 2,266,950,000
    After:
        PassError: integer overflow is possible ... its i32 accumulator could reach 2266950000
    """

    name: ClassVar[str] = "verify-integer-safety"

    def run(self, graph: Graph) -> Graph:
        unsafe = []
        for node in graph.nodes:
            if node.op not in ("quantize", "dequantize") and any(value.type.is_quantized for value in node.results):
                reason = why_unsafe(node)
                if reason is not None:
                    unsafe.append(f"{node.describe()}: {reason}")
        if unsafe:
            raise PassError(
                "integer overflow is possible",
                where="\n            ".join(unsafe),
                expected=f"at most {LIMIT}",
                hint="quantize the float model with this library, which keeps such nodes float",
            )
        return graph
