"""The header of a saved model: its limits, what it declares, and every check that precedes reading the data.

The checks are stricter than those of the safetensors library, which accepts duplicate names and entries out of order.
Does not own what the tensors mean (`saved_model.py`).
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

FORMAT_VERSION = 1
MAX_HEADER = 16 * 2**20
MAX_ENTRIES = 100_000
TEXT = "graph.qir"
METADATA = "__metadata__"
VERSION_KEY = "qcompiler"
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
        digest: sha256 of the header's bytes. These hold the digest of the data, so it identifies a saved model.
    """

    entries: dict[str, Entry]
    metadata: dict[str, str]
    data_start: int
    data_bytes: int
    digest: str


def read_header(path: Path, file: BinaryIO, total: int) -> Header:
    """Read the header and check all of it, also against the file's size."""
    if total < 8:
        fail(path, "the file is too short to be a saved model", expected="at least 8 bytes", got=total)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER or length > total - 8:
        fail(
            path,
            "the header's length is impossible: not a saved model, or cut off",
            expected=f"at most {min(MAX_HEADER, total - 8)} bytes",
            got=length,
        )
    raw = file.read(length)
    entries, metadata = _parsed_header(path, raw)
    version = metadata.get(VERSION_KEY)
    if version is None:
        fail(
            path,
            "a safetensors file, but no saved model: its metadata has no format version",
            expected=f"{VERSION_KEY}: {FORMAT_VERSION}",
            hint="qcompiler reads files that CompiledModel.save wrote",
        )
    if version != str(FORMAT_VERSION):
        fail(
            path,
            "the file has another version of the format",
            expected=FORMAT_VERSION,
            got=version[:40],
            hint="load it with the qcompiler that saved it, or a newer one",
        )
    if DIGEST_KEY not in metadata:
        fail(path, "the metadata has no digest of the data", expected=DIGEST_KEY)
    if TEXT not in entries:
        fail(path, "the file has no graph", expected=f"a tensor {TEXT}")
    data_bytes = total - 8 - length
    _check_layout(path, entries, data_bytes)
    return Header(entries, metadata, 8 + length, data_bytes, hashlib.sha256(raw).hexdigest())


def _parsed_header(path: Path, raw: bytes) -> tuple[dict[str, Entry], dict[str, str]]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                fail(path, "the header has a name twice", got=key[:200])
            found[key] = value
        return found

    def constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not JSON")

    try:
        header = json.loads(raw.decode(), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError("the header is not valid JSON", where=shown(path), got=str(error)[:200]) from None
    if not isinstance(header, dict) or not raw.startswith(b"{"):
        fail(path, "the header is no JSON object", got=type(header).__name__)
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        fail(path, "the metadata is malformed", expected="an object of strings", got=repr(metadata)[:200])
    if len(header) > MAX_ENTRIES:
        fail(path, "too many tensors", expected=f"at most {MAX_ENTRIES}", got=len(header))
    return {name: _entry(path, name, given) for name, given in header.items()}, metadata


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
