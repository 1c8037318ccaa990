"""qcompiler: a graph compiler that turns float neural networks into int8 programs and runs them."""

from __future__ import annotations

import importlib
import pathlib
from typing import Any

_root = pathlib.Path(__file__).resolve().parent.parent
if (_root / "frontend").is_dir() and (_root / "backends").is_dir():
    __path__.append(str(_root))  # a checkout that is not installed: the sibling folders are subpackages

__version__ = "0.1.0"

_EXPORTS = {
    "compile": "compiler",
    "trace": "compiler",
    "fuse": "compiler",
    "prepare": "compiler",
    "calibrate": "compiler",
    "convert": "compiler",
    "load": "compiler",
    "CompiledModel": "compiler",
    "Prepared": "compiler",
    "parse": "text.parser",
    "print_graph": "text.printer",
    "interpret": "interpreter",
    "QConfig": "quantization.qconfig",
    "QConfigMapping": "quantization.qconfig",
    "get_qconfig": "quantization.qconfig",
    "get_default_qconfig": "quantization.qconfig",
    "get_default_qconfig_mapping": "quantization.qconfig",
    "Calibration": "quantization.calibration",
    "register_observer": "quantization.observers",
    "QuantSpec": "quantization.spec",
    "DType": "types",
    "Dim": "dims",
    "QuantParams": "types",
    "TensorType": "types",
    "Graph": "ir",
    "Node": "ir",
    "Value": "ir",
    "QCompilerError": "errors",
    "TraceError": "errors",
    "ParseError": "errors",
    "VerifyError": "errors",
    "ShapeError": "errors",
    "PassError": "errors",
    "QuantizationError": "errors",
    "LoweringError": "errors",
    "ArtifactError": "errors",
    "InputError": "errors",
}
_RENAMED = {"interpret": "run"}
__all__ = [*sorted(_EXPORTS), "nn"]


def __getattr__(name: str) -> Any:
    """Names load when first used, so that `import qcompiler` is quick."""
    if name == "nn":
        return importlib.import_module("qcompiler.frontend.nn")
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'qcompiler' has no attribute {name!r}")
    return getattr(importlib.import_module(f"qcompiler.{module}"), _RENAMED.get(name, name))
