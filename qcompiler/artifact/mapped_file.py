"""Files mapped read-only: pages come in when they are read, and go when they are not needed, so that a large model is
in memory once.

A file may be replaced (by a rename, as `save` does) while it is mapped: the old one stays as long as somebody maps it.
Whoever cuts a mapped file short or writes into it takes the ground from under the process (SIGBUS) or changes its data:
never do that to a model in use.
"""

from __future__ import annotations

import mmap
import os
from typing import BinaryIO

import numpy as np


class MappedFile(mmap.mmap):
    """A whole file, read-only."""


def map_file(file: BinaryIO) -> MappedFile | None:
    """The open file's bytes. None where files can't be replaced while they are mapped (Windows), or this one can't be
    mapped."""
    if os.name != "posix":
        return None
    try:
        return MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None


def forget_pages(array: np.ndarray) -> None:
    """Give back the memory under the mapped file that an array lies in; what is read of it again comes in again. Other
    arrays are left alone.

    All pages of the file go, since the system brings in more of them than were read.
    """
    base = array.base
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, MappedFile) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
