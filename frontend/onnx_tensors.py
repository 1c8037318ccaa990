"""The tensors of an ONNX file as arrays: the one reader of all of them, wherever they stand.

What a tensor declares is checked before anything is allocated. External data is read from the model's own folder:
no absolute path, no `..`, no symbolic link, no byte outside of the file.
"""

from __future__ import annotations

import math
import os
import pathlib
import stat
from typing import Any, NoReturn

import numpy as np

from qcompiler.errors import TraceError
from qcompiler.regular_file import open_regular
from qcompiler.types import MAX_BYTES, MAX_ELEMENTS, MAX_RANK

_EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})
_MOST_TEXT_BYTES = 64 * 2**20
_BITS = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}
"""Types whose elements share bytes, by the names of ml_dtypes."""


class TensorReader:
    """Reads tensors of one model.

    Args:
        file: the model's name in messages.
        folder: where its external data lies; None for a model in memory, which has no folder.
        path, marker: the model's file, and the location of external data that lies in it; see `onnx_file`.

    Attributes:
        nbytes: bytes of the tensors read so far.
    """

    def __init__(
        self,
        file: str,
        folder: pathlib.Path | None,
        path: pathlib.Path | None = None,
        marker: str | None = None,
    ) -> None:
        self.file, self.folder, self._path, self._marker = file, folder, path, marker
        self.nbytes = 0

    def read(self, tensor: Any, place: str) -> np.ndarray:
        """The array of a TensorProto. `place` says in messages where it stands.

        Raises:
            TraceError: its type, sizes or data contradict each other, or its external data cannot be read.
        """
        from onnx import TensorProto, numpy_helper

        where = f"{self.file}, {place}"
        if tensor.data_type == TensorProto.STRING:
            return _texts(tensor, where)
        bits = _bits(tensor.data_type, where)
        count = _count(tensor.dims, where)
        nbytes = -(-count * bits // 8)
        self.nbytes += nbytes
        if nbytes > MAX_BYTES:
            raise TraceError("the tensor is too large", where=where, expected=f"at most {MAX_BYTES} bytes", got=nbytes)
        if tensor.HasField("segment"):
            raise TraceError("tensors in segments are not supported", where=where)
        if tensor.data_location == TensorProto.EXTERNAL:
            return self._array(tensor, self._external(tensor, nbytes, where), where)
        if tensor.data_location != TensorProto.DEFAULT:
            raise TraceError("unknown place of the tensor's data", where=where, got=tensor.data_location)
        if tensor.HasField("raw_data"):
            raw = tensor.raw_data  # a copy, each time
            _check_raw(tensor, len(raw), nbytes, where)
            return self._array(tensor, raw, where)
        _check_numbers(tensor, count, bits, where)
        try:
            return numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError) as error:
            raise TraceError("the tensor's numbers do not fit its type", where=where, got=str(error)[:200]) from None

    def _array(self, tensor: Any, raw: bytes, where: str) -> np.ndarray:
        from onnx import TensorProto, helper, numpy_helper

        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if dtype.name in _BITS:
            plain = TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=raw)
            array = numpy_helper.to_array(plain)
        else:
            little = dtype if dtype.itemsize == 1 or dtype.kind == "V" else dtype.newbyteorder("<")
            array = np.frombuffer(raw, little).astype(dtype, copy=False).reshape(tuple(tensor.dims))
        if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
            raise TraceError("a bool is neither 0 nor 1", where=where, hint="the file is damaged")
        return array

    def _external(self, tensor: Any, nbytes: int, where: str) -> bytes:
        entries = [(entry.key, entry.value) for entry in tensor.external_data]
        given = dict(entries)
        if len(given) != len(entries) or not given.keys() <= _EXTERNAL_KEYS or not given.get("location"):
            raise TraceError(
                "the tensor's external data is malformed",
                where=where,
                expected="a location, once, and an offset and a length at most once",
                got=", ".join(f"{key}={value}" for key, value in entries)[:200],
            )
        if self.folder is None:
            raise TraceError(
                "a model in memory has no folder for external data",
                where=where,
                got=given["location"][:200],
                hint="give the model's path, or onnx.load_external_data_for_model(model, folder) before",
            )
        offset, length = (_whole(given.get(key), key, where) for key in ("offset", "length"))
        length = nbytes if length is None else length
        if self._path is not None and given["location"] == self._marker:
            _check_raw(tensor, length, nbytes, where)
            return _read_from(self._path, offset or 0, length, where)
        if length != nbytes:
            raise TraceError(
                "the external data does not fit the tensor's shape",
                where=where,
                expected=f"{nbytes} bytes for {list(tensor.dims)}",
                got=f"{length} bytes",
            )
        return _read_inside(self.folder, given["location"], offset or 0, length, where)


def _check_raw(tensor: Any, have: int, nbytes: int, where: str) -> None:
    if have != nbytes:
        raise TraceError(
            "the tensor's data does not fit its shape",
            where=where,
            expected=f"{nbytes} bytes for {list(tensor.dims)}",
            got=f"{have} bytes",
            hint="the file is damaged: export the model again",
        )


def _read_from(path: pathlib.Path, offset: int, length: int, where: str) -> bytes:
    """Bytes of the model's own file."""
    try:
        with open_regular(path) as file:
            file.seek(offset)
            data = file.read(length)
    except OSError as error:
        raise TraceError("the model cannot be read", where=where, got=error.strerror or str(error)) from None
    if len(data) != length:
        raise TraceError("the model's file became shorter while it was read", where=where)
    return data


def _bits(data_type: int, where: str) -> int:
    """Bits of one element; TraceError for types without numbers."""
    from onnx import TensorProto, helper

    if data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        raise TraceError(
            "the tensor's element type is not supported",
            where=where,
            expected="floats, integers or bool",
            got=TensorProto.DataType.Name(data_type),
        )
    try:
        dtype = helper.tensor_dtype_to_np_dtype(data_type)
    except KeyError:
        raise TraceError("unknown element type of a tensor", where=where, got=f"data_type {data_type}") from None
    return _BITS.get(dtype.name, dtype.itemsize * 8)


def _texts(tensor: Any, where: str) -> np.ndarray:
    """A tensor of texts, which no op reads as symbolic sizes."""
    count, given = _count(tensor.dims, where), tensor.string_data
    if len(given) != count or 4 * count * max(map(len, given), default=0) > _MOST_TEXT_BYTES:
        raise TraceError(
            "the tensor's texts do not fit its shape, or take too much memory",
            where=where,
            expected=f"{count} texts, at most {_MOST_TEXT_BYTES} bytes with all as long as the longest",
            got=f"{len(given)} texts",
        )
    try:
        return np.array([text.decode() for text in given], str).reshape(tensor.dims)
    except UnicodeDecodeError as error:
        raise TraceError("a text of the tensor is not UTF-8", where=where, got=str(error)[:200]) from None


def _count(dims: Any, where: str) -> int:
    if len(dims) > 64 or any(size < 0 for size in dims):
        raise TraceError("malformed shape of a tensor", where=where, expected="sizes >= 0", got=str(list(dims))[:200])
    if len(dims) > MAX_RANK or math.prod(size for size in dims if size) > MAX_ELEMENTS:
        raise TraceError(
            "the tensor is too large",
            where=where,
            expected=f"at most {MAX_ELEMENTS} elements, rank at most {MAX_RANK}",
            got=str(list(dims))[:200],
        )
    return math.prod(dims)


def _check_numbers(tensor: Any, count: int, bits: int, where: str) -> None:
    """Data in the typed fields: the right field, and one number for each element."""
    from onnx import helper

    field = helper.tensor_dtype_to_field(tensor.data_type)
    given = [
        name for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
        if len(getattr(tensor, name))
    ]  # fmt: skip
    elements = len(getattr(tensor, field))
    wanted = -(-count * bits // 8) if bits < 8 else count
    if elements != wanted or any(name != field for name in given):
        raise TraceError(
            "the tensor's data does not fit its shape",
            where=where,
            expected=f"{wanted} numbers in {field} for {list(tensor.dims)}",
            got=", ".join(f"{len(getattr(tensor, name))} in {name}" for name in given) or "none",
            hint="the file is damaged: export the model again",
        )
    if field == "int32_data" and elements and bits <= 16:  # float16 is kept as its bits
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        info = np.iinfo(dtype) if dtype.kind in "iu" and bits >= 8 else None
        low, high = (0, 1) if dtype.kind == "b" else (info.min, info.max) if info else (-128, 2**16 - 1)
        numbers = np.array(tensor.int32_data)
        if numbers.min() < low or numbers.max() > high:
            raise TraceError(
                "the tensor's numbers do not fit its type",
                where=where,
                expected=f"{low} to {high}",
                got=f"{numbers.min()} to {numbers.max()}",
            )


def _whole(text: str | None, key: str, where: str) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise TraceError(f"a bad {key} of external data", where=where, expected="a whole number >= 0", got=text[:80])
    return int(text)


def _read_inside(folder: pathlib.Path, location: str, offset: int, length: int, where: str) -> bytes:
    """Bytes of a file below the folder, reached without leaving it."""
    parts = pathlib.PurePosixPath(location.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or (os.name == "nt" and ":" in location):
        raise TraceError(
            "external data lies in the model's folder",
            where=where,
            expected="a relative path without ..",
            got=repr(location)[:200],
        )
    try:
        current = folder
        for part in parts[:-1]:  # a link in the middle could lead outside as well as one at the end
            current = current / part
            if not stat.S_ISDIR(os.lstat(current).st_mode):
                raise OSError(0, f"{part} is no folder")
        with open_regular(current / parts[-1], follow=False) as file:
            total = os.fstat(file.fileno()).st_size
            if offset + length > total:
                raise TraceError(
                    "the external data ends before the tensor does",
                    where=where,
                    expected=f"bytes {offset} to {offset + length}",
                    got=f"a file of {total} bytes",
                )
            file.seek(offset)
            data = file.read(length)
    except (OSError, ValueError) as error:
        _unreadable(location, where, getattr(error, "strerror", None) or str(error))
    if len(data) != length:
        _unreadable(location, where, "the file became shorter while it was read")
    return data


def _unreadable(location: str, where: str, why: str) -> NoReturn:
    raise TraceError(
        f"the external data {location[:200]!r} cannot be read",
        where=where,
        got=why,
        hint="keep the data file, not a link to it, next to the model",
    )
