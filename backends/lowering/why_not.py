"""Refusals that several lowering rules share: why a node does not fit a rule, or None."""

from __future__ import annotations

from qcompiler.backends.target import Target
from qcompiler.ir import Node
from qcompiler.types import DType, TensorType


def operand_types(node: Node) -> list[TensorType]:
    """The types of a node's operands in order, without absent ones."""
    return [value.type for value in node.operands if value is not None]


def types(node: Node) -> list[TensorType]:
    """The types of a node's operands and results, without absent operands."""
    return [*operand_types(node), *(value.type for value in node.results)]


def why_not_f32(node: Node, target: Target) -> str | None:
    """Why a node's operands and results are not all plain f32, or None. Absent operands do not count."""
    wrong = [t for t in types(node) if t.is_quantized or t.dtype is not DType.F32]
    return f"{wrong[0]} is not f32" if wrong else None


CODES = (DType.U8, DType.I16)
"""The element types of codes that kernels read and write."""


def why_not_codes(type: TensorType) -> str | None:
    """Why a type is not u8 or i16 with per-tensor parameters, or None."""
    if type.dtype not in CODES or type.quant is None or type.quant.axis is not None:
        return f"{type} is not u8 or i16 with per-tensor parameters"
    return None


def why_not_u8(node: Node, target: Target) -> str | None:
    """Why a node's first operand and results are not all u8 with per-tensor parameters, or None."""
    for type in (*operand_types(node)[:1], *(value.type for value in node.results)):
        if type.dtype is not DType.U8 or type.quant is None or type.quant.axis is not None:
            return f"{type} is not u8 with per-tensor parameters"
    return None
