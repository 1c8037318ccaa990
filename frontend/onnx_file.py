"""Reads the file of an ONNX model."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from qcompiler.errors import TraceError
from qcompiler.frontend.onnx_checks import check_names
from qcompiler.regular_file import open_regular


def load_proto(model: Any) -> tuple[Any, str, pathlib.Path | None]:
    """The ModelProto, a name for messages, and the folder of its external data (None for a model in memory)."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise TraceError(
            "reading ONNX needs the package onnx", got=str(error), hint="pip install qcompiler-ir[onnx]"
        ) from None
    if not isinstance(model, (str, os.PathLike)):
        if not isinstance(model, onnx.ModelProto):
            raise TraceError("not an ONNX model", expected="a path or an onnx.ModelProto", got=type(model).__name__)
        check_names(model, "model")
        return model, model.graph.name or "model", None
    path = pathlib.Path(model)
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise TraceError("the model cannot be read", where=str(path), got=error.strerror or str(error)) from None
    try:
        proto = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError) as error:
        raise TraceError("not an ONNX file, or a truncated one", where=str(path), got=str(error)[:200]) from None
    if not proto.graph.node and not proto.graph.output:
        raise TraceError("the file holds no ONNX graph", where=str(path))
    check_names(proto, path.name)
    return proto, path.name, path.parent
