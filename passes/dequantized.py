"""Finds the codes that a real value was dequantized from."""

from __future__ import annotations

from qcompiler.ir import Value
from qcompiler.ops.quantized import Dequantize


def codes_behind(value: Value | None) -> Value | None:
    """The codes that a value was dequantized from; None if no dequantize makes it."""
    dequantize = Dequantize.of(None if value is None else value.producer)
    return None if dequantize is None else dequantize.x
