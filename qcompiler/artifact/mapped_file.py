"""Files mapped read-only: the system loads pages when they are read and drops them when memory is needed, so that a
large model is in memory only once.

A file may be replaced (by a rename, as `save` does) while it is mapped: the old one exists as long as it is mapped.
Truncating a mapped file crashes the process (SIGBUS), and writing into it changes the model's data: never do that to a
model in use.
"""

from __future__ import annotations

import mmap
import os
from typing import BinaryIO

import numpy as np


class MappedFile(mmap.mmap):
    """A whole file, read-only."""


def map_file(file: BinaryIO) -> MappedFile | None:
    """The bytes of an open file; None if it cannot be mapped, or on systems where a mapped file cannot be replaced
    (Windows)."""
    if os.name != "posix":
        return None
    try:
        return MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None


def forget_pages(array: np.ndarray) -> None:
    """Drop the pages of the mapped file that an array lies in; the system loads them again when they are read.

    All pages of the file go, since the system reads ahead. An array that lies in no mapped file is left alone.
    """
    base = array.base
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, MappedFile) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
