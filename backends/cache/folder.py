"""The folder of a user's cache, and files in it that nobody else could have written.

Owns where it is (QC_CACHE, or the user's cache folder), who may own it, how a file appears (whole, by rename), is read,
and is removed when there are too many. Those who read a file check its content (`entries`, `blocks`). If anything
fails, compilation goes on without the cache, and the log says so once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO

from qcompiler import knobs
from qcompiler.fork_safety import fork_safe_lock

_TEMPORARY = ".tmp-"
_STALE_SECONDS = 3600.0
_BY_DESCRIPTOR = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW") and hasattr(os, "preadv")

_log = logging.getLogger("qcompiler.cache")
_lock = fork_safe_lock()
_said: set[str] = set()


class Bad(Exception):
    """Why a file is not used."""


def folder_path() -> str | None:
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


def is_wanted() -> bool:
    """Whether there is a folder to use on this system."""
    return _BY_DESCRIPTOR and folder_path() is not None


@contextlib.contextmanager
def opened(*, make: bool) -> Iterator[int | None]:
    """A descriptor of the folder, so that what was checked is what is used; None if there is none to use."""
    path = folder_path()
    descriptor = _open_folder(path, make) if path is not None and is_wanted() else None
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
        wrong = "it is a symbolic link" if os.path.islink(path) else error.strerror or str(error)
        warn_once(path, "the cache folder %s is not used: %s", path, wrong)
        return None
    unsafe = _why_unsafe(os.fstat(descriptor))
    if unsafe is None:
        return descriptor
    os.close(descriptor)
    warn_once(path, "the cache folder %s is not used: %s", path, unsafe)
    return None


def _why_unsafe(status: os.stat_result) -> str | None:
    """Why others could change what lies in the folder, or None."""
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, not {os.geteuid()}"
    if status.st_mode & 0o077:
        return f"its mode is {stat.S_IMODE(status.st_mode):o}, not 700"
    return None


def prune(folder: int, suffix: str, most: int) -> None:
    """Remove temporary files that a process left when it ended. If the files with this suffix take more than `most`
    bytes, remove the least recently used (see `touch`) until they take half of `most`."""
    now, entries = time.time(), []
    with os.scandir(folder) as listing:
        for item in listing:
            with contextlib.suppress(OSError):
                status = item.stat(follow_symlinks=False)
                if item.name.startswith(_TEMPORARY) and now - status.st_mtime > _STALE_SECONDS:
                    os.unlink(item.name, dir_fd=folder)
                elif item.name.endswith(suffix):
                    entries.append((status.st_mtime, item.name, status.st_size))
    total = sum(size for _, _, size in entries)
    if total <= most:
        return
    for _, name, size in sorted(entries):
        if total <= most // 2:
            return
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
        total -= size


@contextlib.contextmanager
def own_file(folder: int, name: str) -> Iterator[BinaryIO]:
    """A file of the folder, open for reading. Bad unless it is a plain one that only this user writes."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=folder), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise Bad("other users could have written it")
        yield file


def touch(file: BinaryIO) -> None:
    """Mark a file as used now, for `prune`. Where that can't be done, it counts as used when it was written."""
    with contextlib.suppress(OSError):
        os.utime(file.fileno())


def write(folder: int, name: str, raw: bytes | memoryview) -> None:
    """A file of the folder, which appears whole."""
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


def remove_bad(folder: int, name: str, error: Exception) -> None:
    """Remove a file that is not as it was written, and say so in the log."""
    _log.warning("the cached file %s is not used and is removed: %s", name, error)
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)


def warn_once(subject: str, message: str, *details: object) -> None:
    """A warning that a process gives once for each subject."""
    with _lock:
        if subject in _said:
            return
        _said.add(subject)
    _log.warning(message, *details)
