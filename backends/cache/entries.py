"""Entries of the cache: bytes (object code, programs) under a key, shared by the processes of one user.

Owns the key of an entry and its form; `folder` owns the folder and who may write there. Knows no kernels: a caller says
in text what determines the bytes, and gets them back only for exactly this text.

LLVM ends the process on damaged objects, and the code in an entry is executed, so an entry is used only if it is whole:

    magic | u32 format | u32 bytes of the key | u64 bytes of the object | sha256 of all the rest | key | object

A bad entry is removed and named in the log.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

import qcompiler
import qcompiler.backends
import qcompiler.passes
from qcompiler import __version__
from qcompiler.backends.cache.folder import Bad, is_wanted, opened, own_file, prune, remove_bad, touch, warn_once, write

FORMAT = 1
SUFFIX = ".qco"
MAX_OBJECT = 64 * 2**20
MAX_FOLDER = 256 * 2**20
"""If all entries take more bytes than this, the least recently used are removed, down to half."""

_MAGIC = b"\x7fQCOBJ\r\n"
_HEAD = struct.Struct("<8sIIQ")
_DIGEST = hashlib.sha256().digest_size
_MAX_KEY = 2**20
_IMPORTED_NS = time.time_ns()
_SOURCES = (".py", ".ll", ".lark")
"""Endings of the files that decide what a graph becomes."""


def load(keys: Sequence[str]) -> dict[str, bytes]:
    """The objects under these keys, as far as there are any."""
    found: dict[str, bytes] = {}
    with opened(make=False) as folder:
        if folder is None:
            return found
        for key in keys:
            name = entry_name(key)
            try:
                found[key] = _read(folder, name, key)
            except FileNotFoundError:
                continue
            except (Bad, OSError) as error:
                remove_bad(folder, name, error)
    return found


def store(objects: Mapping[str, bytes]) -> None:
    """Store objects under their keys. What can't be written is left out, with a line in the log."""
    with opened(make=True) as folder:
        if folder is None:
            return
        try:
            for key, data in objects.items():
                write(folder, entry_name(key), _packed(key, data))
            prune(folder, SUFFIX, MAX_FOLDER)
        except OSError as error:
            warn_once("store", "compiled code is not stored for the next process: %s", error)


def entry_name(key: str) -> str:
    """The file that an object of this key lies in."""
    return hashlib.sha256(key.encode()).hexdigest() + SUFFIX


def key_of(*lines: str) -> str | None:
    """The key of an object that these lines, this qcompiler and this LLVM determine. None while the cache is off or
    this qcompiler cannot be told apart from others."""
    if not is_wanted():
        return None
    versions = _versions()
    return None if versions is None else "\n".join((versions, *lines))


# -- an entry


def _packed(key: str, data: bytes) -> bytes:
    text = key.encode()
    head = _HEAD.pack(_MAGIC, FORMAT, len(text), len(data))
    return b"".join((head, hashlib.sha256(head + text + data).digest(), text, data))


def _unpacked(raw: bytes, key: str) -> bytes:
    """The object in an entry's bytes; Bad unless all of them are as they were stored, under this very key."""
    start = _HEAD.size + _DIGEST
    if len(raw) < start:
        raise Bad("it is cut off")
    magic, form, key_bytes, data_bytes = _HEAD.unpack_from(raw)
    if magic != _MAGIC or form != FORMAT:
        raise Bad("it has another format")
    if len(raw) != start + key_bytes + data_bytes:
        raise Bad("its length is not the recorded one")
    head, digest, rest = raw[: _HEAD.size], raw[_HEAD.size : start], raw[start:]
    if hashlib.sha256(head + rest).digest() != digest:
        raise Bad("its digest is not the recorded one")
    if rest[:key_bytes] != key.encode():
        raise Bad("it holds an object of another key")
    return rest[key_bytes:]


def _read(folder: int, name: str, key: str) -> bytes:
    with own_file(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_OBJECT + _MAX_KEY:
            raise Bad(f"it is too large: {size} bytes")
        found = _unpacked(file.read(), key)
        touch(file)
        return found


# -- what every key says


@cache
def _versions() -> str | None:
    """Whose code this is. None, with a line in the log, if the sources can't be read or are newer than this process."""
    import llvmlite
    import llvmlite.binding as llvm

    try:
        sources = _source_digest()
    except (OSError, Bad) as error:
        warn_once("sources", "compiled code is not stored: %s", error)
        return None
    version = ".".join(map(str, llvm.llvm_version_info))
    return "\n".join(
        (
            f"object cache {FORMAT}",
            f"qcompiler {__version__}, sources {sources}",
            f"llvmlite {llvmlite.__version__}, LLVM {version}, numpy {np.__version__}",
        )
    )


def _source_digest() -> str:
    """A digest of the sources that decide what a graph becomes. Bad if they changed since they were imported."""
    digest, read = hashlib.sha256(), ""
    for package in (qcompiler, qcompiler.passes, qcompiler.backends):
        top = os.path.realpath(package.__path__[0])
        if read and top.startswith(read + os.sep):  # installed: the first folder holds the others
            continue
        read = read or top
        names = sorted(
            os.path.join(folder, name)[len(top) + 1 :]  # os.path.relpath takes as long as reading the file
            for folder, _, found in os.walk(top)
            for name in found
            if name.endswith(_SOURCES)
        )
        if "__init__.py" not in names:
            raise Bad("qcompiler's sources are not there")
        digest.update(f"{package.__name__} {len(names)}\n".encode())
        for name in names:
            with open(os.path.join(top, name), "rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_ctime_ns > _IMPORTED_NS:
                    raise Bad(f"{name} is newer than this process")
                data = file.read()
            digest.update(f"{name} {len(data)}\n".encode())
            digest.update(data)
    return digest.hexdigest()
