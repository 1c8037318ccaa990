"""The header of a safetensors file, as saved models and calibrations have: its limits, what it declares, every check
that precedes reading the data, and writing it.

The checks are stricter than those of the safetensors library, which accepts duplicate names and entries out of order.
Does not own what the tensors mean (`saved_model.py`, `qcompiler.quantization.calibration_file`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import numpy as np

from qcompiler.errors import ArtifactError
from qcompiler.types import MAX_BYTES, MAX_ELEMENTS, MAX_RANK

MAX_HEADER = 16 * 2**20
MAX_ENTRIES = 100_000
METADATA = "__metadata__"
DIGEST_KEY = "qcompiler.sha256"

Path = str | os.PathLike[str]

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
SPELLED = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor as the header declares it; `begin` and `end` count from the first byte of data."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file declares, checked.

    Attributes:
        entries: the tensors, by name.
        metadata: the metadata, the format's own included.
        data_start, data_bytes: where the data lies in the file.
        digest: sha256 of the header's bytes. In a saved model these hold the digest of the data, so it identifies the
            model.
    """

    entries: dict[str, Entry]
    metadata: dict[str, str]
    data_start: int
    data_bytes: int
    digest: str


def read_header(path: Path, file: BinaryIO, total: int, what: str) -> Header:
    """Read the header and check all of it, also against the file's size.

    Args:
        what: what the file should be, for messages: "saved model".

    Raises:
        ArtifactError: the header is damaged, or does not fit the file's size.
    """
    if total < 8:
        fail(path, f"the file is too short to be a {what}", expected="at least 8 bytes", got=total)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER or length > total - 8:
        fail(
            path,
            f"the header's length is impossible: not a {what}, or cut off",
            expected=f"at most {min(MAX_HEADER, total - 8)} bytes",
            got=length,
        )
    raw = file.read(length)
    entries, metadata = _parsed_header(path, raw)
    data_bytes = total - 8 - length
    _check_layout(path, entries, data_bytes)
    return Header(entries, metadata, 8 + length, data_bytes, hashlib.sha256(raw).hexdigest())


def encoded_header(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The header of a file that holds the arrays in this order, with the 8 bytes of its length before it.

    Raises:
        ArtifactError: a dtype that the format has not, or too many arrays.
    """
    entries: dict[str, Any] = {}
    position = 0
    for name, array in arrays.items():
        dtype = SPELLED.get(array.dtype.newbyteorder("<"))
        if dtype is None:
            fail(
                path, "an array of this dtype cannot be saved", tensor=name, expected=", ".join(DTYPES), got=array.dtype
            )
        offsets = [position, position + array.nbytes]
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        position += array.nbytes
    encoded = json.dumps({METADATA: dict(metadata), **entries}, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > MAX_HEADER or len(entries) > MAX_ENTRIES:
        fail(
            path,
            "there is too much to save: too large for the format",
            expected=f"{MAX_ENTRIES} arrays, a header of {MAX_HEADER} bytes",
            got=f"{len(entries)} arrays, {len(encoded)} bytes",
        )
    return struct.pack("<Q", len(encoded)) + encoded


def array_of(path: Path, entry: Entry, data: np.ndarray) -> np.ndarray:
    """The tensor of an entry: a read-only view of `data` (u8, the whole data of the file), or a copy if its bytes are
    not aligned.

    Raises:
        ArtifactError: a bool that is neither 0 nor 1.
    """
    array = data[entry.begin : entry.end].view(entry.dtype) if math.prod(entry.shape) else np.empty(0, entry.dtype)
    if entry.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
        fail(path, "a bool is neither 0 nor 1", tensor=entry.name)
    native = entry.dtype.newbyteorder("=")
    if not array.flags.aligned or array.dtype != native:
        array = array.astype(native)
    array.setflags(write=False)
    return array.reshape(entry.shape)


def _parsed_header(path: Path, raw: bytes) -> tuple[dict[str, Entry], dict[str, str]]:
    header = parsed_json(path, raw, "the header")
    if not isinstance(header, dict) or not raw.startswith(b"{"):
        fail(path, "the header is no JSON object", got=type(header).__name__)
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        fail(path, "the metadata is malformed", expected="an object of strings", got=repr(metadata)[:200])
    if len(header) > MAX_ENTRIES:
        fail(path, "too many tensors", expected=f"at most {MAX_ENTRIES}", got=len(header))
    return {name: _entry(path, name, given) for name, given in header.items()}, metadata


def parsed_json(path: Path, raw: bytes, what: str) -> Any:
    """The JSON in `raw`. ArtifactError for anything else, for a name that occurs twice and for too deep nesting."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                fail(path, f"{what} has a name twice", got=key[:200])
            found[key] = value
        return found

    def constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not JSON")

    try:
        return json.loads(raw.decode(), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{what} is not valid JSON", where=shown(path), got=str(error)[:200]) from None


def _entry(path: Path, name: str, given: Any) -> Entry:
    def bad(message: str, **details: Any) -> NoReturn:
        fail(path, message, tensor=name, **details)

    if not isinstance(given, dict) or given.keys() != {"dtype", "shape", "data_offsets"}:
        bad("a tensor's entry is malformed", expected="dtype, shape, data_offsets", got=repr(given)[:200])
    dtype, shape, offsets = given["dtype"], given["shape"], given["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        bad("unknown dtype", expected=", ".join(DTYPES), got=repr(dtype)[:80])
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_RANK
        or not all(type(size) is int and size >= 0 for size in shape)
    ):
        bad("malformed shape", expected=f"at most {MAX_RANK} sizes, none negative", got=repr(shape)[:200])
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(offset) is int and offset >= 0 for offset in offsets)
    ):
        bad("malformed data_offsets", expected="[begin, end]", got=repr(offsets)[:200])
    elements = math.prod(shape)
    nbytes = elements * DTYPES[dtype].itemsize
    if elements > MAX_ELEMENTS or nbytes > MAX_BYTES:
        bad("the tensor is too large", expected=f"at most {MAX_ELEMENTS} elements", got=repr(shape)[:200])
    if offsets[1] - offsets[0] != nbytes:
        bad(
            "the shape does not fit the bytes",
            expected=f"{nbytes} bytes for {dtype}{shape}",
            got=f"{offsets[1] - offsets[0]}",
        )
    return Entry(name, DTYPES[dtype], tuple(shape), offsets[0], offsets[1])


def _check_layout(path: Path, entries: Mapping[str, Entry], data_bytes: int) -> None:
    """Check that the tensors fill the data from the first byte to the last, each byte once."""
    position = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            problem = "overlaps another one" if entry.begin < position else "leaves a hole before it"
            fail(path, f"the tensor {problem}", tensor=entry.name, expected=f"begins at {position}", got=entry.begin)
        position = entry.end
    if position != data_bytes:
        fail(
            path,
            "the file's size does not fit its tensors: cut off, or followed by something else",
            expected=f"{position} bytes of data",
            got=data_bytes,
        )


def shown(path: Path) -> str:
    return f"file {os.fspath(path)}"


def fail(
    path: Path,
    message: str,
    *,
    tensor: str | None = None,
    expected: object = None,
    got: object = None,
    hint: str | None = None,
) -> NoReturn:
    where = shown(path) if tensor is None else f"{shown(path)}, tensor {tensor[:200]!r}"
    raise ArtifactError(message, where=where, expected=expected, got=got, hint=hint)
