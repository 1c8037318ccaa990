"""Loads and stores of a vector's first lanes, for types without masks: in parts of 1, 2, 4 ... lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import Type, vector

if TYPE_CHECKING:
    from qcompiler.backends.kernel_ir.builder import KernelBuilder


def load_parts(b: KernelBuilder, type: Type, pointer: Value, offset: Value, count: Value) -> Value:
    """Load the prefix in parts of 1, 2, 4 ... lanes, from its end to its front. Each part is shifted in below those
    loaded before."""
    size = type.element.bytes
    result, left, part = b.zero(type), count, 1
    while part < type.lanes:
        with b.if_((count & part) != 0) as branch:
            start = left - part
            piece = b.load(vector(type.element, part), pointer, offset + start * size)
            wide = b.shuffle(piece, None, [min(lane, part - 1) for lane in range(type.lanes)])
            lanes = [lane if lane < part else type.lanes + lane - part for lane in range(type.lanes)]
            branch.yield_([b.shuffle(wide, result, lanes), start])
        with branch.else_():
            branch.yield_([result, left])
        result, left = branch.results
        part *= 2
    return result


def store_parts(b: KernelBuilder, value: Value, pointer: Value, offset: Value, count: Value) -> None:
    """Store the prefix in parts of ... 4, 2, 1 lanes, from its front; the vector is shifted down after each."""
    lanes, size = value.type.lanes, value.type.element.bytes
    start, part = b.i64(0), (1 << (lanes - 1).bit_length()) // 2
    while part:
        with b.if_((count & part) != 0) as branch:
            b.store(b.slice(value, 0, part), pointer, offset + start * size)
            moved = b.shuffle(value, None, [min(lane + part, lanes - 1) for lane in range(lanes)])
            branch.yield_([moved, start + part])
        with branch.else_():
            branch.yield_([value, start])
        value, start = branch.results
        part //= 2
