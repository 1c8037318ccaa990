"""Saved models: one safetensors file that holds a graph's text and the arrays that the text names.

    u64 little endian: bytes of the header | header: JSON, padded with spaces to 8 | the tensors, without holes

The text (`qcompiler.text`) is the U8 tensor `graph.qir`; constants and per-channel parameters are tensors under their
own names. Constants whose codes have 4 bits are packed, two to a byte (`four_bits.py`); a file with such ones has
version 2 of the format, others have version 1. The metadata holds the version, a digest of the data, and what the
caller adds. Nothing in a file is ever run, and no name in it is used as a path. Does not own the checks of the header
(`header.py`), replacing a file (`replacing.py`), the text form, or what a legal graph is (`verify.py`).
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from qcompiler.artifact.four_bits import is_packed_name, pack, packed_constants, unpack
from qcompiler.artifact.header import (
    DIGEST_KEY,
    METADATA,
    SPELLED,
    Header,
    Path,
    array_of,
    encoded_header,
    fail,
    read_header,
    shown,
)
from qcompiler.artifact.mapped_file import forget_pages, map_file
from qcompiler.artifact.replacing import replacing
from qcompiler.background import Background
from qcompiler.errors import ArtifactError, QCompilerError
from qcompiler.ir import Graph
from qcompiler.regular_file import open_regular

FORMAT_VERSION = 1
PACKED_VERSION = 2
"""The version of files with packed constants."""
VERSION_KEY = "qcompiler"
TEXT = "graph.qir"
MAX_TEXT = 64 * 2**20
SUFFIX = ".qc.safetensors"
_ESCAPE = "const:"  # stands before a constant's name that the format itself needs
_CHUNK = 2**22
IN_MEMORY = "(in memory)"
"""Stands for the path of a model that is in no file."""


@dataclass(frozen=True)
class Artifact:
    """The contents of a file: the graph, and the metadata that its writer added."""

    graph: Graph
    metadata: Mapping[str, str] = field(default_factory=dict)


# -- saving


def save_graph(graph: Graph, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write `graph` to `path`, atomically: after any failure the old file, or none, is there.

    The bytes depend on nothing but the graph and `metadata`.

    Raises:
        ArtifactError: the file cannot be written, or the graph exceeds the format's limits.
        VerifyError: the graph is not legal in its stage.
    """
    pieces = _pieces(graph, path, metadata or {})
    with replacing(path) as file:
        for piece in pieces:
            file.write(piece)


def graph_bytes(graph: Graph) -> bytes:
    """What `save_graph` writes to a file; errors as there."""
    return b"".join(_pieces(graph, IN_MEMORY, {}))


def _pieces(graph: Graph, path: Path, metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The bytes of a file in order. What is wrong with the graph is raised now."""
    from qcompiler.text.printer import graph_data, print_graph
    from qcompiler.verify import verify

    verify(graph)
    text = np.frombuffer(print_graph(graph).encode(), np.uint8)
    if text.size > MAX_TEXT:
        fail(path, "the graph's text is too long", expected=f"at most {MAX_TEXT} bytes", got=text.size)
    packed = packed_constants(graph)
    version = PACKED_VERSION if packed else FORMAT_VERSION
    arrays = {TEXT: text}
    for name, array in graph_data(graph).items():
        arrays[packed.get(name) or _stored_name(name, version)] = pack(array) if name in packed else array
    arrays = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    arrays = {name: arrays[name] for name in names}
    header = encoded_header(path, arrays, _written_metadata(path, arrays, metadata, version))
    return itertools.chain([header], itertools.chain.from_iterable(map(_parts, arrays.values())))


def _stored_name(name: str, version: int) -> str:
    is_taken = name.startswith((TEXT, METADATA, _ESCAPE)) or (version == PACKED_VERSION and is_packed_name(name))
    return _ESCAPE + name if is_taken else name


def _parts(array: np.ndarray) -> Iterator[memoryview]:
    """The bytes of an array, little endian, in chunks, so that no second copy of all of it exists."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8)
    for start in range(0, little.size, _CHUNK):
        yield little[start : start + _CHUNK].data


def _written_metadata(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], version: int
) -> dict[str, str]:
    """The caller's metadata, and the format's own."""
    for key, value in metadata.items():
        if not _is_text(key) or not _is_text(value) or key in (VERSION_KEY, DIGEST_KEY):
            fail(path, "metadata is text under names of your own", got=f"{key!r}: {value!r}"[:200])
    digest = hashlib.sha256()
    for part in itertools.chain.from_iterable(map(_parts, arrays.values())):
        digest.update(part)
    return {VERSION_KEY: str(version), DIGEST_KEY: digest.hexdigest(), **dict(sorted(metadata.items()))}


def _is_text(item: Any) -> bool:
    try:
        return isinstance(item, str) and item.encode() is not None
    except UnicodeEncodeError:
        return False


# -- loading


def load_graph(path: Path) -> Graph:
    """The verified graph in the file. Runs no code from it. Its constants are views of the mapped file (see
    `mapped_file.py`).

    Raises:
        ArtifactError: a file that is missing, damaged, of another version, or no legal graph.
    """
    return load_artifact(path).graph


def load_artifact(path: Path) -> Artifact:
    """The graph and the metadata of its writer; errors as for `load_graph`."""
    saved = SavedModel(path)
    own = {key: value for key, value in saved.header.metadata.items() if key not in (VERSION_KEY, DIGEST_KEY)}
    return Artifact(saved.graph(), own)


class SavedModel:
    """A file whose header is checked. The digest of its data is computed on another thread in the meantime.

    Args:
        source: the file's path, or its bytes.

    Attributes:
        header: what the file declares.
        digest: identifies the model, once `check` has passed.

    Raises:
        ArtifactError: a file that is missing, no saved model or of another version.
    """

    def __init__(self, source: Path | bytes) -> None:
        self.path: Path = IN_MEMORY if isinstance(source, bytes) else source
        self.header, self._data = _read_bytes(source) if isinstance(source, bytes) else _read(source)
        data = self._data
        self._computed = Background(lambda: _digest(data))
        self.digest = self.header.digest

    def check(self) -> None:
        """ArtifactError if the data is not what was saved."""
        expected, got = self.header.metadata[DIGEST_KEY], self._computed.result()
        if got != expected:
            fail(
                self.path,
                "the data is damaged: its digest differs from the recorded one",
                expected=expected[:80],
                got=got,
                hint="copy or save the file again",
            )

    def graph(self, *, is_legal: bool = False) -> Graph:
        """A new copy of the verified graph. Damaged data is reported before anything else that is wrong.

        Args:
            is_legal: skip the verifier, since the graph is known to pass it.

        Raises:
            ArtifactError: damaged data, or no legal graph.
        """
        try:
            graph = _graph(self.path, self.header, self._data, is_legal)
        except ArtifactError:
            self.check()
            raise
        self.check()
        forget_pages(self._data)
        return graph


def _digest(data: np.ndarray) -> str:
    """The digest of the data, whose pages are dropped on the way."""
    digest = hashlib.sha256()
    for start in range(0, data.size, _CHUNK):
        digest.update(data[start : start + _CHUNK].data)
        forget_pages(data)
    return digest.hexdigest()


def _graph(path: Path, header: Header, data: np.ndarray, is_legal: bool) -> Graph:
    """The verified graph in the data. The digest need not be checked before: malformed data raises ArtifactError."""
    from qcompiler.text.parser import parse
    from qcompiler.verify import verify

    arrays = {name: array_of(path, entry, data) for name, entry in header.entries.items()}
    text = _text(path, arrays.pop(TEXT))
    version = int(header.metadata[VERSION_KEY])
    named = (_named(path, name, array, version) for name, array in arrays.items())
    arrays = {}
    for name, array in named:
        if name in arrays:
            fail(path, "the file holds a constant twice", got=name[:200])
        arrays[name] = array
    asked: set[str] = set()
    try:
        graph = parse(text, _Recorded(arrays, asked))
        if not isinstance(graph, Graph):
            fail(path, "the file holds several graphs", expected="one graph")
        if not is_legal:
            verify(graph)
    except QCompilerError as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"the graph in the file is not valid: {error.message}",
            where=f"{shown(path)}, {TEXT}\n{error.where or ''}",
            expected=error.expected,
            got=error.got,
            hint=error.hint,
        ) from error
    extra = sorted(set(arrays) - asked)
    if extra:
        fail(path, "the file holds arrays that the graph does not name", got=", ".join(extra[:5]))
    return graph


class _Recorded(dict[str, np.ndarray]):
    """Arrays that record which of them the text names."""

    def __init__(self, arrays: Mapping[str, np.ndarray], asked: set[str]) -> None:
        super().__init__(arrays)
        self.asked = asked

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def _named(path: Path, stored: str, array: np.ndarray, version: int) -> tuple[str, np.ndarray]:
    """The name of a constant or of parameters, and the array, from a tensor."""
    if version == PACKED_VERSION and is_packed_name(stored):
        return unpack(path, stored, array)
    name = stored.removeprefix(_ESCAPE)
    if _stored_name(name, version) != stored:
        fail(path, "a tensor has a name that is reserved", got=stored[:200])
    return name, array


def _read(path: Path) -> tuple[Header, np.ndarray]:
    """The header and the data (u8, read-only). The data is mapped, so that loading makes no second copy of weights that
    are packed for a program anyway."""
    try:
        with open_regular(path) as file:
            total = os.fstat(file.fileno()).st_size
            header = _read_header(path, file, total)
            mapped = map_file(file)
            data = np.frombuffer(file.read(header.data_bytes) if mapped is None else mapped, np.uint8)
    except OSError as error:
        raise ArtifactError("the file cannot be read", where=shown(path), got=error.strerror or str(error)) from error
    if mapped is not None:
        data = data[header.data_start : header.data_start + header.data_bytes]
    if len(data) != header.data_bytes:
        fail(
            path,
            "the file became shorter while it was read",
            expected=f"{header.data_bytes} bytes of data",
            got=len(data),
        )
    return header, data


def _read_header(path: Path, file: BinaryIO, total: int) -> Header:
    header = read_header(path, file, total, "saved model")
    version = header.metadata.get(VERSION_KEY)
    if version is None:
        fail(
            path,
            "a safetensors file, but no saved model: its metadata has no format version",
            expected=f"{VERSION_KEY}: {FORMAT_VERSION}",
            hint="qcompiler reads files that CompiledModel.save wrote",
        )
    if version not in (str(FORMAT_VERSION), str(PACKED_VERSION)):
        fail(
            path,
            "the file has another version of the format",
            expected=f"{FORMAT_VERSION} or {PACKED_VERSION}",
            got=version[:40],
            hint="load it with the qcompiler that saved it, or a newer one",
        )
    if DIGEST_KEY not in header.metadata:
        fail(path, "the metadata has no digest of the data", expected=DIGEST_KEY)
    if TEXT not in header.entries:
        fail(path, "the file has no graph", expected=f"a tensor {TEXT}")
    return header


def _read_bytes(source: bytes) -> tuple[Header, np.ndarray]:
    """The header and the data of a file in memory."""
    header = _read_header(IN_MEMORY, io.BytesIO(source), len(source))
    return header, np.frombuffer(source, np.uint8, header.data_bytes, header.data_start)


def _text(path: Path, array: np.ndarray) -> str:
    if array.dtype != np.uint8 or array.ndim != 1 or array.size > MAX_TEXT:
        fail(
            path,
            "the graph's text is malformed",
            tensor=TEXT,
            expected=f"U8[n], at most {MAX_TEXT} bytes",
            got=f"{SPELLED[array.dtype.newbyteorder('<')]}{list(array.shape)}",
        )
    try:
        return array.tobytes().decode()
    except UnicodeDecodeError as error:
        raise ArtifactError(
            "the graph's text is not UTF-8", where=f"{shown(path)}, tensor {TEXT}", got=str(error)
        ) from None


__all__ = ["FORMAT_VERSION", "Artifact", "SavedModel", "graph_bytes", "load_artifact", "load_graph", "save_graph"]
