"""Reads the file of an ONNX model.

A protobuf message that is parsed holds a copy of everything in its file, and reading a tensor's data from it makes
another one. So the data of large initializers is not parsed: `_without_data` finds it in the file, and the message
gets the place of the data instead, as if it were external. `TensorReader` reads it from there, once.
"""

from __future__ import annotations

import mmap
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any, NamedTuple

from qcompiler.artifact.mapped_file import map_file
from qcompiler.errors import TraceError
from qcompiler.frontend.onnx_checks import check_names
from qcompiler.regular_file import open_regular

_LARGE = 1 << 14
"""Data of at least this many bytes is left in the file."""
_GRAPH, _INITIALIZER = 7, 5
"""Fields of ModelProto and GraphProto."""
_EXTERNAL_DATA, _DATA_LOCATION, _RAW_DATA = 13, 14, 9
"""Fields of TensorProto."""


class OnnxFile(NamedTuple):
    """A model that is imported.

    Attributes:
        proto: the onnx.ModelProto.
        name: the model's name in messages.
        folder: where its external data lies; None for a model in memory.
        path, marker: the model's file, and the location that the external data of `proto` has which lies in it; None
            if all data is in `proto`.
    """

    proto: Any
    name: str
    folder: pathlib.Path | None
    path: pathlib.Path | None = None
    marker: str | None = None


def load_proto(model: Any) -> OnnxFile:
    """A path or an onnx.ModelProto as a model to import."""
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
        return OnnxFile(model, model.graph.name or "model", None)
    path, marker = pathlib.Path(model), f"in the model's file {secrets.token_hex(16)}"
    try:
        with open_regular(path) as file:
            mapped = map_file(file)
            if mapped is None:
                data, is_whole = file.read(), True
            else:
                with mapped:
                    found = _without_data(mapped, marker)
                    data, is_whole = (mapped[:], True) if found is None else (found, False)
    except OSError as error:
        raise TraceError("the model cannot be read", where=str(path), got=error.strerror or str(error)) from None
    try:
        proto = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError) as error:
        raise TraceError("not an ONNX file, or a truncated one", where=str(path), got=str(error)[:200]) from None
    if not proto.graph.node and not proto.graph.output:
        raise TraceError("the file holds no ONNX graph", where=str(path))
    check_names(proto, path.name)
    return OnnxFile(proto, path.name, path.parent, None if is_whole else path, None if is_whole else marker)


# -- the wire format of protobuf


class _Unknown(Exception):
    """The bytes are none that this module understands; protobuf's own parser decides."""


class _Field(NamedTuple):
    """A field: its number and wire type, where it begins, and where its value lies."""

    number: int
    wire: int
    begin: int
    start: int
    end: int


def _without_data(data: mmap.mmap, marker: str) -> bytes | None:
    """The bytes of a model in which large raw data of initializers is external data at `marker`. None if there is none,
    or if the bytes are malformed."""
    try:
        fields = list(_fields(data, 0, len(data)))
        graphs = [field for field in fields if field.number == _GRAPH]
        if len(graphs) != 1 or graphs[0].wire != 2:
            return None
        graph, pieces, is_changed = graphs[0], [], False
        for field in _fields(data, graph.start, graph.end):
            tensor = None
            if field.number == _INITIALIZER and field.wire == 2 and field.end - field.start >= _LARGE:
                tensor = _as_external(data, field, marker)
            if tensor is None:
                pieces.append(data[field.begin : field.end])
            else:
                pieces.append(_message(_INITIALIZER, tensor))
                is_changed = True
        if not is_changed:
            return None
        body = _message(_GRAPH, b"".join(pieces))
        return b"".join(body if each is graph else data[each.begin : each.end] for each in fields)
    except _Unknown:
        return None


def _as_external(data: mmap.mmap, tensor: _Field, marker: str) -> bytes | None:
    """The bytes of a tensor with its raw data as external data; None if it stays as it is."""
    fields = list(_fields(data, tensor.start, tensor.end))
    raw = [field for field in fields if field.number == _RAW_DATA]
    if len(raw) != 1 or raw[0].wire != 2 or raw[0].end - raw[0].start < _LARGE:
        return None
    if any(field.number in (_EXTERNAL_DATA, _DATA_LOCATION) for field in fields):
        return None
    offset, length = raw[0].start, raw[0].end - raw[0].start
    entries = {"location": marker, "offset": str(offset), "length": str(length)}
    added = b"".join(
        _message(_EXTERNAL_DATA, _message(1, key.encode()) + _message(2, value.encode()))
        for key, value in entries.items()
    )
    kept = b"".join(data[field.begin : field.end] for field in fields if field is not raw[0])
    return kept + added + _varint(_DATA_LOCATION << 3) + _varint(1)


def _fields(data: mmap.mmap, begin: int, end: int) -> Iterator[_Field]:
    """The fields of a message."""
    while begin < end:
        key, start = _read_varint(data, begin, end)
        number, wire = key >> 3, key & 7
        if wire == 0:
            _, stop = _read_varint(data, start, end)
        elif wire == 2:
            length, start = _read_varint(data, start, end)
            stop = start + length
        elif wire in (1, 5):
            stop = start + (8 if wire == 1 else 4)
        else:
            raise _Unknown
        if number == 0 or stop > end:
            raise _Unknown
        yield _Field(number, wire, begin, start, stop)
        begin = stop


def _read_varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise _Unknown


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def _message(number: int, value: bytes) -> bytes:
    """A field with a length."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value
