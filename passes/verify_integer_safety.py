"""verify-integer-safety: prove that no i32 accumulator can overflow, for any input.

    dot products   |acc| <= max over channels of (sum |w - zw| * R + |bias|)
    matmul         |acc| <= K * R(x) * R(y)
    sums of n      |acc| <= n * R                          (mean, sum, pools, norms)
    with           R = max(qmax - zx, zx - qmin, |qmax|, |qmin|)

How many products or codes an accumulator sums is a fact of each op (`Op.terms`). The registry refuses an op with an
integer meaning that does not declare it, so no op is safe by omission. All bounds must stay below 2^31. R covers the
codes themselves as well as codes minus the zero point, so kernels that add up raw codes and correct for the zero point
at the end are safe too. Symbolic sizes count with the largest value that a tensor of fewer than 2^31 elements allows.

`why_unsafe` decides before integerize edits: a node that cannot be proven stays float, and a note says so. The pass
checks integer graphs, imported ones included, whose nodes cannot become float any more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.errors import PassError
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.opdef import Op, Role, Trait, op_of, works_on_codes
from qcompiler.ops.interfaces import Conversion, Weighted
from qcompiler.passes.dequantized import codes_behind
from qcompiler.types import MAX_ELEMENTS, QuantParams, TensorType

LIMIT = 2**31 - 1


def reach(quant: QuantParams) -> int:
    """R, the largest magnitude of a code, with or without its zero point subtracted."""
    low, high = min(quant.zero_point), max(quant.zero_point)
    return max(quant.qmax - low, high - quant.qmin, abs(quant.qmax), abs(quant.qmin))


def dot_bound(layer: Weighted, x: QuantParams, weight: Const, bias: np.ndarray | None) -> int:
    """The largest |accumulator| of a layer, from the real codes of weight and bias."""
    exact = np.int32 if weight.data.itemsize <= 2 else np.int64  # of a code less its zero point
    zero_point = np.asarray(weight.type.params.along(weight.type.rank)[1], exact)
    centered = np.abs(np.subtract(weight.data, zero_point, dtype=exact))
    total = layer.grouped(centered).sum(axis=(2, 3), dtype=np.int64).reshape(-1) * reach(x)
    if bias is not None:
        total = total + np.abs(bias.astype(np.int64))
    return int(total.max(initial=0))


def largest(size: DimLike, types: Sequence[TensorType]) -> int | None:
    """An upper bound of a size, from tensors that have it as a factor and at most MAX_ELEMENTS elements; None if there
    is none."""
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
    """An upper bound of the product of distinct axes of x. The symbolic axes share the elements that the static ones
    leave."""
    static = math.prod(size for size in sizes if not isinstance(size, Dim))
    symbolic = [size for size in sizes if isinstance(size, Dim)]
    if not symbolic:
        return static
    if any(symbolic.count(size) > x.shape.count(size) for size in symbolic):
        return None
    rest = math.prod(size for size in x.shape if not isinstance(size, Dim))
    return static * (MAX_ELEMENTS // rest) if rest else 0


def _quantized(value: Value | None) -> Value | None:
    """The codes of an operand: the operand itself, or the value that its dequantize reads."""
    return value if value is None or value.type.is_quantized else codes_behind(value)


def why_unsafe(node: Node, bias: np.ndarray | None = None) -> str | None:
    """Why an op on quantized operands, or on dequantized ones, could overflow, or None.

    bias: i32 codes that replace the node's bias.
    """
    op = op_of(node)
    if op.integer is None:
        exact = op.traits & {Trait.MOVES_DATA, Trait.UNARY}  # codes move, or a table is read: nothing is summed
        return None if exact else "it has no integer meaning, so nothing bounds its accumulator"
    if not isinstance(op, Weighted):
        return _why_sum_unsafe(op)
    x = _quantized(op.x)
    return None if x is None else _why_layer_unsafe(op, x.type.params, bias)


def _why_layer_unsafe(layer: Weighted, x: QuantParams, bias: np.ndarray | None) -> str | None:
    weight, own = _quantized(layer.weight), _quantized(layer.bias)
    if not isinstance(weight, Const) or weight.type.quant is None:
        return "its weight is not a constant, so its accumulator is not bounded"
    if bias is None and own is not None:
        if not isinstance(own, Const):
            return "its bias is not a constant, so its accumulator is not bounded"
        bias = own.data
    return _why_above_limit(dot_bound(layer, x, weight, bias))


def _why_sum_unsafe(op: Op) -> str | None:
    """Why a sum could overflow, or None. Its bound is the number of terms that the op declares, times the reach of each
    operand in a term."""
    terms = op.terms()
    if terms is None:
        return None
    operands = [codes for value in op.values(Role.ACTIVATION) if (codes := _quantized(value)) is not None]
    types = [codes.type for codes in operands]
    if not types:  # a float node
        return None
    if len(types) == 1:
        count = _product(terms, types[0])
    else:  # a product of several operands, all of which have the sizes that are summed over
        sizes = [largest(size, types) for size in terms]
        known = [size for size in sizes if size is not None]
        count = math.prod(known) if len(known) == len(sizes) else None
    if count is None:
        return "a symbolic size does not bound its accumulator"
    return _why_above_limit(count * math.prod(reach(type.params) for type in types))


def _why_above_limit(bound: int) -> str | None:
    return None if bound <= LIMIT else f"its i32 accumulator could reach {bound}"


@dataclass(frozen=True)
class VerifyIntegerSafety:
    """Check the graph without changing it. A PassError names every node whose accumulator could overflow.

    Before:
        %y = linear(%x, @w) : u8[1,1]{scale=1}      // 70,000 weights of 127: up to 70,000 * 127 * 255 = 2,266,950,000
    After:
        PassError: integer overflow is possible ... its i32 accumulator could reach 2266950000
    """

    name: ClassVar[str] = "verify-integer-safety"

    def run(self, graph: Graph) -> Graph:
        unsafe = []
        for node in graph.nodes:
            if Conversion.of(node) is None and works_on_codes(node):
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
