"""Opening files that a caller names: plain files alone, so that no pipe or device can block, or feed a reader forever.

Every path that the API reads a model or data from, or writes a file to, is opened or checked here.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}

_HARMLESS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY", "O_NONBLOCK", "O_NOCTTY"))
"""Flags with which opening a pipe does not wait for its other end."""


def open_regular(path: str | os.PathLike[str], *, folder: int | None = None, follow: bool = True) -> BinaryIO:
    """A plain file, open for reading. The descriptor is checked, so what was checked is what is read.

    Args:
        path: the file.
        folder: a descriptor that a relative path starts from, instead of the working folder.
        follow: whether the last part of the path may be a symbolic link.

    Raises:
        OSError: the file cannot be opened, or is not a plain file; `strerror` says what it is.
    """
    flags = os.O_RDONLY | _HARMLESS | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    try:
        _refuse_special(os.stat(path, dir_fd=folder, follow_symlinks=follow), path)  # opening a device may act on it
        descriptor = os.open(path, flags, dir_fd=folder)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"not a path: {error}", str(path)) from None
    try:
        _refuse_special(os.fstat(descriptor), path)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def create_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A plain file, made or emptied, open for writing.

    Raises:
        OSError: as of `open_regular`.
    """
    check_output(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | _HARMLESS, 0o666)
    try:
        _refuse_special(os.fstat(descriptor), path)
        os.ftruncate(descriptor, 0)
        return open(descriptor, "wb")
    except BaseException:
        os.close(descriptor)
        raise


def check_output(path: str | os.PathLike[str]) -> None:
    """OSError if something lies at the path that is not a plain file, which writing must not touch or replace."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return
    except ValueError as error:
        raise OSError(errno.EINVAL, f"not a path: {error}", str(path)) from None
    _refuse_special(status, path)


def _refuse_special(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a plain file", str(path))
