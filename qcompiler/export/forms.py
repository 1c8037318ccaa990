"""The table of forms that a graph is exported in. Does not own object files (`backends/object_export`)."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qcompiler.artifact.replacing import replacing
from qcompiler.dims import Dim
from qcompiler.ir import Graph

_ONNX = """
import onnxruntime
options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
session = onnxruntime.InferenceSession(PATH, options, providers=["CPUExecutionProvider"])
call = lambda arrays: session.run(None, dict(zip(NAMES, arrays)))
"""
_PYTHON = """
import runpy
script = runpy.run_path(PATH)
call = lambda arrays: list(script["run"](dict(zip(NAMES, arrays))).values())
"""
_TORCH = """
import torch
module = torch.export.load(PATH).module() if PATH.endswith(".pt2") else torch.jit.load(PATH)
def call(arrays):
    found = module(*(torch.from_numpy(array) for array in arrays))
    return [tensor.numpy() for tensor in (found if isinstance(found, (tuple, list)) else [found])]
"""
_TEXT = """
sys.path.insert(0, HOME)
import qcompiler as qc
from qcompiler import load_text
graph = load_text(PATH)
call = lambda arrays: qc.interpret(graph, arrays)
"""


@dataclass(frozen=True)
class Form:
    """How a graph is written, and run again.

    Attributes:
        suffixes: of the file that the caller names.
        write: writes the graph to that file.
        runner: Python code that makes `call`, a function from arrays to the list of outputs, of the file PATH and the
            inputs' NAMES.
        needs: the packages that this code imports.
        is_ours: whether it needs qcompiler.
    """

    suffixes: tuple[str, ...]
    write: Callable[[Graph, str], None]
    runner: str
    needs: tuple[str, ...] = ()
    is_ours: bool = False


def _onnx(form: str) -> Callable[[Graph, str], None]:
    def write(graph: Graph, path: str) -> None:
        from qcompiler.export.onnx.model import export_onnx

        export_onnx(graph, path, form=form)

    return write


def _python(graph: Graph, path: str) -> None:
    from qcompiler.export.python.script import export_python

    export_python(graph, path)


def _text(graph: Graph, path: str) -> None:
    from qcompiler.export.text import export_text

    export_text(graph, path)


def _torch(graph: Graph, path: str) -> None:
    """A scripted module (.pt), or an exported program (.pt2), whose open sizes are those of the graph."""
    import torch

    from qcompiler.export.torch.module import to_torch

    module, data = to_torch(graph), io.BytesIO()
    if path.endswith(".pt2"):
        torch.export.save(_exported(graph, module), data)
    else:
        torch.jit.save(torch.jit.script(module), data)
    with replacing(path) as file:
        file.write(data.getvalue())


def _exported(graph: Graph, module: Any) -> Any:
    """The program of torch.export. Examples have different sizes above 1, which torch takes for fixed ones."""
    import numpy as np
    import torch

    sizes = {name: 2 + index for index, name in enumerate(graph.dim_names)}
    examples, shapes = [], []
    for value in graph.inputs:
        type = value.type.bind(sizes)
        examples.append(torch.from_numpy(np.zeros(type.sizes, type.dtype.numpy)))
        own = {axis: size for axis, size in enumerate(value.type.shape) if isinstance(size, Dim)}
        shapes.append({axis: torch.export.Dim.AUTO for axis in own})
    return torch.export.export(module, tuple(examples), dynamic_shapes=tuple(shapes))


FORMS = {
    "onnx": Form((".onnx",), _onnx("qdq"), _ONNX, ("onnxruntime",)),
    "qoperator": Form((".onnx",), _onnx("qoperator"), _ONNX, ("onnxruntime",)),
    "python": Form((".py",), _python, _PYTHON),
    "torch": Form((".pt", ".pt2"), _torch, _TORCH, ("torch",)),
    "text": Form((".qir",), _text, _TEXT, is_ours=True),
}
