"""What each ONNX op means in the graph IR, one file per family. `TABLE` is filled when the families load."""

from __future__ import annotations

import importlib
from functools import cache

from qcompiler.frontend.onnx_ops.node import TABLE, Meaning

_FAMILIES = (
    "elementwise",
    "layers",
    "recurrent",
    "shapes",
    "resize",
    "grid_sample",
    "picks",
    "sequences",
    "quantized",
    "dynamic",
    "contrib",
)


@cache
def table() -> dict[str, Meaning]:
    """Op type, with its domain in front unless it is ONNX's own -> meaning."""
    for family in _FAMILIES:
        importlib.import_module(f"qcompiler.frontend.onnx_ops.{family}")
    return TABLE
