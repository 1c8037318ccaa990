"""Rules that turn nodes into steps, one file for each family of ops (see qcompiler.backends.lowering.rule)."""

from __future__ import annotations

import importlib
from functools import cache

_FAMILIES = (
    "depthwise",
    "conv",
    "conv_transpose",
    "linear",
    "matmul",
    "convert",
    "shape",
    "pool",
    "resize",
    "elementwise",
    "movement",
    "indexing",
    "reduce",
    "sort",
    "softmax",
    "norm",
    "recurrent",
    "dynamic",
    "statistics",
)


@cache
def load() -> None:
    """Import every family once; each declares its rules."""
    for family in _FAMILIES:
        importlib.import_module(f"qcompiler.backends.rules.{family}")
