"""Saved models: one safetensors file that holds a graph's text and the arrays that the text names.

    u64 little endian: bytes of the header | header: JSON, padded with spaces to 8 | the tensors, without holes

The text (`qcompiler.text`) is the U8 tensor `graph.qir`; constants and per-channel parameters stand beside it under
their names. The metadata holds the version of this format, a digest of the data, and what the caller adds. The header
is checked here, before anything is allocated for it and by stricter rules than the safetensors library's, which accepts
duplicate names. Nothing in a file is ever run, and no name in it is used as a path. Does not own the text form or what
is a legal graph (`verify.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NoReturn

import numpy as np

from qcompiler.errors import ArtifactError, QCompilerError
from qcompiler.ir import Graph
from qcompiler.types import MAX_BYTES, MAX_ELEMENTS, MAX_RANK

FORMAT_VERSION = 1
MAX_HEADER = 16 * 2**20
MAX_ENTRIES = 100_000
MAX_TEXT = 64 * 2**20
TEXT = "graph.qir"
SUFFIX = ".qc.safetensors"
_VERSION_KEY = "qcompiler"
_DIGEST_KEY = "qcompiler.sha256"
_METADATA = "__metadata__"
_ESCAPE = "const:"  # stands before a constant's name that the format itself needs
_CHUNK = 2**24

Path = str | os.PathLike[str]

_DTYPES: dict[str, np.dtype] = {
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
_SPELLED = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Artifact:
    """What a file holds: the graph, and the metadata that its writer added."""

    graph: Graph
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One tensor as the header declares it; `begin` and `end` count from the first byte of data."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class _Header:
    entries: dict[str, Entry]
    metadata: dict[str, str]
    data_start: int
    data_bytes: int


# -- saving


def save_graph(graph: Graph, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write `graph` to `path`, atomically: after any failure the old file, or none, is there.

    The bytes depend on nothing but the graph and `metadata`.

    Raises:
        ArtifactError: the file cannot be written, or the graph exceeds the format's limits.
        VerifyError: the graph is not legal in its stage.
    """
    from qcompiler.text.printer import graph_data, print_graph
    from qcompiler.verify import verify

    verify(graph)
    text = np.frombuffer(print_graph(graph).encode(), np.uint8)
    if text.size > MAX_TEXT:
        _fail(path, "the graph's text is too long", expected=f"at most {MAX_TEXT} bytes", got=text.size)
    arrays = {TEXT: text, **{_stored_name(name): array for name, array in graph_data(graph).items()}}
    arrays = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header = _written_header(path, arrays, names, dict(metadata or {}))
    with _replacing(path) as file:
        file.write(struct.pack("<Q", len(header)))
        file.write(header)
        for name in names:
            for part in _parts(arrays[name]):
                file.write(part)


def _stored_name(name: str) -> str:
    return _ESCAPE + name if name.startswith((TEXT, _METADATA, _ESCAPE)) else name


def _parts(array: np.ndarray) -> Iterator[memoryview]:
    """The bytes of an array, little endian, without a second copy of all of it."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8)
    for start in range(0, little.size, _CHUNK):
        yield little[start : start + _CHUNK].data


def _written_header(path: Path, arrays: Mapping[str, np.ndarray], names: list[str], metadata: dict[str, str]) -> bytes:
    for key, value in metadata.items():
        if not _is_text(key) or not _is_text(value) or key in (_VERSION_KEY, _DIGEST_KEY):
            _fail(path, "metadata is text under names of your own", got=f"{key!r}: {value!r}"[:200])
    digest = hashlib.sha256()
    entries: dict[str, Any] = {}
    position = 0
    for name in names:
        array = arrays[name]
        for part in _parts(array):
            digest.update(part)
        entries[name] = {
            "dtype": _SPELLED[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    own = {_VERSION_KEY: str(FORMAT_VERSION), _DIGEST_KEY: digest.hexdigest()}
    header = {_METADATA: {**own, **dict(sorted(metadata.items()))}, **entries}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > MAX_HEADER or len(entries) > MAX_ENTRIES:
        _fail(
            path,
            "the graph is too large for the format",
            expected=f"{MAX_ENTRIES} arrays, a header of {MAX_HEADER} bytes",
            got=f"{len(entries)} arrays, {len(encoded)} bytes",
        )
    return encoded


def _is_text(item: Any) -> bool:
    try:
        return isinstance(item, str) and item.encode() is not None
    except UnicodeEncodeError:
        return False


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its place, on disk, when the block ends without an error."""
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".qc-{secrets.token_hex(8)}.tmp")
    made = False
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        made = True
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, os.stat(target).st_mode & 0o777)
        os.replace(temporary, target)
        made = False
        _sync_folder(folder)
    except OSError as error:
        hint = None if os.path.isdir(folder) else f"the folder {folder} does not exist"
        raise ArtifactError(
            "the file cannot be written", where=_shown(path), got=error.strerror or str(error), hint=hint
        ) from error
    finally:
        if made:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _sync_folder(folder: str) -> None:
    """Make the rename durable, where the system can sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# -- loading


def load_graph(path: Path) -> Graph:
    """The verified graph in the file. Runs no code from it.

    Raises:
        ArtifactError: a file that is missing, damaged, of another version, or no legal graph.
    """
    return load_artifact(path).graph


def load_artifact(path: Path) -> Artifact:
    """The graph and the metadata of its writer; errors as for `load_graph`."""
    from qcompiler.text.parser import parse
    from qcompiler.text.printer import graph_data
    from qcompiler.verify import verify

    header, data = _read(path)
    arrays = {name: _array(path, entry, data) for name, entry in header.entries.items()}
    text = _text(path, arrays.pop(TEXT))
    arrays = {_own_name(path, name): array for name, array in arrays.items()}
    try:
        graph = parse(text, arrays)
        if not isinstance(graph, Graph):
            _fail(path, "the file holds several graphs", expected="one graph")
        verify(graph)
    except QCompilerError as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"the graph in the file is not valid: {error.message}",
            where=f"{_shown(path)}, {TEXT}\n{error.where or ''}",
            expected=error.expected,
            got=error.got,
            hint=error.hint,
        ) from error
    extra = sorted(set(arrays) - set(graph_data(graph)))
    if extra:
        _fail(path, "the file holds arrays that the graph does not name", got=", ".join(extra[:5]))
    own = {key: value for key, value in header.metadata.items() if key not in (_VERSION_KEY, _DIGEST_KEY)}
    return Artifact(graph, own)


def _own_name(path: Path, stored: str) -> str:
    name = stored.removeprefix(_ESCAPE)
    if _stored_name(name) != stored:
        _fail(path, "a tensor has a name that is reserved", got=stored[:200])
    return name


def _read(path: Path) -> tuple[_Header, bytes]:
    try:
        with open(path, "rb") as file:
            total = os.fstat(file.fileno()).st_size
            header = _read_header(path, file, total)
            data = file.read(header.data_bytes)
    except OSError as error:
        raise ArtifactError("the file cannot be read", where=_shown(path), got=error.strerror or str(error)) from error
    if len(data) != header.data_bytes:
        _fail(
            path,
            "the file became shorter while it was read",
            expected=f"{header.data_bytes} bytes of data",
            got=len(data),
        )
    digest = hashlib.sha256(data).hexdigest()
    if digest != header.metadata[_DIGEST_KEY]:
        _fail(
            path,
            "the data is damaged: its digest differs from the recorded one",
            expected=header.metadata[_DIGEST_KEY][:80],
            got=digest,
            hint="copy or save the file again",
        )
    return header, data


def _read_header(path: Path, file: BinaryIO, total: int) -> _Header:
    """The header, fully checked against the file's size."""
    if total < 8:
        _fail(path, "the file is too short to be a saved model", expected="at least 8 bytes", got=total)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER or length > total - 8:
        _fail(
            path,
            "the header's length is impossible: not a saved model, or cut off",
            expected=f"at most {min(MAX_HEADER, total - 8)} bytes",
            got=length,
        )
    entries, metadata = _parsed_header(path, file.read(length))
    version = metadata.get(_VERSION_KEY)
    if version is None:
        _fail(
            path,
            "a safetensors file, but no saved model: its metadata has no format version",
            expected=f"{_VERSION_KEY}: {FORMAT_VERSION}",
            hint="qcompiler reads files that CompiledModel.save wrote",
        )
    if version != str(FORMAT_VERSION):
        _fail(
            path,
            "the file has another version of the format",
            expected=FORMAT_VERSION,
            got=version[:40],
            hint="load it with the qcompiler that saved it, or a newer one",
        )
    if _DIGEST_KEY not in metadata:
        _fail(path, "the metadata has no digest of the data", expected=_DIGEST_KEY)
    if TEXT not in entries:
        _fail(path, "the file has no graph", expected=f"a tensor {TEXT}")
    data_bytes = total - 8 - length
    _check_layout(path, entries, data_bytes)
    return _Header(entries, metadata, 8 + length, data_bytes)


def _parsed_header(path: Path, raw: bytes) -> tuple[dict[str, Entry], dict[str, str]]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                _fail(path, "the header has a name twice", got=key[:200])
            found[key] = value
        return found

    def constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not JSON")

    try:
        header = json.loads(raw.decode(), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError("the header is not valid JSON", where=_shown(path), got=str(error)[:200]) from None
    if not isinstance(header, dict) or not raw.startswith(b"{"):
        _fail(path, "the header is no JSON object", got=type(header).__name__)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _fail(path, "the metadata is malformed", expected="an object of strings", got=repr(metadata)[:200])
    if len(header) > MAX_ENTRIES:
        _fail(path, "too many tensors", expected=f"at most {MAX_ENTRIES}", got=len(header))
    return {name: _entry(path, name, given) for name, given in header.items()}, metadata


def _entry(path: Path, name: str, given: Any) -> Entry:
    def bad(message: str, **details: object) -> NoReturn:
        _fail(path, message, tensor=name, **details)

    if not isinstance(given, dict) or given.keys() != {"dtype", "shape", "data_offsets"}:
        bad("a tensor's entry is malformed", expected="dtype, shape, data_offsets", got=repr(given)[:200])
    dtype, shape, offsets = given["dtype"], given["shape"], given["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        bad("unknown dtype", expected=", ".join(_DTYPES), got=repr(dtype)[:80])
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
    nbytes = elements * _DTYPES[dtype].itemsize
    if elements > MAX_ELEMENTS or nbytes > MAX_BYTES:
        bad("the tensor is too large", expected=f"at most {MAX_ELEMENTS} elements", got=repr(shape)[:200])
    if offsets[1] - offsets[0] != nbytes:
        bad(
            "the shape does not fit the bytes",
            expected=f"{nbytes} bytes for {dtype}{shape}",
            got=f"{offsets[1] - offsets[0]}",
        )
    return Entry(name, _DTYPES[dtype], tuple(shape), offsets[0], offsets[1])


def _check_layout(path: Path, entries: Mapping[str, Entry], data_bytes: int) -> None:
    """The tensors fill the data from the first byte to the last, each byte once."""
    position = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            problem = "overlaps another one" if entry.begin < position else "leaves a hole before it"
            _fail(path, f"the tensor {problem}", tensor=entry.name, expected=f"begins at {position}", got=entry.begin)
        position = entry.end
    if position != data_bytes:
        _fail(
            path,
            "the file's size does not fit its tensors: cut off, or followed by something else",
            expected=f"{position} bytes of data",
            got=data_bytes,
        )


def _array(path: Path, entry: Entry, data: bytes) -> np.ndarray:
    """A read-only array over `data`; a copy only where its bytes are not aligned."""
    count = math.prod(entry.shape)
    array = np.frombuffer(data, entry.dtype, count, entry.begin) if count else np.empty(0, entry.dtype)
    if entry.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
        _fail(path, "a bool is neither 0 nor 1", tensor=entry.name)
    native = entry.dtype.newbyteorder("=")
    if not array.flags.aligned or array.dtype != native:
        array = array.astype(native)
    array.setflags(write=False)
    return array.reshape(entry.shape)


def _text(path: Path, array: np.ndarray) -> str:
    if array.dtype != np.uint8 or array.ndim != 1 or array.size > MAX_TEXT:
        _fail(
            path,
            "the graph's text is malformed",
            tensor=TEXT,
            expected=f"U8[n], at most {MAX_TEXT} bytes",
            got=f"{_SPELLED[array.dtype.newbyteorder('<')]}{list(array.shape)}",
        )
    try:
        return array.tobytes().decode()
    except UnicodeDecodeError as error:
        raise ArtifactError(
            "the graph's text is not UTF-8", where=f"{_shown(path)}, tensor {TEXT}", got=str(error)
        ) from None


def _shown(path: Path) -> str:
    return f"file {os.fspath(path)}"


def _fail(
    path: Path,
    message: str,
    *,
    tensor: str | None = None,
    expected: object = None,
    got: object = None,
    hint: str | None = None,
) -> NoReturn:
    where = _shown(path) if tensor is None else f"{_shown(path)}, tensor {tensor[:200]!r}"
    raise ArtifactError(message, where=where, expected=expected, got=got, hint=hint)


__all__ = ["FORMAT_VERSION", "Artifact", "load_artifact", "load_graph", "save_graph"]
