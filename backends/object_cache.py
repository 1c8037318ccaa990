"""A folder of compiled object code that the processes of one user share: a second process emits nothing again.

Owns the folder (QC_CACHE, or the user's cache folder), the key of an entry and its file. Knows no kernels: a caller
says in text what determined the bytes, and gets them back where exactly this text was stored.

LLVM ends the process on damaged objects, and what an entry holds is executed, so an entry is used only if the folder
belongs to this user and to nobody else, and the file is whole:

    magic | u32 format | u32 bytes of the key | u64 bytes of the object | sha256 of all the rest | key | object

A bad entry is removed and named in the log. Whatever fails otherwise, compilation goes on without the cache, and the
log says so once. Entries appear under their names whole, by rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from qcompiler import __version__, knobs

FORMAT = 1
SUFFIX = ".qco"
MAX_OBJECT = 64 * 2**20
MAX_FOLDER = 256 * 2**20
"""Bytes from which the oldest entries go, until half is left."""

_MAGIC = b"\x7fQCOBJ\r\n"
_HEAD = struct.Struct("<8sIIQ")
_DIGEST = hashlib.sha256().digest_size
_MAX_KEY = 2**20
_TEMPORARY = ".tmp-"
_STALE_SECONDS = 3600.0
_BY_DESCRIPTOR = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_IMPORTED_NS = time.time_ns()

_log = logging.getLogger("qcompiler.cache")
_lock = threading.Lock()
_said: set[str] = set()


class _Bad(Exception):
    """Why an entry is not used."""


def load(keys: Sequence[str]) -> dict[str, bytes]:
    """The objects stored under these keys, those that there are."""
    found: dict[str, bytes] = {}
    with _opened(make=False) as folder:
        if folder is None:
            return found
        for key in keys:
            name = entry_name(key)
            try:
                found[key] = _read(folder, name, key)
            except FileNotFoundError:
                continue
            except (_Bad, OSError) as error:
                _log.warning("the cached object %s is not used and is removed: %s", name, error)
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
    return found


def store(objects: Mapping[str, bytes]) -> None:
    """Keep objects under their keys, as far as the folder takes them."""
    with _opened(make=True) as folder:
        if folder is None:
            return
        try:
            for key, data in objects.items():
                _write(folder, entry_name(key), _packed(key, data))
            _prune(folder)
        except OSError as error:
            _once("store", "compiled code is not kept for the next process: %s", error)


def entry_name(key: str) -> str:
    """The file that an object of this key lies in."""
    return hashlib.sha256(key.encode()).hexdigest() + SUFFIX


def key_of(*lines: str) -> str | None:
    """The key of an object that these lines, this qcompiler and this LLVM determine. None while the cache is off or
    this qcompiler cannot be told apart from others."""
    if not _wanted():
        return None
    versions = _versions()
    return None if versions is None else "\n".join((versions, *lines))


# -- the folder


def cache_folder() -> str | None:
    """The folder that QC_CACHE names, or the user's; None if QC_CACHE is empty or the user has no home."""
    given = knobs.CACHE.get()
    if given is not None:
        return os.path.abspath(given) if given else None
    home = os.path.expanduser("~")
    base = os.environ.get("XDG_CACHE_HOME", "")
    if sys.platform == "darwin" and not base:
        base = os.path.join(home, "Library", "Caches")
    elif not os.path.isabs(base):
        base = os.path.join(home, ".cache")
    return os.path.join(base, "qcompiler") if os.path.isabs(base) else None


def _wanted() -> bool:
    return _BY_DESCRIPTOR and cache_folder() is not None


@contextlib.contextmanager
def _opened(*, make: bool) -> Iterator[int | None]:
    """A descriptor of the folder, so that what was checked is what is used; None if there is none to use."""
    path = cache_folder()
    descriptor = _open_folder(path, make) if path is not None and _wanted() else None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open_folder(path: str, make: bool) -> int | None:
    try:
        if make:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = "it is a symbolic link" if os.path.islink(path) else error.strerror or str(error)
        _once(path, "the cache folder %s is not used: %s", path, reason)
        return None
    reason = _unsafe(os.fstat(descriptor))
    if reason is None:
        return descriptor
    os.close(descriptor)
    _once(path, "the cache folder %s is not used: %s", path, reason)
    return None


def _unsafe(status: os.stat_result) -> str | None:
    """Why others could change what lies in the folder, or None."""
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, not {os.geteuid()}"
    if status.st_mode & 0o077:
        return f"its mode is {stat.S_IMODE(status.st_mode):o}, not 700"
    return None


def _prune(folder: int) -> None:
    """Remove temporary files that a process left when it ended, and the oldest entries of a folder that is too large."""
    now, entries = time.time(), []
    with os.scandir(folder) as listing:
        for item in listing:
            with contextlib.suppress(OSError):
                status = item.stat(follow_symlinks=False)
                if item.name.startswith(_TEMPORARY) and now - status.st_mtime > _STALE_SECONDS:
                    os.unlink(item.name, dir_fd=folder)
                elif item.name.endswith(SUFFIX):
                    entries.append((status.st_mtime, item.name, status.st_size))
    total = sum(size for _, _, size in entries)
    if total <= MAX_FOLDER:
        return
    for _, name, size in sorted(entries):
        if total <= MAX_FOLDER // 2:
            return
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
        total -= size


# -- an entry


def _packed(key: str, data: bytes) -> bytes:
    text = key.encode()
    head = _HEAD.pack(_MAGIC, FORMAT, len(text), len(data))
    return b"".join((head, hashlib.sha256(head + text + data).digest(), text, data))


def _unpacked(raw: bytes, key: str) -> bytes:
    """The object in an entry's bytes; _Bad unless all of them are as they were stored, under this very key."""
    start = _HEAD.size + _DIGEST
    if len(raw) < start:
        raise _Bad("it is cut off")
    magic, form, key_bytes, data_bytes = _HEAD.unpack_from(raw)
    if magic != _MAGIC or form != FORMAT:
        raise _Bad("it is no object of this format")
    if len(raw) != start + key_bytes + data_bytes:
        raise _Bad("its length is not the recorded one")
    head, digest, rest = raw[: _HEAD.size], raw[_HEAD.size : start], raw[start:]
    if hashlib.sha256(head + rest).digest() != digest:
        raise _Bad("its digest is not the recorded one")
    if rest[:key_bytes] != key.encode():
        raise _Bad("it holds an object of another key")
    return rest[key_bytes:]


def _read(folder: int, name: str, key: str) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=folder), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise _Bad("it is no file that only this user writes")
        if status.st_size > MAX_OBJECT + _MAX_KEY:
            raise _Bad(f"it is too large: {status.st_size} bytes")
        return _unpacked(file.read(), key)


def _write(folder: int, name: str, raw: bytes) -> None:
    temporary = f"{_TEMPORARY}{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(raw)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


# -- what every key says


@cache
def _versions() -> str | None:
    """Whose code this is. None, with a line in the log, if the sources can't be read or are newer than this process."""
    import llvmlite
    import llvmlite.binding as llvm
    import numpy as np

    try:
        sources = _source_digest()
    except (OSError, _Bad) as error:
        _once("sources", "compiled code is not kept: %s", error)
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
    """A digest of the backends' sources, which decide what is emitted. _Bad if they changed since they were imported."""
    digest, top = hashlib.sha256(), os.path.dirname(os.path.realpath(__file__))
    names = sorted(os.path.relpath(os.path.join(folder, name), top) for folder, _, found in os.walk(top) for name in found if name.endswith(".py"))
    if os.path.basename(__file__) not in names:
        raise _Bad("qcompiler's sources are not there")
    for name in names:
        with open(os.path.join(top, name), "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_ctime_ns > _IMPORTED_NS:
                raise _Bad(f"{name} is newer than this process")
            data = file.read()
        digest.update(f"{name} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _once(subject: str, message: str, *details: object) -> None:
    """A warning that a process gives once for each subject."""
    with _lock:
        if subject in _said:
            return
        _said.add(subject)
    _log.warning(message, *details)
