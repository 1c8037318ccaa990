"""Arrays from .npy and .npz files that may be damaged or hostile.

What a file declares is compared with its size before anything is allocated, nothing is unpickled, and every failure is
one InputError. The format is that of numpy.lib.format, versions 1 and 2; version 3 differs in structured types alone.
"""

from __future__ import annotations

import math
import os
import pathlib
import zipfile
from typing import IO, Literal, NoReturn

import numpy as np

from qcompiler.errors import InputError, QCompilerError
from qcompiler.regular_file import open_regular
from qcompiler.types import MAX_BYTES

MOST_UNPACKED = 256 * 2**20
MOST_TIMES = 16
"""The arrays of a compressed archive take at most so many bytes, or so many times its own."""
_MOST_HEADER = 64 * 2**10
_CHUNK = 2**24


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; the array of an .npy file under "".

    Raises:
        InputError: the file cannot be read, is damaged, holds Python objects, or unpacks to too much.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".npy", ".npz"):
        raise InputError("unknown kind of data", where=f"file {path}", expected=".npz or .npy")
    try:
        with open_regular(path) as file:
            total = os.fstat(file.fileno()).st_size
            return {"": _read_npy(file, total)} if path.suffix == ".npy" else _read_npz(file, total)
    except QCompilerError as error:
        raise error.located(f"file {path}") from None
    except OSError as error:
        raise InputError("the file cannot be read", where=f"file {path}", got=error.strerror or str(error)) from error
    except Exception as error:  # whatever the parsers of numpy, zipfile and zlib meet in damaged bytes
        raise InputError(
            "the file holds no plain arrays",
            where=f"file {path}",
            got=f"{type(error).__name__}: {error}"[:200],
            hint="np.save or np.savez of arrays of numbers",
        ) from error


def _read_npz(file: IO[bytes], total: int) -> dict[str, np.ndarray]:
    """The arrays of an archive, whose members are .npy files."""
    most = max(MOST_UNPACKED, MOST_TIMES * total)
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in found:
                _fail("the archive is no .npz", "members NAME.npy, each once", member.filename[:200])
            left = most - sum(array.nbytes for array in found.values())
            if member.file_size > left:
                _fail(
                    "the archive unpacks to too much",
                    f"at most {most} bytes",
                    f"{member.file_size} bytes in {member.filename[:200]!r}",
                    "np.savez instead of np.savez_compressed, or a folder of several files",
                )
            with archive.open(member) as packed:
                found[name] = _read_npy(packed, member.file_size)
    return found


def _read_npy(file: IO[bytes], total: int) -> np.ndarray:
    """The array of an .npy file of so many bytes."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        _fail("an array of an unknown version", "1.0 or 2.0", ".".join(map(str, version)))
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file, max_header_size=_MOST_HEADER)
    if dtype.hasobject:
        _fail("the file holds no plain arrays: Python objects are never unpickled", "numbers", str(dtype))
    nbytes, left = math.prod(shape) * dtype.itemsize, total - file.tell()
    if min(shape, default=0) < 0 or nbytes > MAX_BYTES or nbytes != left:
        _fail("the shape does not fit the bytes", f"{nbytes} bytes for {dtype}{list(shape)}", f"{left} bytes")
    order: Literal["F", "C"] = "F" if fortran else "C"
    if nbytes == 0:
        return np.empty(shape, dtype, order=order)
    data = np.empty(nbytes, np.uint8)
    filled = 0
    while filled < nbytes:
        part = file.read(min(_CHUNK, nbytes - filled))
        if not part:
            _fail("the file is cut short", f"{nbytes} bytes of data", f"{filled} bytes")
        data[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
    if file.read(1):  # at its end zipfile compares the checksum
        _fail("there are bytes behind the array", f"{nbytes} bytes of data", "more")
    if dtype == np.bool_ and (data > 1).any():
        _fail("a bool is neither 0 nor 1", "an undamaged file", int(data.max()))
    return data.view(dtype).reshape(shape, order=order)


def _fail(message: str, expected: object, got: object, hint: str | None = None) -> NoReturn:
    raise InputError(message, expected=expected, got=got, hint=hint)
