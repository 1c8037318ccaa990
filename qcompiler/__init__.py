"""qcompiler: a graph compiler that turns float neural networks into int8 programs and runs them.

Owns the list of public names. Each loads its module when it is first used, so that `import qcompiler` takes a few
milliseconds; type checkers read the imports under TYPE_CHECKING instead.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcompiler.compiler import (
        CompiledModel,
        Prepared,
        calibrate,
        compile,
        convert,
        fuse,
        load,
        prepare,
        quantize_dynamic,
        trace,
    )
    from qcompiler.dims import Dim
    from qcompiler.errors import (
        ArgumentError,
        ArtifactError,
        InputError,
        LoweringError,
        ParseError,
        PassError,
        QCompilerError,
        QuantizationError,
        ShapeError,
        TraceError,
        VerifyError,
    )
    from qcompiler.export.onnx.model import export_onnx
    from qcompiler.export.own import register_exporter
    from qcompiler.export.python.script import export_python
    from qcompiler.export.text import export_text, load_text
    from qcompiler.export.torch.module import to_torch
    from qcompiler.frontend import nn
    from qcompiler.frontend.register import register_importer, unregister_importer
    from qcompiler.interpreter import run as interpret
    from qcompiler.ir import Graph, Node, Value
    from qcompiler.op_check import check_op
    from qcompiler.own_ops import unregister_op
    from qcompiler.passes.own_passes import register_pass, unregister_pass
    from qcompiler.qat import prepare_qat
    from qcompiler.quantization.calibration import Calibration
    from qcompiler.quantization.observers import register_observer, unregister_observer
    from qcompiler.quantization.qat_schedule import QatSchedule
    from qcompiler.quantization.qconfig import (
        QConfig,
        QConfigMapping,
        get_default_qat_qconfig,
        get_default_qconfig,
        get_default_qconfig_mapping,
        get_qconfig,
    )
    from qcompiler.quantization.quantized_tensor import QuantizedTensor, quantize_per_channel, quantize_per_tensor
    from qcompiler.quantization.scales import Scales
    from qcompiler.quantization.spec import QuantSpec
    from qcompiler.text.parser import parse
    from qcompiler.text.printer import print_graph
    from qcompiler.types import DType, QuantParams, TensorType

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArtifactError",
    "Calibration",
    "CompiledModel",
    "DType",
    "Dim",
    "Graph",
    "InputError",
    "LoweringError",
    "Node",
    "ParseError",
    "PassError",
    "Prepared",
    "QCompilerError",
    "QConfig",
    "QConfigMapping",
    "QatSchedule",
    "QuantParams",
    "QuantSpec",
    "QuantizationError",
    "QuantizedTensor",
    "Scales",
    "ShapeError",
    "TensorType",
    "TraceError",
    "Value",
    "VerifyError",
    "calibrate",
    "check_op",
    "compile",
    "convert",
    "export_onnx",
    "export_python",
    "export_text",
    "fuse",
    "get_default_qat_qconfig",
    "get_default_qconfig",
    "get_default_qconfig_mapping",
    "get_qconfig",
    "interpret",
    "load",
    "load_text",
    "nn",
    "parse",
    "prepare",
    "prepare_qat",
    "print_graph",
    "quantize_dynamic",
    "quantize_per_channel",
    "quantize_per_tensor",
    "register_exporter",
    "register_importer",
    "register_observer",
    "register_pass",
    "to_torch",
    "trace",
    "unregister_importer",
    "unregister_observer",
    "unregister_op",
    "unregister_pass",
]

_MODULES = {
    "compiler": (
        "CompiledModel",
        "Prepared",
        "calibrate",
        "compile",
        "convert",
        "fuse",
        "load",
        "prepare",
        "quantize_dynamic",
        "trace",
    ),
    "dims": ("Dim",),
    "errors": (
        "ArgumentError",
        "ArtifactError",
        "InputError",
        "LoweringError",
        "ParseError",
        "PassError",
        "QCompilerError",
        "QuantizationError",
        "ShapeError",
        "TraceError",
        "VerifyError",
    ),
    "export.onnx.model": ("export_onnx",),
    "export.own": ("register_exporter",),
    "export.python.script": ("export_python",),
    "export.text": ("export_text", "load_text"),
    "export.torch.module": ("to_torch",),
    "frontend.register": ("register_importer", "unregister_importer"),
    "ir": ("Graph", "Node", "Value"),
    "op_check": ("check_op",),
    "own_ops": ("unregister_op",),
    "passes.own_passes": ("register_pass", "unregister_pass"),
    "qat": ("prepare_qat",),
    "quantization.calibration": ("Calibration",),
    "quantization.observers": ("register_observer", "unregister_observer"),
    "quantization.qat_schedule": ("QatSchedule",),
    "quantization.qconfig": (
        "QConfig",
        "QConfigMapping",
        "get_default_qat_qconfig",
        "get_default_qconfig",
        "get_default_qconfig_mapping",
        "get_qconfig",
    ),
    "quantization.quantized_tensor": ("QuantizedTensor", "quantize_per_channel", "quantize_per_tensor"),
    "quantization.scales": ("Scales",),
    "quantization.spec": ("QuantSpec",),
    "text.parser": ("parse",),
    "text.printer": ("print_graph",),
    "types": ("DType", "QuantParams", "TensorType"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # a checker that saw this would take a misspelt name for an Any

    def __getattr__(name: str) -> object:
        """Import the module of a public name when the name is first used."""
        if name == "nn":
            return importlib.import_module("qcompiler.frontend.nn")
        if name == "interpret":
            return importlib.import_module("qcompiler.interpreter").run
        if name not in _HOMES:
            raise AttributeError(f"module 'qcompiler' has no attribute {name!r}")
        return getattr(importlib.import_module(f"qcompiler.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
